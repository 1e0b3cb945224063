"""Write a report: tables as CSV, Markdown, LaTeX and text, verdicts, and the page."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from hpc_jepa.errors import InputError
from hpc_jepa.report import export_tables
from hpc_jepa.report.audit import Audit, audit_claims
from hpc_jepa.report.claims import PUBLISHED_CLAIMS, read_claims
from hpc_jepa.report.page import render_page
from hpc_jepa.report.predictions import check_comparable
from hpc_jepa.report.published_results import PublishedStudy, read_published
from hpc_jepa.report.report_data import ReportData, collect_published_data, collect_run_data
from hpc_jepa.report.results import write_csv
from hpc_jepa.report.run_report import find_runs
from hpc_jepa.report.study_evidence import collect_evidence
from hpc_jepa.report.table import as_text

TEXT_WIDTH = 120


@dataclass(frozen=True)
class Report:
    """What was found, and the folder it was written to."""

    folder: Path
    content: ReportData

    @property
    def headlines(self) -> Sequence[str]:
        """What the numbers say."""
        return self.content.headlines

    @property
    def missing(self) -> Sequence[str]:
        """What they cannot say, because it is not there."""
        return self.content.missing


def write_report(
    places: Sequence[Path], out: Path | None = None, *, claims: Path | None = None, published: Path | None = None
) -> Report:
    """Report all runs under ``places``, and the results in the CSV ``published`` where one is given.

    Writes ``index.html``, ``results.txt``, ``grid.csv``, ``claims.csv``, ``tables.md``, ``tables.tex`` and
    ``report.json`` to ``out``, and with runs ``results.csv``; by default ``out`` is the folder ``report`` of the first
    study. Raises InputError where there is nothing to report or records cannot be compared, DataError naming the file
    where one is damaged; then nothing is written.
    """
    runs = find_runs(places)
    check_comparable(runs)
    if out is None and not runs:
        raise InputError("a report without runs belongs to no study: say with --out where to write it")
    listed = read_claims(claims or PUBLISHED_CLAIMS)
    content = ReportData()
    if runs:
        content = collect_run_data(runs, places)
        found = tuple(
            audit_claims(listed, evidence, as_printed=False) for evidence in collect_evidence(runs, content.correct)
        )
        said = (one.sentence for one in found if one.decided)
        content = replace(content, audits=found, headlines=(*content.headlines, *said))
    if published is not None:
        paper = read_published(published)
        content = _with_published(content, paper, audit_claims(listed, paper, as_printed=True))
    folder = out or runs[0].dir.study.path / "report"
    report = Report(folder, content)
    _write(report)
    return report


def print_report(report: Report, console: Console) -> None:
    """Tables, what they say, and what is missing."""
    content = report.content
    for table in content.tables:
        console.print(as_text(table), soft_wrap=True)
    for grid in export_tables.text_tables(content.grids, ()):
        console.print(export_tables.as_text(grid), soft_wrap=True)
    for title, lines in (("Findings", content.headlines), ("Missing", content.missing)):
        if lines:
            console.print(f"\n{title}", style="bold")
            for line in lines:
                console.print(f"- {line}", markup=False, highlight=False)


def report_text(report: Report) -> str:
    """The same without colours."""
    buffer = io.StringIO()
    print_report(report, Console(file=buffer, width=TEXT_WIDTH, color_system=None))
    return buffer.getvalue()


def report_json(report: Report) -> str:
    """Everything a program may want: grids, verdicts, findings and gaps; what is missing is null."""
    content = report.content
    facts: dict[str, Any] = {
        "folder": str(report.folder),
        "findings": list(content.headlines),
        "missing": list(content.missing),
        "grids": [
            {
                "source": grid.source,
                "regime": grid.regime,
                "reference": grid.reference,
                "family": grid.family,
                "cells": {
                    row: {column: asdict(cell) if (cell := grid.cell(row, column)) else None for column in grid.columns}
                    for row in grid.rows
                },
            }
            for grid in content.grids
        ],
        "claims": {
            one.source: [_claim_json(one, number) for number in range(len(one.results))] for one in content.audits
        },
    }
    return json.dumps(facts, indent=1, allow_nan=False) + "\n"


def _with_published(content: ReportData, paper: PublishedStudy, judged: Audit) -> ReportData:
    """The published numbers come first, in front of what the runs say."""
    own = collect_published_data(paper, judged)
    return replace(
        content,
        headlines=(*own.headlines, *content.headlines),
        grids=(*own.grids, *content.grids),
        audits=(judged, *content.audits),
        limits=own.limits,
        probes=own.probes,
    )


def _write(report: Report) -> None:
    content, folder = report.content, report.folder
    page, text = render_page(content), report_text(report)
    sheets = export_tables.text_tables(content.grids, content.audits)
    folder.mkdir(parents=True, exist_ok=True)
    if content.runs:
        write_csv(folder / "results.csv", content.rows)
    export_tables.write_grids(folder / "grid.csv", content.grids)
    export_tables.write_claims(folder / "claims.csv", _main(content.audits))
    for one in content.audits if len(content.audits) > 1 else ():
        export_tables.write_claims(folder / f"claims.{_slug(one.source)}.csv", one)
    (folder / "tables.md").write_text(export_tables.render_tables(sheets, "tables.md.jinja"), encoding="utf-8")
    (folder / "tables.tex").write_text(export_tables.render_tables(sheets, "tables.tex.jinja"), encoding="utf-8")
    (folder / "report.json").write_text(report_json(report), encoding="utf-8")
    (folder / "results.txt").write_text(text, encoding="utf-8")
    (folder / "index.html").write_text(page, encoding="utf-8")


def _main(audits: Sequence[Audit]) -> Audit:
    """What ``claims.csv`` is about: the runs where they hold any cell of a claim, else the published numbers."""
    runs = [one for one in audits if not one.as_printed]
    return next((one for one in runs if one.decided), audits[0])


def _slug(source: str) -> str:
    return source.replace(", ", ".").replace(" ", "_")


def _claim_json(one: Audit, number: int) -> dict[str, Any]:
    judgement = one.results[number]
    found = judgement.outcome
    return {
        "id": judgement.claim.id,
        "computed": found.computed,
        "low": found.low,
        "high": found.high,
        "verdict": one.verdict(judgement),
        "as_printed": found.as_printed,
        "with_uncertainty": found.with_uncertainty,
        "missing": list(judgement.missing),
    }
