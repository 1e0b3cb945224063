"""``hpc-jepa evaluate``: frozen evaluation of runs."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.table import Table

from hpc_jepa.cli.console import CONSOLE, examples, plural, progress_bar, stdout_console
from hpc_jepa.config import loading
from hpc_jepa.config.benchmark import ENCODER_PATTERN, BenchmarkConfig, ProtocolName, Task, current_protocol
from hpc_jepa.config.training import DeviceSetting
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.io.escape import first_line
from hpc_jepa.io.imports import uncollected_imports

if TYPE_CHECKING:
    from hpc_jepa.evaluation.evaluator import EvaluatedRun
    from hpc_jepa.evaluation.record import AnyRecord, AnyResult
    from hpc_jepa.runs.run_dir import RunDir

    Evaluate = Callable[[Sequence[tuple[RunDir, int | None]]], Iterator[EvaluatedRun]]

EXAMPLES = examples(
    "hpc-jepa evaluate runs/quickstart/quickstart/baseline/seed-0 --benchmark motion8",
    "hpc-jepa evaluate RUN --benchmark motion8 --weights target --weights random_init --json",
    "hpc-jepa evaluate RUN --benchmark ucf101 --weights timm:vit_base_patch16_224@vit.safetensors --weights vjepa2:DIR",
    "hpc-jepa evaluate runs/my_study/*/*/seed-0 --benchmark motion8",
    "hpc-jepa evaluate RUN --benchmark motion8 --every 500 --weights target",
    "hpc-jepa evaluate RUN --benchmark motion8 --every 500 --weights target --follow",
    "hpc-jepa evaluate RUN --benchmark motion8 --task few_shot",
    """hpc-jepa evaluate RUN --benchmark ssv2 --task robustness \\
      protocols.standard.robustness.corruptions='\\[reversal, noise]' protocols.standard.robustness.clips=2000""",
    "hpc-jepa evaluate RUN --benchmark ssv2 --task text",
    "torchrun --nproc-per-node 4 -m hpc_jepa evaluate RUN --benchmark kinetics400",
    "srun --ntasks 4 --gpus-per-task 1 hpc-jepa evaluate RUN --benchmark kinetics400",
)


PROTOCOLS = ("standard", "published", "vjepa")


def parse_protocol(name: str) -> Any:
    """Today's name of a protocol. Raises InputError for an unknown one."""
    return _known_name("--protocol", current_protocol(name), PROTOCOLS)


def parse_task(name: str) -> Any:
    """The name of a task. Raises InputError for an unknown one."""
    return _known_name("--task", name, get_args(Task))


def parse_device(name: str) -> Any:
    """A value of engine.device. Raises InputError for an unknown one."""
    return _known_name("--device", name, get_args(DeviceSetting))


def _known_name(option: str, name: str, known: Sequence[str]) -> str:
    if name not in known:
        raise InputError(f"{option} {name}: unknown{loading.did_you_mean(name, known)}; known: {', '.join(known)}")
    return name


ProtocolOption = partial(typer.Option, parser=parse_protocol, metavar=f"[{'|'.join(PROTOCOLS)}]")
DeviceOption = partial(typer.Option, parser=parse_device, metavar=f"[{'|'.join(get_args(DeviceSetting))}]")
TaskOption = partial(typer.Option, parser=parse_task, metavar=f"[{'|'.join(get_args(Task))}]")


def evaluate_command(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|KEY=VALUE",
            help="Run folders, RUNS/<study>/<regime>/<variant>/seed-<n>, then settings of the benchmark to change.",
        ),
    ],
    benchmark: Annotated[str, typer.Option(help="Name in configs/benchmark/, or a YAML file.")],
    protocol: Annotated[
        ProtocolName,
        ProtocolOption(help="standard: as recommended; published: as in the paper; vjepa: as V-JEPA 2 does."),
    ] = "standard",
    task: Annotated[
        Task, TaskOption(help="Probes with all labels, few-shot, corrupted clips, or text alignment.")
    ] = "probe",
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="target, student, random_init, timm:MODEL, timm:MODEL@FILE, vjepa2:FOLDER; repeatable.",
            show_default="target, student",
        ),
    ] = None,
    steps: Annotated[
        list[int] | None,
        typer.Option("--step", min=0, help="Checkpoint of this step, not the newest; repeatable.", show_default=False),
    ] = None,
    every: Annotated[
        int | None, typer.Option(min=1, help="All checkpoints at multiples of this step count.", show_default=False)
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="With --every: while the run trains, as it saves them, until it ends."),
    ] = False,
    patience: Annotated[
        float, typer.Option(min=0, help="With --follow: minutes without training after which the run has ended.")
    ] = 10.0,
    force: Annotated[bool, typer.Option("--force", help="Evaluate again even if a record exists.")] = False,
    device: Annotated[
        DeviceSetting | None,
        DeviceOption(help="Where to run the encoder.", show_default="engine.device of the run"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the record instead of a table.")] = False,
) -> None:
    """Evaluate the frozen encoders of runs and write a record to RUN/eval/, of chosen steps to RUN/eval/steps/.

    Each clip is read and decoded once for all runs and steps. A run that fails does not stop the others.
    Under torchrun or srun all processes share the extraction of features; rank 0 trains the probes.
    """
    with uncollected_imports():
        from hpc_jepa.evaluation.evaluator import RunEvaluation, evaluate_runs, has_launcher, process_group
        from hpc_jepa.evaluation.follow import wait_for_run
        from hpc_jepa.runs.run_dir import RunDir
        from hpc_jepa.trackers.processes import send_evaluations

    folders, overrides = _split(arguments)
    config = loading.read_config(BenchmarkConfig, [loading.find_config(benchmark, "benchmark")], overrides)
    names = tuple(_validated(weights or ["target", "student"]))
    _check_selection(steps, every, follow)
    runs = [RunDir(folder) for folder in folders]

    def evaluate(wanted: "Sequence[tuple[RunDir, int | None]]") -> "Iterator[EvaluatedRun]":
        requests = [RunEvaluation(run.path, names, step) for run, step in wanted]
        for outcome in evaluate_runs(
            requests, config, protocol, task=task, force=force, progress=progress_bar, device=device, notify=_note
        ):
            _show_outcome(outcome, json, several=len(runs) > 1)
            yield outcome

    if follow and (len(runs) == 1 or has_launcher()):
        wait_for_run(runs[0], _note, patience=60 * patience)  # where the processes meet
    with process_group(folders[0]):
        evaluated = _evaluate_steps(runs, steps, every, evaluate, patience=60 * patience if follow else None)
    for folder in dict.fromkeys(each.wanted.folder for each in evaluated if each.record is not None):
        send_evaluations(RunDir(folder))
    _raise_failures(evaluated)


def _evaluate_steps(
    runs: "Sequence[RunDir]",
    steps: Sequence[int] | None,
    every: int | None,
    evaluate: "Evaluate",
    *,
    patience: float | None,
) -> "list[EvaluatedRun]":
    """Evaluate the newest checkpoint of each run, the given steps, or those at multiples of ``every``.

    ``patience``: seconds without training after which a run has ended; None evaluates what is there now.
    """
    from hpc_jepa.evaluation.follow import evaluate_kept, follow_runs

    if every is None:
        wanted: Sequence[int | None] = steps or [None]
        return list(evaluate([(run, step) for run in runs for step in wanted]))
    if patience is None:
        return evaluate_kept(runs, every, evaluate, _note)
    evaluated = follow_runs(runs, every, evaluate, _note, patience=patience)
    ended = f"{runs[0].path}: has" if len(runs) == 1 else f"{len(runs)} runs: have"
    _note(f"{ended} ended; {plural(len(evaluated), 'checkpoint', 'checkpoints')} evaluated")
    return evaluated


def _split(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Run folders, each once, and overrides. Folders may have an = in a name below others, keys have no slash."""
    overrides = [x for x in arguments if "=" in x and "/" not in x.partition("=")[0] and not Path(x).is_dir()]
    folders = dict.fromkeys(Path(x) for x in arguments if x not in overrides)
    if not folders:
        raise InputError("no run folder; name at least one: RUNS/<study>/<regime>/<variant>/seed-<n>")
    return list(folders), overrides


def _show_outcome(outcome: "EvaluatedRun", json: bool, several: bool) -> None:
    """Print a new record; of several runs also an error, and go on with the others."""
    from hpc_jepa.runs.run_dir import RunDir

    record, wanted = outcome.record, outcome.wanted
    if record is not None:
        path = RunDir(wanted.folder).record_file(record.benchmark, record.protocol, type(record).task, wanted.step)
        _show(record, path, json)
    elif outcome.error is not None and several:
        _note(f"failed: {_named(outcome)}")


def _named(outcome: "EvaluatedRun") -> str:
    """The error with its run, if it does not begin with it."""
    folder, error = str(outcome.wanted.folder), outcome.error or Exception()
    message = str(error) if isinstance(error, HpcJepaError) else f"{type(error).__name__}: {first_line(error)}"
    return message if message.startswith(folder) else f"{folder}: {message}"


def _raise_failures(evaluated: "Sequence[EvaluatedRun]") -> None:
    """Raise what ended evaluations: the error of a single one, else one that counts them and has the code of the first.

    An unexpected error is raised as it is.
    """
    failures = [each for each in evaluated if each.error is not None]
    errors = [each.error for each in failures if each.error is not None]
    unexpected = [error for error in errors if not isinstance(error, (HpcJepaError, OSError))]
    if unexpected or (errors and len(evaluated) == 1):
        raise (unexpected or errors)[0]
    if errors:
        count = f"{len(errors)} of {plural(len(evaluated), 'evaluation', 'evaluations')} failed"
        failure = HpcJepaError(f"{count}; {_named(failures[0])}")
        failure.exit_code = getattr(errors[0], "exit_code", failure.exit_code)
        raise failure


def _check_selection(steps: Sequence[int] | None, every: int | None, follow: bool) -> None:
    """Raise InputError for options of chosen steps that contradict each other."""
    if steps and every is not None:
        raise InputError("--step and --every: use one of them")
    if follow and every is None:
        raise InputError("--follow: needs --every, the steps between the checkpoints to evaluate")


def _note(line: str) -> None:
    CONSOLE.print(line, highlight=False, markup=False, soft_wrap=True)


def _show(record: "AnyRecord", path: Path, json: bool) -> None:
    if json:
        typer.echo(record.model_dump_json(indent=1))
    else:
        console = stdout_console()
        console.print(_title(record), highlight=False, soft_wrap=True)
        console.print(_table(record))
        if any(getattr(result, "selected_on", None) == "test" for result in record.results):
            console.print("the best setting of the test clips: an accuracy that is too high", highlight=False)
        CONSOLE.print(f"record: {path}", highlight=False)


def _validated(names: list[str]) -> list[str]:
    """Check the names; Typer has no choices for repeated options with free suffixes."""
    for name in names:
        if not re.match(ENCODER_PATTERN, name):
            known = "target, student, random_init, timm:MODEL, timm:MODEL@FILE, vjepa2:FOLDER"
            raise InputError(f"--weights {name}: unknown; use {known}")
    return names


def _title(record: "AnyRecord") -> str:
    run = record.run
    return f"{record.title}, {record.protocol}: {run.variant} ({run.semantics_name}), seed {run.seed}, step {run.step}"


def _table(record: "AnyRecord") -> Table:
    columns = _COLUMNS[type(record).__name__]
    target = getattr(record, "target", None)  # of probes alone
    if target is not None:
        return _error_table(record, f"error{f', {target.unit}' if target.unit else ''}")
    by_class = any(_is_unbalanced(record, result) for result in record.results)
    table = Table("weights", *columns, "%", "95 % interval", "clips", *(_BY_CLASS if by_class else ()))
    for result in record.results:
        cells = [str(getattr(result, name)) for name in columns.values()]
        interval = f"{100 * result.low:.1f} - {100 * result.high:.1f}"
        cells += [f"{100 * result.value:.1f}", interval, str(result.n)]
        if by_class:
            shares = [getattr(result, name) for name in _BY_CLASS.values()]
            cells += ["" if share is None else f"{100 * share:.1f}" for share in shares]
        table.add_row(result.weights, *cells)
    return table


def _error_table(record: "AnyRecord", error: str) -> Table:
    table = Table("weights", "probe", error, "95 % interval", "R²", "95 % interval", "of the best constant", "clips")
    for result in record.results:
        shown = [getattr(result, name) for name in ("value", "low", "high", "constant")]
        value, low, high, constant = (f"{number:.4g}" for number in shown)
        r2, r2_low, r2_high = (f"{getattr(result, name):.3f}" for name in ("r2", "r2_low", "r2_high"))
        name = getattr(result, "probe")  # noqa: B009
        table.add_row(
            result.weights, name, value, f"{low} - {high}", r2, f"{r2_low} - {r2_high}", constant, str(result.n)
        )
    return table


def _is_unbalanced(record: "AnyRecord", result: "AnyResult") -> bool:
    from hpc_jepa.evaluation.stats.metrics import is_unbalanced

    return is_unbalanced(getattr(result, "majority", None), record.classes)


_BY_CLASS = {"mean class %": "mean_class_accuracy", "macro F1 %": "macro_f1", "majority %": "majority"}
"""Further columns of probes where classes are unbalanced: heading -> field."""


_COLUMNS = {
    "ProbeRecord": {"probe": "probe"},
    "FewShotRecord": {"labels": "kind", "classes": "ways", "per class": "shots"},
    "RobustnessRecord": {"probe": "probe", "corruption": "corruption", "severity": "severity", "level": "level"},
    "TextRecord": {"frames lost": "dropout", "which": "lost_frames", "direction": "direction", "metric": "metric"},
}
"""Identifying columns of each record type: heading -> field."""
