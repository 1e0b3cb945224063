"""Which tars a run needs when, and which copies of them are removed first."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hpc_jepa.config.data import ClipConfig, DataConfig, ReadingConfig, ShardOrderConfig, SourceConfig
from hpc_jepa.data.clip_sampler import ClipSampler
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.data.mixture import MixtureSource
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.sources.motion8 import Motion8
from hpc_jepa.data.storage import StoredCopy, choose_evicted
from hpc_jepa.data.tar_order import TarOrder, mixture_sampler


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 clips in 12 tars."""
    out = tmp_path_factory.mktemp("tars") / "train"
    source = Motion8("train", 0, 24, size=16, frames=8)
    build_shards(source, out, make_recipe(source, 2), 0, lambda samples: None)
    return out


def config(folder, **more):
    return DataConfig(
        sources={"train": SourceConfig(shards=str(folder))}, clip=ClipConfig(frames=4, stride=2, size=16), **more
    )


@pytest.mark.parametrize("settings", [{}, {"sampling": "passes"}, {"shard_order": {"shards": 2, "steps": 3}}])
def test_the_tars_of_a_step_are_those_of_its_clips(settings, folder):
    opened = ShardFolder(folder)
    sampler = mixture_sampler(config(folder, **settings), [opened], 5, 4)
    order = TarOrder(sampler, [opened])
    names = {shard.sha256: shard.name for shard in opened.manifest.shards}
    for step in range(20):
        tars = [opened.tar(sample).name for sample in sampler.samples(step).samples.tolist()]
        assert [names[sha256] for sha256 in order.at(step)] == list(dict.fromkeys(tars))


@pytest.mark.parametrize(("slots", "steps"), [(1, 1), (1, 4), (3, 7), (4, 3), (2, 10)])
def test_next_uses_are_those_of_the_steps_to_come(slots, steps):
    order = ShardOrderConfig(shards=slots, steps=steps)
    sampler = ClipSampler(7, [MixtureSource(1.0, (3, 5, 2, 4, 6, 1, 3, 8))], 4, order=order)
    terms = 5
    active = [set(sampler._active_tars(step, 0, order).tolist()) for step in range(200)]
    for now in range(60):
        known = sampler.next_uses(now, 0, order, terms)
        for tar in range(8):
            first = next((step for step in range(now, 200) if tar in active[step]), math.inf)
            if first < now + (terms - 1) * steps:
                assert known[tar] == first
            else:
                assert known.get(tar, math.inf) >= first


def fewest_copies(sequence, room):
    """Brute force: the fewest copies, when each tar must be there at its turn, over all choices of what is removed."""
    states = {frozenset(): 0}
    for tar in sequence:
        following = {}
        for held, copies in states.items():
            if tar in held:
                choices = [(held, copies)]
            elif len(held) < room:
                choices = [(held | {tar}, copies + 1)]
            else:
                choices = [(held - {other} | {tar}, copies + 1) for other in held]
            for state, count in choices:
                following[state] = min(following.get(state, math.inf), count)
        states = following
    return min(states.values())


@pytest.mark.parametrize("room", [1, 2, 3, 4])
def test_removing_what_is_needed_last_needs_the_fewest_copies(room):
    """Belady's choice against brute force; the oldest copy first, as without an order, needs more."""
    rng, ours, oldest, best = np.random.default_rng(room), 0, 0, 0
    for _ in range(25):
        sequence = rng.integers(6, size=14).tolist()
        best += fewest_copies(sequence, room)
        ours += copies_of(sequence, room, known=True)
        oldest += copies_of(sequence, room, known=False)
    assert ours == best
    assert oldest > best or room == 1


def copies_of(sequence, room, known):
    """Copies that the cache makes of a sequence of tars."""
    held, copies = {}, 0
    for now, tar in enumerate(sequence):
        if tar not in held:
            copies += 1
            stored = [
                StoredCopy(Path(str(other)), 1, next_use(sequence, now, other) if known else math.inf, used)
                for other, used in held.items()
            ]
            evicted = choose_evicted(stored, len(held) + 1 - room, now if known else -math.inf)
            assert evicted is not None
            for copy in evicted:
                del held[int(str(copy.path))]
        held[tar] = now
    return copies


def next_use(sequence, now, tar):
    return next((step for step in range(now, len(sequence)) if sequence[step] == tar), math.inf)


def test_copies_of_other_sizes_are_removed_only_if_that_makes_room():
    copies = [StoredCopy(Path(name), size, needed, 0) for name, size, needed in (("a", 5, 9), ("b", 1, 7), ("c", 4, 3))]
    for excess, needed in itertools.product(range(1, 12), range(10)):
        evicted = choose_evicted(copies, excess, needed)
        later = [copy for copy in copies if copy.needed > needed]
        if sum(copy.size for copy in later) < excess:
            assert evicted is None
        else:
            assert [copy.path.name for copy in evicted] == ["a", "b", "c"][: len(evicted)]
            assert sum(copy.size for copy in evicted) >= excess > sum(copy.size for copy in evicted[:-1])


def test_a_run_keeps_the_tars_that_it_needs_next(folder, tmp_path):
    """Room for three copies: after each step those that are there are needed before any that was removed."""
    opened = ShardFolder(folder)
    order = {"shards": 1, "steps": 2}
    size = max(shard.size for shard in opened.manifest.shards)
    reading = ReadingConfig(scratch=tmp_path / "scratch", scratch_limit=3 * size / 2**30, prefetch_steps=1)
    loader = ClipLoader(
        config(folder, shard_order=order, reading=reading),
        seed=5, batch_size=2, rank=0, world_size=1, device=torch.device("cpu"),
    )  # fmt: skip
    tars = TarOrder(mixture_sampler(config(folder, shard_order=order), [opened], 5, 2), [opened])
    removed = 0
    before: set[str] = set()
    for step in range(40):
        loader.batch(step)
        loader._scratch._threads().submit(lambda: None).result()
        now = {copy.stem for copy in (tmp_path / "scratch").glob("*.tar")}
        uses = tars.next_uses(step)
        for gone in before - now:
            removed += 1
            others = now & before
            assert all(uses.get(gone, math.inf) >= uses.get(kept, math.inf) for kept in others)
        before = now
    loader.close()
    assert removed and len(before) <= 3
