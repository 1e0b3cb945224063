import math

import numpy as np
import pytest

from hpc_jepa.data.sources import motion8
from hpc_jepa.errors import InputError


def drawn_pixel_by_pixel(number: int, frame: int) -> np.ndarray:
    """One frame of the published benchmark, without vectors."""
    random = np.random.default_rng(42 + number)
    background = random.integers(0, 80, size=3, dtype=np.uint8)
    noise = random.integers(0, 30, size=(32, 160, 160, 1))
    colour = random.integers(120, 256, size=3, dtype=np.uint8)
    r = random.integers(10, 40)
    x0, y0 = random.integers(r, 160 - r), random.integers(r, 160 - r)
    dx, dy = ((0, -4), (3, -3), (4, 0), (3, 3), (0, 4), (-3, 3), (-4, 0), (-3, -3))[number % 8]
    x, y = (min(max(start + v * frame, r), 159 - r) for start, v in ((x0, dx), (y0, dy)))
    picture = np.zeros((160, 160, 3), np.uint8)
    for row in range(160):
        for column in range(160):
            inside = math.hypot(column - x, row - y) <= r
            picture[row, column] = colour if inside else background + noise[frame, row, column, 0]
    return picture


@pytest.mark.parametrize(("number", "frame"), [(0, 0), (3, 7), (45, 31), (199, 5)])
def test_published_clips_are_the_benchmark_pixel_by_pixel(number, frame):
    clip = motion8.render_motion8(motion8.labelled_scene(number), 160, 32)
    np.testing.assert_array_equal(clip[frame], drawn_pixel_by_pixel(number, frame))


def test_published_counts_of_border_clips():
    time = np.arange(8)[:, None]
    at_border, off_course = [], []
    for number in range(200):
        scene = motion8.labelled_scene(number)
        free = np.array(scene.start) + np.array(scene.velocity) * time
        path = np.clip(free, scene.radius, 159 - scene.radius)
        at_border.append((path != free).any())
        off_course.append((np.sign(path[-1] - path[0]) != np.sign(scene.velocity)).any())
    assert sum(at_border) == 64
    assert sum(off_course) == 6
    assert not any(off_course[160:])


def test_published_splits_hold_160_and_40_clips_with_balanced_labels():
    train, test, unlabelled = motion8.motion8_splits(**motion8.PROTOCOLS["published"], unlabelled=24)
    assert (len(train), len(test), len(unlabelled)) == (160, 40, 24)
    assert train.origin(159).key == "train-000159"
    assert test.origin(0).key == "test-000160"
    assert np.bincount([test.load(index).label for index in range(40)]).tolist() == [5] * 8
    assert unlabelled.load(0).label is None


def test_a_smaller_clip_shows_the_same_scene():
    scene = motion8.unlabelled_scene(5)
    large, small = (motion8.render_motion8(scene, size, 16) for size in (160, 64))
    for frame in (0, 15):
        centres = [np.argwhere((clip[frame] == scene.colour).all(-1)).mean(0) for clip in (large, small)]
        np.testing.assert_allclose(centres[1], 0.4 * centres[0], atol=0.8)
    areas = [(clip[0] == scene.colour).all(-1).sum() for clip in (large, small)]
    assert areas[1] / areas[0] == pytest.approx(0.16, rel=0.05)


def test_velocities_of_unlabelled_clips_are_uniform():
    velocities = np.array([motion8.unlabelled_scene(number).velocity for number in range(250)])
    assert np.unique(velocities).tolist() == list(range(-4, 5))
    assert abs(velocities.mean()) < 3 * 2.58 / math.sqrt(500)


def test_unlabelled_clips_do_not_repeat_labelled_scenes():
    starts = {
        motion8.labelled_scene(number)[3:5] + tuple(motion8.labelled_scene(number).colour) for number in range(60)
    }
    scenes = [motion8.unlabelled_scene(number) for number in range(110)]
    assert not starts & {scene[3:5] + tuple(scene.colour) for scene in scenes}


@pytest.mark.parametrize(
    ("size", "frames", "named"), [(63, 16, "size 63"), (320, 16, "size 320"), (64, 33, "frames 33")]
)
def test_unsupported_sizes_are_errors(size, frames, named):
    with pytest.raises(InputError, match=named):
        motion8.motion8_splits(1, 1, 1, size, frames)
