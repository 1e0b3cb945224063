"""``hpc-jepa study``: a grid of runs."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hpc_jepa.cli.screen import cell_bars
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.config.tree import find_config, load
from hpc_jepa.errors import HpcJepaError, InputError

if TYPE_CHECKING:
    from hpc_jepa.study.grid import Cell

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
    table = Table("regime", "variant", "semantics", "seed", "steps", "evaluated on")
    for cell in cells:
        config = cell.config
        table.add_row(
            config.regime,
            config.variant,
            config.semantics.preset,
            str(config.seed),
            str(config.schedule.steps),
            ", ".join(f"{e.benchmark} ({', '.join(e.protocols)})" for e in cell.evaluations) or "nothing",
        )
    console = Console()
    console.print(table)
    console.print(f"{len(cells)} runs, in {runs / cells[0].config.study}/<regime>/<variant>/seed-<n>", highlight=False)


@app.command(epilog="Example:  hpc-jepa study submit quickstart --cluster local")
def submit(
    study: StudyName,
    cluster: Cluster = "local",
    runs: Runs = Path("runs"),
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cells at a time; default: one per core, one per GPU.")
    ] = None,
) -> None:
    """Pretrain and evaluate every cell that is not done yet. Ctrl-C stops after saving; submit again to go on."""
    if cluster != "local":
        raise InputError(f"--cluster {cluster}: only 'local' is known")
    import torch

    from hpc_jepa.study.grid import describe, expand
    from hpc_jepa.study.local import run_study

    config = _config(study)
    cells = expand(config, runs)
    describe(config, runs)
    devices = torch.cuda.device_count() or os.cpu_count() or 1
    with cell_bars(_labels(cells), [cell.config.schedule.steps for cell in cells]) as show:
        numbers = {cell.config.folder: number for number, cell in enumerate(cells)}
        failures = run_study(
            cells,
            jobs or min(devices, len(cells)),
            lambda cell, how: show(numbers[cell.config.folder], how.step, how.words),
        )
    if failures:
        first = failures[0]
        raise HpcJepaError(
            f"{len(failures)} of {len(cells)} cells failed; {first.cell.config.folder}: {first.words} ({first.log})"
        )


@app.command(epilog="Example:  hpc-jepa study status quickstart --json")
def status(study: StudyName, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Show how far each cell is."""
    from hpc_jepa.study.progress import standing

    cells = _cells(study, runs)
    found = [(cell, standing(cell)) for cell in cells]
    if as_json:
        typer.echo(json.dumps([{"folder": str(cell.config.folder), **how._asdict()} for cell, how in found]))
        return
    table = Table("cell", "state", "step", "note")
    for label, (cell, how) in zip(_labels(cells), found, strict=True):
        table.add_row(label, how.state, f"{how.step}/{cell.config.schedule.steps}", how.note)
    Console().print(table)


def _labels(cells: Sequence["Cell"]) -> list[str]:
    """Cells by what tells them apart; narrow terminals have no room for what they share."""
    regimes = {cell.config.regime for cell in cells}
    seeds = {cell.config.seed for cell in cells}
    return [
        (f"{cell.config.regime} " if len(regimes) > 1 else "")
        + cell.config.folder.parent.name
        + (f" seed {cell.config.seed}" if len(seeds) > 1 else "")
        for cell in cells
    ]


def _cells(study: str, runs: Path) -> "list[Cell]":
    from hpc_jepa.study.grid import expand

    return expand(_config(study), runs)


def _config(study: str) -> StudyConfig:
    return load(StudyConfig, [find_config(study, "study")])
