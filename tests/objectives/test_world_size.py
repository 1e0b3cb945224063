"""Two processes compute the loss and the gradient of one process with the joined batch."""

from pathlib import Path

import pytest
import torch

from hpc_jepa.config.loading import CONFIGS

WORKER = Path(__file__).parent / "workers" / "gradients.py"
VARIANTS = sorted(path.stem for path in (CONFIGS / "objective").glob("*.yaml"))


@pytest.fixture(scope="module")
def found(launch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradients")
    for processes in (1, 2):
        launch(WORKER, folder / f"{processes}.pt", "corrected", processes=processes)
    return [torch.load(folder / f"{processes}.pt") for processes in (1, 2)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_equal_one(variant, found):
    alone, together = (processes[variant] for processes in found)
    torch.testing.assert_close(together["loss"], alone["loss"], rtol=1e-5, atol=0)
    assert alone["gradients"].keys() == together["gradients"].keys()
    for name, gradient in alone["gradients"].items():
        tolerance = 1e-4 * gradient.abs().max().item() + 1e-9
        torch.testing.assert_close(together["gradients"][name], gradient, rtol=0, atol=tolerance, msg=name)
