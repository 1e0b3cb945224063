"""Write a report: tables as CSV, Markdown, LaTeX and text, verdicts on claims, and the HTML page."""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hpc_jepa.errors import InputError
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.io.escape import SafeConsole, csv_cell
from hpc_jepa.report import export_tables
from hpc_jepa.report.answer_tables import answer_json, answers_frame
from hpc_jepa.report.audit import Audit, audit_claims
from hpc_jepa.report.claims import PUBLISHED_CLAIMS, read_claims
from hpc_jepa.report.detectable import DetectableGain, detectable_gain
from hpc_jepa.report.factorial import FactorialDesign
from hpc_jepa.report.over_steps import step_sentences
from hpc_jepa.report.page import render_page
from hpc_jepa.report.predictions import check_comparable
from hpc_jepa.report.published_results import read_published
from hpc_jepa.report.report_data import ReportData, collect_run_data, with_audits, with_published
from hpc_jepa.report.result_grid import ResultGrid
from hpc_jepa.report.results import ResultRow
from hpc_jepa.report.run_report import find_runs
from hpc_jepa.report.study_evidence import collect_evidence
from hpc_jepa.report.switches import SemanticsComparison
from hpc_jepa.report.verdicts import ClaimResult
from hpc_jepa.runs.run_dir import StudyDir

TEXT_WIDTH = 120


@dataclass(frozen=True)
class Report:
    """The content of a report, and the folder it was written to."""

    folder: Path
    data: ReportData


def write_report(
    places: Sequence[Path], out: Path | None = None, *, claims: Path | None = None, published: Path | None = None
) -> Report:
    """Report all runs in ``places``, and the results in the CSV file ``published`` if there is one.

    Writes ``index.html``, ``results.txt``, ``grid.csv``, ``claims.csv``, ``tables.md``, ``tables.tex`` and
    ``report.json`` to ``out``, with runs ``results.csv``, with records of chosen steps ``over_steps.csv``, with a
    question ``answers.csv``, with a factorial design ``factorial.csv``, and with corrupted clips ``robustness.csv``;
    the default of ``out`` is the folder ``report`` of the first study. Damaged files are named among the gaps. Raises
    InputError if there is nothing to report or records are not comparable; then nothing is written.
    """
    found = find_runs(places)
    runs = found.runs
    check_comparable(runs)
    if out is None and not runs:
        raise InputError("a report without runs belongs to no study; name an output folder with --out")
    claim_list = read_claims(claims or PUBLISHED_CLAIMS)
    data = ReportData()
    if runs:
        data = collect_run_data(found, places)
        answers = {answer.study: answer for answer in data.answers}
        evidence = [
            source
            for scores in data.scores
            for source in collect_evidence(scores, data.study_grids(scores), runs, answers.get(scores.study))
        ]
        data = with_audits(data, [audit_claims(claim_list, source, as_printed=False) for source in evidence])
    if published is not None:
        study = read_published(published)
        data = with_published(data, study, audit_claims(claim_list, study, as_printed=True))
    report = Report(out or _inside(runs[0].study), data)
    _write_files(report)
    return report


def _inside(study: StudyDir) -> Path:
    """The folder of a report inside its study. Raises InputError if it is a link that leads out of it."""
    if not study.report_dir.resolve().is_relative_to(study.path.resolve()):
        raise InputError(f"{study.report_dir}: a symbolic link, outside the study; name it with --out to write there")
    return study.report_dir


def print_report(report: Report, console: SafeConsole) -> None:
    """Print answers, tables, findings and gaps."""
    data = report.data
    for sentence in data.answer_sentences:
        console.print(sentence, style="bold", highlight=False)
    grids = [*data.grids, *data.task_grids]
    tables = [*(table.text() for table in data.tables), *export_tables.text_tables(grids, (), data.factorial)]
    tables += export_tables.robustness_tables(data.robustness)
    for table in tables:
        console.print(export_tables.terminal_table(table), soft_wrap=True)
    steps = step_sentences(data.over_steps)
    for title, lines in (("Findings", data.headlines), ("Accuracy over steps", steps), ("Missing", data.gaps)):
        if lines:
            console.print(f"\n{title}", style="bold")
            for line in lines:
                console.print(f"- {line}", highlight=False)


def report_text(report: Report) -> str:
    """The printed report without colours."""
    buffer = io.StringIO()
    print_report(report, SafeConsole(file=buffer, width=TEXT_WIDTH, color_system=None))
    return buffer.getvalue()


def report_json(report: Report) -> str:
    """Grids, verdicts, findings and gaps as JSON; missing cells are null."""
    data = report.data
    content: dict[str, Any] = {
        "folder": str(report.folder),
        **({"answers": [answer_json(answer, data.corruption) for answer in data.answers]} if data.answers else {}),
        "findings": [*data.answer_sentences, *data.headlines],
        "missing": list(data.gaps),
        "grids": [_grid_json(grid) for grid in (*data.grids, *data.task_grids)],
        "semantics": [_semantics_json(comparison) for comparison in data.comparisons],
        "factorial": {
            "designs": [_design_json(design) for design in data.factorial],
            "incomplete": list(data.incomplete_factorial),
        },
        "results": [_row_json(row) for row in (*data.rows, *data.task_rows)],
        "claims": {audit.source: [_claim_json(audit, result) for result in audit.results] for audit in data.audits},
    }
    if data.robustness:
        content["robustness"] = [asdict(row) for row in data.robustness]
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _write_files(report: Report) -> None:
    data, folder = report.data, report.folder
    grids = [*data.grids, *data.task_grids]
    tables = export_tables.text_tables(grids, data.audits, data.factorial)
    frames = {"grid": export_tables.grid_frame(grids), "claims": export_tables.claims_frame(_main(data.audits))}
    if data.runs:
        frames["results"] = export_tables.results_frame([*data.rows, *data.task_rows])
    if data.over_steps:
        frames["over_steps"] = export_tables.results_frame([row for series in data.over_steps for row in series.rows])
    if data.answers:
        frames["answers"] = answers_frame(data.answers)
    if data.factorial:
        frames["factorial"] = export_tables.factorial_frame(data.factorial)
    if len(data.audits) > 1:
        frames |= {f"claims.{_slug(audit.source)}": export_tables.claims_frame(audit) for audit in data.audits}
    if data.robustness:
        frames["robustness"] = export_tables.robustness_frame(data.robustness)
        tables += export_tables.robustness_tables(data.robustness)
    texts = {
        "tables.md": export_tables.to_markdown(tables),
        "tables.tex": export_tables.to_latex(tables),
        "report.json": report_json(report),
        "results.txt": report_text(report),
        "index.html": render_page(data, folder),
    }
    folder.mkdir(parents=True, exist_ok=True)
    texts |= {f"{name}.csv": _to_csv(frame) for name, frame in frames.items()}
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())


def _to_csv(frame: pd.DataFrame) -> str:
    """The frame without formulas, each value with its own type: ``DataFrame.map`` would turn integers into floats."""
    rows = [[csv_cell(value) for value in row] for row in frame.astype(object).to_numpy().tolist()]
    return str(pd.DataFrame(rows, columns=frame.columns, dtype=object).to_csv(index=False))


def _main(audits: Sequence[Audit]) -> Audit:
    """The audit in ``claims.csv``: that of the runs if they have all cells of any claim, else the published one."""
    return next((audit for audit in audits if not audit.as_printed and audit.decided), audits[0])


def _slug(source: str) -> str:
    return source.replace(", ", ".").replace(" ", "_")


def _gain_json(gain: DetectableGain) -> dict[str, Any]:
    """A gain that no number of points reaches is null."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(gain).items()
    }


def _grid_json(grid: ResultGrid) -> dict[str, Any]:
    facts = {name: getattr(grid, name) for name in ("source", "regime", "reference", "family")}
    if grid.task != "probe":
        facts |= {"task": grid.task, "part": grid.part}
    cells = {
        row: {column: asdict(cell) if (cell := grid.cell(row, column)) else None for column in grid.columns}
        for row in grid.rows
    }
    gains = [_gain_json(gain) for column in grid.columns if (gain := detectable_gain(grid, column))]
    return {**facts, "detectable": gains, "cells": cells}


def _row_json(row: ResultRow) -> dict[str, Any]:
    """Probes without the fields of the other tasks."""
    fields = asdict(row)
    return {name: value for name, value in fields.items() if row.task != "probe" or name not in ("task", "condition")}


def _semantics_json(comparison: SemanticsComparison) -> dict[str, Any]:
    return {**asdict(comparison), "switch": comparison.switch}


def _design_json(design: FactorialDesign) -> dict[str, Any]:
    cells = [
        {"factors": sorted(subset), "variant": name, "mean": design.means[subset]}
        for subset, name in design.cells.items()
    ]
    effects = [{"effect": effect.name, **asdict(effect.contrast)} for effect in design.effects]
    facts = {name: getattr(design, name) for name in ("study", "regime", "column", "factors", "given")}
    return {**facts, "cells": cells, "effects": effects}


def _claim_json(audit: Audit, result: ClaimResult) -> dict[str, Any]:
    outcome = asdict(result.outcome)
    for end in ("low", "high"):
        outcome[end] = None if outcome[end] is None else round(outcome[end], 6) + 0
    remarks = {"caveats": list(result.caveats), "notes": audit.notes(result), "missing": list(result.missing)}
    return {"id": result.claim.id, "verdict": audit.verdict(result), **outcome, **remarks}
