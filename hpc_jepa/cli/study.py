"""``hpc-jepa study``: plan, submit and follow a grid of runs."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from hpc_jepa.cli.console import CONSOLE, AsJson, examples, plural, progress_bars
from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.io.escape import shell_command, visible

if TYPE_CHECKING:
    from hpc_jepa.config.cluster import Profile
    from hpc_jepa.runs.run_dir import StudyDir
    from hpc_jepa.study.cell import StudyCell
    from hpc_jepa.study.local import FailedTask

app = typer.Typer(no_args_is_help=True)

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name in configs/study/, or a YAML file.")]
Runs = Annotated[Path, typer.Option(help="Root folder of all runs.")]
Cluster = Annotated[str, typer.Option(help="local (this machine), a name in slurm/profiles/, or a YAML file.")]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", min=1, help="Concurrent cells on this machine.", show_default="one per GPU, else per core"),
]
Processes = Annotated[
    int, typer.Option("--processes", min=1, help="Processes of each cell on this machine, each with a GPU of its own.")
]
SkipFailed = Annotated[
    bool,
    typer.Option("--skip-failed", help="Sequential study: look without the failed cells, do not repeat them."),
]


@app.command("plan", epilog="Example:  hpc-jepa study plan paper --cluster small")
def study_plan(
    study: StudyName,
    cluster: Cluster = "local",
    runs: Runs = Path("runs"),
    processes: Processes = 1,
    step_seconds: Annotated[
        float | None, typer.Option(min=1e-6, max=1e6, help="Seconds per step, instead of an estimate.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every cell and estimate time, disk and memory. Starts nothing."""
    from hpc_jepa.cli.study_plan import show_plan
    from hpc_jepa.config.cluster import find_profile, local_cluster
    from hpc_jepa.study.forecast import forecast_study
    from hpc_jepa.study.preflight import group_by_reason, preflight_errors
    from hpc_jepa.study.sequential import SequentialStudy
    from hpc_jepa.study.shapes import shape_prices, shapes_as_json

    config, cells = _config(study), _cells(study, runs)
    if config.sequential:
        SequentialStudy(config, runs)  # refuses what has no comparison
    _require_local(cluster, processes)
    site = local_cluster(processes) if cluster == "local" else find_profile(cluster).cluster
    forecast, errors = forecast_study(cells, site, step_seconds), preflight_errors(cells, site)
    prices = shape_prices(cells, site, step_seconds) if cluster != "local" else []
    if as_json:
        rows = [
            {
                "folder": str(cell.folder),
                "arguments": cell.arguments,
                "error": errors.get(cell.folder),
                "reused_from": cell.reused_from,
                "evaluations": [each.facts for each in cell.evaluations],
            }
            for cell in cells
        ]
        typer.echo(json.dumps({"cells": rows, "forecast": asdict(forecast), "shapes": shapes_as_json(prices)}))
    else:
        show_plan(cells, site, forecast, prices, on_slurm=cluster != "local")
        _note_absent(config, runs)
        if looks := config.sequential:
            seeds = ", ".join(map(str, looks.looks))
            typer.echo(
                f"sequential: looks at {seeds} seeds; the figures are for all seeds of all variants, the most it takes"
            )
    for reason, folders in group_by_reason(errors):
        count = Text(f"{len(folders)} of {len(cells)} cells cannot run: ", "red")
        CONSOLE.print(Text.assemble(count, (visible(reason), "default")))
    if errors:
        raise InputError(f"{study}: {len(errors)} of {len(cells)} cells cannot run; see above")


@app.command("submit", epilog="Example:  hpc-jepa study submit quickstart --cluster local")
def study_submit(
    study: StudyName,
    cluster: Cluster = "local",
    runs: Runs = Path("runs"),
    jobs: Jobs = None,
    processes: Processes = 1,
    skip_failed: SkipFailed = False,
) -> None:
    """Pretrain and evaluate every cell that is not done, on this machine or a cluster.

    Repeat the command to run only what is missing. On this machine Ctrl-C saves and stops. Of a sequential study it
    runs the cells of study next, look after look.
    """
    _start(study, cluster, runs, _LocalRequest(jobs, processes), only_unfinished=False, skip_failed=skip_failed)


@app.command("resume", epilog="Example:  hpc-jepa study resume paper --cluster small")
def study_resume(
    study: StudyName,
    cluster: Cluster = "local",
    runs: Runs = Path("runs"),
    jobs: Jobs = None,
    processes: Processes = 1,
) -> None:
    """Resume failed and stalled cells only."""
    _start(study, cluster, runs, _LocalRequest(jobs, processes), only_unfinished=True)


@app.command("next", epilog=examples("hpc-jepa study next my_study.yaml", "hpc-jepa study next my_study.yaml --json"))
def study_next(
    study: StudyName, runs: Runs = Path("runs"), skip_failed: SkipFailed = False, as_json: AsJson = False
) -> None:
    """Show the decisions of a sequential study, which cells study submit would queue next, and why. Changes nothing."""
    from hpc_jepa.cli.study_next import next_as_json, show_next
    from hpc_jepa.study.sequential import SequentialStudy
    from hpc_jepa.study.submit import given_up

    config = _config(study)
    sequential = SequentialStudy(config, runs)
    failed = given_up(sequential.cells, sequential.folder) if skip_failed else ()
    step = sequential.next(failed)
    if as_json:
        typer.echo(json.dumps(next_as_json(step)))
    else:
        show_next(step)


@app.command(
    "power",
    epilog=examples(
        "hpc-jepa study power extended --spread 1.5 --correlation 0.5 --clips 1000 --difference 2 --cluster small",
        "hpc-jepa study power extended --pilot runs/pilot --difference 1 --difference 2 --difference 5",
    ),
)
def study_power(
    study: StudyName,
    pilot: Annotated[
        Path | None, typer.Option(help="RUNS/<study> of a pilot, whose records give the spread.", show_default=False)
    ] = None,
    spread: Annotated[
        float | None,
        typer.Option(min=0, max=50, help="Standard deviation between seeds of a variant, points.", show_default=False),
    ] = None,
    correlation: Annotated[
        float, typer.Option(min=-1, max=1, help="Of two variants of one seed; only with --spread.")
    ] = 0.5,
    clips: Annotated[int, typer.Option(min=2, help="Test clips; only with --spread.")] = 1000,
    difference: Annotated[
        list[float] | None, typer.Option(help="Points to find; may be repeated.", show_default="2")
    ] = None,
    power: Annotated[float, typer.Option(help="Probability of finding it, between 0 and 1.")] = 0.8,
    error: Annotated[float, typer.Option(help="Family-wise error, between 0 and 1.")] = 0.05,
    comparisons: Annotated[
        int | None, typer.Option(min=1, help="Size of the family.", show_default="those of the study")
    ] = None,
    cluster: Cluster = "local",
    step_seconds: Annotated[
        float | None, typer.Option(min=1e-6, help="Seconds per step, instead of an estimate.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how many seeds a difference needs, in blocked, paired and unpaired designs, and what they cost.

    The spread comes from the records of a pilot, or is stated.
    """
    from hpc_jepa.cli.study_power import show_power
    from hpc_jepa.config.cluster import find_profile, local_cluster
    from hpc_jepa.evaluation.stats.planning import FamilyTest, Spread
    from hpc_jepa.study.power import family_size, pilot_spread, plan_power

    differences = difference or [2.0]
    if (pilot is None) == (spread is None):
        raise InputError("give either --pilot RUNS/<study>, or --spread POINTS")
    for name, value, most in (("power", power, 1), ("error", error, 1), *(("difference", d, 100) for d in differences)):
        if not 0 < value < most:
            raise InputError(f"--{name} {value:g}: must be between 0 and {most}")
    spreads = {}
    if pilot is not None:
        spreads = {f"{pilot}, {name}": found for name, found in pilot_spread(pilot).items()}
    elif spread is not None:
        spreads = {"stated": Spread(spread / 100, correlation, clips)}
    config, cells = _config(study), _cells(study, Path("runs"))
    site = local_cluster() if cluster == "local" else find_profile(cluster).cluster
    test = FamilyTest(error, comparisons or family_size(config, cells))
    plans = {
        source: plan_power(config, cells, site, found, differences, test, power, step_seconds)
        for source, found in spreads.items()
    }
    if as_json:
        typer.echo(json.dumps([{"source": source, **asdict(plan)} for source, plan in plans.items()]))
        return
    for source, plan in plans.items():
        show_power(plan, source)


@app.command("cancel", epilog="Example:  hpc-jepa study cancel paper")
def study_cancel(study: StudyName, runs: Runs = Path("runs")) -> None:
    """Cancel the jobs of a study. Running cells save first; results are kept."""
    from hpc_jepa.study.submit import cancel_study

    cancelled = cancel_study(_cells(study, runs), _folder(study, runs))
    if cancelled.warning:
        CONSOLE.print(f"warning: {cancelled.warning}; its job is not cancelled", highlight=False)
    if cancelled.left:
        CONSOLE.print(f"{plural(cancelled.left, 'run', 'runs')} of other studies: left alone", highlight=False)
    if not cancelled.jobs and not cancelled.processes:
        CONSOLE.print(
            "nothing cancelled: no job is queued, and no run of the study is training on this machine "
            "(Ctrl-C in study submit also stops an evaluation)",
            highlight=False,
        )
        return
    CONSOLE.print(
        f"cancelled {plural(cancelled.jobs, 'job', 'jobs')}, "
        f"stopped {plural(cancelled.processes, 'run', 'runs')} on this machine with SIGTERM; "
        f"continue with: {shell_command('hpc-jepa', 'study', 'submit', study, '--runs', runs)} "
        "and the same --cluster",
        highlight=False,
    )


@app.command("report", epilog="Example:  hpc-jepa study report paper")
def study_report(study: StudyName, runs: Runs = Path("runs")) -> None:
    """Report the results so far: the same as hpc-jepa report RUNS/<study>."""
    from hpc_jepa.cli.report import report_command

    report_command([_folder(study, runs).path])


@app.command("status", epilog="Example:  hpc-jepa study status paper --watch")
def study_status(
    study: StudyName,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until nothing is queued or running.")] = False,
) -> None:
    """Show the state of every cell, from the files of the runs and, for submitted jobs, from Slurm."""
    from hpc_jepa.study import status

    cells, folder = _cells(study, runs), _folder(study, runs)
    if as_json:
        view = status.read_study_status(cells, folder)
        rows = [
            {
                "folder": cell.folder,
                "reused_from": cell.reused_from,
                **asdict(found),
                "evaluations": status.evaluations_as_json(cell),
            }
            for cell, found in zip(cells, view.statuses, strict=True)
        ]
        typer.echo(json.dumps(rows, default=str))
        if view.warning:
            CONSOLE.print(f"warning: {view.warning}", highlight=False)
        return
    from hpc_jepa.cli.study_table import print_status, watch_status

    (watch_status if watch else print_status)(cells, _labels(cells), folder)


@dataclass(frozen=True)
class _LocalRequest:
    """What was asked of this machine. jobs: concurrent cells, None for as many as fit. processes: of each cell."""

    jobs: int | None
    processes: int


def _start(
    study: str, cluster: str, runs: Path, local: _LocalRequest, only_unfinished: bool, skip_failed: bool = False
) -> None:
    if cluster == "local":
        return _run_locally(study, runs, local, only_unfinished, skip_failed)
    _require_local(cluster, local.processes)
    from hpc_jepa.config.cluster import find_profile

    return _submit(study, find_profile(cluster), runs, only_unfinished, skip_failed)


def _require_local(cluster: str, processes: int) -> None:
    if cluster != "local" and processes > 1:
        raise InputError("--processes: for this machine only; set train.gpus_per_node in the profile of the cluster")


def _run_locally(study: str, runs: Path, local: _LocalRequest, only_unfinished: bool, skip_failed: bool) -> None:
    from hpc_jepa.runs.run_dir import StudyDir
    from hpc_jepa.study.grid import create_study_dir
    from hpc_jepa.study.status import read_study_status
    from hpc_jepa.study.submit import take_looks

    config, cells = _config(study), _cells(study, runs)
    if config.sequential is not None:
        return _run_looks(config, cells, runs, local, only_unfinished, skip_failed)
    take_looks(config, StudyDir(runs / config.study))
    folder = create_study_dir(config, runs)
    _note_absent(config, runs)
    if only_unfinished:
        cells = read_study_status(cells, folder).unfinished
        if not cells:
            CONSOLE.print("nothing failed or stalled")
            return
    _raise_failures(_run_cells(cells, local), len(cells))


def _run_looks(
    config: StudyConfig,
    cells: "Sequence[StudyCell]",
    runs: Path,
    local: _LocalRequest,
    only_unfinished: bool,
    skip_failed: bool,
) -> None:
    """Run the cells of each look until all comparisons are decided; with ``only_unfinished`` those of one look.

    Failed cells end it, unless they are skipped.
    """
    from hpc_jepa.cli.study_next import report_looks
    from hpc_jepa.io.atomic import exclusive_lock
    from hpc_jepa.runs.run_dir import StudyDir
    from hpc_jepa.study.grid import create_study_dir
    from hpc_jepa.study.status import read_study_status
    from hpc_jepa.study.submit import given_up, take_looks

    folder = StudyDir(runs / config.study)
    folder.path.mkdir(parents=True, exist_ok=True)
    failed = given_up(cells, folder) if skip_failed else set()
    before: set[Path] = set()
    while True:
        with exclusive_lock(folder.lock_file):
            step = take_looks(config, folder, failed)
            create_study_dir(config, runs)
        if step is None:
            return
        report_looks(step, step.taken)
        if not step.cells:
            CONSOLE.print(f"{step.stage}: no cell is needed", highlight=False)
            return
        wanted = [each.cell for each in step.cells]
        if only_unfinished:
            wanted = read_study_status(wanted, folder).unfinished
        if not wanted:
            CONSOLE.print("nothing failed or stalled")
            return
        if before == {cell.folder for cell in wanted}:
            raise HpcJepaError(f"{wanted[0].folder}: still without the records of {step.stage} after its evaluation")
        before = {cell.folder for cell in wanted}
        failures = _run_cells(wanted, local)
        if not skip_failed:
            _raise_failures(failures, len(wanted))
        failed |= {failure.cell.folder for failure in failures}
        if only_unfinished:
            return


def _run_cells(cells: "Sequence[StudyCell]", request: _LocalRequest) -> "list[FailedTask]":
    from hpc_jepa.devices import Gpus, gpu_names
    from hpc_jepa.study.local import LocalJobs, run_locally

    gpus = [] if all(cell.config.engine.device == "cpu" for cell in cells) else gpu_names(os.environ, Gpus.find().count)
    local = LocalJobs.plan(gpus, os.cpu_count() or 1, len(cells), request.jobs, request.processes)
    CONSOLE.print(str(local), highlight=False)
    with progress_bars(_labels(cells), [cell.steps for cell in cells]) as show:
        indices = {cell.folder: index for index, cell in enumerate(cells)}
        return run_locally(
            cells,
            local,
            lambda cell, status: show(indices[cell.folder], status.step, status.summary),
        )


def _raise_failures(failures: "Sequence[FailedTask]", cells: int) -> None:
    if failures:
        first = failures[0]
        raise HpcJepaError(
            f"{len(failures)} of {cells} cells failed; {first.cell.folder}: {first.message} ({first.log})"
        )


def _submit(study: str, profile: "Profile", runs: Path, only_unfinished: bool, skip_failed: bool) -> None:
    from hpc_jepa.study.submit import submit_study

    config = _config(study)
    outcome = submit_study(config, profile, runs, only_unfinished=only_unfinished, skip_failed=skip_failed)
    _note_absent(config, runs)
    if outcome.step is not None:
        from hpc_jepa.cli.study_next import report_looks

        report_looks(outcome.step, outcome.step.taken)
    for line in outcome.lines:
        CONSOLE.print(line, highlight=False)
    CONSOLE.print(
        f"next: {shell_command('hpc-jepa', 'study', 'status', study, '--runs', runs, '--watch')}", highlight=False
    )
    if outcome.refused:
        reasons = "; ".join(f"{reason} ({len(folders)} cells)" for reason, folders in outcome.refused)
        raise HpcJepaError(f"{sum(len(folders) for _, folders in outcome.refused)} cells were not queued: {reasons}")


def _note_absent(study: StudyConfig, runs: Path) -> None:
    """Say which studies of ``reuse`` were not submitted yet."""
    from hpc_jepa.study.reuse import absent_studies

    if absent := absent_studies(study, runs):
        CONSOLE.print(
            f"reuse: nothing of {', '.join(absent)}, not submitted below {runs} yet", highlight=False, soft_wrap=True
        )


def _labels(cells: Sequence["StudyCell"]) -> list[str]:
    """Short labels: only the fields in which the cells differ."""
    regimes = {cell.config.regime for cell in cells}
    seeds = {cell.config.seed for cell in cells}
    return [
        (f"{cell.config.regime} " if len(regimes) > 1 else "")
        + cell.folder.parent.name
        + (f" seed {cell.config.seed}" if len(seeds) > 1 else "")
        + (f" of {cell.reused_from}" if cell.reused else "")
        for cell in cells
    ]


def _folder(study: str, runs: Path) -> "StudyDir":
    from hpc_jepa.runs.run_dir import StudyDir

    return StudyDir(runs / _config(study).study)


def _cells(study: str, runs: Path) -> "list[StudyCell]":
    from hpc_jepa.study.grid import expand_study

    return expand_study(_config(study), runs)


def _config(study: str) -> StudyConfig:
    path = Path(study)
    if len(path.parts) > 1 and path.is_dir():
        root = shell_command(path.name, "--runs", path.parent)
        raise InputError(f"{study}: a folder; name the study and its root: {root}")
    return read_config(StudyConfig, [find_config(study, "study")])
