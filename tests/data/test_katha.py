"""KathaBench: eight laws of motion, rendered from the clip number alone."""

import numpy as np
import pytest

from hpc_jepa.data.sources import katha
from hpc_jepa.data.sources.katha import LAWS, SIDE, covered, draw_appearance, draw_path, katha_splits, render_katha
from hpc_jepa.errors import InputError


def path(number):
    random = np.random.default_rng(number)
    appearance = draw_appearance(random)
    return draw_path(random, number % 8, appearance), appearance


def test_a_clip_is_a_function_of_its_number():
    assert render_katha(13).shape == (16, 224, 224, 3)
    np.testing.assert_array_equal(render_katha(13), render_katha(13))
    assert not np.array_equal(render_katha(13), render_katha(21))


def test_splits_are_70_10_20_and_share_no_clip():
    sources = katha_splits()
    assert {source.split: len(source) for source in sources} == {"train": 35_000, "validation": 5_000, "test": 10_000}
    ranges = [range(source.first, source.first + source.count) for source in sources]
    assert [part.stop for part in ranges][:2] == [part.start for part in ranges][1:]
    sample = katha_splits(80)[2].load(3)
    assert (sample.label, sample.text) == ((72 - 8 + 3) % 8, "bounce")
    with pytest.raises(InputError, match="clips 9: "):
        katha_splits(9)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_thrown_objects_have_the_acceleration_of_their_law(label):
    checked = 0
    for number in range(label, 400, 8):
        centres, _ = path(number)
        if ((centres > 0) & (centres < SIDE - 1)).all():
            bends = np.diff(centres, n=2, axis=0)
            np.testing.assert_allclose(bends - bends[0], 0, atol=1e-9)
            limits = {0: ([0, 0], [0, 0]), 1: ([-2, -2], [2, 2]), 2: ([0, 1], [0, 3])}[label]
            assert (bends[0] >= np.array(limits[0]) - 1e-9).all() and (bends[0] <= np.array(limits[1]) + 1e-9).all()
            checked += 1
    assert checked > 3


def test_orbits_keep_their_radius_and_their_speed():
    for number in range(4, 100, 8):
        centres, _ = path(number)
        spokes = centres - SIDE / 2
        radius = np.linalg.norm(spokes, axis=1)
        assert np.ptp(radius) < 1e-9 and 30 <= radius[0] <= 80
        turns = np.diff(np.unwrap(np.arctan2(spokes[:, 1], spokes[:, 0])))
        assert np.ptp(turns) < 1e-9 and 0.1 <= turns[0] <= 0.5


def test_harmonic_motion_keeps_its_height_and_bodies_attract_each_other():
    for number in range(5, 100, 8):
        assert np.ptp(path(number)[0][:, 1]) == 0
    random = np.random.default_rng(0)
    pair = katha.two_bodies(random, np.array([100.0, 100.0]), np.zeros(2), 10).reshape(16, 2, 2)
    distance = np.linalg.norm(pair[:, 0] - pair[:, 1], axis=1)
    assert (np.diff(distance) < 0).all()
    np.testing.assert_allclose(pair.sum(axis=1) - pair[0].sum(axis=0), 0, atol=1e-9)  # momentum


def test_bouncing_objects_reverse_at_the_border_and_others_stop():
    crossed = 0
    for number in range(3, 400, 8):
        centres, _ = path(number)
        steps = np.diff(centres, axis=0)
        np.testing.assert_allclose(np.abs(steps) - np.abs(steps[0]), 0, atol=1e-9)
        crossed += (np.sign(steps) != np.sign(steps[0])).any()
    assert crossed > 10
    for number in range(0, 200, 8):
        centres, _ = path(number)
        assert centres.min() >= 0 and centres.max() <= SIDE - 1


def test_areas_of_shapes():
    centre, size = np.full((1, 2), 112.0), np.array([30.0])
    areas = {shape: covered(shape, centre, size).sum() for shape in ("disc", "square", "triangle")}
    assert areas["disc"] == pytest.approx(np.pi * 900, rel=0.02)
    assert areas["square"] == 61**2
    assert areas["triangle"] == pytest.approx(60 * 60 / 2, rel=0.05)


def test_every_label_has_its_law():
    assert tuple(LAWS)[3] == "bounce" and len(LAWS) == 8
    assert {katha_splits(80)[0].load(index).label for index in range(8)} == set(range(8))
