"""Small runs on real shards."""

import pytest
from torch import nn

from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import InputError
from hpc_jepa.training.engine import compile_blocks


@pytest.fixture
def compiler():
    """Skips where nothing can be compiled."""
    try:
        compile_blocks(nn.Identity())
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def configure(motion_shards, tmp_path):
    """A small run in ``tmp_path``; keywords replace or add top-level settings."""

    def make(**changes):
        settings = {
            "regime": "test",
            "seed": 3,
            "runs": str(tmp_path / "runs"),
            "model": {
                "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
                "predictor": {"width": 16, "depth": 1, "heads": 2},
            },
            "data": {
                "sources": {"motion8": {"shards": str(motion_shards / "unlabelled")}},
                "clip": {"frames": 8, "stride": 2, "size": 32},
            },
            "objectives": ["fwm", "hw", {"ld": {"hidden": 8}}],
            "masking": {"groups": [{"blocks": 2, "spatial_scale": 0.2}, {"blocks": 1, "spatial_scale": 0.5}]},
            "schedule": {"steps": 12, "lr": 1e-3, "ema_start": 0.9, "ema_final": 0.99},
            "engine": {"precision": "fp32", "batch_size": 4, "zero_stage": 1},
            "checkpoint": {"every": 4, "keep": 2},
            "monitor": {"log_every": 1, "health_every": 4},
        }
        return RunConfig.model_validate(settings | changes)

    return make
