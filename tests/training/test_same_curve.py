"""Two hundred steps with the fused kernels, optimizer, EMA and compiled blocks have the loss curve of plain PyTorch.

They differ in rounding only, until an absolute error near zero changes sign in one of them: its gradient jumps there.
From then on the curves drift apart, as they do when the initial weights are rounded differently. With these clips and
weights the drift stays far below the tolerance. Each variant runs in its own process, like a run.
"""

from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

WORKER = Path(__file__).parent / "workers" / "curve.py"


@pytest.fixture(scope="module")
def trained(launch, tmp_path_factory):
    """``trained(VARIANT)``: the losses of all steps and the number of compiled programs."""

    def train(variant):
        output = tmp_path_factory.mktemp("curve") / "result.pt"
        launch(WORKER, variant, output, processes=1)
        result = torch.load(output)
        return result["losses"], result["programs"]

    return train


@pytest.fixture(scope="module")
def plain(trained):
    return trained("Plain")[0]


def test_the_fused_step_has_the_loss_curve_of_the_plain_one(plain, trained):
    losses, _ = trained("Engine")
    torch.testing.assert_close(losses, plain, rtol=1e-4, atol=0)
    assert losses[-20:].mean() < losses[:20].mean()


def test_compiled_blocks_have_the_loss_curve_of_plain_ones(compiler, plain, trained):
    losses, programs = trained("CompiledEngine")
    torch.testing.assert_close(losses, plain, rtol=1e-4, atol=0)
    assert programs >= 3, "student, target and predictor"


def test_the_fused_networks_have_the_loss_curve_of_the_plain_ones_in_bf16(trained):
    """The same forward pass; in the backward pass gradients of residual branches are rounded once instead of twice."""
    plain, _ = trained("Mixed")
    losses, _ = trained("MixedKernels")
    assert torch.equal(losses[:1], plain[:1])
    torch.testing.assert_close(losses, plain, rtol=1e-3, atol=0)
