"""``hpc-jepa study``: a grid of runs."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from hpc_jepa.cli.console import CONSOLE, progress_bars
from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import HpcJepaError, InputError

if TYPE_CHECKING:
    from hpc_jepa.config.cluster import Profile
    from hpc_jepa.runs.run_dir import StudyDir
    from hpc_jepa.study.grid import StudyCell

app = typer.Typer(no_args_is_help=True)

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A name of configs/study/ or a YAML file.")]
Runs = Annotated[Path, typer.Option(help="Where runs are written.")]
Cluster = Annotated[str, typer.Option(help="local is this machine; else a name of slurm/profiles/ or a YAML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
JobsAtATime = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Cells at a time on this machine; default: one per core, per GPU.")
]


@app.command(epilog="Example:  hpc-jepa study plan paper --cluster small")
def plan(
    study: StudyName,
    cluster: Cluster = "local",
    runs: Runs = Path("runs"),
    step_seconds: Annotated[float | None, typer.Option(help="Seconds of a step, instead of an estimate.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check every cell, and say what the study takes: hours, disk, memory. Nothing is started."""
    from hpc_jepa.cli.study_plan import show_plan
    from hpc_jepa.config.cluster import find_profile, local_cluster
    from hpc_jepa.study.forecast import forecast_study
    from hpc_jepa.study.preflight import group_by_reason, preflight_errors

    cells = _cells(study, runs)
    site = local_cluster() if cluster == "local" else find_profile(cluster).cluster
    needed, found = forecast_study(cells, site, step_seconds), preflight_errors(cells, site)
    if as_json:
        rows = [
            {"folder": str(cell.folder), "arguments": cell.arguments, "fault": found.get(cell.folder)} for cell in cells
        ]
        typer.echo(json.dumps({"cells": rows, "forecast": asdict(needed)}))
    else:
        show_plan(cells, site, needed, on_slurm=cluster != "local")
    for reason, folders in group_by_reason(found):
        CONSOLE.print(f"[red]{len(folders)} of {len(cells)} cells cannot run:[/] {escape(reason)}", highlight=False)
    if found:
        raise InputError(f"{study}: {len(found)} of {len(cells)} cells cannot run, for the reasons above")


@app.command(epilog="Example:  hpc-jepa study submit quickstart --cluster local")
def submit(study: StudyName, cluster: Cluster = "local", runs: Runs = Path("runs"), jobs: JobsAtATime = None) -> None:
    """Pretrain and evaluate every cell that is not done yet, here or on a cluster.

    Given again it adds only what is missing. On this machine Ctrl-C stops after saving.
    """
    _start(study, cluster, runs, jobs, only_unfinished=False)


@app.command(epilog="Example:  hpc-jepa study resume paper --cluster small")
def resume(study: StudyName, cluster: Cluster = "local", runs: Runs = Path("runs"), jobs: JobsAtATime = None) -> None:
    """Take up again what failed or stalled, and nothing else."""
    _start(study, cluster, runs, jobs, only_unfinished=True)


@app.command(epilog="Example:  hpc-jepa study cancel paper")
def cancel(study: StudyName, runs: Runs = Path("runs")) -> None:
    """Take the jobs of a study out of the queue; runs that are at work save first. What is done stays."""
    from hpc_jepa.study.submit import cancel_study

    cancelled = cancel_study(_cells(study, runs), _folder(study, runs))
    CONSOLE.print(
        f"cancelled {cancelled.jobs} jobs, sent SIGTERM to {cancelled.processes} runs on this machine; "
        f"continue with 'hpc-jepa study resume {study}'",
        highlight=False,
    )


@app.command(epilog="Example:  hpc-jepa study report paper")
def report(study: StudyName, runs: Runs = Path("runs")) -> None:
    """The report of what there is by now: the same as hpc-jepa report RUNS/<study>."""
    from hpc_jepa.cli.report import report_command

    report_command([_folder(study, runs).path])


@app.command(epilog="Example:  hpc-jepa study status paper --watch")
def status(
    study: StudyName,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every few seconds until all is done.")] = False,
) -> None:
    """Show how far each cell is, from the files of the runs and from Slurm where jobs were submitted."""
    from hpc_jepa.study.status import study_status

    cells, folder = _cells(study, runs), _folder(study, runs)
    if as_json:
        view = study_status(cells, folder)
        rows = [{"folder": cell.folder, **asdict(how)} for cell, how in zip(cells, view.statuses, strict=True)]
        typer.echo(json.dumps(rows, default=str))
        return
    from hpc_jepa.cli.study_table import show, show_until_settled

    (show_until_settled if watch else show)(cells, _labels(cells), folder)


def _start(study: str, cluster: str, runs: Path, jobs: int | None, only_unfinished: bool) -> None:
    if cluster == "local":
        return _run_here(study, runs, jobs, only_unfinished)
    from hpc_jepa.config.cluster import find_profile

    return _queue(study, find_profile(cluster), runs, only_unfinished)


def _run_here(study: str, runs: Path, jobs: int | None, only_unfinished: bool) -> None:
    import torch

    from hpc_jepa.study.grid import create_study_dir
    from hpc_jepa.study.local import run_locally
    from hpc_jepa.study.status import study_status

    cells = _cells(study, runs)
    folder = create_study_dir(_config(study), runs)
    if only_unfinished:
        cells = study_status(cells, folder).unfinished
        if not cells:
            CONSOLE.print("nothing failed or stalled")
            return
    devices = torch.cuda.device_count() or os.cpu_count() or 1
    with progress_bars(_labels(cells), [cell.config.schedule.steps for cell in cells]) as show:
        numbers = {cell.folder: number for number, cell in enumerate(cells)}
        failures = run_locally(
            cells,
            jobs or min(devices, len(cells)),
            lambda cell, how: show(numbers[cell.folder], how.step, how.summary),
        )
    if failures:
        first = failures[0]
        raise HpcJepaError(
            f"{len(failures)} of {len(cells)} cells failed; {first.cell.folder}: {first.message} ({first.log})"
        )


def _queue(study: str, profile: "Profile", runs: Path, only_unfinished: bool) -> None:
    from hpc_jepa.study.submit import submit_study

    outcome = submit_study(_config(study), profile, runs, only_unfinished=only_unfinished)
    for line in outcome.lines:
        CONSOLE.print(line, highlight=False)
    again = f"hpc-jepa study status {study} --runs {runs} --watch"
    CONSOLE.print(f"next: {again}", highlight=False)
    if outcome.refused:
        reasons = "; ".join(f"{reason} ({len(folders)} cells)" for reason, folders in outcome.refused)
        raise HpcJepaError(f"{sum(len(folders) for _, folders in outcome.refused)} cells were not queued: {reasons}")


def _labels(cells: Sequence["StudyCell"]) -> list[str]:
    """Cells by what tells them apart; narrow terminals have no room for what they share."""
    regimes = {cell.config.regime for cell in cells}
    seeds = {cell.config.seed for cell in cells}
    return [
        (f"{cell.config.regime} " if len(regimes) > 1 else "")
        + cell.folder.parent.name
        + (f" seed {cell.config.seed}" if len(seeds) > 1 else "")
        for cell in cells
    ]


def _folder(study: str, runs: Path) -> "StudyDir":
    from hpc_jepa.runs.run_dir import StudyDir

    return StudyDir(runs / _config(study).study)


def _cells(study: str, runs: Path) -> "list[StudyCell]":
    from hpc_jepa.study.grid import expand_study

    return expand_study(_config(study), runs)


def _config(study: str) -> StudyConfig:
    return read_config(StudyConfig, [find_config(study, "study")])
