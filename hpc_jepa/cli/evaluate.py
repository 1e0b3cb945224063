"""``hpc-jepa evaluate``: frozen evaluation of one run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hpc_jepa.cli.screen import progress
from hpc_jepa.config import tree
from hpc_jepa.config.benchmark import BenchmarkConfig, ProtocolName, Weights
from hpc_jepa.evaluation.evaluator import evaluate as evaluate_run
from hpc_jepa.evaluation.record import EvaluationRecord


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder: RUNS/<study>/<regime>/<variant>/seed-<n>.")],
    benchmark: Annotated[str, typer.Option(help="Name under configs/benchmark/, or a YAML file.")],
    protocol: Annotated[ProtocolName, typer.Option(help="careful, or published to the letter.")] = "careful",
    weights: Annotated[list[Weights] | None, typer.Option(help="Repeat for several; target and student.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Evaluate again what the record already holds.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the record instead of a table.")] = False,
) -> None:
    """Probe the frozen encoder of a run and write RUN/eval/<benchmark>.<protocol>.json."""
    config = tree.load(BenchmarkConfig, [tree.find_config(benchmark, "benchmark")])
    names = weights or ["target", "student"]
    record = evaluate_run(run, config, protocol, names, force=force, progress=progress)
    if json:
        typer.echo(record.model_dump_json(indent=1))
    else:
        Console().print(_table(record))


def _table(record: EvaluationRecord) -> Table:
    run = record.run
    title = f"{record.title}, {record.protocol}: {run.variant} ({run.semantics}), seed {run.seed}, step {run.step}"
    table = Table("weights", "probe", "accuracy %", "95 % interval", "test clips", title=title, title_justify="left")
    for result in record.results:
        interval = f"{100 * result.low:.1f} - {100 * result.high:.1f}"
        table.add_row(result.weights, result.probe, f"{100 * result.value:.1f}", interval, str(result.n))
    return table
