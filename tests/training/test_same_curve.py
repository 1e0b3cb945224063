"""Two hundred steps with the fast forms of loss, update, average and blocks, and with the plain ones.

They differ in rounding alone, until an error near nought has another sign in one of them: the gradient of an absolute
error jumps there. From then on curves part, as they do when the first weights are rounded differently. With these clips
and weights the parting stays far below what is allowed. Each way has a process of its own, as a run has.
"""

from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

WORKER = Path(__file__).parent / "workers" / "curve.py"


@pytest.fixture(scope="module")
def trained(launch, tmp_path_factory):
    """``trained(WAY)`` trains that way and returns the losses of all steps and the number of compiled programs."""

    def train(way):
        output = tmp_path_factory.mktemp("curve") / "result.pt"
        launch(WORKER, way, output, processes=1)
        result = torch.load(output)
        return result["losses"], result["programs"]

    return train


@pytest.fixture(scope="module")
def plain(trained):
    return trained("Plain")[0]


@pytest.mark.parametrize("way", ["Engine", "Joined"])
def test_the_fast_path_has_the_loss_curve_of_the_plain_one(way, plain, trained):
    losses, _ = trained(way)
    torch.testing.assert_close(losses, plain, rtol=1e-4, atol=0)
    assert losses[-20:].mean() < losses[:20].mean()


def test_compiled_blocks_have_the_loss_curve_of_plain_ones(compiler, plain, trained):
    losses, programs = trained("CompiledEngine")
    torch.testing.assert_close(losses, plain, rtol=1e-4, atol=0)
    assert programs >= 3, "student, target and predictor"
