"""Two processes compute the terms and the gradients of one process with the whole batch."""

from pathlib import Path

import pytest
import torch
from objective_steps import VARIANTS, check_term_acts

WORKER = Path(__file__).parent / "workers" / "gradients.py"

PROCESS_SPREAD = '''
from torch import Tensor
from hpc_jepa.objectives.objective import Objective, TermOptions


class Options(TermOptions):
    weight: float = 1.0


class ProcessSpread(Objective[Options]):
    """Standard deviation over the tokens of one process: wrong, because it depends on the number of processes."""

    name = "process_spread"
    title = "Spread of one process"
    families = ""
    options_type = Options

    def forward(self, latents) -> dict[str, Tensor]:
        return {"process_spread": latents.student[0].flatten(0, 1).std(0).mean()}
'''


@pytest.fixture(scope="module")
def computed(launch, request, tmp_path_factory):
    """(terms of one process, terms of two) of the variants that are tested in this session."""
    folder = tmp_path_factory.mktemp("gradients")
    (folder / "process_spread.py").write_text(PROCESS_SPREAD)
    tests = [item for item in request.session.items if item.path == Path(__file__) and hasattr(item, "callspec")]
    variants = sorted({item.callspec.params["variant"] for item in tests})
    for processes in (1, 2):
        launch(WORKER, folder / f"{processes}.pt", folder, *variants, "process_spread", processes=processes)
    return [torch.load(folder / f"{processes}.pt") for processes in (1, 2)]


def check_equal(alone, together):
    assert alone.keys() == together.keys()
    for name, (value, gradient) in alone.items():
        check_term_acts(name, value, gradient)
        torch.testing.assert_close(together[name][0], value, rtol=1e-5, atol=0, msg=name)
        tolerance = 1e-4 * gradient.abs().max().item()
        torch.testing.assert_close(together[name][1], gradient, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_equal_one(variant, computed):
    alone, together = (results[variant] for results in computed)
    check_equal(alone, together)


def test_a_term_that_depends_on_the_number_of_processes_fails_the_check(computed):
    alone, together = (results["process_spread"] for results in computed)
    with pytest.raises(AssertionError, match="process_spread"):
        check_equal(alone, together)
