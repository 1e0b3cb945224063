"""Damaged files and failed writes are reported, and the checkpoint before stays usable."""

import errno
import hashlib
import os
import random
import resource
import shutil
import subprocess

import pytest
import torch

from hpc_jepa.checkpoint import layout, reader
from hpc_jepa.checkpoint.writer import CheckpointWriter
from hpc_jepa.config.training import CheckpointConfig
from hpc_jepa.errors import CheckpointError, HpcJepaError, InputError
from hpc_jepa.io.atomic import exclusive_lock, write_atomically
from hpc_jepa.io.jsonl import append_jsonl
from hpc_jepa.runs.run_dir import RunDir, StudyDir

FILES = ("manifest.json", "training-0000.safetensors", "weights-0000.safetensors")


@pytest.fixture
def two(tmp_path, save):
    """A run with valid checkpoints of steps 1 and 2."""
    for step in (1, 2):
        save(tmp_path, step, keep=3)
    assert {path.name for path in RunDir(tmp_path).checkpoint_dir(2).iterdir()} == set(FILES)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_detected(two, name):
    path = RunDir(two).checkpoint_dir(2) / name
    content = path.read_bytes()
    bits = range(8 * len(content)) if name == "manifest.json" else random.Random(0).sample(range(8 * len(content)), 50)
    for bit in bits:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        (error,) = layout.verify_dir(path.parent)
        assert error.startswith(f"{path}: "), f"bit {bit}"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_truncated_file_is_reported_and_the_checkpoint_before_is_used(two, name, length, caplog):
    path = RunDir(two).checkpoint_dir(2) / name
    path.write_bytes(path.read_bytes()[:length])
    valid = layout.latest_valid(two)
    assert valid.step == 1 and (reader.open_tensors(valid.path)["student.w"] == 1).all()
    assert f"{path}: " in caplog.text and "damaged-00000002" in caplog.text
    assert (two / "checkpoints" / "damaged-00000002").is_dir()
    assert (two / "checkpoints" / "latest").resolve() == valid.path


def test_a_run_with_only_damaged_checkpoints_does_not_start_over(two):
    for step in (1, 2):
        (RunDir(two).checkpoint_dir(step) / FILES[step]).unlink()
    with pytest.raises(CheckpointError, match=r"step-00000002/weights-0000\.safetensors: "):
        layout.latest_valid(two)
    with pytest.raises(CheckpointError, match=r"step-00000002/weights-0000\.safetensors"):
        reader.read_part(layout.latest(two), "student")


def assert_save_fails(run, step, save, reason):
    """The save fails and changes nothing."""
    with pytest.raises(HpcJepaError, match=f"step {step} .*{reason}"):
        save(run, step, keep=3)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"latest", "step-00000001", "step-00000002"}
    assert layout.latest_valid(run).step == 2


def test_a_file_size_limit_fails_only_the_save(two, save):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))
    try:
        assert_save_fails(two, 3, save, os.strerror(errno.EFBIG))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    save(two, 3, keep=3)
    assert layout.latest_valid(two).step == 3


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_nothing_is_written_to_a_disk_that_is_too_small(tiny_disk, save):
    for step in (1, 2):
        save(tiny_disk, step, keep=3)
    (tiny_disk / "other").write_bytes(bytes(shutil.disk_usage(tiny_disk).free - 20_000))
    assert_save_fails(tiny_disk, 3, save, r"4e-05 GB .* free")


def test_a_disk_that_fills_up_fails_only_the_save(tiny_disk, save, monkeypatch):
    for step in (1, 2):
        save(tiny_disk, step, keep=3)
    (tiny_disk / "other").write_bytes(bytes(shutil.disk_usage(tiny_disk).free - 20_000))
    monkeypatch.setattr("hpc_jepa.checkpoint.writer.DISK_HEADROOM", 0)
    assert_save_fails(tiny_disk, 3, save, os.strerror(errno.ENOSPC))


def test_a_read_only_folder_fails_only_the_save(two, save):
    subprocess.run(["chattr", "+i", two / "checkpoints"], check=False)
    try:
        if os.access(two / "checkpoints", os.W_OK):
            pytest.skip("the file system has no immutable folders")
        assert_save_fails(two, 3, save, os.strerror(errno.EPERM))
    finally:
        subprocess.run(["chattr", "-i", two / "checkpoints"], check=False)


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_io_errors_fail_only_the_save(two, save, monkeypatch, call):
    def broken(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(f"os.{call}", broken)
        assert_save_fails(two, 3, save, os.strerror(errno.EIO))
    save(two, 3, keep=3)
    assert layout.latest_valid(two).step == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_state_is_not_saved(two, shards, info, value):
    broken = shards(3)
    broken[1].values[7] = value
    with (
        pytest.raises(HpcJepaError, match=r"exp_avg\.student\.w"),
        CheckpointWriter(two, CheckpointConfig()) as writer,
    ):
        writer.save(info(3), broken)
    huge = shards(3)
    huge[0].values[:] = 3e38  # finite, but the sum overflows float32
    with CheckpointWriter(two, CheckpointConfig()) as writer:
        writer.save(info(3), huge)
    assert layout.latest_valid(two).step == 3


def test_a_run_can_continue_after_a_failed_save(tiny_disk, shards, info, caplog):
    with CheckpointWriter(tiny_disk, CheckpointConfig(failed_save="warn")) as writer:
        writer.save(info(1), shards(1))
        writer.wait()
        (tiny_disk / "other").write_bytes(bytes(shutil.disk_usage(tiny_disk).free - 20_000))
        writer.save(info(2), shards(2))
        writer.wait()
        assert not writer.failed and "step 2 " in caplog.text and "4e-05 GB" in caplog.text
        (tiny_disk / "other").unlink()
        writer.save(info(3), shards(3))
    assert [path.name for path in RunDir(tiny_disk).checkpoint_dirs()] == ["step-00000001", "step-00000003"]


def test_a_save_has_the_state_at_its_start(tmp_path, shards, info):
    live = shards(1)
    with CheckpointWriter(tmp_path, CheckpointConfig()) as writer:
        for step in range(1, 6):
            writer.save(info(step), live)
            for shard in live:
                shard.values.add_(1)  # training continues at once
            assert len(list((tmp_path / "checkpoints").glob(".step-*"))) <= 1, "two saves at a time"
    for path in RunDir(tmp_path).checkpoint_dirs():
        step = layout.open_checkpoint(path).step
        assert (reader.open_tensors(path)["student.w"] == torch.full((50, 100), float(step))).all()


def test_a_deeply_nested_manifest_is_damaged(two):
    (two / "checkpoints" / "step-00000002" / "manifest.json").write_text(100_000 * "[")
    (error,) = layout.verify_dir(two / "checkpoints" / "step-00000002")
    assert "step-00000002/manifest.json: " in error
    assert layout.latest_valid(two).step == 1


def test_a_transient_read_error_is_not_damage(two, monkeypatch):
    monkeypatch.setattr("hpc_jepa.io.retry.RETRY_DELAYS", (0.0, 0.0))
    errors = [OSError(errno.ESTALE, os.strerror(errno.ESTALE))] * 2
    read = hashlib.file_digest

    def unlucky(file, algorithm):
        if errors:
            raise errors.pop()
        return read(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", unlucky)
    assert layout.latest_valid(two).step == 2 and not errors


def test_a_file_that_cannot_be_read_may_be_sound(two, monkeypatch):
    """The run neither falls back to an older checkpoint nor renames anything."""

    def broken(file, algorithm):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("hpc_jepa.io.retry.RETRY_DELAYS", ())
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", broken)
        with pytest.raises(HpcJepaError) as raised:
            layout.latest_valid(two)
    assert not isinstance(raised.value, CheckpointError) and "remove" not in str(raised.value)
    assert layout.latest_valid(two).step == 2


@pytest.fixture
def immutable():
    """``immutable(path)`` keeps root from changing or removing a file until the test ends."""
    paths = []

    def protect(path):
        if subprocess.run(["chattr", "+i", path], capture_output=True).returncode:
            pytest.skip("the file system has no immutable files, or the user is not root")
        paths.append(path)

    yield protect
    for path in paths:
        for place in path.parent.parent.glob(f"**/{path.name}"):
            subprocess.run(["chattr", "-i", place], check=False)


def test_checkpoints_that_cannot_be_removed_do_not_stop_the_run(two, save, immutable):
    immutable(RunDir(two).checkpoint_dir(1) / "manifest.json")
    for step in (3, 4, 4):
        save(two, step, keep=1)
        assert layout.latest_valid(two).step == step
    layout.remove_partial(two)
    assert [path.name for path in RunDir(two).checkpoint_dirs()] == ["step-00000004"]


def test_an_archived_checkpoint_that_is_linked_back_is_only_unlinked(two, save, tmp_path_factory):
    archive = tmp_path_factory.mktemp("archive") / "step-00000001"
    RunDir(two).checkpoint_dir(1).rename(archive)
    RunDir(two).checkpoint_dir(1).symlink_to(archive)
    save(two, 3, keep=1)
    layout.remove_partial(two)
    assert [path.name for path in RunDir(two).checkpoint_dirs()] == ["step-00000003"]
    assert {path.name for path in archive.iterdir()} == set(FILES)


def test_a_file_system_without_symbolic_links_suffices(tmp_path, save, monkeypatch):
    def refused(*arguments, **keywords):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "symlink", refused)
    for step in (1, 2):
        save(tmp_path, step)
    assert layout.latest_valid(tmp_path).step == 2


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((RunDir, name) for name in ("checkpoints", "log", "events", "eval", "eval/few_shot", "profile")),
        *((StudyDir, name) for name in ("slurm", "log")),
    ],
)
def test_a_folder_that_leads_outside_the_run_is_refused(tmp_path, kind, name):
    run, outside = kind(tmp_path / "run"), tmp_path / "outside"
    (run.path / name).parent.mkdir(parents=True)
    run.refuse_links_outside()
    outside.mkdir()
    (run.path / name).symlink_to(outside)
    with pytest.raises(InputError, match=name):
        run.refuse_links_outside()


def test_nothing_is_written_through_a_link(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for name in (".lock", "log.jsonl", ".state.json.partial"):
        (tmp_path / name).symlink_to(precious)
    with pytest.raises(InputError, match=r"\.lock"), exclusive_lock(tmp_path / ".lock"):
        pass
    with pytest.raises(HpcJepaError, match=r"log\.jsonl"):
        append_jsonl(tmp_path / "log.jsonl", {"x": 1})
    write_atomically(tmp_path / "state.json", b"new")
    assert precious.read_text() == "precious" and (tmp_path / "state.json").read_bytes() == b"new"


def test_an_unfinished_checkpoint_is_ignored_and_removed(two, save):
    unfinished = two / "checkpoints" / ".step-00000003.partial"
    unfinished.mkdir()
    (unfinished / "weights-0000.safetensors").write_bytes(b"half")
    (two / "checkpoints" / "step-00000004").mkdir()
    (error,) = layout.verify_dir(two / "checkpoints" / "step-00000004")
    assert "step-00000004/manifest.json: " in error
    assert layout.latest_valid(two).step == 2
    layout.remove_partial(two)
    assert not unfinished.exists()
