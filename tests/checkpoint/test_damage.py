"""Every file of a checkpoint, cut or with a flipped bit, and writes that fail: named, and the one before is used."""

import errno
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
from hpc_jepa.errors import CheckpointError, HpcJepaError
from hpc_jepa.runs.run_dir import RunDir

FILES = ("manifest.json", "training-0000.safetensors", "weights-0000.safetensors")


@pytest.fixture
def two(tmp_path, save):
    """A run with sound checkpoints of steps 1 and 2."""
    for step in (1, 2):
        save(tmp_path, step, keep=3)
    assert {path.name for path in RunDir(tmp_path).checkpoint_dir(2).iterdir()} == set(FILES)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_noticed(two, name):
    path = RunDir(two).checkpoint_dir(2) / name
    content = path.read_bytes()
    places = (
        range(8 * len(content)) if name == "manifest.json" else random.Random(0).sample(range(8 * len(content)), 50)
    )
    for place in places:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        (fault,) = layout.verify_dir(path.parent)
        assert fault.startswith(f"{path}: "), f"bit {place}"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_cut_file_is_named_and_the_checkpoint_before_is_used(two, name, length, caplog):
    path = RunDir(two).checkpoint_dir(2) / name
    path.write_bytes(path.read_bytes()[:length])
    sound = layout.latest_valid(two)
    assert sound.step == 1 and (reader.open_tensors(sound.path)["student.w"] == 1).all()
    assert f"{path}: " in caplog.text and "set aside as damaged-00000002" in caplog.text
    assert (two / "checkpoints" / "latest").resolve() == sound.path


def test_where_all_are_damaged_nothing_begins_anew(two):
    for step in (1, 2):
        (RunDir(two).checkpoint_dir(step) / FILES[step]).unlink()
    with pytest.raises(CheckpointError, match=r"safetensors: missing; no other checkpoint .* remove .* to begin anew"):
        layout.latest_valid(two)
    with pytest.raises(CheckpointError, match=r"weights-0000\.safetensors: missing"):
        reader.read_part(layout.latest(two), "student")


def failing(run, step, save, words):
    """A save that must fail, and leave what there was."""
    with pytest.raises(HpcJepaError, match=f"step {step} cannot be written .*{words}"):
        save(run, step, keep=3)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"latest", "step-00000001", "step-00000002"}
    assert layout.latest_valid(run).step == 2


def test_a_file_that_may_not_grow_fails_the_save_alone(two, save):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))
    try:
        failing(two, 3, save, os.strerror(errno.EFBIG))
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


def test_a_disk_that_is_too_small_is_not_written_to(tiny_disk, save):
    for step in (1, 2):
        save(tiny_disk, step, keep=3)
    (tiny_disk / "other").write_bytes(bytes(shutil.disk_usage(tiny_disk).free - 20_000))
    failing(tiny_disk, 3, save, r"4e-05 GB are needed and .* GB free; nothing was written")


def test_a_disk_that_fills_up_meanwhile_fails_the_save_alone(tiny_disk, save, monkeypatch):
    for step in (1, 2):
        save(tiny_disk, step, keep=3)
    (tiny_disk / "other").write_bytes(bytes(shutil.disk_usage(tiny_disk).free - 20_000))
    monkeypatch.setattr("hpc_jepa.checkpoint.writer.DISK_HEADROOM", 0)
    failing(tiny_disk, 3, save, os.strerror(errno.ENOSPC))


def test_a_folder_that_cannot_be_written_fails_the_save_alone(two, save):
    subprocess.run(["chattr", "+i", two / "checkpoints"], check=False)
    try:
        if os.access(two / "checkpoints", os.W_OK):
            pytest.skip("the file system knows no immutable folders")
        failing(two, 3, save, os.strerror(errno.EPERM))
    finally:
        subprocess.run(["chattr", "-i", two / "checkpoints"], check=False)


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_with_errors_fails_the_save_alone(two, save, monkeypatch, call):
    def broken(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(f"os.{call}", broken)
        failing(two, 3, save, os.strerror(errno.EIO))
    save(two, 3, keep=3)
    assert layout.latest_valid(two).step == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_not_saved(two, pieces, facts, value):
    broken = pieces(3)
    broken[1].values[7] = value
    with (
        pytest.raises(HpcJepaError, match=r"exp_avg\.student\.w is not finite"),
        CheckpointWriter(two, CheckpointConfig()) as saver,
    ):
        saver.start(facts(3), broken)
    huge = pieces(3)
    huge[0].values[:] = 3e38  # the sum is too large, the numbers are not
    with CheckpointWriter(two, CheckpointConfig()) as saver:
        saver.start(facts(3), huge)
    assert layout.latest_valid(two).step == 3


def test_a_run_may_go_on_without_a_save_that_failed(tiny_disk, pieces, facts, caplog):
    with CheckpointWriter(tiny_disk, CheckpointConfig(failed_save="warn")) as saver:
        saver.start(facts(1), pieces(1))
        saver.wait()
        (tiny_disk / "other").write_bytes(bytes(shutil.disk_usage(tiny_disk).free - 20_000))
        saver.start(facts(2), pieces(2))
        saver.wait()
        assert not saver.failed and "step 2 cannot be written (rank 0: 4e-05 GB are needed" in caplog.text
        (tiny_disk / "other").unlink()
        saver.start(facts(3), pieces(3))
    assert [path.name for path in RunDir(tiny_disk).checkpoint_dirs()] == ["step-00000001", "step-00000003"]


def test_what_is_saved_is_the_state_at_the_start_of_the_save(tmp_path, pieces, facts):
    live = pieces(1)
    with CheckpointWriter(tmp_path, CheckpointConfig()) as saver:
        for step in range(1, 6):
            saver.start(facts(step), live)
            for piece in live:
                piece.values.add_(1)  # training goes on at once
            assert len(list((tmp_path / "checkpoints").glob(".step-*"))) <= 1, "two saves at a time"
    for path in RunDir(tmp_path).checkpoint_dirs():
        step = layout.open_checkpoint(path).step
        assert (reader.open_tensors(path)["student.w"] == torch.full((50, 100), float(step))).all()


def test_a_manifest_nested_without_end_is_damaged(two):
    (two / "checkpoints" / "step-00000002" / "manifest.json").write_text(100_000 * "[")
    assert layout.verify_dir(two / "checkpoints" / "step-00000002")[0].endswith("manifest.json: missing or damaged")
    assert layout.latest_valid(two).step == 1


def test_an_unfinished_checkpoint_does_not_exist_and_is_cleared_away(two, save):
    unfinished = two / "checkpoints" / ".step-00000003.partial"
    unfinished.mkdir()
    (unfinished / "weights-0000.safetensors").write_bytes(b"half")
    (two / "checkpoints" / "step-00000004").mkdir()
    assert layout.verify_dir(two / "checkpoints" / "step-00000004")[0].endswith("manifest.json: missing or damaged")
    assert layout.latest_valid(two).step == 2
    layout.remove_partial(two)
    assert not unfinished.exists()
