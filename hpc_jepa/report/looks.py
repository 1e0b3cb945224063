"""Decisions of sequential studies as findings of a report."""

from collections.abc import Iterable, Mapping

from hpc_jepa.errors import DataError
from hpc_jepa.evaluation.stats.sequential import Decision
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
    for folder in dict.fromkeys(run.dir.study.path for run in runs if run.whole_study):
        study = next(run.dir.study for run in runs if run.dir.study.path == folder)
        try:
            looks = read_looks(study)
        except DataError as error:
            findings.append(str(error))
            continue
        if looks is not None and looks.looks:
            findings += _sentences(folder.name, looks)
    return findings


def _sentences(name: str, looks: LooksFile) -> list[str]:
    rule, last = looks.rule, looks.looks[-1]
    selects = " They select what is confirmed on fresh seeds." if rule.confirmation else ""
    steps = "" if rule.prefix is None else f" after {rule.prefix:,} steps of each run,"
    missing = f" Cells that failed: {', '.join(last.missing)}." if last.missing else ""
    sentences = [
        f"{name} is a sequential study, after look {last.look} of {len(rule.looks)} (at {last.seeds} of at most "
        f"{rule.looks[-1]} seeds),{steps} its decisions are: {_decided(last.decisions, rule.margin)}. The family-wise "
        f"error of these decisions is {rule.error:.0%} for all looks together; stars and colours of the tables do not "
        f"count the looks.{selects}{missing}"
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
