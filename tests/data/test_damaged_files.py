"""A thousand damaged files: none stops a build, and no unreadable sample is stored."""

import io
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import av
import numpy as np
import pytest
from PIL import Image

from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.encode import encode
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.sources.source import EncodedFile, Sample, SampleOrigin, SettingValue
from hpc_jepa.errors import UndecodableError

FRAMES, HEIGHT, WIDTH = 10, 48, 64


def scene(seed=0, frames=FRAMES, height=HEIGHT, width=WIDTH):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    still = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.stack([np.roll(still, 2 * shift, axis=1) for shift in range(frames)])


def video(codec, container, pixels=None, pixel_format="yuv420p", times=None, rotation=0, sound=False, **options):
    pixels = scene() if pixels is None else pixels
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], pixel_format
        if rotation:
            stream.set_display_rotation(rotation)
        audio = output.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number, picture in enumerate(pixels):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number if times is None else times[number]
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if audio is not None:
            output.mux(audio.encode(silence()))
            output.mux(audio.encode())
    return file.getvalue()


def silence():
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    frame.sample_rate = 16000
    return frame


def only_sound():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16000, layout="mono")
        output.mux(stream.encode(silence()))
        output.mux(stream.encode())
    return file.getvalue()


def jpeg():
    file = io.BytesIO()
    Image.fromarray(scene()[0]).save(file, "JPEG")
    return file.getvalue()


@cache
def originals():
    return {
        "h264": video("libx264", "mp4", preset="ultrafast"),
        "mpeg4": video("mpeg4", "avi"),
        "b-frames": video("mpeg4", "matroska", bf="2"),
        "vp9": video("libvpx-vp9", "webm", deadline="realtime", **{"cpu-used": "8"}),
        "hevc": video("libx265", "mp4", preset="ultrafast", **{"x265-params": "log-level=none"}),
        "jpeg": jpeg(),
        "ours": encode(scene(), 25),
    }


@cache
def odd_ones():
    return {
        "10-bit": video("libx264", "mp4", pixel_format="yuv420p10le", preset="ultrafast"),
        "4:4:4": video("libx264", "mp4", pixel_format="yuv444p", preset="ultrafast"),
        "rotated": video("libx264", "mp4", rotation=90, preset="ultrafast"),
        "variable rate": video("libx264", "mp4", times=[0, 1, 2, 9, 10, 11, 30, 31, 40, 41], preset="ultrafast"),
        "one frame": video("libx264", "mp4", scene(frames=1), preset="ultrafast"),
        "odd size": video("libvpx-vp9", "webm", scene(height=33, width=47), deadline="realtime"),
        "tiny": video("libx264", "mp4", scene(height=2, width=2), preset="ultrafast"),
        "with sound": video("libx264", "mp4", sound=True, preset="ultrafast"),
        "av1": video("libsvtav1", "mp4", scene(height=64, width=64), preset="12"),
    }


def mutations(seed, count):
    """Name and bytes of ``count`` damaged files, each kind of damage to each kind of file in turn."""
    random = np.random.default_rng(seed)
    files = list(originals().items())
    kinds = (truncated, flipped, one_bit, zeroed, doubled, header_hit, swapped)
    for number in range(count):
        name, data = files[number % len(files)]
        kind = kinds[number // len(files) % len(kinds)]
        yield f"{kind.__name__} {name}", kind(data, random)


def truncated(data, random):
    return data[: int(random.integers(0, len(data)))]


def flipped(data, random):
    changed = np.frombuffer(data, np.uint8).copy()
    places = random.integers(0, len(data), max(1, len(data) // 200))
    changed[places] ^= random.integers(1, 256, len(places), dtype=np.uint8)
    return changed.tobytes()


def one_bit(data, random):
    changed = bytearray(data)
    changed[int(random.integers(0, len(data)))] ^= 1 << int(random.integers(0, 8))
    return bytes(changed)


def zeroed(data, random):
    start = int(random.integers(0, len(data)))
    return data[:start] + bytes(len(data) - start)


def doubled(data, random):
    start = int(random.integers(0, len(data)))
    return data[:start] + data[: len(data) - start]


def header_hit(data, random):
    """A number of the header becomes as large as it can."""
    start = int(random.integers(0, min(400, len(data) - 4)))
    return data[:start] + struct.pack(">I", 0x7FFFFFFF) + data[start + 4 :]


def swapped(data, random):
    low, high = sorted(int(place) for place in random.integers(0, len(data), 2))
    return data[:low] + data[high:] + data[low:high]


@dataclass(frozen=True)
class Damaged:
    """Files by name."""

    files: tuple[tuple[str, bytes], ...]

    dataset = "damaged"
    split = "train"
    classes: tuple[str, ...] = ()

    @property
    def settings(self) -> Mapping[str, SettingValue]:
        return {"count": len(self.files)}

    def __len__(self) -> int:
        return len(self.files)

    def origin(self, index: int) -> SampleOrigin:
        return SampleOrigin(f"file-{index:05d}", self.files[index][0])

    def load(self, index: int) -> Sample:
        return Sample(EncodedFile(self.files[index][1]))


def built(files, folder, **changes):
    source = Damaged(tuple(files))
    recipe = make_recipe(source, 100).model_copy(update=changes)
    manifest = build_shards(source, folder, recipe, 1, lambda samples: None, allowed_drops=1)
    drops = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert manifest.samples + len(drops) == len(source)
    assert all(drop["reason"] for drop in drops)
    return ShardFolder(folder), {drop["file"]: drop["reason"] for drop in drops}


def test_intact_files_are_stored_unchanged(tmp_path):
    folder, dropped = built(originals().items(), tmp_path / "train")
    assert dropped == {}
    files = list(originals().items())
    stored = {files[int(folder.key(index)[5:])][0]: folder.read(index) for index in range(len(folder))}
    assert {name: video.info.stored for name, video in stored.items()} == dict.fromkeys(originals(), "copied")
    for name, data in files:
        assert stored[name].data == data, name


@pytest.mark.parametrize("mode", ["copy", "transcode"])
def test_a_thousand_damaged_files_are_stored_or_listed(tmp_path, mode):
    """Half of them through each mode; DAMAGED_FILES sets another number."""
    count = int(os.environ.get("DAMAGED_FILES", "1000")) // 2
    files = list(mutations(seed=mode == "copy", count=count))
    folder, dropped = built(files, tmp_path / "train", mode=mode)
    assert count // 20 < len(folder) < count - count // 20
    assert not [reason for reason in dropped.values() if "crashes its process" in reason]
    unread = [index for index in range(len(folder)) if not is_readable(folder, index)]
    # A bit may tell a decoder that nothing depends on a frame: that shows when frames are left out, to readers alone.
    assert len(unread) <= count // 500


def is_readable(folder, index):
    """Whether the frames of a sample are what its description says; anything but a named fault is a failure."""
    data, info = folder.read(index)
    with pytest.raises(UndecodableError):
        decode_frames(data, [info.frames])
    try:
        return decode_frames(data, [0, info.frames - 1]).shape == (2, info.height, info.width, 3)
    except UndecodableError:
        return False


def test_unusual_files_are_stored_or_transcoded(tmp_path):
    folder, dropped = built(odd_ones().items(), tmp_path / "train")
    assert dropped == {}
    infos = {list(odd_ones())[int(folder.key(i)[5:])]: folder.info(i) for i in range(len(folder))}
    assert {name: (info.frames, info.height, info.width, info.stored) for name, info in infos.items()} == {
        "10-bit": (10, 48, 64, "transcoded"),
        "4:4:4": (10, 48, 64, "transcoded"),
        "rotated": (10, 64, 48, "transcoded"),
        "variable rate": (10, 48, 64, "copied"),
        "one frame": (1, 48, 64, "copied"),
        "odd size": (10, 33, 47, "copied"),
        "tiny": (10, 2, 2, "copied"),
        "with sound": (10, 48, 64, "stripped"),
        "av1": (10, 64, 64, "copied"),
    }
    assert infos["av1"].codec == "av1"


def test_a_rotated_video_is_turned_upright(tmp_path):
    for rotation, turns in {90: 1, 180: 2, -90: 3}.items():
        file = video("libx264", "mp4", rotation=rotation, crf="1")
        folder, _ = built([("rotated", file)], tmp_path / str(rotation))
        upright = decode_frames(folder.read(0).data, [0])[0].astype(int)
        assert abs(upright - np.rot90(scene()[0], turns)).mean() < 12


def test_sound_is_removed_without_reencoding(tmp_path):
    file = video("libx264", "mp4", sound=True, preset="ultrafast")
    folder, _ = built([("with sound", file)], tmp_path / "train")
    data = folder.read(0).data
    with av.open(io.BytesIO(data)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    np.testing.assert_array_equal(decode_frames(data, range(10)), decode_frames(file, range(10)))


@pytest.mark.parametrize(
    ("name", "data"), [("empty", b""), ("text", b"this is no video\n" * 100), ("sound alone", only_sound())]
)
def test_non_videos_are_listed(tmp_path, name, data):
    folder, dropped = built([("good", encode(scene(), 25)), (name, data)], tmp_path / "train")
    assert len(folder) == 1
    assert list(dropped) == [name]
    assert "exit code" not in dropped[name] and "SIG" not in dropped[name]  # it did not crash the worker
