from pathlib import Path

import numpy as np
import pytest
import torch

from hpc_jepa.config.model import EncoderConfig, ModelConfig, PredictorConfig
from hpc_jepa.types import TokenMasks

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def recorded() -> dict[str, torch.Tensor]:
    """Parameters, inputs and outputs recorded from a published model with random weights."""
    arrays = np.load(GOLDEN / "model.npz")
    return {
        name: torch.from_numpy(arrays[name].astype(np.float32) if arrays[name].dtype == np.float16 else arrays[name])
        for name in arrays.files
    }


@pytest.fixture(scope="session")
def counts_file() -> Path:
    return GOLDEN / "model_counts.json"


@pytest.fixture
def small_model() -> ModelConfig:
    return ModelConfig(
        encoder=EncoderConfig(width=32, depth=2, heads=2, patch=8, tubelet=2, levels=(1, 2)),
        predictor=PredictorConfig(width=24, depth=2, heads=2),
    )


@pytest.fixture
def make_masks():
    """Masks of given token lists; fields that the networks do not use are zero."""

    def make(context: torch.Tensor, target: torch.Tensor) -> TokenMasks:
        unread = torch.zeros_like(context)
        return TokenMasks(context, target, unread.float(), unread, torch.tensor(0.0))

    return make


@pytest.fixture
def clips() -> torch.Tensor:
    """Two clips of 4 frames of 32x32 pixels: 2x4x4 tokens of the small model."""
    return torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def two_groups(make_masks) -> tuple[TokenMasks, ...]:
    """Disjoint context and target tokens of two clips on 2x4x4 tokens."""
    order = torch.rand(2, 32, generator=torch.Generator().manual_seed(4)).argsort(1)
    return (make_masks(order[:, :10], order[:, 12:]), make_masks(order[:, 20:26], order[:, :20]))
