"""Damaged samples and shards are replaced without crashes, hangs or leaks."""

import io
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from hpc_jepa.config.data import ClipConfig, DataConfig, SourceConfig
from hpc_jepa.data.decode import CropWindow, decode_frames
from hpc_jepa.data.encode import encode
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.data.shards.index import read_index
from hpc_jepa.data.timeline import inspect_video
from hpc_jepa.errors import DataError, UndecodableError
from hpc_jepa.runs.run_dir import RunDir

MUTATIONS = 60
"""Of each kind and file."""


@pytest.fixture(scope="module")
def files(noise, encoded_with):
    frames = noise(20)
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(frames[0]).save(jpeg, "JPEG")
    Image.fromarray(frames[0]).save(png, "PNG")
    return {
        "short groups": encode(frames, 25),
        "b-frames": encoded_with(frames, "libx264", "mp4", {"x264-params": "keyint=12:bframes=3"}),
        "vp9": encoded_with(frames, "libvpx-vp9", "webm", {"g": "10", "deadline": "realtime", "cpu-used": "8"}),
        "mpeg4": encoded_with(frames, "mpeg4", "avi", {}),
        "jpeg": jpeg.getvalue(),
        "png": png.getvalue(),
    }


def mutated(data: bytes, kind: str, random: np.random.Generator) -> bytes:
    copy = bytearray(data)
    place = int(random.integers(len(copy)))
    if kind == "cut":
        return bytes(copy[:place])
    if kind == "flipped":
        for at in random.integers(len(copy), size=random.integers(1, 20)):
            copy[at] ^= 1 << int(random.integers(8))
    if kind == "overwritten":
        length = int(random.integers(1, 200))
        copy[place : place + length] = random.bytes(min(length, len(copy) - place))
    if kind == "inserted":
        copy[place:place] = random.bytes(int(random.integers(1, 50)))
    return bytes(copy)


@pytest.mark.parametrize("kind", ["cut", "flipped", "overwritten", "inserted"])
@pytest.mark.parametrize("name", ["short groups", "b-frames", "vp9", "mpeg4", "jpeg", "png"])
def test_a_damaged_file_decodes_or_is_undecodable(name, kind, files):
    random = np.random.default_rng(len(name) * 10 + len(kind))
    indices = [0] if name in ("jpeg", "png") else [0, 3, 9, 19]
    for _ in range(MUTATIONS):
        data = mutated(files[name], kind, random)
        try:
            frames = decode_frames(data, indices, CropWindow(slice(2, 20), slice(4, 40), 32, 48))
            assert frames.shape == (len(indices), 18, 36, 3)
        except UndecodableError as error:
            assert "\n" not in str(error)
        with suppress(UndecodableError):
            inspect_video(data)


def test_a_video_with_changing_frame_size_is_undecodable(noise, encoded_with):
    halves = [encoded_with(noise(4, 32, width), "libx264", "h264", {}) for width in (48, 64)]
    with pytest.raises(UndecodableError):
        decode_frames(b"".join(halves), [0, 6])


def loader(folder: Path, rank: int = 0, world_size: int = 1) -> ClipLoader:
    data = DataConfig(
        sources={"train": SourceConfig(shards=folder)},
        clip=ClipConfig(frames=4, stride=1, size=16),
        undecodable_rate=1.0,
    )
    return ClipLoader(data, seed=2, batch_size=8, rank=rank, world_size=world_size, device=torch.device("cpu"))


@pytest.fixture
def damaged(shards, tmp_path) -> Path:
    """The small motion benchmark, one of five members damaged one way or another, sizes as they were."""
    folder = tmp_path / "train"
    shutil.copytree(shards / "train", folder)
    random = np.random.default_rng(0)
    for tar in sorted(folder.glob("*.tar")):
        content = bytearray(tar.read_bytes())
        for member in (member for sample in read_index(tar.with_suffix(".idx")) for member in sample):
            if random.random() < 0.2:
                part = slice(member.offset, member.offset + member.size)
                content[part] = mutated(bytes(content[part]), "flipped", random)
        tar.write_bytes(content)
    return folder


def test_replacements_do_not_depend_on_the_world_size(damaged, tmp_path):
    alone, halves = loader(damaged), [loader(damaged, rank, 2) for rank in (0, 1)]
    runs = [RunDir(tmp_path / name) for name in ("alone", "first", "second")]
    for one, run in zip([alone, *halves], runs, strict=True):
        one.log_decode_errors_to(run, 0)
    for step in range(12):
        whole, parts = alone.batch(step), [half.batch(step) for half in halves]
        assert torch.equal(whole.pixels, torch.cat([part.pixels for part in parts]))
        assert torch.equal(whole.samples, torch.cat([part.samples for part in parts]))
    drops, first, second = [run.decode_errors_file(0).read_text().splitlines() for run in runs]
    assert sorted(drops) == sorted(first + second)
    assert 0 < alone.decode_errors["train"] == len(drops)


@pytest.mark.parametrize("part", ["manifest.json", "000000.idx", "000000.tar"])
def test_damaged_shards_raise_data_errors_or_are_read(part, shards, tmp_path):
    random = np.random.default_rng(len(part))
    for attempt in range(25):
        folder = tmp_path / str(attempt)
        shutil.copytree(shards / "test", folder)
        file = folder / part
        file.write_bytes(mutated(file.read_bytes(), ("cut", "flipped", "overwritten")[attempt % 3], random))
        try:
            one = loader(folder)
            one.batch(0)
            one.close()
        except DataError as error:
            assert str(folder) in str(error) or "did not decode" in str(error)


def test_reading_leaks_neither_memory_nor_files(shards):
    process = psutil.Process()
    reader = loader(shards / "train")
    sizes, handles = [], []
    for step in range(150):
        reader.batch(step)
        if step % 50 == 49:
            sizes.append(process.memory_info().rss)
            handles.append(process.num_fds())
    assert handles[-1] == handles[0]
    assert sizes[-1] - sizes[0] < 8 << 20
    reader.close()
    assert process.num_fds() < handles[-1]
