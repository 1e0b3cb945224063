"""Tables of a report for the terminal, as CSV, Markdown and LaTeX."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAVY
from rich.table import Table
from rich.text import Text

from hpc_jepa.io import escape
from hpc_jepa.report.audit import Audit, audit_lines, format_published
from hpc_jepa.report.factorial import FactorialDesign
from hpc_jepa.report.result_grid import Contrast, ResultCell, ResultGrid
from hpc_jepa.report.results import RANDOM, ResultRow
from hpc_jepa.report.robustness_table import RobustnessRow
from hpc_jepa.report.run_report import RunReport
from hpc_jepa.report.verdicts import ClaimResult
from hpc_jepa.report.wording import cluster_mark, factorial_note, note

MISSING = "missing"

CLAIM_COLUMNS = ("id", "statement", "published", "computed", "low", "high", "verdict", "caveats", "notes")
GRID_COLUMNS = (
    *("source", "regime", "variant", "benchmark", "value", "low", "high", "n", "seeds", "untrained"),
    *("reference", "difference", "difference_low", "difference_high", "p", "p_holm", "significant", "test"),
    *("simultaneous_low", "simultaneous_high", "df", "common_seeds", "dropped_seeds", "clusters", "in_family"),
    "also_differs_in",
    *("metric", "decision", "unit", "better"),
)
TASK_GRID_COLUMNS = ("task", "part", "condition")
"""Further columns of the grids, where there are some of other tasks than probes."""
TASK_ROW_COLUMNS = ("task", "condition")
FACTORIAL_COLUMNS = (
    *("study", "regime", "benchmark", "factors", "given", "effect", "points", "low", "high", "p", "p_holm"),
    *("significant", "simultaneous_low", "simultaneous_high", "common_seeds", "dropped_seeds", "clusters"),
)
NO_CLUSTERS = "unknown"
"""Number of source videos where it is not known, so that clips count as independent."""

LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "†": r"$^{\dagger}$", "<": "$<$", ">": "$>$"}
)


@dataclass(frozen=True)
class TextTable:
    """A table of formatted cells, with a title and a note. Cells are ``value [interval] rest``."""

    title: str
    note: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class EncoderKey:
    """A row of a result table. Random encoders come first, then trained ones by variant."""

    variant: str
    semantics: str
    seed: int
    weights: str

    @property
    def order(self) -> tuple[object, ...]:
        """Sort key."""
        return (self.weights != RANDOM, self.variant, self.semantics, self.seed, self.weights != "target")

    @property
    def label(self) -> str:
        """Name, and on a second line its weights and seed."""
        if self.weights == RANDOM:
            return f"{self.variant}\nuntrained, seed {self.seed}"
        return f"{self.variant} ({self.semantics})\n{self.weights} weights, seed {self.seed}"


@dataclass(frozen=True)
class ResultTable:
    """Results of one regime, benchmark and protocol by encoder and probe. Missing ones are not in ``cells``."""

    study: str
    regime: str
    benchmark: str
    protocol: str
    probes: tuple[str, ...]
    encoders: tuple[EncoderKey, ...]
    cells: dict[tuple[EncoderKey, str], ResultRow]

    @property
    def title(self) -> str:
        """Study, benchmark, protocol and regime."""
        return f"{self.study}: {self.benchmark}, {self.protocol} protocol, regime {self.regime}"

    @property
    def clips(self) -> int:
        """Number of test clips."""
        return next(iter(self.cells.values())).n

    @property
    def measured(self) -> str:
        """What the cells measure."""
        row = next(iter(self.cells.values()))
        return f"{row.axis} (lower is better)" if row.is_error else "accuracy in %"

    @property
    def of_target(self) -> bool:
        """Whether a number is predicted."""
        return any(row.is_error for row in self.cells.values())

    @property
    def error_note(self) -> str:
        """The error without a probe."""
        row = next(iter(self.cells.values()))
        constant = "" if row.constant is None else f": {row.number(row.constant)} by the best constant"
        return f"R² with its bootstrap interval. The error without features{constant}" if constant else "R²"

    @property
    def is_unbalanced(self) -> bool:
        """Whether one class is so frequent that accuracy alone says little."""
        return any(row.is_unbalanced for row in self.cells.values())

    @property
    def class_note(self) -> str:
        """What the columns by class contain."""
        majority = next((row.majority for row in self.cells.values() if row.majority is not None), 0.0)
        return (
            "By class: mean class accuracy in %, macro F1 in %, classes that the probe predicts. The largest class has "
            f"{majority:.1f} % of the test clips"
        )

    def cell(self, encoder: EncoderKey, probe: str) -> ResultRow | None:
        """The result, None if it is missing."""
        return self.cells.get((encoder, probe))

    def text(self) -> TextTable:
        """The table as text."""
        rows, note = [], f"{self.measured}, 95 % interval below, {self.clips:,} test clips"
        for encoder in self.encoders:
            cells = [self.cell(encoder, probe) for probe in self.probes]
            more = [cell.by_class if cell else MISSING for cell in cells] if self.is_unbalanced else []
            more += (
                [cell.explained.removeprefix("R² ") if cell else MISSING for cell in cells] if self.of_target else []
            )
            rows.append([encoder.label, *map(_result, cells), *more])
        names = [probe.replace("_", " ") for probe in self.probes]
        if self.is_unbalanced:
            names += [f"{name} by class" for name in names]
            note = f"{note}. {self.class_note}"
        if self.of_target:
            names += [f"{name}, R²" for name in names]
            note = f"{note}. {self.error_note}"
        return TextTable(self.title, note, pd.DataFrame(rows, columns=["encoder", *names]))


def result_tables(runs: Iterable[RunReport], rows: Sequence[ResultRow]) -> list[ResultTable]:
    """One table per study, regime, benchmark and protocol, with a row for every run of the regime."""
    keys = dict.fromkeys((row.study, row.regime, row.benchmark, row.protocol) for row in rows)
    configs = [run.config for run in runs]
    tables = []
    for key in keys:
        group = [row for row in rows if (row.study, row.regime, row.benchmark, row.protocol) == key]
        cells = {(EncoderKey(row.variant, row.semantics, row.seed, row.weights), row.probe): row for row in group}
        expected = {
            EncoderKey(config.variant, config.semantics_name, config.seed, weights)
            for config in configs
            for weights in {row.weights for row in group if row.is_trained}
            if (config.study, config.regime) == key[:2]
        }
        encoders = sorted({encoder for encoder, _ in cells} | expected, key=lambda encoder: encoder.order)
        tables.append(ResultTable(*key, tuple(dict.fromkeys(row.probe for row in group)), tuple(encoders), cells))
    return tables


def text_tables(
    grids: Sequence[ResultGrid], audits: Sequence[Audit], designs: Sequence[FactorialDesign]
) -> list[TextTable]:
    """All grids, the factorial designs, then the claims with all sources side by side."""
    claims = [_claim_table(audits)] if audits else []
    return [*map(_grid_table, grids), *map(_factorial_table, designs), *claims]


def terminal_table(table: TextTable) -> Table:
    """For the terminal and ``results.txt``: intervals on a second line, so that the table fits into 80 columns."""
    shown = Table(*table.frame, title=f"{table.title}\n{table.note}", title_justify="left", box=SIMPLE_HEAVY)
    for row in table.frame.itertuples(index=False):
        shown.add_row(*map(_two_lines, row))
    return shown


def to_markdown(tables: Sequence[TextTable]) -> str:
    """All tables in one Markdown document."""
    parts = []
    for table in tables:
        rows = [list(table.frame), [], *table.frame.to_numpy().tolist()]
        lines = ["| " + " | ".join(map(escape.markdown, row)) + " |" for row in rows]
        lines[1] = "|" + " --- |" * len(table.frame.columns)
        parts.append("\n".join((f"## {escape.markdown(table.title)}\n", *lines, f"\n{escape.markdown(table.note)}\n")))
    return "\n".join(parts)


def to_latex(tables: Sequence[TextTable]) -> str:
    """All tables as LaTeX ``longtable`` environments."""
    parts = ["% needs \\usepackage{booktabs} and \\usepackage{longtable}\n"]
    for table in tables:
        others = len(table.frame.columns) - 1
        latex = (
            table.frame.rename(columns=_escape_latex)
            .map(_escape_latex)
            .to_latex(
                index=False,
                escape=False,
                longtable=True,
                column_format="@{}l" + f"p{{{0.8 / others:.3f}\\linewidth}}" * others + "@{}",
                caption=_escape_latex(f"{table.title}. {table.note}"),
            )
        )
        parts.append(f"\\begingroup\\small\n{latex}\\endgroup\n")
    return "\n".join(parts)


def results_frame(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """One line per result, percent with two decimals, errors and R² with six digits. Task and condition are columns
    where there are other tasks than probes.
    """
    columns = [field.name for field in fields(ResultRow)]
    if all(row.task == "probe" for row in rows):
        columns = [name for name in columns if name not in TASK_ROW_COLUMNS]
    frame = pd.DataFrame([_result_line(row) for row in rows], columns=columns, dtype=object)
    return frame.assign(clusters=[_clusters(row.clusters) for row in rows])


def grid_frame(grids: Sequence[ResultGrid]) -> pd.DataFrame:
    """One line per cell. A missing cell has the value ``missing`` and is empty otherwise."""
    places = [(grid, row, column) for grid in grids for row in grid.rows for column in grid.columns]
    lines = [_grid_line(*place) for place in places]
    if all(grid.task == "probe" for grid in grids):
        return pd.DataFrame(lines, columns=list(GRID_COLUMNS), dtype=object)
    lines = [
        (*line, grid.task, grid.part or None, grid.headings.get(column))
        for line, (grid, _, column) in zip(lines, places, strict=True)
    ]
    return pd.DataFrame(lines, columns=[*GRID_COLUMNS, *TASK_GRID_COLUMNS], dtype=object)


def robustness_tables(rows: Sequence[RobustnessRow]) -> list[TextTable]:
    """One table per study, benchmark, protocol, regime and probe."""
    places = dict.fromkeys((row.study, row.where, row.probe) for row in rows)
    return [_robustness_table([row for row in rows if (row.study, row.where, row.probe) == place]) for place in places]


def robustness_frame(rows: Sequence[RobustnessRow]) -> pd.DataFrame:
    """One line per variant and probe, with six digits."""
    columns = [field.name for field in fields(RobustnessRow)]
    lines = [
        [float(f"{value:.6g}") if isinstance(value, float) else value for value in asdict(row).values()] for row in rows
    ]
    return pd.DataFrame(lines, columns=columns, dtype=object).assign(clusters=[_clusters(row.clusters) for row in rows])


def factorial_frame(designs: Sequence[FactorialDesign]) -> pd.DataFrame:
    """One line per effect, in points."""
    lines = []
    for design in designs:
        where = (design.study, design.regime, design.column, " x ".join(design.factors), "+".join(design.given))
        for effect in design.effects:
            contrast = effect.contrast
            points = tuple(map(contrast.rounded, (contrast.points, contrast.low, contrast.high)))
            tested = (*_p_values(contrast), contrast.significant, *_simultaneous(contrast))
            lines.append((*where, effect.name, *points, *tested, *_counts(contrast)))
    return pd.DataFrame(lines, columns=list(FACTORIAL_COLUMNS), dtype=object)


def claims_frame(audit: Audit) -> pd.DataFrame:
    """One line per claim, with bounds in the unit of ``computed``."""
    lines = []
    for result in audit.results:
        claim, outcome = result.claim, result.outcome
        bounds = (None if value is None else round(value, 2) + 0 for value in (outcome.low, outcome.high))
        published = format_published(claim.published)
        remarks = (audit.verdict(result), "; ".join(result.caveats), audit.notes(result))
        lines.append((claim.id, claim.statement, published, outcome.computed, *bounds, *remarks))
    return pd.DataFrame(lines, columns=list(CLAIM_COLUMNS), dtype=object)


def format_bound(value: float) -> str:
    """One end of an interval: a count, or points."""
    return str(value) if isinstance(value, int) else f"{round(value, 2) + 0:.2f}"  # 0.00 and never -0.00


def _grid_table(grid: ResultGrid) -> TextTable:
    rows = [[row, *(_grid_cell(grid.cell(row, column)) for column in grid.columns)] for row in grid.rows]
    frame = pd.DataFrame(rows, columns=["variant", *map(grid.heading, grid.columns)])
    return TextTable(grid.title, f"95 % intervals in brackets, * significant. {note(grid)}", frame)


def _claim_table(audits: Sequence[Audit]) -> TextTable:
    columns = ["id", "statement", "published"]
    columns += [name for audit in audits for name in (audit.source, "verdict", "caveats")]
    rows = []
    for line in audit_lines(audits):
        row = [line.claim.id, line.claim.statement, format_published(line.claim.published)]
        for audit, result in zip(audits, line.results, strict=True):
            row += [_claim_cell(result), audit.verdict(result), "; ".join(result.caveats)]
        rows.append(row)
    return TextTable("Claims", " ".join(audit.sentence for audit in audits), pd.DataFrame(rows, columns=columns))


def _robustness_table(rows: Sequence[RobustnessRow]) -> TextTable:
    lines = []
    for row in rows:
        worst = f"{row.worst.replace('_', ' ')} -{row.worst_loss:.1f}"
        numbers = [row.text(name, digits) for name, digits in (("error", 3), ("relative", 3), ("retained", 1))]
        lines.append([row.encoder, *numbers, row.text("retained_gain", 1, "+"), worst, f"{row.consistency:.1f}"])
    names = ["variant", "corruption error", "relative", "retained, %", "gain", "worst, points", "consistency, %"]
    seeds = sorted({row.seeds for row in rows})
    over = "clips alone, of one seed" if seeds == [1] else f"clips and {' or '.join(map(str, seeds))} seeds"
    note = (
        "Corruption errors beside the baseline, of groups beside the second: 1 is equal, less is better; the relative "
        "one is of the losses by corruption alone. Retained: share of the clean accuracy, and its gain in points. "
        f"95 % intervals over {over}."
    )
    title = f"{rows[0].study}: corrupted clips of {rows[0].where}, {rows[0].probe.replace('_', ' ')} probe"
    return TextTable(title, note, pd.DataFrame(lines, columns=names))


def _result_line(row: ResultRow) -> dict[str, Any]:
    line = asdict(row)
    of_target = ("r2", "r2_low", "r2_high", "constant", *(("value", "low", "high") if row.is_error else ()))
    for name, value in line.items():
        if isinstance(value, float):
            line[name] = float(f"{value:.6g}") if name in of_target else round(value, 2)
    return line


def _result(row: ResultRow | None) -> str:
    return MISSING if row is None else row.cell


def _grid_cell(cell: ResultCell | None) -> str:
    if cell is None:
        return MISSING
    value, low, high = map(cell.number, (cell.value, cell.low, cell.high))
    text = f"{value}{'†' if cell.untrained else ''} [{low}, {high}]"
    if cell.contrast is None:
        return text
    return f"{text} {cell.contrast.signed(cell.contrast.points)}{'*' if cell.contrast.significant else ''}"


def _factorial_table(design: FactorialDesign) -> TextTable:
    rows = []
    for effect in design.effects:
        contrast = effect.contrast
        star = "*" if contrast.significant else ""
        low, high = contrast.signed(contrast.low), contrast.signed(contrast.high)
        interval = f"[{low}, {high}]{cluster_mark(contrast)}"
        p_value = "" if contrast.adjusted is None else f"{contrast.adjusted:.2g}"
        rows.append([effect.name, f"{contrast.signed(contrast.points)}{star} {interval}", p_value])
    unit = design.effects[0].contrast.unit or "difference"
    frame = pd.DataFrame(rows, columns=["effect", unit, "p, Holm"])
    return TextTable(design.title, factorial_note(design), frame)


def _claim_cell(result: ClaimResult) -> str:
    outcome = result.outcome
    if result.missing:
        return MISSING
    if outcome.low is None or outcome.high is None:
        return outcome.computed
    return f"{outcome.computed} [{format_bound(outcome.low)}, {format_bound(outcome.high)}]"


def _grid_line(grid: ResultGrid, row: str, column: str) -> tuple[Any, ...]:
    line: tuple[Any, ...] = (grid.source, grid.regime, row, column)
    metric = grid.metric(column)
    cell = grid.cell(row, column)
    if cell is None:
        line = (*line, MISSING)
    else:
        line = (*line, *map(cell.rounded, (cell.value, cell.low, cell.high)), cell.n, cell.seeds, cell.untrained)
        if (contrast := cell.contrast) is not None:
            points = tuple(map(contrast.rounded, (contrast.points, contrast.low, contrast.high)))
            line = (*line, contrast.reference, *points, *_p_values(contrast), contrast.significant, contrast.test)
            df = None if contrast.df is None else round(contrast.df, 1)
            differs = "; ".join(contrast.differs) or None
            line = (*line, *_simultaneous(contrast), df, *_counts(contrast), contrast.in_family, differs)
    decision = cell.contrast.verdict if cell is not None and cell.contrast is not None else None
    last = (metric.recall or metric.name, decision, metric.unit, "higher" if metric.higher_is_better else "lower")
    return (*line, *[None] * (len(GRID_COLUMNS) - len(last) - len(line)), *last)


def _p_values(contrast: Contrast) -> tuple[str, str | None]:
    return f"{contrast.p_value:.3g}", None if contrast.adjusted is None else f"{contrast.adjusted:.3g}"


def _simultaneous(contrast: Contrast) -> tuple[float | None, float | None]:
    if contrast.simultaneous_low is None or contrast.simultaneous_high is None:
        return None, None
    return contrast.rounded(contrast.simultaneous_low), contrast.rounded(contrast.simultaneous_high)


def _counts(contrast: Contrast) -> tuple[int, int, int | str]:
    """Common seeds, dropped seeds, source videos."""
    return contrast.seeds, contrast.dropped_seeds, _clusters(contrast.clusters)


def _clusters(clusters: int | None) -> int | str:
    return NO_CLUSTERS if clusters is None else clusters


def _two_lines(cell: str) -> Text:
    """The interval of a cell, or its text after a line break, dimmed on a second line."""
    first, _, second = re.sub(r"^(\S+) (\[.*\])(.*)$", r"\1\3\n\2", cell).partition("\n")
    first, second = escape.visible(first), escape.visible(second)
    return Text.assemble(first, (f"\n{second}", "dim")) if second else Text(first, "dim" if first == MISSING else "")


def _escape_latex(text: str) -> str:
    return text.translate(LATEX)
