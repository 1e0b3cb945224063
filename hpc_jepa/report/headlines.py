"""Findings of a report as sentences, generated from the numbers alone."""

from collections.abc import Collection, Iterable, Sequence

from hpc_jepa.report.result_grid import ResultGrid
from hpc_jepa.report.results import Panel, ResultRow, group_by_panel, panel_of
from hpc_jepa.report.switches import SemanticsComparison

SOLVED = 75.0
"""Accuracy in percent from which random features count as solving a benchmark."""

LISTED = 6
"""Names in a sentence; the others are counted."""


def write_headlines(
    rows: Sequence[ResultRow],
    attentive: set[Panel],
    grids: Sequence[ResultGrid],
    comparisons: Sequence[SemanticsComparison],
    compared: Collection[ResultRow],
    answered: Collection[str] = (),
) -> list[str]:
    """What matters most first: gains and losses of each study, single switches, caveats, then pretrained against random
    encoders per panel.

    ``attentive``: panels whose probe attends to all tokens. Comparisons of more than one switch have no sentence.
    ``compared``: rows of encoders that their study was to compare, of which one is named as the best.
    ``answered``: studies whose gains and losses are in their answers.
    """
    grouped = group_by_panel(rows)
    sentences = []
    for study in dict.fromkeys(grid.source for grid in grids):
        if study not in answered:
            sentences += _decided([grid for grid in grids if grid.source == study])
    sentences += [sentence for comparison in comparisons if (sentence := comparison.sentence) is not None]
    for study in dict.fromkeys(grid.source for grid in grids):
        sentences += _lone_seed([grid for grid in grids if grid.source == study])
    sentences += [against_random(key, group, compared) for key, group in grouped.items()]
    sentences += [_solved(key, grouped[key]) for key in grouped if key in attentive and _is_solved(grouped[key])]
    return sentences


def against_random(key: Panel, rows: Sequence[ResultRow], compared: Collection[ResultRow]) -> str:
    """How many pretrained encoders beat random weights, and the best of those that are ``compared``: one run, chosen
    for its accuracy, which is therefore too high an estimate of its variant.
    """
    where = f"{_probe(key)} ({key.benchmark}, {key.protocol}, {key.regime})"
    trained = [row for row in rows if row.is_trained]
    pairs = [(row, random_reference(row, rows)) for row in trained]
    known = [(row, random) for row, random in pairs if random is not None]
    if not known:
        return f"{where}: no comparison with random_init, which was not evaluated."
    higher = [(row, random) for row, random in known if row.low > random.high]
    lower = [(row, random) for row, random in known if row.high < random.low]
    above, below = (lower, higher) if trained[0].is_error else (higher, lower)
    worse = f" and {len(below)} fall below it" if below else ""
    counted = (
        f"{where}: {len(above)} of {len(known)} pretrained encoders beat random_init{worse}, with non-overlapping 95 % "
        "intervals."
    )
    candidates = [pair for pair in known if pair[0] in compared]
    if not candidates:
        return f"{counted} None of them is one that the study was to compare."
    row, random = max(candidates, key=lambda pair: pair[0].quality)
    best = f"Best run of the {len(candidates)} that the study compares: {row.encoder}, {row.formatted} vs"
    luck = " The best of several runs is also a lucky one: this is no finding about its objective."
    return f"{counted} {best} {random.formatted}.{luck if len(candidates) > 1 else ''}"


def random_reference(row: ResultRow, rows: Iterable[ResultRow]) -> ResultRow | None:
    """The random encoder to compare a row with: that of its seed, else the best of its panel."""
    randoms = [other for other in rows if other.is_random and panel_of(other) == panel_of(row)]
    same_seed = [other for other in randoms if other.seed == row.seed]
    return max(same_seed or randoms, key=lambda other: other.quality, default=None)


def _decided(grids: Sequence[ResultGrid]) -> list[str]:
    """How many of the comparisons that a study asks for are decided, and which; those of looks are findings already."""
    if any(grid.looks for grid in grids):
        return []
    family = [
        (f"{row} ({column}{f', {grid.regime}' if len(grids) > 1 else ''})", contrast)
        for grid in grids
        for row, column, contrast in grid.all_contrasts()
        if contrast.in_family
    ]
    if not family:
        return []
    significant = [(name, contrast) for name, contrast in family if contrast.significant]
    alone = [(name, contrast.gain) for name, contrast in significant if not contrast.differs]
    gains = [name for name, gain in alone if gain]
    losses = [name for name, gain in alone if not gain]
    more = len(significant) - len(alone)
    others = f"; {more} more {'is' if more == 1 else 'are'} of rows that differ in other settings too" if more else ""
    return [
        f"{grids[0].source}: of {len(family)} differences to the baseline over several seeds, {len(gains)} "
        f"{'is a gain' if len(gains) == 1 else 'are gains'}{_listing(gains)} and {len(losses)} "
        f"{'is a loss' if len(losses) == 1 else 'are losses'}{_listing(losses)} after Holm's correction over all of "
        f"them{others}. The others are not decided."
    ]


def _lone_seed(grids: Sequence[ResultGrid]) -> list[str]:
    """The caveat for rows that share one seed with their baseline."""
    asked = [(row, contrast) for grid in grids for row, _, contrast in grid.all_contrasts() if contrast.asked]
    lone = list(dict.fromkeys(row for row, contrast in asked if contrast.one_seed))
    if not lone:
        return []
    which = "One pretraining seed per variant"
    if len(lone) < len({row for row, _ in asked}):
        which = f"One common pretraining seed with the baseline{_listing(lone)}"
    return [
        f"{which}: the intervals cover the sampling of test clips, not the variation between seeds. These differences "
        "are between single runs and no evidence about the objectives, so none is called a gain or a loss."
    ]


def _listing(names: Sequence[str]) -> str:
    """``: a, b``, shortened; empty for no names."""
    rest = len(names) - LISTED
    return f" ({', '.join(names[:LISTED])}{f' and {rest} more' if rest > 0 else ''})" if names else ""


def _is_solved(rows: Iterable[ResultRow]) -> bool:
    return any(row.is_random and not row.is_error and row.value >= SOLVED for row in rows)


def _solved(key: Panel, rows: Iterable[ResultRow]) -> str:
    best = max((row for row in rows if row.is_random), key=lambda row: row.value)
    return (
        f"An {_probe(key).lower()} reaches {best.formatted} on random weights ({key.benchmark}, {key.protocol}): it "
        "solves the benchmark without pretraining, so compare objectives with linear probes."
    )


def _probe(key: Panel) -> str:
    return f"{key.probe.replace('_', ' ').capitalize()} probe"
