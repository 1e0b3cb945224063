"""Findings of a report as sentences, generated from the numbers alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hpc_jepa.evaluation.stats.paired import Correct, Estimate, compare_paired
from hpc_jepa.report.results import Panel, ResultRow, group_by_panel, panel_of

SOLVED = 75.0
"""Accuracy in percent from which random features count as solving a benchmark."""


@dataclass(frozen=True)
class SemanticsComparison:
    """Accuracy under corrected minus published semantics of one variant, paired on the same test clips."""

    corrected: ResultRow
    published: ResultRow
    points: Estimate

    @property
    def sentence(self) -> str:
        """Direction, size and significance of the difference."""
        row, change = self.corrected, 100 * self.points.value
        interval = f"[{100 * self.points.low:+.1f}, {100 * self.points.high:+.1f}]"
        return (
            f"{row.variant}, {row.weights} weights, seed {row.seed}, {row.probe} probe: corrected semantics "
            f"{self._verdict} published semantics ({row.value:.1f} % vs {self.published.value:.1f} %; paired "
            f"difference {change:+.1f} points {interval}, McNemar p {_p(self.points.p_value)})."
        )

    @property
    def _verdict(self) -> str:
        if not self.points.significant:
            return "is not significantly different from"
        return "is more accurate than" if self.points.value > 0 else "is less accurate than"


def write_headlines(
    rows: Sequence[ResultRow], attentive: set[Panel], comparisons: Sequence[SemanticsComparison]
) -> list[str]:
    """Pretrained against random encoders per panel, published against corrected semantics, and caveats.

    ``attentive``: panels whose probe attends to all tokens.
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
    """How many pretrained encoders beat random weights, and the best of them."""
    where = f"{_probe(key)} ({key.benchmark}, {key.protocol}, {key.regime})"
    trained = [row for row in rows if row.is_trained]
    pairs = [(row, random_reference(row, rows)) for row in trained]
    known = [(row, random) for row, random in pairs if random is not None]
    if not known:
        return f"{where}: no comparison with random_init, which was not evaluated."
    above = [(row, random) for row, random in known if row.low > random.high]
    below = [(row, random) for row, random in known if row.high < random.low]
    worse = f" and {len(below)} fall below it" if below else ""
    row, random = max(above or known, key=lambda pair: pair[0].value)
    return (
        f"{where}: {len(above)} of {len(known)} pretrained encoders beat random_init{worse}, with non-overlapping 95 % "
        f"intervals. Best: {row.encoder}, {row.formatted} vs {random.formatted}."
    )


def random_reference(row: ResultRow, rows: Iterable[ResultRow]) -> ResultRow | None:
    """The random encoder to compare a row with: that of its seed, else the best of its panel."""
    randoms = [other for other in rows if other.is_random and panel_of(other) == panel_of(row)]
    same_seed = [other for other in randoms if other.seed == row.seed]
    return max(same_seed or randoms, key=lambda other: other.value, default=None)


def compare_semantics(correct: Mapping[ResultRow, Correct]) -> list[SemanticsComparison]:
    """Paired comparison of corrected with published semantics, for every row that has both."""
    published = {_twin(row): row for row in correct if row.semantics == "published"}
    pairs = [
        (row, published[_twin(row)]) for row in correct if row.semantics == "corrected" and _twin(row) in published
    ]
    return [SemanticsComparison(ours, twin, compare_paired(correct[ours], correct[twin])) for ours, twin in pairs]


def _twin(row: ResultRow) -> tuple[object, ...]:
    return (row.study, row.variant, row.seed, row.weights, panel_of(row))


def _main(comparisons: Sequence[SemanticsComparison]) -> SemanticsComparison | None:
    """The comparison for the headline: preferably target weights and a linear probe."""
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
        "One pretraining seed per variant: the intervals cover the sampling of test clips, not the variation between "
        "seeds. Differences are between single runs and no evidence about the objectives."
    ]


def _is_solved(rows: Iterable[ResultRow]) -> bool:
    return any(row.is_random and row.value >= SOLVED for row in rows)


def _solved(key: Panel, rows: Iterable[ResultRow]) -> str:
    best = max((row for row in rows if row.is_random), key=lambda row: row.value)
    return (
        f"An {_probe(key).lower()} reaches {best.formatted} on random weights ({key.benchmark}, {key.protocol}): it "
        "solves the benchmark without pretraining, so compare objectives with linear probes."
    )


def _probe(key: Panel) -> str:
    return f"{key.probe.replace('_', ' ').capitalize()} probe"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
