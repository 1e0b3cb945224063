"""What the results say, in sentences that follow from the numbers alone, whatever they are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hpc_jepa.evaluation.stats.paired import Correct, PairedComparison, compare_paired
from hpc_jepa.report.results import Panel, ResultRow, group_by_panel, panel_of

SOLVED = 75.0
"""Percent at which random features are said to solve a benchmark."""


@dataclass(frozen=True)
class SemanticsComparison:
    """Corrected minus published semantics of one variant on the same test clips, in percentage points."""

    corrected: ResultRow
    published: ResultRow
    points: PairedComparison

    @property
    def sentence(self) -> str:
        """Direction, size and certainty of the difference."""
        row, change = self.corrected, 100 * self.points.difference
        interval = f"[{100 * self.points.low:+.1f}, {100 * self.points.high:+.1f}]"
        return (
            f"{row.variant}, {row.weights} weights, seed {row.seed}, {row.probe} probe: corrected semantics "
            f"{self._verdict} published semantics ({row.value:.1f} against {self.published.value:.1f} %; paired "
            f"difference {change:+.1f} points {interval}, McNemar p {_p(self.points.p_value)})."
        )

    @property
    def _verdict(self) -> str:
        if not self.points.significant:
            return "cannot be told apart from"
        return "reads out better than" if self.points.difference > 0 else "reads out worse than"


def write_headlines(
    rows: Sequence[ResultRow], attentive: set[Panel], comparisons: Sequence[SemanticsComparison]
) -> list[str]:
    """The sentences at the top: pretraining against random per probe, the semantics, what the benchmark can tell.

    ``attentive`` are the panels whose probe reads all tokens.
    """
    grouped = group_by_panel(rows)
    sentences = [against_random(key, group) for key, group in grouped.items()]
    main = _main(comparisons)
    if main is not None:
        sentences.append(main.sentence)
    sentences += _lone_seed(rows)
    sentences += [_solved(key, grouped[key]) for key in grouped if key in attentive and _is_solved(grouped[key])]
    return sentences


def against_random(key: Panel, rows: Sequence[ResultRow]) -> str:
    """Does a pretrained encoder beat random weights with 95 % intervals that do not overlap?"""
    where = f"{_probe(key)} ({key.benchmark}, {key.protocol}, {key.regime})"
    trained = [row for row in rows if row.is_trained]
    pairs = [(row, random_reference(row, rows)) for row in trained]
    known = [(row, random) for row, random in pairs if random is not None]
    if not known:
        return f"{where}: no comparison with random_init, because it was not evaluated."
    above = [(row, random) for row, random in known if row.low > random.high]
    below = [(row, random) for row, random in known if row.high < random.low]
    count = f"{len(above)} of {len(known)} pretrained encoders beat random_init with 95 % intervals that do not overlap"
    worse = f", {len(below)} fall below it likewise" if below else ""
    row, random = max(above or known, key=lambda pair: pair[0].value)
    return f"{where}: {count}{worse}. Best: {row.encoder}, {row.measured} against {random.measured}."


def random_reference(row: ResultRow, rows: Iterable[ResultRow]) -> ResultRow | None:
    """The random encoder a row is held against: of its own seed, else the best of its panel."""
    randoms = [other for other in rows if other.is_random and panel_of(other) == panel_of(row)]
    same_seed = [other for other in randoms if other.seed == row.seed]
    return max(same_seed or randoms, key=lambda other: other.value, default=None)


def compare_semantics(correct: Mapping[ResultRow, Correct]) -> list[SemanticsComparison]:
    """Paired comparison of every corrected row with its published twin."""
    published = {_twin(row): row for row in correct if row.semantics == "published"}
    pairs = [
        (row, published[_twin(row)]) for row in correct if row.semantics == "corrected" and _twin(row) in published
    ]
    return [SemanticsComparison(ours, twin, compare_paired(correct[ours], correct[twin])) for ours, twin in pairs]


def _twin(row: ResultRow) -> tuple[object, ...]:
    return (row.study, row.variant, row.seed, row.weights, panel_of(row))


def _main(comparisons: Sequence[SemanticsComparison]) -> SemanticsComparison | None:
    """The comparison for the headline: target weights under a linear probe where there are such."""
    return min(
        comparisons,
        key=lambda c: (c.corrected.weights != "target", not c.corrected.probe.startswith("linear")),
        default=None,
    )


def _lone_seed(rows: Sequence[ResultRow]) -> list[str]:
    trained = [row for row in rows if row.is_trained]
    if len({row.name for row in trained}) < 2 or len({row.seed for row in trained}) > 1:
        return []
    return [
        "One pretraining seed per variant: the intervals cover the choice of test clips, not the spread between seeds, "
        "so differences are those of single runs, no evidence about the objectives."
    ]


def _is_solved(rows: Iterable[ResultRow]) -> bool:
    return any(row.is_random and row.value >= SOLVED for row in rows)


def _solved(key: Panel, rows: Iterable[ResultRow]) -> str:
    best = max((row for row in rows if row.is_random), key=lambda row: row.value)
    return (
        f"An {_probe(key).lower()} reads {best.measured} from random weights ({key.benchmark}, {key.protocol}): it "
        "can solve the benchmark without pretraining, so objectives are to be compared under linear probes."
    )


def _probe(key: Panel) -> str:
    return f"{key.probe.replace('_', ' ').capitalize()} probe"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
