"""Shards in third-party readers, indexes of third-party tars, and resharding."""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from nvidia.dali import fn, pipeline_def
from PIL import Image
from typer.testing import CliRunner
from wds2idx import IndexCreator

from hpc_jepa.cli.shards import app
from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.encode import ENCODINGS, encode
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.shards.container import keyframe_indices
from hpc_jepa.data.shards.manifest import read_manifest
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.shards.transcode import transcode
from hpc_jepa.data.sources import class_folders as folder_layout
from hpc_jepa.errors import DataError, InputError


def call(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def webms(tmp_path_factory, noise, encoded_with):
    """A shard folder of VP9 files stored as they are: 5 of one class, 3 longer ones of another."""
    root = tmp_path_factory.mktemp("webms")
    options = {"deadline": "realtime", "cpu-used": "8"}
    for number in range(8):
        path = root / "videos" / ("cats" if number < 5 else "dogs") / f"{number}.webm"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = noise(6 if number < 5 else 12, 64, 64, seed=number)
        path.write_bytes(encoded_with(frames, "libvpx-vp9", "webm", options))
    source = folder_layout.list_class_folders(root / "videos").sources()[0]
    build_shards(source, root / "train", make_recipe(source, 3), 0, lambda samples: None)
    return root / "train"


def videos(folder):
    shards = ShardFolder(folder)
    return {shards.key(index): shards.read(index) for index in range(len(shards))}


def test_webdataset_reads_copied_files(webms):
    tars = [str(tar) for tar in sorted(webms.glob("*.tar"))]
    read = {sample["__key__"]: sample for sample in webdataset.WebDataset(tars, shardshuffle=False)}
    assert {key: sample["webm"] for key, sample in read.items()} == {k: v.data for k, v in videos(webms).items()}
    assert {json.loads(sample["json"])["class_name"] for sample in read.values()} == {"cats", "dogs"}


def test_dali_reads_copied_files_with_our_index(webms):
    tars = sorted(webms.glob("*.tar"))

    @pipeline_def(batch_size=3, num_threads=1, device_id=None)
    def reader():
        paths = [str(tar) for tar in tars]
        indexes = [str(tar.with_suffix(".idx")) for tar in tars]
        video = fn.readers.webdataset(paths=paths, index_paths=indexes, ext=["webm"])
        return video, fn.decoders.video(video, sequence_length=6)

    raw, frames = reader().run()
    ours = list(videos(webms).values())
    for row in range(3):
        assert raw.at(row).tobytes() == ours[row].data
        mine = decode_frames(ours[row].data, range(6)).astype(int)
        theirs = frames.at(row).astype(int)
        assert np.abs(theirs.mean(axis=(1, 2, 3)) - mine.mean(axis=(1, 2, 3))).max() < 3  # edges of colours differ


def test_indexes_of_any_tar_equal_wds2idx(webms, tmp_path):
    (tmp_path / "data.v2" / "deep").mkdir(parents=True)
    for name in ("a.json", "a.seg.mp4", "b.mp4", ".hidden.mp4"):
        (tmp_path / "data.v2" / "deep" / name).write_bytes(name.encode() * 300)
    with tarfile.open(tmp_path / "foreign.tar", "w") as tar:
        tar.add(tmp_path / "data.v2", "data.v2")
    for name in ("000000.tar", "000002.tar"):
        shutil.copy(webms / name, tmp_path)
    call("index", tmp_path)
    for tar in tmp_path.glob("*.tar"):
        with IndexCreator(str(tar), str(tmp_path / "theirs"), verbose=False) as creator:
            creator.create_index()
        assert tar.with_suffix(".idx").read_text() == (tmp_path / "theirs").read_text(), tar.name
    with pytest.raises(InputError, match=r"data\.v2: .*\.tar"):
        call("index", tmp_path / "data.v2")


def test_reshard_keeps_samples_byte_identical(webms, tmp_path):
    call("reshard", webms, "--out", tmp_path, "--samples-per-shard", "4", "--workers", "1")
    assert [shard.samples for shard in read_manifest(tmp_path / "train").shards] == [4, 4]
    assert videos(tmp_path / "train") == videos(webms)
    assert read_manifest(tmp_path / "train").classes == ("cats", "dogs")
    call("verify", tmp_path / "train", "--decode")
    written = (tmp_path / "train" / "000000.tar").stat().st_ino
    call("reshard", webms, "--out", tmp_path, "--samples-per-shard", "4")
    assert (tmp_path / "train" / "000000.tar").stat().st_ino == written


def test_reshard_filters(webms, tmp_path):
    call("reshard", webms, "--out", tmp_path / "dogs", "--class", "dogs", "--workers", "1")
    call("reshard", webms, "--out", tmp_path / "long", "--min-frames", "7", "--workers", "1")
    assert list(videos(tmp_path / "dogs" / "train")) == list(videos(tmp_path / "long" / "train"))
    assert list(videos(tmp_path / "dogs" / "train")) == ["dogs-5", "dogs-6", "dogs-7"]
    (tmp_path / "keys").write_text("cats-1\ndogs-6\n")
    call("reshard", webms, "--out", tmp_path / "two", "--keys", tmp_path / "keys", "--workers", "1")
    assert list(videos(tmp_path / "two" / "train")) == ["cats-1", "dogs-6"]
    with pytest.raises(InputError, match="--class birds: "):
        call("reshard", webms, "--out", tmp_path / "none", "--class", "birds")
    with pytest.raises(InputError, match=r"webms.*: .* 8 "):
        call("reshard", webms, "--out", tmp_path / "none", "--codec", "av1")


def test_verify_decodes_some_or_all_samples(webms, tmp_path):
    assert "8 samples in 3 shards, 2 decoded" in call("verify", webms, "--sample", "2")
    assert "8 samples in 3 shards" in call("verify", webms)
    shutil.copytree(webms, tmp_path / "train")
    shards = ShardFolder(webms)
    tar = tmp_path / "train" / "000000.tar"
    video = shards.read(1).data
    tar.write_bytes(tar.read_bytes().replace(video, video[:200] + bytes(len(video) - 200)))
    with pytest.raises(DataError, match=r"000000\.tar: "):
        call("verify", tmp_path / "train", "--decode")
    manifest = tmp_path / "train" / "manifest.json"
    whole = json.loads(manifest.read_text())
    whole["shards"][0]["sha256"] = hashlib.sha256(tar.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(whole))
    call("verify", tmp_path / "train")
    with pytest.raises(DataError, match=f"{shards.key(1)} "):
        call("verify", tmp_path / "train", "--decode")


def test_a_contact_sheet_marks_the_key_frames(webms, tmp_path):
    call("preview", webms, "--out", tmp_path / "sheet.png", "--samples", "3", "--frames", "4")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (3 * (14 + 96 + 8 + 2), 4 * (96 + 2), 3)
    crimson = (sheet == (220, 20, 60)).all(axis=-1)
    assert crimson[114].sum() == 2  # one key frame, a mark of two pixels at the left end
    assert crimson[114, :2].all()


@pytest.mark.parametrize("codec", ENCODINGS)
def test_transcoded_videos_have_short_closed_gops(noise, codec):
    long_groups = encode(noise(20, 128, 192), 25, ENCODINGS["h264"].model_copy(update={"gop": 250}))
    encoding = ENCODINGS[codec].model_copy(update={"short_side": 64})
    data, info = transcode(long_groups, encoding)
    assert info[:4] == (20, 25, 96, 64)
    assert transcode(long_groups, encoding)[0] == data
    assert keyframe_indices(data) == [0, 8, 16]
    scaled = decode_frames(data, range(20)).astype(int)
    original = decode_frames(long_groups, range(20)).astype(int).reshape(20, 64, 2, 96, 2, 3).mean(axis=(2, 4))
    assert np.abs(scaled - original).mean() < 15
    for first in (8, 16):
        alone = decode_frames(data, [first + 3])
        np.testing.assert_array_equal(alone[0], scaled[first + 3])


def test_small_videos_are_not_enlarged(noise):
    assert transcode(encode(noise(3, 32, 48), 25), ENCODINGS["h264"])[1][2:4] == (48, 32)


def test_old_manifests_are_still_read(webms, tmp_path):
    shutil.copytree(webms, tmp_path / "train")
    path: Path = tmp_path / "train" / "manifest.json"
    old = json.loads(path.read_text())
    for name in ("seconds", "codecs", "stored"):
        del old[name]
    for name in ("shard_size", "shuffle_seed", "mode", "check"):
        del old["recipe"][name]
    path.write_text(json.dumps(old))
    (tmp_path / "train" / "contents.jsonl").unlink()
    assert len(ShardFolder(tmp_path / "train")) == 8
    call("info", tmp_path / "train")
