"""``hpc-jepa report``: tables, confidence intervals, verdicts and plots of runs or of the published results."""

from pathlib import Path
from typing import Annotated

import typer

from hpc_jepa.cli.console import AsJson, examples, stdout_console

EXAMPLES = examples(
    "hpc-jepa report runs/quickstart",
    "hpc-jepa report --published --out report            published results only",
    "hpc-jepa report runs/my_study --published --json    both, as JSON",
)


def report_command(
    runs: Annotated[list[Path] | None, typer.Argument(help="Study folders or run folders.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: <first study folder>/report.")] = None,
    claims: Annotated[Path | None, typer.Option(help="YAML file of claims. Default: the published claims.")] = None,
    published: Annotated[bool, typer.Option("--published", help="Include the published results.")] = False,
    published_results: Annotated[
        Path | None, typer.Option(help="CSV of published results instead of the built-in ones.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute tables, verdicts on claims and index.html from the records of the given runs.

    claims.csv is about the runs if they contain a cell that a claim refers to, otherwise about the published results.
    With both there is one claims.<source>.csv for each.
    """
    from hpc_jepa.report import write_report
    from hpc_jepa.report.published_results import PUBLISHED_RESULTS

    paper = published_results or (PUBLISHED_RESULTS if published else None)
    if not runs and paper is None:
        raise typer.BadParameter("name a study or run folder, or use --published")
    written = write_report.write_report(runs or [], out, claims=claims, published=paper)
    console = stdout_console()
    if as_json:
        typer.echo(write_report.report_json(written), nl=False)
        return
    write_report.print_report(written, console)
    console.print(f"\nPage: {written.folder / 'index.html'}", soft_wrap=True, highlight=False)
