"""Record of a sequential study, ``RUNS/<study>/looks.json``: the rule, fixed before the first look, and every look."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from hpc_jepa.config.strict import Strict
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation.stats.sequential import CONFIRMED, Decision
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.io.retry import read_if_exists
from hpc_jepa.io.validation import parse_json
from hpc_jepa.runs.run_dir import StudyDir

RESTORE = "restore it from a backup; without it, the error that earlier looks spent is unknown"


class RecordedRule(Strict):
    """The rule. ``margin`` is in points; levels are p-values that a first decision needs, at each look.

    ``benchmarks``: deciding protocol and probe of each. ``comparisons``: the family. ``references``: what each variant
    is compared with. ``prefix``: steps of the runs that the looks compare, None for all.
    """

    method: str
    spending: dict[str, str]
    looks: tuple[int, ...]
    seeds: tuple[int, ...]
    confirmation: tuple[int, ...]
    error: float
    margin: float
    futility: float
    prefix: int | None = None
    benchmarks: dict[str, str]
    comparisons: tuple[str, ...]
    references: dict[str, str]
    difference_levels: tuple[float, ...]
    equal_levels: tuple[float, ...]


class RecordedDecision(Strict):
    """One comparison at a look: difference and its 95 % interval in points, and the decision.

    ``seeds``: common seeds that it rests on, 0 if it could not be made; ``dropped``: seeds that one side lacks.
    ``chance``: why an undecided one stops or goes on: the probability of a gain or loss by the last look; if the rule
    has a prefix, that of a gain in the confirmation.
    """

    decision: Decision
    seeds: int
    dropped: int = 0
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    chance: float | None = None


class RecordedLook(Strict):
    """One look: seeds of each variant that it was planned for, decisions by comparison, and the records it rests on.

    ``step``: steps of the runs that were compared, None for all. ``missing``: run folders whose cells failed and were
    left out. ``records``: SHA-256 of the predictions by path below the study folder.
    """

    look: int
    seeds: int
    time: float
    step: int | None = None
    decisions: dict[str, RecordedDecision]
    missing: tuple[str, ...] = ()
    records: dict[str, str]


class LooksFile(Strict):
    """Content of ``looks.json``. ``evaluated_before``: runs that were evaluated before the rule was written."""

    format: Literal[1] = 1
    rule: RecordedRule
    evaluated_before: int
    looks: tuple[RecordedLook, ...] = ()
    confirmation: RecordedLook | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "LooksFile":
        family = set(self.rule.comparisons)
        if not {name.rpartition(" on ")[0] for name in family} <= set(self.rule.references):
            raise ValueError("rule: a comparison has no reference")
        for look in (*self.looks, *([self.confirmation] if self.confirmation else [])):
            decided = set(look.decisions)
            if not (decided == family or (look is self.confirmation and decided <= family)):
                raise ValueError(f"look {look.look}: not the comparisons of the rule")
            if any(Path(name).is_absolute() or ".." in Path(name).parts for name in look.records):
                raise ValueError(f"look {look.look}: a record outside the study folder")
        return self


def read_looks(study: StudyDir) -> LooksFile | None:
    """The record of a study, None before its first submission. Raises DataError if it is damaged."""
    content = read_if_exists(study.looks_file)
    return None if content is None else parse_json(LooksFile, content, study.looks_file, RESTORE)


def write_looks(study: StudyDir, looks: LooksFile) -> None:
    """Replace the record of a study."""
    write_atomically(study.looks_file, (looks.model_dump_json(indent=1) + "\n").encode())


def check_rule(path: Path, looks: LooksFile, rule: RecordedRule) -> None:
    """Raise InputError if the configured ``rule`` differs from the recorded one, or a recorded look was not planned."""
    changed = [name for name in RecordedRule.model_fields if getattr(rule, name) != getattr(looks.rule, name)]
    if changed:
        name = changed[0]
        raise InputError(
            f"{path}: {name} of the sequential rule is {_short(getattr(looks.rule, name))} there, but "
            f"{_short(getattr(rule, name))} now; a rule must not change once it is recorded: undo the change, or give "
            "the study another name"
        )
    for number, look in enumerate(looks.looks):
        if number >= len(rule.looks) or (look.look, look.seeds) != (number + 1, rule.looks[number]):
            raise InputError(
                f"{path}: look {look.look} at {look.seeds} seeds was not planned; the plan is {list(rule.looks)}"
            )


def check_records(study: StudyDir, looks: Sequence[RecordedLook], checksums: dict[str, str]) -> None:
    """Raise DataError if a record that a look rests on has changed or is missing. ``checksums``: those of now."""
    for look in looks:
        for name, checksum in look.records.items():
            if checksums.get(name) != checksum:
                state = "has changed since" if name in checksums else "is missing, which was used at"
                raise DataError(
                    f"{study.path / name}: {state} look {look.look} of {study.looks_file.name}; restore it: decisions "
                    "rest on it"
                )


def not_needed(looks: LooksFile) -> Callable[[str, int], str]:
    """``reason(arm, seed)``: why a seed of ``<regime>/<variant>`` need not run any more; empty if it is needed."""
    last = looks.looks[-1] if looks.looks else None
    finished = last is not None and (
        last.seeds == looks.rule.looks[-1] or all(each.decision != "open" for each in last.decisions.values())
    )

    def reason(arm: str, seed: int) -> str:
        if last is None:
            return ""
        if seed in looks.rule.confirmation:
            confirmed = _confirmed(last)
            needed = arm in confirmed or arm in {looks.rule.references[each] for each in confirmed}
            return "not selected for the confirmation" if finished and not needed else ""
        if arm not in looks.rule.references:  # a baseline goes on as long as any variant does
            return "all variants are decided" if finished and _position(looks, seed) >= last.seeds else ""
        stop = _stop(looks, arm)
        return f"stopped at {stop[1]}" if stop and _position(looks, seed) >= stop[0] else ""

    return reason


def _stop(looks: LooksFile, arm: str) -> tuple[int, str] | None:
    """Seeds of an arm at the look that stopped it, and the decisions there; None while it goes on."""
    for look in looks.looks:
        own = [found.decision for name, found in look.decisions.items() if name.startswith(f"{arm} on ")]
        if own and "open" not in own:
            return look.seeds, f"look {look.look}: {', '.join(dict.fromkeys(own))}"
    return None


def _confirmed(last: RecordedLook) -> set[str]:
    return {name.rpartition(" on ")[0] for name, each in last.decisions.items() if each.decision in CONFIRMED}


def _position(looks: LooksFile, seed: int) -> int:
    return looks.rule.seeds.index(seed) if seed in looks.rule.seeds else len(looks.rule.seeds)


def _short(value: object) -> str:
    """A value of the rule, of long ones the number of entries."""
    if isinstance(value, tuple | dict) and len(value) > 8:
        return f"a list of {len(value)}"
    return str(list(value) if isinstance(value, tuple) else value)
