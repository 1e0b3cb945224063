"""``hpc-jepa report``: tables, intervals, plots and the page of a study."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

EXAMPLES = """Example:

  hpc-jepa report runs/quickstart
"""


def report(
    runs: Annotated[list[Path], typer.Argument(help="Study folders or run folders.")],
    out: Annotated[Path | None, typer.Option(help="Default: <first study folder>/report.")] = None,
) -> None:
    """Compute results.csv, results.txt and index.html from the records of the given runs."""
    from hpc_jepa.report.build import print_report, write_report

    written = write_report(runs, out)
    console = Console()
    print_report(written, console)
    console.print(f"\nPage: {written.folder / 'index.html'}", soft_wrap=True, highlight=False)
