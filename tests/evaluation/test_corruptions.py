"""Corruptions: their effect, and that they are deterministic per sample."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from hpc_jepa.config.benchmark import EvaluationClipConfig
from hpc_jepa.data.evaluation_clips import EvaluationClips
from hpc_jepa.evaluation.corruptions import CORRUPTIONS, ClipCorruption
from hpc_jepa.evaluation.tasks.robustness import corruption_cases

CLIP = EvaluationClipConfig(frames=8, sampling="leading", stride=1, size=32)


@pytest.fixture(scope="module")
def pixels():
    """A clip [3, 16, 32, 48] of byte values with fine texture that changes from frame to frame."""
    t, y, x = np.meshgrid(np.arange(16), np.arange(32), np.arange(48), indexing="ij")
    grey = 120 + 60 * np.sin(y / 5 + t / 3) + 40 * np.cos(x / 7 - t / 4) + 15 * np.sin(1.9 * x)
    return torch.from_numpy(np.stack([grey, grey * 0.8, 255 - grey])).float().clamp(0, 255)


def read(shards, corruption=None, **sharing):
    clips = EvaluationClips(shards / "test", CLIP, 4, corruption=corruption, **sharing)
    return {int(i): clip for batch, _, indices in clips for i, clip in zip(indices, batch, strict=True)}


@pytest.mark.parametrize("case", list(corruption_cases(()))[1:], ids=lambda case: f"{case.corruption}-{case.severity}")
def test_a_corruption_is_a_function_of_the_sample(pixels, case):
    corrupt = ClipCorruption(case.corruption, case.level)
    first, again, other = corrupt(pixels, 5), ClipCorruption(case.corruption, case.level)(pixels, 5), corrupt(pixels, 6)
    assert torch.equal(first, again)
    assert first.shape == pixels.shape and first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 255
    drawn = {"frame_dropout_random", "frame_dropout_block", "temporal_shuffle", "noise", "occlusion"}
    assert case.corruption in drawn or torch.equal(first, other)
    assert ClipCorruption("noise", 0.1, seed=1)(pixels, 5).ne(ClipCorruption("noise", 0.1, seed=2)(pixels, 5)).any()


@pytest.mark.parametrize("kind", ["random", "block", "last"])
def test_dropping_no_frame_is_the_identity(shards, kind):
    clean, lost = read(shards), read(shards, ClipCorruption(f"frame_dropout_{kind}", 0.0))
    assert all(torch.equal(clean[i], lost[i]) for i in clean)


def test_reversal_is_its_own_inverse(shards, pixels):
    reverse = ClipCorruption("reversal", 1.0)
    assert torch.equal(reverse(reverse(pixels, 3), 3), pixels)
    clean, backwards = read(shards), read(shards, reverse)
    assert all(torch.equal(clean[i], backwards[i].flip(1)) for i in clean)
    assert not torch.equal(clean[0], backwards[0])


@pytest.mark.parametrize("share", [0.25, 0.5, 0.875])
@pytest.mark.parametrize("kind", ["random", "block", "last"])
def test_dropped_frames_hold_the_last_kept_one(pixels, kind, share):
    name = f"frame_dropout_{kind}"
    for sample in range(20):
        order = CORRUPTIONS[name].frame_order(16, share, ClipCorruption(name, share)._draw(sample))
        shown = np.unique(order)
        kept = 16 - round(16 * share)
        assert len(shown) in (kept, kept + (kind == "block"))
        assert (order[shown] == shown).all()
        late = order[shown[0] :]
        assert (late <= np.arange(shown[0], 16)).all() and (np.diff(late) >= 0).all()
        assert (order[: shown[0]] == shown[0]).all()


def test_block_dropout_is_one_gap_and_last_dropout_repeats_one_frame():
    draw = ClipCorruption("frame_dropout_block", 0.5)._draw(3)
    order = CORRUPTIONS["frame_dropout_block"].frame_order(16, 0.5, draw)
    missing = np.setdiff1d(np.arange(16), order)
    assert np.ptp(missing) == len(missing) - 1
    last = CORRUPTIONS["frame_dropout_last"].frame_order(16, 0.5, draw)
    np.testing.assert_array_equal(last, [*range(8), *[7] * 8])


def test_temporal_shuffle_permutes_at_most_its_fraction():
    for level in CORRUPTIONS["temporal_shuffle"].levels:
        moved = []
        for sample in range(30):
            order = CORRUPTIONS["temporal_shuffle"].frame_order(
                16, level, ClipCorruption("temporal_shuffle", level)._draw(sample)
            )
            np.testing.assert_array_equal(np.sort(order), np.arange(16))
            moved.append((order != np.arange(16)).sum())
        assert max(moved) <= max(round(16 * level), 2) and np.mean(moved) > 0


def test_stride_changes_the_frame_indices():
    longer = ClipCorruption("stride_longer", 2.0)
    np.testing.assert_array_equal(longer.frame_indices(np.arange(10, 18), 40), [6, 8, 10, 12, 14, 16, 18, 20])
    np.testing.assert_array_equal(longer.frame_indices(np.arange(0, 8), 8), [0, 0, 0, 2, 4, 6, 7, 7])
    shorter = ClipCorruption("stride_shorter", 0.5).frame_indices(np.arange(0, 32, 4), 32)
    np.testing.assert_array_equal(shorter, [7, 9, 11, 13, 15, 17, 19, 21])
    assert ClipCorruption("noise", 0.1).frame_indices(np.arange(4), 9).tolist() == [0, 1, 2, 3]


def test_every_pixel_corruption_gets_worse_with_severity(pixels):
    pixels = pixels[:, :4].repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    smooth = pixels.round()
    for name, kind in CORRUPTIONS.items():
        if kind.pixels is not None:
            errors = [float((ClipCorruption(name, level)(pixels, 0) - smooth).square().mean()) for level in kind.levels]
            assert all(a < b for a, b in pairwise(errors)), (name, errors)


def test_strength_of_noise_brightness_and_occlusion():
    grey = torch.full((3, 8, 64, 64), 100.0)
    noisy = ClipCorruption("noise", 0.08)(grey, 0) - grey
    assert noisy.std().item() == pytest.approx(255 * 0.08, rel=0.02) and abs(noisy.mean()) < 0.5
    assert ClipCorruption("brightness", 0.2)(grey, 0).unique().tolist() == [151.0]
    hidden = ClipCorruption("occlusion", 0.25)(grey, 0) == 128
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(hidden[:, :1].expand_as(hidden), hidden)


def test_h264_keeps_odd_sides(pixels):
    assert ClipCorruption("h264", 30)(pixels[..., :31, :47], 0).shape == (3, 16, 31, 47)


def test_corruptions_do_not_depend_on_processes_and_threads(shards):
    for name in ("noise", "frame_dropout_random", "stride_longer"):
        corrupt = ClipCorruption(name, CORRUPTIONS[name].levels[2])
        alone = read(shards, corrupt)
        shared = {}
        for rank in range(3):
            shared |= read(shards, corrupt, rank=rank, world_size=3, threads=2)
        assert alone.keys() == shared.keys()
        assert all(torch.equal(alone[i], shared[i]) for i in alone)
