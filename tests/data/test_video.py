"""Encoding and decoding."""

import io

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_jepa.data.decode import UndecodableError, count_frames, decode_frames, decode_scaled
from hpc_jepa.data.encode import encode
from hpc_jepa.data.timeline import inspect_video

FRAMES = 40
CASES = {
    "ours": None,
    "b-frames, open groups": (
        "libx264",
        "mp4",
        {"x264-params": "keyint=12:min-keyint=12:bframes=3:b-adapt=0:open-gop=1:scenecut=0"},
    ),
    "one long group": ("libx264", "matroska", {"x264-params": "keyint=infinite:bframes=2"}),
    "av1": ("libsvtav1", "webm", {"preset": "12", "crf": "20", "g": "10"}),
    "vp9": ("libvpx-vp9", "webm", {"g": "10", "deadline": "realtime", "cpu-used": "8"}),
}


@pytest.fixture(scope="module")
def videos(noise, encoded_with):
    frames = noise(FRAMES)
    return {name: encode(frames, 25) if how is None else encoded_with(frames, *how) for name, how in CASES.items()}


@pytest.fixture(scope="module")
def whole(videos):
    """Every frame, decoded in one go by PyAV's own loop."""

    def decode_all(video):
        with av.open(io.BytesIO(video)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])

    return {name: decode_all(video) for name, video in videos.items()}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=15, deadline=None)
@given(indices=st.lists(st.integers(0, FRAMES - 1), min_size=1, max_size=8))
def test_selected_frames_equal_a_full_decode(videos, whole, name, indices):
    np.testing.assert_array_equal(decode_frames(videos[name], indices), whole[name][indices])


def test_gops_are_short_closed_and_without_b_frames(videos):
    with av.open(io.BytesIO(videos["ours"])) as container:
        kinds = [PictureType(frame.pict_type).name for frame in container.decode(video=0)]
    assert kinds == (["I"] + 7 * ["P"]) * 5
    with av.open(io.BytesIO(videos["ours"])) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [packet.is_keyframe for packet in packets] == ([True] + 7 * [False]) * 5
    assert all(packet.pts == packet.dts for packet in packets)


def test_encoding_is_deterministic_and_accurate(videos, noise):
    frames = noise(FRAMES)
    assert encode(frames, 25) == videos["ours"]
    difference = decode_frames(videos["ours"], range(FRAMES)).astype(int) - frames
    assert np.abs(difference).mean() < 8


@pytest.mark.parametrize("side", [32, 48, 96])
def test_the_same_frames_always_give_the_same_bytes(side, noise):
    grain = np.random.default_rng(side).integers(0, 30, (12, side, side, 1), dtype=np.uint8)
    for seed in range(6):
        frames = noise(12, side, side, seed=seed) // 4 + grain
        assert len({encode(frames, 25) for _ in range(10)}) == 1


@pytest.mark.parametrize("fps", [8.0, 25.0, 30000 / 1001])
def test_inspect_video(noise, fps):
    assert inspect_video(encode(noise(9), fps))[:5] == (9, pytest.approx(fps), 48, 32, "h264")


def test_frames_are_counted_without_decoding_them(videos):
    assert {count_frames(video) for video in videos.values()} == {FRAMES}


def test_scaling_keeps_the_aspect_and_even_sides(videos):
    frames, fps = decode_scaled(videos["ours"], 16)
    assert frames.shape == (FRAMES, 16, 24, 3)
    assert fps == 25
    averages = decode_frames(videos["ours"], range(FRAMES)).reshape(FRAMES, 16, 2, 24, 2, 3).mean((2, 4))
    assert np.abs(averages - frames).mean() < 5


@pytest.mark.parametrize(
    "damage",
    {
        "empty": lambda video: b"",
        "text": lambda video: b"no video at all\n" * 100,
        "cut": lambda video: video[: len(video) // 2],
        "zeros inside": lambda video: video[:2000] + bytes(1500) + video[3500:],
    }.items(),
    ids=lambda item: item[0],
)
def test_damaged_files_are_undecodable(videos, damage):
    with pytest.raises(UndecodableError):
        inspect_video(damage[1](videos["ours"]))


def test_sound_alone_is_undecodable():
    file = io.BytesIO()
    with av.open(file, "w", format="wav") as output:
        stream = output.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
    with pytest.raises(UndecodableError):
        inspect_video(file.getvalue())


def test_a_frame_past_the_end_is_an_error(videos):
    with pytest.raises(UndecodableError, match="frame 40 "):
        decode_frames(videos["ours"], [3, 40])
