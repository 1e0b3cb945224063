"""Tables for other documents: the grids and the verdicts as Markdown, LaTeX and CSV."""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.box import SIMPLE_HEAVY
from rich.table import Table

from hpc_jepa.report.audit import Audit, audit_lines, format_published
from hpc_jepa.report.result_grid import Contrast, ResultCell, ResultGrid
from hpc_jepa.report.verdicts import ClaimResult

MISSING = "missing"

CLAIM_COLUMNS = ("id", "statement", "published", "computed", "low", "high", "verdict")
GRID_COLUMNS = (
    *("source", "regime", "variant", "benchmark", "value", "low", "high", "n", "seeds", "untrained"),
    *("reference", "difference", "difference_low", "difference_high", "p", "p_holm", "significant", "test"),
)

LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "†": r"$^{\dagger}$", "<": "$<$", ">": "$>$"}
)


@dataclass(frozen=True)
class TextTable:
    """A table of words: title, header, rows, and a note below."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


def text_tables(grids: Sequence[ResultGrid], audits: Sequence[Audit]) -> list[TextTable]:
    """Every grid, then the claims on all sources side by side."""
    return [*map(_grid_sheet, grids), *([_claim_sheet(audits)] if audits else [])]


def render_tables(found: Sequence[TextTable], template: str) -> str:
    """The sheets through ``tables.md.jinja`` or ``tables.tex.jinja``."""
    environment = Environment(
        loader=PackageLoader("hpc_jepa.report", "."),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["latex"] = lambda text: text.translate(LATEX)
    environment.filters["markdown"] = lambda text: text.replace("|", "\\|")
    return environment.get_template(template).render(sheets=found)


def as_text(sheet: TextTable) -> Table:
    """For the terminal and ``results.txt``: the interval in a line of its own, so that it fits where 80 columns do."""
    text = Table(*sheet.header, title=f"{sheet.title}\n{sheet.note}", title_justify="left", box=SIMPLE_HEAVY)
    for row in sheet.rows:
        text.add_row(*(re.sub(r"^(\S+) (\[.*\])(.*)$", r"\1\3\n\2", cell) for cell in row))
    return text


def write_grids(path: Path, grids: Sequence[ResultGrid]) -> None:
    """One line per cell; a missing cell has the value ``missing`` and nothing else."""
    lines = [_grid_line(grid, row, column) for grid in grids for row in grid.rows for column in grid.columns]
    _write_csv(path, GRID_COLUMNS, lines)


def write_claims(path: Path, audit: Audit) -> None:
    """One line per claim; bounds in the unit of ``computed``, empty where there is none."""
    _write_csv(path, CLAIM_COLUMNS, (_claim_line(audit, judgement) for judgement in audit.results))


def note(grid: ResultGrid) -> str:
    """What the differences mean, and how small a one the grid can show."""
    parts = []
    if grid.tests():
        parts.append(
            f"Differences to {grid.reference} in points, tested at 5 % after Holm's correction over the {grid.family} "
            f"differences of this source ({' or '.join(grid.tests())})."
        )
    detectable = [found.sentence for column in grid.columns if (found := grid.detectable(column)) is not None]
    if detectable:
        parts.append(
            "Minimum detectable gain over the reference in points, two unpaired runs, 80 % power, alone (in brackets: "
            f"as the first of the family): {'; '.join(detectable)}."
        )
    if any(cell.untrained for cell in grid.cells.values()):
        parts.append("† evaluated on weights that no gradient reached (B1).")
    return " ".join(parts)


def bound(value: float) -> str:
    """One end of an interval: a count, or points."""
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def _grid_sheet(grid: ResultGrid) -> TextTable:
    rows = tuple((row, *(_words(grid.cell(row, column)) for column in grid.columns)) for row in grid.rows)
    return TextTable(
        grid.title, ("variant", *grid.columns), rows, f"95 % intervals in brackets, * beyond chance. {note(grid)}"
    )


def _words(cell: ResultCell | None) -> str:
    if cell is None:
        return MISSING
    mark = "†" if cell.untrained else ""
    difference = _signed(cell.contrast) if cell.contrast else ""
    return f"{cell.value:.2f}{mark} [{cell.low:.2f}, {cell.high:.2f}] {difference}".rstrip()


def _signed(contrast: Contrast) -> str:
    return f"{contrast.points:+.2f}{'*' if contrast.significant else ''}"


def _claim_sheet(audits: Sequence[Audit]) -> TextTable:
    header = ("id", "statement", "published", *(name for audit in audits for name in (audit.source, "verdict")))
    rows = []
    for line in audit_lines(audits):
        cells: list[str] = []
        for audit, judgement in zip(audits, line.results, strict=True):
            cells += [_evidence(judgement), audit.verdict(judgement)]
        rows.append((line.claim.id, line.claim.statement, format_published(line.claim.published), *cells))
    return TextTable("Claims", header, tuple(rows), " ".join(audit.sentence for audit in audits))


def _evidence(judgement: ClaimResult) -> str:
    found = judgement.outcome
    if judgement.missing:
        return MISSING
    if found.low is None or found.high is None:
        return found.computed
    return f"{found.computed} [{bound(found.low)}, {bound(found.high)}]"


def _claim_line(audit: Audit, judgement: ClaimResult) -> tuple[object, ...]:
    claim, found = judgement.claim, judgement.outcome
    bounds = ("" if bound is None else round(bound, 2) for bound in (found.low, found.high))
    return (
        claim.id,
        claim.statement,
        format_published(claim.published),
        found.computed,
        *bounds,
        audit.verdict(judgement),
    )


def _grid_line(grid: ResultGrid, row: str, column: str) -> tuple[object, ...]:
    cell = grid.cell(row, column)
    where = (grid.source, grid.regime, row, column)
    if cell is None:
        return (*where, MISSING, *[""] * (len(GRID_COLUMNS) - len(where) - 1))
    accuracy = (round(cell.value, 2), round(cell.low, 2), round(cell.high, 2), cell.n, cell.seeds, cell.untrained)
    if cell.contrast is None:
        return (*where, *accuracy, *[""] * 8)
    found = cell.contrast
    points = (round(found.points, 2), round(found.low, 2), round(found.high, 2))
    p_values = (f"{found.p_value:.3g}", f"{found.adjusted:.3g}")
    return (*where, *accuracy, found.reference, *points, *p_values, found.significant, found.test)


def _write_csv(path: Path, columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(lines)
