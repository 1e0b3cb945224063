"""The random resized crop."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_jepa.config.data import AugmentationConfig
from hpc_jepa.data.crop import CROP_ATTEMPTS, random_view

DEFAULT = AugmentationConfig()
NO_FLIPS = np.array([0.99, 0.99])


def attempt_by_attempt(height, width, config, crop):
    """The textbook loop: draw, accept if it fits, else the largest central window of allowed aspect."""
    for area_u, aspect_u, row_u, column_u in crop:
        area = height * width * (config.area[0] + area_u * (config.area[1] - config.area[0]))
        low, high = map(math.log, config.aspect)
        aspect = math.exp(low + aspect_u * (high - low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return math.floor(row_u * (height - h + 1)), math.floor(column_u * (width - w + 1)), h, w
    ratio = width / height
    if ratio < config.aspect[0]:
        h, w = round(width / config.aspect[0]), width
    elif ratio > config.aspect[1]:
        h, w = height, round(height * config.aspect[1])
    else:
        h, w = height, width
    return (height - h) // 2, (width - w) // 2, h, w


@given(st.integers(8, 400), st.integers(8, 400), st.integers(0, 10**6))
def test_windows_equal_the_reference_loop(height, width, seed):
    crop = np.random.default_rng(seed).random((CROP_ATTEMPTS, 4))
    view = random_view(height, width, DEFAULT, crop, NO_FLIPS)
    assert view[:4] == attempt_by_attempt(height, width, DEFAULT, crop)
    assert 0 <= view.top <= height - view.height
    assert 0 <= view.left <= width - view.width


@pytest.mark.parametrize(("height", "width", "window"), [(20, 400, (0, 186, 20, 27)), (400, 20, (186, 0, 27, 20))])
def test_the_fallback_is_the_largest_central_window(height, width, window):
    nothing_fits = np.full((CROP_ATTEMPTS, 4), 0.999)
    assert random_view(height, width, DEFAULT, nothing_fits, NO_FLIPS)[:4] == window


def test_area_and_aspect_are_uniform_and_log_uniform():
    random = np.random.default_rng(0)
    views = [random_view(2000, 2000, DEFAULT, random.random((CROP_ATTEMPTS, 4)), NO_FLIPS) for _ in range(4000)]
    aspects = np.log([view.width / view.height for view in views])
    assert abs(np.median(aspects) - (math.log(0.75) + math.log(1.35)) / 2) < 0.02
    areas = np.array([view.width * view.height / 2000**2 for view in views])
    assert areas.min() >= 0.299
    assert areas.max() <= 1.0
    # Windows near the full frame with an extreme aspect do not fit, so only the lower half is free of that.
    assert ((areas < 0.45).sum() / (areas < 0.6).sum()) == pytest.approx(0.5, abs=0.04)


def test_flips_happen_below_their_probability():
    config = AugmentationConfig(horizontal_flip=0.5, vertical_flip=0.25)
    crop = np.zeros((CROP_ATTEMPTS, 4))
    assert random_view(8, 8, config, crop, np.array([0.49, 0.24]))[4:] == (True, True)
    assert random_view(8, 8, config, crop, np.array([0.50, 0.25]))[4:] == (False, False)
