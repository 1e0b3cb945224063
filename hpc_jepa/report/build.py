"""Write the report of a study: table as CSV and text, and the page."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from hpc_jepa.errors import InputError
from hpc_jepa.report.findings import headlines, semantics_comparisons
from hpc_jepa.report.missing import missing
from hpc_jepa.report.page import Content, render
from hpc_jepa.report.provenance import provenance
from hpc_jepa.report.results import panel, sources, write_csv
from hpc_jepa.report.runs import abouts, find_runs
from hpc_jepa.report.table import ResultTable, as_text, tables

TEXT_WIDTH = 120


@dataclass(frozen=True)
class Report:
    """What was found and written."""

    folder: Path
    headlines: Sequence[str]
    tables: Sequence[ResultTable]
    missing: Sequence[str]


def write_report(places: Sequence[Path], out: Path | None = None) -> Report:
    """Read all runs under ``places``; write ``results.csv``, ``results.txt`` and ``index.html`` to ``out``.

    By default ``out`` is the folder ``report`` of the first study. Raises InputError where there is nothing to report,
    DataError naming the file where a record is damaged; then nothing is written.
    """
    runs = find_runs(places)
    found = sources(runs)
    if not found:
        raise InputError(f"{places[0]}: no run was evaluated yet; run 'hpc-jepa evaluate RUN --benchmark NAME' first")
    rows = list(found)
    attentive = {panel(row) for row, source in found.items() if source.result.pooling == "tokens"}
    comparisons = semantics_comparisons(found)
    content = Content(
        abouts=abouts(runs),
        headlines=headlines(rows, attentive, comparisons),
        tables=tables(runs, rows),
        rows=rows,
        comparisons=comparisons,
        missing=missing(runs, rows),
        provenance=provenance(runs),
        runs=runs,
    )
    folder = out or runs[0].study_folder / "report"
    report = Report(folder, content.headlines, content.tables, content.missing)
    page, text = render(content), as_plain_text(report)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "results.csv", rows)
    (folder / "results.txt").write_text(text, encoding="utf-8")
    (folder / "index.html").write_text(page, encoding="utf-8")
    return report


def print_report(report: Report, console: Console) -> None:
    """Tables, what they say, and what is missing."""
    for table in report.tables:
        console.print(as_text(table), soft_wrap=True)
    for title, lines in (("Findings", report.headlines), ("Missing", report.missing)):
        if lines:
            console.print(f"\n{title}", style="bold")
            for line in lines:
                console.print(f"- {line}", markup=False, highlight=False)


def as_plain_text(report: Report) -> str:
    """The same without colours."""
    buffer = io.StringIO()
    print_report(report, Console(file=buffer, width=TEXT_WIDTH, color_system=None))
    return buffer.getvalue()
