"""``hpc-jepa shards`` on the command line."""

import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hpc_jepa.cli.shards import app
from hpc_jepa.errors import DataError, InputError
from tests.waiting import wait_until

SMALL = ["--size", "32", "--frames", "4", "--train", "6", "--test", "3", "--unlabelled", "2"]


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_build_verify_info_index_and_preview(tmp_path):
    build = ["build", "motion8", *SMALL, "--samples-per-shard", "2", "--workers", "1", "--out", tmp_path]
    call(*build)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test", "train", "unlabelled"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    call(*build)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    train = tmp_path / "train"
    info = json.loads(call("info", train, "--json"))
    assert (info["samples"], len(info["shards"]), info["recipe"]["dataset"]) == (6, 3, "motion8")
    assert "motion8, train" in call("info", train)
    assert "6 samples in 3 shards, 6 decoded" in call("verify", train, "--decode")
    index = (train / "000000.idx").read_bytes()
    (train / "000000.idx").unlink()
    call("index", train)
    assert (train / "000000.idx").read_bytes() == index
    call("preview", train, "--out", tmp_path / "sheet.png", "--samples", "2")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")

    with pytest.raises(InputError, match="samples_per_shard"):
        call(*build, "--samples-per-shard", "3")


def test_one_flipped_bit_is_found(shards, built, listed, noise, tmp_path):
    from hpc_jepa.data.sources.source import RawFrames

    folder = built(listed((RawFrames(noise(8), 10),)), tmp_path / "train")
    tar = folder / "000000.tar"
    data = bytearray(tar.read_bytes())
    data[5000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DataError, match=r"000000\.tar: "):
        call("verify", folder)


def test_preview_names_the_damaged_sample(shards, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(shards / "train", damaged)
    tar = damaged / "000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b'"frames":16', b'"frames":99'))
    with pytest.raises(DataError, match=r"000000\.tar: \S+: .*98"):
        call("preview", damaged, "--out", tmp_path / "sheet.png")


def test_the_published_protocol_refuses_other_sizes(tmp_path):
    with pytest.raises(InputError, match="--size"):
        call("build", "motion8", "--protocol", "published", "--size", "64", "--out", tmp_path)
    assert list(tmp_path.iterdir()) == []


def children_of(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_build_leaves_no_workers_and_resumes(number, tmp_path):
    build = ["build", "motion8", "--size", "32", "--frames", "4", "--test", "0", "--unlabelled", "0"]
    build += ["--samples-per-shard", "20", "--workers", "1", "--out", str(tmp_path), "--train"]
    command = [sys.executable, "-m", "hpc_jepa", "shards", *build, "400"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_until(lambda: any(tmp_path.glob(".train.partial/000001.tar")))
    helpers = [pid for child in children_of(process.pid) for pid in (child, *children_of(child))]
    process.send_signal(number)
    assert process.wait() == (130 if number == signal.SIGTERM else -number)
    wait_until(lambda: not any(alive(pid) for pid in helpers))
    assert not (tmp_path / "train").exists()
    first = (tmp_path / ".train.partial" / "000000.tar").stat().st_ino
    with pytest.raises(InputError, match=r"\.train\.partial: .*count .*400.* 4\b"):
        call(*build, "4")
    call(*build, "400")
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
    assert (tmp_path / "train" / "000000.tar").stat().st_ino == first


def test_two_builds_do_not_share_a_folder(tmp_path):
    from hpc_jepa.io.atomic import exclusive_lock

    with (
        exclusive_lock(tmp_path / ".train.lock"),
        pytest.raises(InputError, match=r"process \d+ on "),
    ):
        call("build", "motion8", *SMALL, "--workers", "1", "--out", tmp_path)


def test_errors_name_the_path_of_the_output(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file: .*File exists.*--out"):
        call("build", "motion8", *SMALL, "--workers", "1", "--out", tmp_path / "file")
    with pytest.raises(InputError, match=r"sheet\.xyz"):
        call("preview", tmp_path, "--out", "sheet.xyz")


def write_tar(path, names, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 2
            tar.addfile(member, io.BytesIO(b"{}"))


@pytest.mark.parametrize(
    ("name", "warned"),
    [("my clip.mp4", True), ("a b/clip.mp4", True), ("a\tb.mp4", True), ("clip.m p4", True), ("clip-é_1.mp4", False)],
)
def test_index_warns_of_names_that_dali_cannot_parse(tmp_path, name, warned):
    write_tar(tmp_path / "foreign.tar", [name, "plain.json"])
    output = call("index", tmp_path)
    assert (f"1 members, for example {name!r}" in output) == warned
    assert "1 index written" in output
    assert (tmp_path / "foreign.idx").read_text().startswith("v1.2 ")


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_compressed_tars_get_no_index(tmp_path, compression):
    write_tar(tmp_path / "foreign.tar", ["a.json"], f"w:{compression}")
    with pytest.raises(DataError, match=r"foreign\.tar: compressed"):
        call("index", tmp_path)
    assert not (tmp_path / "foreign.idx").exists()
