"""Answers of studies as sentences, from the numbers alone: what is decided first, the rest with the seeds it needs."""

from collections.abc import Iterable, Sequence

from hpc_jepa.report.corruption_answer import CorruptionSummary
from hpc_jepa.report.questions import Answer, AskedContrast, curve_of, position_of
from hpc_jepa.report.wording import format_p, signed_interval

LISTED = 6
"""Comparisons in a sentence; the others are counted."""
CURVES = 4
"""Curves in a sentence."""


def answer_sentences(answer: Answer, corruption: Sequence[CorruptionSummary] = ()) -> list[str]:
    """The answer first, then what limits it."""
    if not answer.contrasts:
        return [f"{answer.study}: no answer yet: {_joined(answer.missing)}."]
    parts = [*_lead(answer), *_first([each.clause for each in corruption], "columns"), *_baseline(answer)]
    sentences = [f"{answer.study}: {'; '.join(parts)}. {_judgement(answer)}"]
    if answer.missing:
        sentences.append(f"{answer.study}: not answered: {_joined(answer.missing)}.")
    return sentences


def verdict(asked: AskedContrast) -> str:
    """What is decided, in words; of a single seed nothing."""
    contrast = asked.contrast
    if contrast.one_seed:
        return "a difference between single runs"
    if not contrast.significant:
        return "not decided" if asked.needed is None else f"not decided ({asked.needed.clause})"
    p_value = format_p(contrast.adjusted if contrast.adjusted is not None else contrast.p_value)
    if asked.outcome is None:
        return f"significant (Holm's p {p_value}), but also differs in {_shortened(contrast.differs)}"
    if asked.kind == "interaction":
        return f"each adds {'more' if asked.outcome == 'gain' else 'less'} beside the other (Holm's p {p_value})"
    return f"a {asked.outcome} (Holm's p {p_value})"


def place(asked: AskedContrast, answer: Answer) -> str:
    """``diving48 (mixed)``, with the condition where there are several, and the regime where there are several."""
    column, outcome = asked.column, answer.outcome
    regimes = {each.regime for each in answer.contrasts}
    condition = column.condition if outcome.task in ("few_shot", "text") else ""
    named = ", ".join(part for part in (column.benchmark, condition, metric_of(asked)) if part)
    return f"{named} ({asked.regime})" if len(regimes) > 1 else named


def metric_of(asked: AskedContrast) -> str:
    """The metric of a result of text; of others the column's title is enough."""
    return asked.column.metric if asked.column.task == "text" else ""


def _lead(answer: Answer) -> list[str]:
    """The comparison of groups, or the effects of a 2 x 2 design, in every column."""
    asked = answer.of_kind("groups", "main effect", "interaction")
    if not asked:
        return []
    if answer.contrast.factors is not None:
        return [_design(answer, asked)]
    if answer.outcome.task in ("few_shot", "text"):
        return [_curves(answer, asked)]
    ranked = sorted(asked, key=_rank)
    listed = [f"{place(each, answer)}: {signed_interval(each.contrast)}, {verdict(each)}" for each in ranked]
    return [f"{_groups(answer, asked)}, 95 % intervals: {'; '.join(_first(listed, 'comparisons'))}"]


def _groups(answer: Answer, asked: Sequence[AskedContrast]) -> str:
    """``factorised (fwm_ld) against plain (ld), which differ in fwm alone, by accuracy over 3 seeds``."""
    first, second = (f"{name} ({', '.join(names)})" for name, names in (answer.contrast.groups or {}).items())
    causes = {each.alone for each in asked}
    cause = next(iter(causes)) if len(causes) == 1 else ()
    alone = f", which differ in {_named(cause)} alone" if 0 < len(cause) <= 2 else ""
    return f"{first} against {second}{alone}, by {_measured(answer)} {_seeds(asked)}"


def _design(answer: Answer, asked: Sequence[AskedContrast]) -> str:
    """Interaction and main effects in every column, decided columns first."""
    columns: dict[tuple[object, ...], list[AskedContrast]] = {}
    for each in asked:
        columns.setdefault((each.regime, each.column), []).append(each)
    parts = []
    for group in sorted(columns.values(), key=lambda group: min(map(_rank, group))):
        effects = sorted(group, key=lambda each: each.kind != "interaction")
        words = [
            f"{'interaction' if each.kind == 'interaction' else f'main effect of {each.name}'} "
            f"{signed_interval(each.contrast)}, {verdict(each)}"
            for each in effects
        ]
        parts.append(f"{place(group[0], answer)}: {', '.join(words)}")
    with_it = {name: ", ".join(sides[1]) for name, sides in (answer.contrast.factors or {}).items()}
    factors = " x ".join(f"{name} ({names})" for name, names in with_it.items())
    lead = f"{factors}, by {_measured(answer)} {_seeds(asked)}, 95 % intervals"
    return f"{lead}: {'; '.join(_first(parts, 'columns'))}"


def _curves(answer: Answer, asked: Sequence[AskedContrast]) -> str:
    """The difference along each curve with simultaneous intervals, and from where on the curves part."""
    curves: dict[tuple[object, ...], list[AskedContrast]] = {}
    for each in asked:
        key = (each.regime, each.column.benchmark, each.column.metric, curve_of(each.column))
        curves.setdefault(key, []).append(each)
    ranked = sorted(curves.values(), key=lambda curve: min(map(_rank, curve)))
    parts = [f"{_curve_name(curve[0], answer)}: {_along(curve)}" for curve in ranked[:CURVES]]
    if rest := ranked[CURVES:]:
        apart = sum(any(map(has_parted, curve)) for curve in rest)
        parts.append(f"and {len(rest)} further curves, of which {apart or 'none'} part{'s' if apart == 1 else ''}")
    return f"{_groups(answer, asked)}, simultaneous 95 % intervals{_sampled(asked)}: {'; '.join(parts)}"


def _sampled(asked: Sequence[AskedContrast]) -> str:
    """What few-shot intervals cover: episodes are all drawn from one test set."""
    if any(each.column.task != "few_shot" for each in asked):
        return ""
    new, drawn = "for new seeds, clips and draws of labels", "for new seeds and further episodes of these clips"
    episodes = [each for each in asked if curve_of(each.column) == each.column.condition]
    if not episodes:
        return f" {new}"
    return f" {drawn}" if len(episodes) == len(asked) else f" {new} (episodes: {drawn})"


def _along(curve: Sequence[AskedContrast]) -> str:
    """``+0.1 points [..] at 1, +1.2 points [..] at 20 labels per class; they part from 5 on``."""
    points = sorted(curve, key=lambda each: position_of(each.column))
    if len(points) == 1:
        return f"{_wide_interval(points[0])}, {verdict(points[0])}"
    shown = points if len(points) <= 4 else [points[0], *_extremes(points[1:-1]), points[-1]]
    listed = ", ".join(f"{_wide_interval(each)} at {_position(each)}" for each in shown)
    return f"{listed}: {_parting(points)}"


def _extremes(points: Sequence[AskedContrast]) -> list[AskedContrast]:
    """The point of the largest difference."""
    return [max(points, key=lambda each: abs(each.contrast.points))]


def has_parted(asked: AskedContrast) -> bool:
    """Whether the curves are apart at a point: the difference is decided, and so its interval has one sign."""
    return asked.contrast.significant


def _parting(points: Sequence[AskedContrast]) -> str:
    """Where the curves part, in words."""
    if any(each.contrast.one_seed for each in points):
        return "differences between single runs"
    apart = [each for each in points if has_parted(each)]
    if not apart:
        needed = [each.needed for each in points if each.needed is not None]
        seeds = [each.seeds for each in needed if each.seeds is not None]
        told = f" (about {min(seeds):,} seeds would tell them apart at one point)" if seeds else ""
        return f"nowhere told apart{told}"
    directions = {each.contrast.gain for each in apart}
    word = "gains" if directions == {True} else "losses" if directions == {False} else "gains and losses"
    word = word if all(each.outcome for each in apart) else "differences, which other settings share"
    if len(apart) == len(points):
        return f"apart everywhere, {word}"
    if apart == points[-len(apart) :]:
        return f"they part from {_position(apart[0])} on, {word}"
    return f"apart at {', '.join(_position(each) for each in apart)}, {word}"


def _curve_name(asked: AskedContrast, answer: Answer) -> str:
    column = asked.column
    parts = [column.benchmark, metric_of(asked), curve_of(column).replace("_", " ")]
    named = ", ".join(part for part in parts if part)
    return f"{named} ({asked.regime})" if len({each.regime for each in answer.contrasts}) > 1 else named


def _position(asked: AskedContrast) -> str:
    at = position_of(asked.column)
    return f"{100 * at:g} % dropped" if asked.column.task == "text" else f"{at:g}"


def _wide_interval(asked: AskedContrast) -> str:
    contrast = asked.contrast
    value, low, high = (contrast.signed(each, 1) for each in (contrast.points, *contrast.bounds))
    return f"{value}{f' {contrast.unit}' if contrast.unit else ''} [{low}, {high}]"


def _baseline(answer: Answer) -> list[str]:
    """What is decided of the comparisons with the baseline, and how many seeds the largest of the others needs."""
    asked = answer.of_kind("baseline")
    if not asked:
        return []
    reference = {each.contrast.reference for each in asked}
    name = next(iter(reference)) if len(reference) == 1 else "the baseline"
    if all(each.contrast.one_seed for each in asked):
        return [f"each variant against {name}: {len(asked)} differences between single runs"]
    gains, losses = ([each for each in asked if each.outcome == kind] for kind in ("gain", "loss"))
    also = [each for each in asked if each.contrast.significant and each.outcome is None]
    words = [f"{_counted(gains, 'gain', 'gains')}{_listing(gains, answer)}"]
    words.append(f"{_counted(losses, 'loss', 'losses')}{_listing(losses, answer)}")
    if also:
        words.append(f"{len(also)} significant in rows that differ in other settings too")
    if rest := len(asked) - len(gains) - len(losses) - len(also):
        words.append(f"{rest} not decided{_nearest(asked)}")
    return [f"each variant against {name} ({len(asked)} comparisons): {', '.join(words)}"]


def _counted(found: Sequence[AskedContrast], one: str, several: str) -> str:
    return f"{len(found) or 'no'} {one if len(found) == 1 else several}"


def _nearest(asked: Iterable[AskedContrast]) -> str:
    """Seeds that the comparison which needs the fewest needs."""
    open_ones = [each for each in asked if each.needed is not None and each.needed.seeds is not None]
    if not open_ones:
        return ""
    nearest = min(open_ones, key=lambda each: each.needed.seeds if each.needed and each.needed.seeds else 0)
    return f" ({nearest.needed.clause} decide {nearest.name})" if nearest.needed else ""


def _listing(asked: Sequence[AskedContrast], answer: Answer) -> str:
    ranked = sorted(asked, key=_rank)
    listed = [f"{each.name} on {place(each, answer)} {signed_interval(each.contrast)}" for each in ranked]
    return f" ({', '.join(_first(listed, 'comparisons'))})" if listed else ""


def _judgement(answer: Answer) -> str:
    """How it was judged."""
    lone = sum(each.contrast.one_seed for each in answer.contrasts)
    if lone == len(answer.contrasts):
        return (
            "With one pretraining seed the intervals cover the sampling of test clips alone: no evidence about the "
            "objectives."
        )
    family = f"all {answer.family} comparisons that the study asks for"
    return f"Holm's correction over {family if answer.family > 1 else 'its one comparison'}."


def _measured(answer: Answer) -> str:
    """What the outcome measures."""
    metrics = {
        answer.scores.columns[each.regime, each.column].metric.title.partition(",")[0]
        for each in answer.contrasts
        if answer.scores is not None
    }
    names = sorted(metrics, key=lambda name: (len(name), name))
    title = " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
    return f"mean {title.removeprefix('mean ')} over all corruptions" if answer.outcome.task == "robustness" else title


def _seeds(asked: Sequence[AskedContrast]) -> str:
    counts = sorted({each.contrast.seeds for each in asked})
    if counts == [1]:
        return "with one seed"
    return f"over {counts[0]} seeds" if len(counts) == 1 else f"over {counts[0]} to {counts[-1]} seeds"


def _rank(asked: AskedContrast) -> tuple[bool, bool, float]:
    """Decided comparisons first, and of these the largest difference first; others by their p-value."""
    contrast = asked.contrast
    if asked.outcome is not None:
        return False, False, -abs(contrast.points)
    return True, not contrast.significant, contrast.p_value


def _first(parts: Sequence[str], what: str) -> list[str]:
    rest = len(parts) - LISTED
    return [*parts[:LISTED], *([f"and {rest} further {what}"] if rest > 0 else [])]


def _named(settings: Sequence[str]) -> str:
    return " and ".join(name.removeprefix("objectives.") for name in settings)


def _shortened(settings: Sequence[str], shown: int = 2) -> str:
    rest = len(settings) - shown
    return ", ".join(settings[:shown]) + (f" and {rest} more" if rest > 0 else "")


def _joined(lines: Sequence[str]) -> str:
    return "; ".join(_first(lines, "lines"))
