"""Frame sampling of clips."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_jepa.config.benchmark import EvaluationClipConfig
from hpc_jepa.config.data import ClipConfig
from hpc_jepa.data.frame_sampling import evaluation_frames, training_frames

uniform = st.floats(0, 1, exclude_max=True)


def test_a_long_video_gives_evenly_spaced_frames():
    # 16 frames, stride 2: window [10, 42), positions 10 + i * 32 / 15 rounded down, the last one 41.
    start = (42 - 32 + 0.5) / (100 - 32)
    frames = training_frames(100, 25.0, ClipConfig(frames=16, stride=2), start)
    assert frames.tolist() == [10 + math.floor(i * 32 / 15) for i in range(15)] + [41]


def test_every_window_but_the_last_is_drawn():
    clip = ClipConfig(frames=4, stride=1)
    ends = {int(training_frames(10, 25.0, clip, start)[-1]) + 1 for start in np.linspace(0, 1, 601)[:-1]}
    assert ends == set(range(4, 10))


def test_a_video_of_the_clip_span_is_used_whole():
    frames = training_frames(16, 25.0, ClipConfig(frames=8, stride=2), 0.7)
    assert frames.tolist() == [0, 2, 4, 6, 9, 11, 13, 15]


def test_a_short_video_repeats_its_last_frame():
    assert training_frames(5, 25.0, ClipConfig(frames=4, stride=2), 0.3).tolist() == [0, 4, 4, 4]
    assert training_frames(1, 25.0, ClipConfig(frames=4, stride=2), 0.3).tolist() == [0, 0, 0, 0]


@given(st.integers(1, 400), st.integers(1, 32), st.integers(1, 8), uniform)
def test_frame_indices_are_valid_and_ascending(frames, length, stride, start):
    clip = ClipConfig(frames=length, stride=stride)
    chosen = training_frames(frames, 25.0, clip, start)
    assert chosen.shape == (length,)
    assert (np.diff(chosen) >= 0).all()
    assert chosen.min() >= 0
    assert chosen.max() < frames
    assert chosen[-1] - chosen[0] < clip.span(25.0)


def test_leading_and_uniform_evaluation_frames():
    leading = EvaluationClipConfig(frames=4, sampling="leading", stride=2)
    spread = EvaluationClipConfig(frames=4, sampling="uniform")
    assert evaluation_frames(20, leading).tolist() == [0, 2, 4, 6]
    assert evaluation_frames(5, leading).tolist() == [0, 2, 4, 4]
    assert evaluation_frames(20, spread).tolist() == [0, 6, 12, 19]
    assert evaluation_frames(3, spread).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("frames", [16, 17, 31, 250])
def test_uniform_sampling_truncates_even_steps(frames):
    expected = [int(i * (frames - 1) / 15) for i in range(16)]
    chosen = evaluation_frames(frames, EvaluationClipConfig(frames=16))
    assert np.abs(chosen - expected).max() <= 1
    assert (chosen[0], chosen[-1]) == (0, frames - 1)


@pytest.mark.parametrize(
    ("fps", "stride"), [(25.0, 1), (29.97, 1), (30.0, 1), (32.0, 2), (47.95, 3), (12.0, 1), (0.0, 1)]
)
def test_clip_fps_sets_the_stride(fps, stride):
    clip = ClipConfig(frames=16, fps=16)
    assert clip.stride_at(fps) == stride
    np.testing.assert_array_equal(
        training_frames(400, fps, clip, 0.3), training_frames(400, fps, ClipConfig(frames=16, stride=stride), 0.3)
    )


def test_half_the_frame_rate_is_stride_two():
    assert ClipConfig(frames=8, fps=4).stride_at(8.0) == 2
