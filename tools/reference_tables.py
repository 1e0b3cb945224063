"""Tables of the page of the reference study, as Markdown, computed from its records."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from former_statistics import FormerDifference, former_difference
from numpy.typing import NDArray
from scipy.stats import f as f_distribution

from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.evaluation.stats.blocked import SeedScores
from hpc_jepa.evaluation.stats.simultaneous import holm
from hpc_jepa.report.comparisons import SEMANTICS, UNTRAINED, ColumnScores, RowName, StudyScores, label
from hpc_jepa.report.detectable import detectable_gain
from hpc_jepa.report.report_data import ReportData, collect_run_data
from hpc_jepa.report.result_grid import SIGNIFICANCE, Contrast, ResultCell, ResultGrid
from hpc_jepa.report.results import RANDOM
from hpc_jepa.report.run_report import find_runs

BLOCK = re.compile(r"(<!-- begin (?P<name>[\w-]+) -->\n).*?(<!-- end (?P=name) -->)", re.S)
"""A part of the page that is computed."""

CORRECTED = "corrected"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class ReferenceStudy:
    """The report on the records: one regime, and one column per benchmark."""

    data: ReportData
    grid: ResultGrid
    scores: StudyScores

    @property
    def columns(self) -> list[ColumnScores]:
        """Scores of the deciding column of each benchmark, in the order of the study's evaluations."""
        found = {scores.column.benchmark: scores for _, scores in self.scores.deciding_columns()}
        study = read_config(StudyConfig, [self.data.runs[0].study.config_file])
        return [found[evaluation.benchmark] for evaluation in study.evaluations]

    @property
    def seeds(self) -> list[int]:
        """Pretraining seeds."""
        return sorted({run.config.seed for run in self.data.runs})

    def contrasts(self, column: ColumnScores) -> dict[str, Contrast]:
        """Differences of the trained rows to their baselines."""
        return {row: contrast for row, contrast in self.grid.contrasts(str(column.column)) if contrast.asked}

    def cell(self, row: str, column: ColumnScores) -> ResultCell:
        """Accuracy of a row."""
        return self.grid.cells[row, str(column.column)]


@dataclass(frozen=True)
class Correlation:
    """``value``: correlation between the accuracies of two variants with one seed; ``low`` to ``high``: 95 % interval.

    ``spread``: standard deviation of an accuracy between seeds.
    """

    value: float
    low: float
    high: float
    spread: float


def read_study(records: Path) -> ReferenceStudy:
    """The report on collected records. Raises InputError if there are none."""
    data = collect_run_data(find_runs([records]), [records])
    (grid,), (scores,) = data.grids, data.scores
    return ReferenceStudy(data, grid, scores)


def fill(page: str, texts: Mapping[str, str]) -> str:
    """The page with its computed blocks replaced by ``texts``."""
    return BLOCK.sub(lambda match: f"{match[1]}{texts[match['name']].rstrip()}\n{match[3]}", page)


def blocks(study: ReferenceStudy) -> dict[str, str]:
    """Texts by name of the block."""
    return {
        "study": _facts(study),
        "findings": _findings(study),
        **{f"differences-{column.column.benchmark}": _differences(study, column) for column in study.columns},
        "factorial": _factorial(study),
        "semantics": _semantics(study),
        "correlation": _correlations(study),
        "former": _former(study),
    }


def display_order(study: ReferenceStudy, column: ColumnScores) -> list[str]:
    """The untrained encoder, rows of the corrected semantics, then of the published one; of both the baseline first,
    then the others by difference.
    """
    contrasts = study.contrasts(column)

    def key(row: RowName) -> tuple[object, ...]:
        contrast = contrasts.get(label(row))
        order = (UNTRAINED, *SEMANTICS).index(row[1])
        return order, contrast is not None, -contrast.points if contrast else 0.0, row

    return [label(row) for row in sorted(column.scores, key=key)]


def correlation_of_seeds(rows: Sequence[SeedScores]) -> Correlation | None:
    """Intraclass correlation of the rows' accuracies, seeds as blocks; None with one seed.

    Shrout & Fleiss (1979), ICC(3,1): the mean covariance of two rows by their mean variance. The interval takes the
    variances of all rows as equal.
    """
    accuracies = np.array([[float(np.mean(scores[seed])) for seed in sorted(scores)] for scores in rows])
    count, seeds = accuracies.shape
    if seeds < 2:
        return None
    between = count * float(accuracies.mean(axis=0).var(ddof=1))
    residual = accuracies - accuracies.mean(axis=1, keepdims=True) - accuracies.mean(axis=0) + accuracies.mean()
    df = seeds - 1, (seeds - 1) * (count - 1)
    within = float(np.square(residual).sum()) / df[1]
    ratio, tail = between / within, (1 - CONFIDENCE) / 2
    ends = ratio / f_distribution.isf(tail, *df), ratio * f_distribution.isf(tail, *reversed(df))
    value, low, high = ((each - 1) / (each + count - 1) for each in (ratio, *ends))
    return Correlation(value, float(low), float(high), math.sqrt((between + (count - 1) * within) / count))


def former_differences(column: ColumnScores) -> dict[str, FormerDifference]:
    """What release 0.1 said of every row that is compared with a baseline."""
    found = {}
    for row, scores in column.scores.items():
        reference = column.reference_of(row)
        if reference is not None and row[1] != UNTRAINED:
            found[label(row)] = former_difference(scores, column.scores[reference], np.random.default_rng(0))
    return found


def _facts(study: ReferenceStudy) -> str:
    seeds, steps = study.seeds, {run.config.schedule.steps for run in study.data.runs}
    rows = len({(run.config.variant, run.config.semantics_name) for run in study.data.runs})
    software: dict[str, dict[str, None]] = {}
    for record in (record for run in study.data.runs for record in run.records.values()):
        for name, version in record.software.items():
            software.setdefault(name, {})[version] = None
    lines = [
        f"- {rows} rows with {_count(len(seeds), 'seed')} each ({', '.join(map(str, seeds))}): "
        f"{len(study.data.runs)} runs of {', '.join(map(str, steps))} steps",
        *(_column_facts(study, column) for column in study.columns),
        f"- evaluated with {', '.join(f'{name} {_versions(found)}' for name, found in software.items())}",
    ]
    return "\n".join(lines)


def _versions(found: Iterable[str]) -> str:
    return " and ".join(sorted(found))


def _column_facts(study: ReferenceStudy, column: ColumnScores) -> str:
    records = (record for run in study.data.runs for record in run.records.values())
    classes = next(record.classes for record in records if record.benchmark == column.column.benchmark)
    shown = {row: study.cell(label(row), column).value for row in column.scores if row[1] != UNTRAINED}
    untrained = study.grid.cell(RANDOM, str(column.column))
    return (
        f"- `{column.column.benchmark}`, probe `{column.column.probe}`: {study.grid.column_facts(str(column.column))}; "
        f"trained encoders {min(shown.values()):.1f} to {max(shown.values()):.1f} %, "
        f"baseline {study.cell(study.grid.reference, column).value:.1f} %, "
        + (f"untrained {untrained.value:.1f} % (seed {_untrained_seeds(column)}), " if untrained else "")
        + f"chance {100 / classes:.1f} %"
    )


def _untrained_seeds(column: ColumnScores) -> str:
    return ", ".join(map(str, sorted(column.scores[RANDOM, UNTRAINED])))


def _findings(study: ReferenceStudy) -> str:
    lines = []
    for column in study.columns:
        contrasts, name = study.contrasts(column), column.column.benchmark
        gains, losses = ([row for row, one in contrasts.items() if _verdict(one) == way] for way in ("gain", "loss"))
        lone = sum(contrast.one_seed for contrast in contrasts.values())
        if lone == len(contrasts):
            lines.append(
                f"- `{name}`: none of the {lone} differences is judged. Each is between two single runs, and another "
                "seed can change it: one seed says nothing about the objectives."
            )
            continue
        open_ = len(contrasts) - len(gains) - len(losses) - lone
        lines.append(
            f"- `{name}`: of {len(contrasts)} differences, {_named(len(gains), 'gain', gains)}, "
            f"{_named(len(losses), 'loss', losses)}, {open_} undecided."
        )
        gain = detectable_gain(study.grid, str(column.column))
        if gain is not None:
            lines[-1] += (
                f" With 80 % power a true difference of {_size(gain.alone)} points is found if it is the only "
                f"question, of {_size(gain.family)} points as the first of all {study.grid.family}."
            )
    return "\n".join(lines)


def _differences(study: ReferenceStudy, column: ColumnScores) -> str:
    contrasts = study.contrasts(column)
    header = ("row", "accuracy, %", "difference", "95 % interval", "all together", "Holm's p", "")
    rows = []
    for row in display_order(study, column):
        contrast = contrasts.get(row)
        kind = "untrained" if row == RANDOM else "baseline"
        cells = ("", "", "", "", kind) if contrast is None else _cells(contrast)
        rows.append((row, f"{_rounded(study.cell(row, column).value):.1f}", *cells))
    return _table(header, rows)


def _factorial(study: ReferenceStudy) -> str:
    header = ("design", "effect", "benchmark", "points", "95 % interval", "all together", "Holm's p", "")
    rows = [
        (design.title.partition(":")[0], effect.name, _benchmark(design.column), *_cells(effect.contrast))
        for design in study.data.factorial
        for effect in design.effects
    ]
    return _table(header, _by_benchmark(study, rows, header.index("benchmark")))


def _semantics(study: ReferenceStudy) -> str:
    header = ("variant", "benchmark", "published - corrected", "95 % interval", "all together", "Holm's p", "")
    rows = [
        (comparison.second.partition(" (")[0], _benchmark(comparison.column), *_cells(_reversed(comparison.contrast)))
        for comparison in study.data.comparisons
    ]
    return _table(header, _by_benchmark(study, rows, header.index("benchmark")))


def _correlations(study: ReferenceStudy) -> str:
    header = ("benchmark", "rho", "95 % interval", "standard deviation between seeds, points")
    rows = []
    for column in study.columns:
        found = correlation_of_seeds([scores for row, scores in column.scores.items() if row[1] == CORRECTED])
        texts = ("unknown: one seed", "", "")
        if found is not None:
            texts = (f"{found.value:.2f}", f"{found.low:.2f} to {found.high:.2f}", f"{100 * found.spread:.2f}")
        rows.append((column.column.benchmark, *texts))
    return _table(header, rows)


def _former(study: ReferenceStudy) -> str:
    widths, coloured = ("half-width in 0.1", "now", "ratio"), ("coloured in 0.1", "now")
    header = ("benchmark", *widths, *coloured, "coloured in 0.1 alone", "now alone")
    former = {column.column.benchmark: former_differences(column) for column in study.columns}
    keys = [(benchmark, row) for benchmark, found in former.items() for row in found]
    adjusted = dict(zip(keys, holm([former[benchmark][row].p_value for benchmark, row in keys]), strict=True))
    rows = []
    for column in study.columns:
        name, contrasts = column.column.benchmark, study.contrasts(column)
        old = [row for row in former[name] if adjusted[name, row] < SIGNIFICANCE]
        new = [row for row, contrast in contrasts.items() if contrast.significant]
        before = 100 * _half_width((one.low, one.high) for one in former[name].values())
        now = _half_width((one.low, one.high) for one in contrasts.values())
        alone = (", ".join(row for row in own if row not in other) for own, other in ((old, new), (new, old)))
        figures = (f"{before:.2f}", f"{now:.2f}", f"{now / before:.2f}", str(len(old)), str(len(new)))
        rows.append((name, *figures, *alone))
    return _table(header, rows)


def signed(points: float) -> str:
    """``+1.2``; zero without a minus."""
    return f"{_rounded(points):+.1f}"


def format_p(value: float) -> str:
    """Three digits, or ``< 0.001``."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _interval(low: float, high: float) -> str:
    return f"{signed(low)} to {signed(high)}"


def _cells(contrast: Contrast) -> tuple[str, ...]:
    """Difference, interval, simultaneous interval, adjusted p-value and verdict."""
    return (
        signed(contrast.points),
        _interval(contrast.low, contrast.high),
        "" if contrast.one_seed else _interval(*contrast.bounds),
        "" if contrast.adjusted is None else format_p(contrast.adjusted),
        _verdict(contrast),
    )


def _reversed(contrast: Contrast) -> Contrast:
    """Second minus first."""
    low, high = contrast.bounds
    return replace(
        contrast,
        points=-contrast.points,
        low=-contrast.high,
        high=-contrast.low,
        simultaneous_low=-high,
        simultaneous_high=-low,
    )


def _verdict(contrast: Contrast) -> str:
    if contrast.one_seed:
        return "one seed"
    if not contrast.significant:
        return ""
    return "gain" if contrast.points > 0 else "loss"


def _rounded(value: float) -> float:
    """To one digit, halves away from zero: differences of whole clips are often halves but for the last bit."""
    return round(value + math.copysign(1e-9, value), 1) + 0.0


def _benchmark(column: str) -> str:
    return column.split(",")[0]


def _by_benchmark(study: ReferenceStudy, rows: list[tuple[str, ...]], place: int) -> list[tuple[str, ...]]:
    """Rows in the order of the study's benchmarks, whose name is at ``place``."""
    order = [column.column.benchmark for column in study.columns]
    return sorted(rows, key=lambda row: order.index(row[place]))


def _half_width(ends: Iterable[tuple[float, float]]) -> float:
    widths: NDArray[np.float64] = np.array([high - low for low, high in ends])
    return float(widths.mean()) / 2


def _size(points: float) -> str:
    return f"{points:.1f}" if points < 100 else "more than 100"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def _named(number: int, noun: str, rows: Sequence[str]) -> str:
    return _count(number, noun) + (f" ({', '.join(rows)})" if rows else "")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("  ", " ") for line in lines)
