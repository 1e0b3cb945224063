"""Checkpoints of one small tensor, without a training behind them."""

import pytest
import torch

from hpc_jepa.checkpoint.saver import Saver
from hpc_jepa.checkpoint.shard import Piece
from hpc_jepa.checkpoint.store import Facts
from hpc_jepa.config.training import CheckpointConfig

SIZE = 5000


def facts_of(step, **changes):
    known = {"step": step, "time": 0.0, "world_size": 1, "zero_stage": 1, "fingerprint": "f", "config": {}}
    return Facts.model_validate(known | {"versions": {}, "data": {}, "figures": {}} | changes)


def pieces_of(step):
    weights = torch.full((SIZE,), float(step))
    return [Piece("student.w", (50, 100), 0, weights), Piece("exp_avg.student.w", (50, 100), 0, -weights)]


@pytest.fixture
def save():
    """``save(run, step, facts..., **policy)`` commits a checkpoint whose weights say the step."""

    def run(folder, step, facts=None, **policy):
        with Saver(folder, CheckpointConfig(**policy)) as saver:
            saver.start(facts_of(step, **(facts or {})), pieces_of(step))

    return run


@pytest.fixture
def facts():
    return facts_of


@pytest.fixture
def pieces():
    return pieces_of
