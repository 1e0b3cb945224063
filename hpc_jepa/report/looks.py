"""Decisions of sequential studies in a report: as findings, and as marks of the differences in its grids."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from hpc_jepa.errors import DataError
from hpc_jepa.evaluation.stats.sequential import Decision
from hpc_jepa.report.comparisons import label, row_name
from hpc_jepa.report.result_grid import Contrast, ResultGrid
from hpc_jepa.report.run_report import RunReport
from hpc_jepa.study.looks_file import LooksFile, RecordedDecision, read_looks

NAMES: dict[Decision, str] = {
    "gain": "gains",
    "loss": "losses",
    "equal": "equal within {margin:g} points",
    "hopeless": "stopped because a difference was unlikely to be found",
    "open": "open",
}


def sequential_findings(runs: Iterable[RunReport]) -> list[str]:
    """Decisions of every sequential study among the runs, from its ``looks.json``, which may be damaged."""
    findings = []
    for folder in dict.fromkeys(run.study.path for run in runs if run.whole_study):
        study = next(run.study for run in runs if run.study.path == folder)
        try:
            looks = read_looks(study)
        except DataError as error:
            findings.append(str(error))
            continue
        if looks is not None and looks.looks:
            findings += _sentences(folder.name, looks)
    return findings


def judge_by_looks(grids: Sequence[ResultGrid], runs: Sequence[RunReport]) -> list[ResultGrid]:
    """Grids in which the differences of a sequential study are those of its newest look, judged by its own rule.

    Of a study with a confirmation, those of the confirmation alone. A damaged ``looks.json`` leaves all undecided.
    """
    return [_judged(grid, [run for run in runs if run.config.study == grid.source]) for grid in grids]


def sequential_studies(runs: Iterable[RunReport]) -> set[str]:
    """Names of the studies that have a ``looks.json``."""
    return {run.config.study for run in runs if run.study.looks_file.exists()}


def _judged(grid: ResultGrid, runs: Sequence[RunReport]) -> ResultGrid:
    study = next((run.study for run in runs if run.study.looks_file.exists()), None)
    if study is None:
        return grid
    try:
        looks = read_looks(study)
    except DataError:  # a finding names the damage
        looks = None
    stage, decisions = ("a damaged looks.json", {}) if looks is None else _newest(looks)
    arms = {label(row_name(run.config)): f"{grid.regime}/{run.dir.path.parent.name}" for run in runs}
    cells = {
        (row, column): cell
        if cell.contrast is None
        else replace(
            cell,
            contrast=_decided_contrast(cell.contrast, decisions.get(f"{arms.get(row)} on {column.partition(',')[0]}")),
        )
        for (row, column), cell in grid.cells.items()
    }
    return replace(grid, cells=cells, family=0, looks=stage)


def _newest(looks: LooksFile) -> tuple[str, Mapping[str, RecordedDecision]]:
    """Where the study is, and the decisions that hold there."""
    rule = looks.rule
    if rule.confirmation:
        confirmed = looks.confirmation
        return ("its confirmation", confirmed.decisions) if confirmed else ("the time before its confirmation", {})
    if not looks.looks:
        return "the time before its first look", {}
    return f"look {looks.looks[-1].look} of {len(rule.looks)}", looks.looks[-1].decisions


def _decided_contrast(contrast: Contrast, found: RecordedDecision | None) -> Contrast:
    """The difference as the look recorded it. One that the rule does not cover stays as it is, without a verdict."""
    plain = replace(contrast, adjusted=None, simultaneous_low=None, simultaneous_high=None, decision="open")
    if found is None or not contrast.asked:
        return replace(plain, asked=False)
    if found.difference is None or found.low is None or found.high is None or found.p_value is None:
        return replace(plain, decision=found.decision)
    return replace(
        plain,
        points=found.difference,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        seeds=found.seeds,
        dropped_seeds=found.dropped,
        df=None,
        decision=found.decision,
    )


def _sentences(name: str, looks: LooksFile) -> list[str]:
    rule, last = looks.rule, looks.looks[-1]
    selects = " They select what is confirmed on fresh seeds, and are no marks in the tables."
    if not rule.confirmation:
        selects = " Gains and losses in the tables are these decisions."
    steps = "" if rule.prefix is None else f" after {rule.prefix:,} steps of each run,"
    missing = f" Cells that failed: {', '.join(last.missing)}." if last.missing else ""
    sentences = [
        f"{name} is a sequential study, after look {last.look} of {len(rule.looks)} (at {last.seeds} of at most "
        f"{rule.looks[-1]} seeds),{steps} its decisions are: {_decided(last.decisions, rule.margin)}. The family-wise "
        f"error of these decisions is {rule.error:.0%} for all looks together.{selects}{missing}"
    ]
    if looks.confirmation is not None:
        fresh = looks.confirmation
        sentences.append(
            f"Confirmation of {name} on {fresh.seeds} fresh seeds: {_decided(fresh.decisions, rule.margin)}."
        )
    if looks.evaluated_before:
        sentences.append(
            f"{looks.evaluated_before} runs of {name} were evaluated before its rule was recorded: the error holds "
            "only if the rule was chosen without their results."
        )
    return sentences


def _decided(decisions: Mapping[str, RecordedDecision], margin: float) -> str:
    """Comparisons by decision, those of one kind together."""
    parts = []
    for decision, words in NAMES.items():
        names = [_label(name, found) for name, found in decisions.items() if found.decision == decision]
        if names:
            parts.append(f"{words.format(margin=margin)}: {', '.join(names)}")
    return "; ".join(parts)


def _label(name: str, found: RecordedDecision) -> str:
    if found.decision not in ("gain", "loss") or found.difference is None:
        return name
    return f"{name} ({found.difference:+.1f} points)"
