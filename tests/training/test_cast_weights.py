from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).parent / "workers" / "cast_weights.py"


@pytest.fixture(scope="module")
def found(launch, tmp_path_factory):
    """Losses and number of casts, by ZeRO stage and whether weights are cast together."""
    output = tmp_path_factory.mktemp("casts") / "found.pt"
    launch(WORKER, output, processes=1)
    return torch.load(output)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_weights_cast_together_train_as_those_of_autocast(found, stage):
    losses, casts = found[stage, True]
    plain, none = found[stage, False]
    assert torch.equal(losses, plain) and none == 0
    assert (casts > 0) == (stage < 3), "stage 3 gathers each weight in its own layer"
