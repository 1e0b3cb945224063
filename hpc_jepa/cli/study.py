"""``hpc-jepa study``: a grid of runs."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hpc_jepa.cli.screen import CONSOLE
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.config.tree import find_config, load
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.study.grid import Cell, expand

app = typer.Typer(no_args_is_help=True)

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A name of configs/study/ or a YAML file.")]
Runs = Annotated[Path, typer.Option(help="Where runs are written.")]
Cluster = Annotated[str, typer.Option(help="Where to run: local is this machine.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@app.command(epilog="Example:  hpc-jepa study plan quickstart")
def plan(study: StudyName, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """List the cells of a study after checking every configuration. Nothing is started."""
    cells = _cells(study, runs)
    if as_json:
        typer.echo(json.dumps([{"folder": str(cell.config.folder), "arguments": cell.arguments} for cell in cells]))
        return
    table = Table("regime", "variant", "semantics", "seed", "steps", "folder")
    for cell in cells:
        config = cell.config
        table.add_row(
            config.regime,
            config.variant,
            config.semantics.preset,
            str(config.seed),
            str(config.schedule.steps),
            str(config.folder),
        )
    CONSOLE.print(table)


@app.command(epilog="Example:  hpc-jepa study submit quickstart --cluster local")
def submit(study: StudyName, cluster: Cluster = "local", runs: Runs = Path("runs")) -> None:
    """Pretrain and evaluate every cell that is not done yet. Ctrl-C stops after saving; submit again to go on."""
    if cluster != "local":
        raise InputError(f"--cluster {cluster}: only 'local' is known")
    from hpc_jepa.study.local import run_study

    failed = run_study(_cells(study, runs))
    if failed:
        raise HpcJepaError(f"{len(failed)} cells failed, first {failed[0].config.folder}; the errors are above")


@app.command(epilog="Example:  hpc-jepa study status quickstart --json")
def status(study: StudyName, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Show how far each cell is."""
    from hpc_jepa.training.run_folder import read_state

    cells = _cells(study, runs)
    states = [read_state(cell.config.folder) or {"state": "not started", "step": 0} for cell in cells]
    if as_json:
        rows = [{"folder": str(cell.config.folder), **state} for cell, state in zip(cells, states, strict=True)]
        typer.echo(json.dumps(rows))
        return
    table = Table("cell", "state", "step", "error")
    for cell, state in zip(cells, states, strict=True):
        steps = f"{state['step']}/{cell.config.schedule.steps}"
        table.add_row(str(cell.config.folder.relative_to(runs)), state["state"], steps, state.get("error", ""))
    CONSOLE.print(table)


def _cells(study: str, runs: Path) -> list[Cell]:
    return expand(load(StudyConfig, [find_config(study, "study")]), runs)
