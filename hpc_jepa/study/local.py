"""Run the cells of a study one after the other on this machine."""

import subprocess
import sys
from collections.abc import Sequence

from hpc_jepa.errors import HpcJepaError
from hpc_jepa.study.grid import Cell
from hpc_jepa.training.run_folder import read_state


def run_cell(cell: Cell) -> None:
    """Pretrain and evaluate one cell, each in a process of its own; what is done already is not done again.

    Raises HpcJepaError naming the command that failed.
    """
    state = read_state(cell.config.folder)
    if state is None or state["state"] != "done":
        _run("train", *cell.arguments)
    for evaluation in cell.evaluations:
        for protocol in evaluation.protocols:
            weights = [word for name in evaluation.weights for word in ("--weights", name)]
            benchmark = ("--benchmark", evaluation.benchmark, "--protocol", protocol)
            _run("evaluate", str(cell.config.folder), *benchmark, *weights)


def run_study(cells: Sequence[Cell]) -> list[Cell]:
    """Run all cells; a failed one does not stop the others. The failed ones."""
    failed = []
    for cell in cells:
        try:
            run_cell(cell)
        except HpcJepaError:
            failed.append(cell)
    return failed


def _run(*arguments: str) -> None:
    command = [sys.executable, "-m", "hpc_jepa", *arguments]
    code = subprocess.run(command, check=False).returncode
    if code == 130:  # the user's own Ctrl-C: stop the study too
        raise KeyboardInterrupt
    if code:
        raise HpcJepaError(f"hpc-jepa {' '.join(arguments)}: exit code {code}")
