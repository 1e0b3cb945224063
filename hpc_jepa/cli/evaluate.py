"""``hpc-jepa evaluate``: frozen evaluation of one run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from hpc_jepa.cli.screen import progress
from hpc_jepa.config import tree
from hpc_jepa.config.benchmark import BenchmarkConfig, ProtocolName, Weights
from hpc_jepa.errors import InputError

if TYPE_CHECKING:
    from hpc_jepa.evaluation.record import EvaluationRecord

EXAMPLES = """Examples:

  hpc-jepa evaluate runs/quickstart/quickstart/baseline/seed-0 --benchmark motion8

  hpc-jepa evaluate RUN --benchmark motion8 --weights target --weights random_init --json
"""


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder: RUNS/<study>/<regime>/<variant>/seed-<n>.")],
    benchmark: Annotated[str, typer.Option(help="Name under configs/benchmark/, or a YAML file.")],
    protocol: Annotated[ProtocolName, typer.Option(help="careful, or published to the letter.")] = "careful",
    weights: Annotated[list[str] | None, typer.Option(help="Repeat for several; target and student.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Evaluate again what the record already holds.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the record instead of a table.")] = False,
) -> None:
    """Probe the frozen encoder of a run and write RUN/eval/<benchmark>.<protocol>.json."""
    from hpc_jepa.evaluation.evaluator import evaluate as evaluate_run

    config = tree.load(BenchmarkConfig, [tree.find_config(benchmark, "benchmark")])
    names = _known(weights or ["target", "student"])
    record = evaluate_run(run, config, protocol, names, force=force, progress=progress)
    if json:
        typer.echo(record.model_dump_json(indent=1))
    else:
        Console().print(_table(record))


def _known(names: list[str]) -> list[Weights]:
    """Typer has no lists of choices: check them here."""
    for name in names:
        if name not in get_args(Weights):
            raise InputError(f"--weights {name}: choose from {', '.join(get_args(Weights))}")
    return cast(list[Weights], names)


def _table(record: "EvaluationRecord") -> Table:
    run = record.run
    title = f"{record.title}, {record.protocol}: {run.variant} ({run.semantics}), seed {run.seed}, step {run.step}"
    table = Table("weights", "probe", "accuracy %", "95 % interval", "test clips", title=title, title_justify="left")
    for result in record.results:
        interval = f"{100 * result.low:.1f} - {100 * result.high:.1f}"
        table.add_row(result.weights, result.probe, f"{100 * result.value:.1f}", interval, str(result.n))
    return table
