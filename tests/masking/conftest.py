from pathlib import Path

import numpy as np
import pytest
import torch

from hpc_jepa.config.masking import MaskGroupConfig, MaskingConfig, MotionGuidanceConfig
from hpc_jepa.config.semantics import Semantics
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.types import ClipBatch, TokenGrid

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def recorded_case():
    """Index lists, distances and a motion map recorded from published code: 4 clips on 4x4x4 tokens."""
    arrays = np.load(GOLDEN / "case1.npz")
    return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


@pytest.fixture(scope="session")
def recorded_sizes():
    return np.load(GOLDEN / "block_sizes.npz")


@pytest.fixture(scope="session")
def make_clips():
    """A batch of random clips with 2 frames and 2x2 pixels per token."""

    def make(batch: int, grid: TokenGrid, static: list[int] | None = None, seed: int = 0) -> ClipBatch:
        shape = (batch, 3, 2 * grid.time, 2 * grid.height, 2 * grid.width)
        pixels = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        flags = torch.zeros(batch, dtype=torch.bool)
        flags[static or []] = True
        return ClipBatch(pixels, torch.arange(batch), torch.zeros(batch, dtype=torch.int64), flags)

    return make


@pytest.fixture(scope="session")
def make_sampler():
    """A mask sampler; further keywords are switches of the semantics."""

    def make(
        grid: TokenGrid, batch: int, *, scope="global", motion=None, groups=None, seed=7, **switches
    ) -> MaskSampler:
        placement = {
            key: switches.pop(key) for key in ("rank", "world_size", "accumulation", "gather") if key in switches
        }
        config = MaskingConfig(truncation_scope=scope, motion=motion)
        if groups is not None:
            config = config.model_copy(update={"groups": groups})
        semantics = Semantics.of("corrected", **switches)
        return MaskSampler(config, semantics, grid, seed=seed, batch_size=batch, **placement)

    return make


@pytest.fixture(scope="session")
def future_groups() -> tuple[MaskGroupConfig, ...]:
    shared = {"temporal_keep": 0.5, "full_complement": True}
    return (
        MaskGroupConfig(blocks=4, spatial_scale=0.15, **shared),
        MaskGroupConfig(blocks=1, spatial_scale=0.7, **shared),
    )


@pytest.fixture(scope="session")
def motion_guidance() -> MotionGuidanceConfig:
    return MotionGuidanceConfig(strength=2.0, random_rate=0.1)
