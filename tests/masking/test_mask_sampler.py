from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from hpc_jepa.config.masking import MaskGroupConfig, MotionGuidanceConfig
from hpc_jepa.errors import InputError
from hpc_jepa.masking.block_sampling import block_size
from hpc_jepa.masking.motion_guidance import motion_map
from hpc_jepa.types import ClipBatch, TokenGrid, TokenMasks

SMALL = TokenGrid(4, 8, 8)
PAPER = TokenGrid(8, 14, 14)
TRUNCATIONS = ["raster", "tubes", "tokens"]


def equal(one: TokenMasks, other: TokenMasks) -> bool:
    assert one.padding is None and other.padding is None
    names = [field.name for field in fields(TokenMasks) if field.name != "padding"]
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def rows(clips: ClipBatch, part: slice) -> ClipBatch:
    values = {field.name: getattr(clips, field.name) for field in fields(ClipBatch)}
    return ClipBatch(**{name: value[part] for name, value in values.items() if value is not None})


@settings(deadline=None, max_examples=40)
@given(
    step=st.integers(0, 10**5), seed=st.integers(0, 2**32), batch=st.integers(1, 6), kind=st.sampled_from(TRUNCATIONS)
)
def test_lists_are_sorted_disjoint_and_repeatable(make_sampler, make_clips, step, seed, batch, kind):
    sampler = make_sampler(SMALL, batch, seed=seed, mask_truncation=kind)
    clips = make_clips(batch, SMALL)
    for masks, again in zip(sampler(step, clips), sampler(step, clips), strict=True):
        assert equal(masks, again)
        assert masks.context.shape[0] == masks.target.shape[0] == batch
        assert masks.context.shape[1] >= 1 and masks.target.shape[1] >= 1
        both = torch.cat([masks.context, masks.target], 1)
        assert (masks.context.diff() > 0).all() and (masks.target.diff() > 0).all()
        assert all(len(set(row)) == len(row) for row in both.tolist())
        assert both.min() >= 0 and both.max() < SMALL.tokens
        assert masks.pairs == (masks.next_in_context >= 0).sum()


@settings(deadline=None, max_examples=25)
@given(
    step=st.integers(0, 10**5),
    world_size=st.sampled_from([2, 3, 6]),
    kind=st.sampled_from(TRUNCATIONS),
    guided=st.booleans(),
    static=st.booleans(),
)
def test_masks_are_the_same_for_any_number_of_processes(
    make_sampler, make_clips, step, world_size, kind, guided, static
):
    clips = make_clips(6, SMALL, static=[1, 4])
    options = {
        "motion": MotionGuidanceConfig() if guided else None,
        "mask_truncation": kind,
        "static_clips_in_temporal_terms": static,
    }
    whole = make_sampler(SMALL, 6, **options)(step, clips)
    everything = {
        torch.float32: motion_map(clips.pixels, SMALL, "area", "clip"),
        torch.bool: ~clips.static,
    }
    parts = []
    for rank in range(world_size):
        sampler = make_sampler(
            SMALL, 6, rank=rank, world_size=world_size, gather=lambda mine: everything[mine.dtype], **options
        )
        parts.append(sampler(step, rows(clips, sampler.local_clips)))
    for group, of_processes in zip(whole, zip(*parts, strict=True), strict=True):
        for name in ("context", "target", "context_distance", "next_in_context"):
            assert torch.equal(getattr(group, name), torch.cat([getattr(part, name) for part in of_processes]))
        assert all(part.pairs * world_size == group.pairs for part in of_processes)


@settings(deadline=None, max_examples=25)
@given(
    step=st.integers(0, 10**5),
    processes=st.sampled_from([(1, 2), (1, 6), (2, 3), (3, 2)]),
    kind=st.sampled_from(TRUNCATIONS),
    scope=st.sampled_from(["global", "process"]),
    guided=st.booleans(),
    same=st.booleans(),
)
def test_micro_batches_have_the_masks_of_as_many_processes(
    make_sampler, make_clips, step, processes, kind, scope, guided, same
):
    world_size, accumulation = processes
    clips = make_clips(12, SMALL, static=[1, 4])
    everything = {torch.float32: motion_map(clips.pixels, SMALL, "area", "clip"), torch.bool: ~clips.static}
    options = {
        "scope": scope,
        "motion": MotionGuidanceConfig() if guided else None,
        "mask_truncation": kind,
        "static_clips_in_temporal_terms": False,
        "process_randomness": "same" if same else "independent",
        "batch_statistics": scope,
        "gather": lambda mine: everything[mine.dtype],
    }
    parts = world_size * accumulation
    for rank in range(world_size):
        sampler = make_sampler(SMALL, 12, rank=rank, world_size=world_size, accumulation=accumulation, **options)
        micro_batches = sampler.micro_batches(step, rows(clips, sampler.local_clips))
        assert len(micro_batches) == accumulation
        for number, masks in enumerate(micro_batches):
            alone = make_sampler(SMALL, 12, rank=rank * accumulation + number, world_size=parts, **options)
            expected = alone(step, rows(clips, alone.local_clips))
            assert all(equal(one, other) for one, other in zip(masks, expected, strict=True))


def test_motion_that_is_divided_across_clips_is_that_of_each_micro_batch(make_sampler, make_clips, motion_guidance):
    """``motion_norm: tubelet`` divides tubelet t by the maximum of clip t of the same process (B24)."""
    clips = make_clips(2 * SMALL.time, SMALL)
    options = {"motion": motion_guidance, "motion_norm": "tubelet"}
    halves = [rows(clips, slice(SMALL.time)), rows(clips, slice(SMALL.time, None))]
    whole = torch.cat([motion_map(half.pixels, SMALL, "area", "tubelet") for half in halves])
    together = make_sampler(SMALL, 2 * SMALL.time, accumulation=2, **options).micro_batches(3, clips)
    for rank, half in enumerate(halves):
        alone = make_sampler(SMALL, 2 * SMALL.time, rank=rank, world_size=2, gather=lambda mine: whole, **options)
        assert all(equal(one, other) for one, other in zip(together[rank], alone(3, half), strict=True))


def test_published_lengths_and_pairs_are_per_process(make_sampler, make_clips):
    clips = make_clips(8, SMALL)
    options = {"scope": "process", "batch_statistics": "process", "world_size": 2}
    first, second = (make_sampler(SMALL, 8, rank=rank, **options)(3, rows(clips, slice(4))) for rank in (0, 1))
    assert first[0].context.shape != second[0].context.shape
    for masks in (*first, *second):
        assert masks.pairs == (masks.next_in_context >= 0).sum()
    pooled = [
        make_sampler(SMALL, 8, rank=rank, **(options | {"batch_statistics": "global"}))(3, rows(clips, slice(4)))
        for rank in (0, 1)
    ]
    assert pooled[0][0].pairs == pooled[1][0].pairs == (first[0].pairs + second[0].pairs) / 2


def test_average_sizes_equal_the_published_ones(make_sampler, make_clips):
    """Raster truncation at eight clips per process; survival of visible tokens per tubelet."""
    steps = 1200
    sampler = make_sampler(PAPER, 8, scope="process", mask_truncation="raster")
    clips = make_clips(8, TokenGrid(1, 1, 1))
    visible = (584, 295)
    context, target = (421, 140), (814, 1131)
    survival = ((1, 1, 1, 0.96, 0.81, 0.55, 0.30, 0.14), (1, 0.91, 0.70, 0.49, 0.30, 0.19, 0.12, 0.10))
    masks = [sampler(step, clips) for step in range(steps)]
    for group in (0, 1):
        for sizes, published in (
            ([m[group].context.shape[1] for m in masks], context[group]),
            ([m[group].target.shape[1] for m in masks], target[group]),
        ):
            standard_error = np.std(sizes) / steps**0.5
            assert abs(np.mean(sizes) - published) < 2 * standard_error + 0.5, (group, np.mean(sizes), published)
        kept = np.stack([(m[group].context // PAPER.cells).flatten().bincount(minlength=8).numpy() for m in masks])
        kept = kept / 8 / (visible[group] / 8)
        allowed = 3 * kept.std(0) / steps**0.5 + 0.005
        assert (np.abs(kept.mean(0) - survival[group]) < allowed).all(), (group, kept.mean(0), survival[group])


def test_average_sizes_of_future_predictive_masks_equal_the_published_ones(make_sampler, make_clips, future_groups):
    """Context and targets at eight clips per process; together they are all tokens."""
    steps, published = 300, ((376, 1192), (236, 1332))
    sampler = make_sampler(PAPER, 8, scope="process", groups=future_groups, mask_truncation="raster")
    masks = [sampler(step, make_clips(8, TokenGrid(1, 1, 1))) for step in range(steps)]
    for group, (context, target) in enumerate(published):
        sizes = [m[group].context.shape[1] for m in masks]
        standard_error = np.std(sizes) / steps**0.5
        assert abs(np.mean(sizes) - context) < 2 * standard_error + 0.5, (group, np.mean(sizes))
        assert all(m[group].target.shape[1] == PAPER.tokens - size for m, size in zip(masks, sizes, strict=True))
        assert context + target == PAPER.tokens
        assert all(m[group].context.max() < PAPER.tokens // 2 for m in masks)


def test_tube_truncation_keeps_whole_columns(make_sampler, make_clips):
    clips = make_clips(32, SMALL)
    for masks in make_sampler(SMALL, 32, mask_truncation="tubes")(5, clips):
        per_place = torch.zeros(32, SMALL.cells).scatter_add(1, masks.context % 64, torch.ones(masks.context.shape))
        partial = (per_place > 0) & (per_place < SMALL.time)
        assert (partial.sum(1) <= 1).all()


def test_random_truncation_affects_all_tubelets_equally(make_sampler, make_clips):
    clips = make_clips(16, SMALL)
    sampler = make_sampler(SMALL, 16, mask_truncation="tokens")
    tubelets = torch.cat([sampler(step, clips)[1].context.flatten() // SMALL.cells for step in range(30)])
    assert chisquare(tubelets.bincount(minlength=4).numpy()).pvalue > 0.001


def test_full_complement_masks_predict_every_other_token(make_sampler, make_clips, future_groups):
    clips = make_clips(8, PAPER)
    for masks in make_sampler(PAPER, 8, groups=future_groups)(2, clips):
        assert masks.context.max() < 4 * PAPER.cells
        assert masks.context.shape[1] + masks.target.shape[1] == PAPER.tokens
    _, height, width = block_size(future_groups[1], PAPER, 2)
    assert masks.context.shape[1] == 4 * (PAPER.cells - height * width)


@pytest.mark.parametrize(
    "neutral",
    [MotionGuidanceConfig(strength=0.0, random_rate=0.0), MotionGuidanceConfig(strength=5.0, random_rate=1.0)],
)
def test_guidance_without_strength_is_base_placement(make_sampler, make_clips, neutral):
    clips = make_clips(4, SMALL)
    base, guided = (make_sampler(SMALL, 4, motion=motion)(9, clips) for motion in (None, neutral))
    assert all(equal(*pair) for pair in zip(base, guided, strict=True))


def test_guided_blocks_mix_motion_and_uniform_placement(make_sampler, make_clips, motion_guidance):
    """One block per clip: its first token is its origin, whose exact probabilities are known."""
    grid, batch = TokenGrid(2, 4, 4), 6000
    one_block = (MaskGroupConfig(blocks=1, spatial_scale=0.25),)
    clip = make_clips(1, grid)
    clips = replace(clip, pixels=clip.pixels.expand(batch, -1, -1, -1, -1))
    (masks,) = make_sampler(grid, batch, groups=one_block, motion=motion_guidance)(0, clips)
    size = block_size(one_block[0], grid, 0)
    motion = motion_map(clip.pixels, grid, "area", "clip")[0]
    expected = {}
    for t, y, x in np.ndindex(*grid.origin_counts(size)):
        inside = motion[t : t + size[0], y : y + size[1], x : x + size[2]]
        expected[(t * 4 + y) * 4 + x] = inside.double().mean().item() ** 2
    total, count = sum(expected.values()), len(expected)
    probabilities = [0.9 * weight / total + 0.1 / count for weight in expected.values()]
    origins = masks.target[:, 0].bincount(minlength=grid.tokens)[list(expected)].numpy()
    assert origins.sum() == batch
    assert chisquare(origins, batch * np.array(probabilities)).pvalue > 0.001


def test_static_clips_can_be_excluded_from_temporal_pairs(make_sampler, make_clips):
    clips = make_clips(4, SMALL, static=[0, 2])
    for masks in make_sampler(SMALL, 4, static_clips_in_temporal_terms=False)(1, clips):
        assert (masks.next_in_context[[0, 2]] == -1).all()
        assert (masks.next_in_context[[1, 3]] >= 0).any()
        assert masks.pairs == (masks.next_in_context >= 0).sum()


def test_steps_and_groups_and_clips_differ(make_sampler, make_clips):
    clips, twins = make_clips(4, SMALL), (MaskGroupConfig(blocks=2, spatial_scale=0.15),) * 2
    sampler = make_sampler(SMALL, 4, groups=twins)
    first, second = sampler(0, clips)
    assert not torch.equal(first.context, second.context)
    assert not torch.equal(first.context, sampler(1, clips)[0].context)
    assert not torch.equal(first.context[0], first.context[1])


def test_a_batch_that_cannot_be_divided_is_refused(make_sampler):
    with pytest.raises(InputError, match=r"^engine\.batch_size: .*\b32\b.*\b5\b"):
        make_sampler(SMALL, 32, world_size=5)
    with pytest.raises(InputError, match=r"^engine\.batch_size: .*\b24\b.*\b2\b.*\b5\b.*engine\.accumulation.*\b10\b"):
        make_sampler(SMALL, 24, world_size=2, accumulation=5)


def test_a_block_that_hides_everything_is_an_error(make_sampler, make_clips):
    whole = (MaskGroupConfig(blocks=1, spatial_scale=1.0, aspect=(1.0, 1.0)),)
    with pytest.raises(InputError, match=r"^masking\.groups: .*lower spatial_scale \(1\.0\)") as error:
        make_sampler(SMALL, 4, groups=whole)(0, make_clips(4, SMALL))
    assert "\n" not in str(error.value)
