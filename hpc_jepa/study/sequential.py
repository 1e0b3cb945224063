"""Sequential study: which cells its next look needs, the decisions of a look, and the confirmation on fresh seeds.

Everything follows from the configuration, the recorded looks and the evaluation records, so repeated calls agree, and a
process that is killed loses nothing.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_jepa.config.sequential import SequentialConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.evaluation.record import ProbeRecord, read_record
from hpc_jepa.evaluation.stats.sequential import CONFIRMED, METHOD, SPENDING, Decision, SequentialRule
from hpc_jepa.runs.run_dir import StudyDir
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.comparisons import Arm, Compared, Question, StudyComparisons
from hpc_jepa.study.grid import expand_study
from hpc_jepa.study.looks_file import (
    LooksFile,
    RecordedDecision,
    RecordedLook,
    RecordedRule,
    check_records,
    check_rule,
    read_looks,
    write_looks,
)
from hpc_jepa.study.status import is_evaluated

NO_CHANCES: Mapping[Question, float] = {}


@dataclass(frozen=True)
class WantedCell:
    """A cell that the next look needs, and why."""

    cell: StudyCell
    reason: str


@dataclass(frozen=True)
class NextStep:
    """What comes next: looks that all records are there for, and the cells of the look after them.

    ``look``: its number; None when the study is finished. ``stage``: the look or the confirmation, as text.
    """

    looks: LooksFile
    taken: Sequence[RecordedLook]
    look: int | None
    stage: str
    cells: Sequence[WantedCell]

    @property
    def last(self) -> RecordedLook | None:
        """The newest look, that of the confirmation included."""
        return self.looks.confirmation or (self.looks.looks[-1] if self.looks.looks else None)


class SequentialStudy:
    """A study with ``sequential:`` and its folder."""

    def __init__(self, study: StudyConfig, runs: Path) -> None:
        if study.sequential is None:
            raise InputError(f"{study.study}: no sequential: in the study, so all its cells are queued at once")
        config = study.sequential
        self.folder = StudyDir(runs / study.study)
        self.cells = expand_study(study, runs)
        self.seeds = study.seeds[: config.looks[-1]]
        self.confirmation = study.confirmation.seeds if study.confirmation else ()
        decides = config.decides or study.probed[:1]
        self.comparisons = StudyComparisons.of(study, self.cells, decides)
        self.questions = {str(question): question for question in self.comparisons.questions}
        margin, family = config.margin / 100, len(self.questions)
        self.prefix = config.prefix
        fresh = 0 if config.prefix is None else len(self.confirmation)
        futility = _futility(config, self.folder)
        self.rule = SequentialRule(config.looks, config.error, margin, futility, family, fresh)

    def next(self, failed: Collection[Path] = ()) -> NextStep:
        """The next step, without writing. ``failed``: run folders that a look does without.

        Raises InputError if the rule differs from the recorded one, DataError if records are damaged or have changed.
        """
        looks = read_looks(self.folder)
        if looks is None:
            evaluated = sum(is_evaluated(cell) for cell in self.cells)
            looks = LooksFile(rule=self._recorded_rule(), evaluated_before=evaluated)
        check_rule(self.folder.looks_file, looks, self._recorded_rule())
        self._check_records(looks)
        known = len(looks.looks)
        while len(looks.looks) < len(self.rule.looks) and (open_arms := self._open_arms(looks)):
            number = len(looks.looks)
            wanted = self._wanted(open_arms, self.seeds[: self.rule.looks[number]], f"look {number + 1}", failed)
            if wanted:
                return NextStep(looks, looks.looks[known:], number + 1, f"look {number + 1}", wanted)
            looks = looks.model_copy(update={"looks": (*looks.looks, self._take_look(looks, number, open_arms))})
        return self._confirm(looks, looks.looks[known:], failed)

    def advance(self, failed: Collection[Path] = ()) -> NextStep:
        """The next step; the rule and new looks are written first."""
        step = self.next(failed)
        if read_looks(self.folder) != step.looks:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            write_looks(self.folder, step.looks)
        return step

    def _confirm(self, looks: LooksFile, taken: Sequence[RecordedLook], failed: Collection[Path]) -> NextStep:
        selected = self._selected(looks)
        if not self.confirmation or not selected or looks.confirmation is not None:
            return NextStep(looks, taken, None, "finished", ())
        number = len(looks.looks) + 1
        wanted = self._wanted(selected, self.confirmation, "confirmation", failed)
        if wanted:
            return NextStep(looks, taken, number, "confirmation", wanted)
        compared = self.comparisons.compare(self._with_references(selected, self.confirmation))
        questions = [question for question in self.questions.values() if question.arm in selected]
        found = {q: compared.comparisons[q] for q in questions if q in compared.comparisons}
        undecided: dict[Question, Decision] = dict.fromkeys(questions, "open")
        decisions = undecided | self.rule.confirm(found)
        look = self._record(number, self.confirmation, decisions, compared, selected)
        looks = looks.model_copy(update={"confirmation": look})
        return NextStep(looks, (*taken, look), None, "finished", ())

    def _take_look(self, looks: LooksFile, number: int, open_arms: Collection[Arm]) -> RecordedLook:
        """Decide with the planned seeds. Stopped variants take part with theirs: they inform the variances."""
        chosen = {
            arm: self.seeds[: self._seeds_of(looks, arm, number, open_arms)] for arm in self.comparisons.references
        }
        chosen |= dict.fromkeys(set(self.comparisons.references.values()), self.seeds[: self.rule.looks[number]])
        compared = self.comparisons.compare(chosen)
        tested = {q: comparison for q, comparison in compared.comparisons.items() if q.arm in open_arms}
        if not any(comparison.seeds > 1 for comparison in tested.values()):
            raise HpcJepaError(
                f"{self.folder.path}: look {number + 1} has no comparison with two seeds: too many cells failed; see "
                "'hpc-jepa study status', then submit without --skip-failed"
            )
        before: dict[Question, Decision] = dict.fromkeys(self.questions.values(), "open")
        decisions = self.rule.decide(number, tested, before | self._decisions(looks))
        found = sum(decision in ("gain", "loss") for decision in decisions.values())
        chances = {
            question: self.rule.chance(number, comparison, found)
            for question, comparison in tested.items()
            if decisions[question] in ("hopeless", "open") and comparison.seeds > 1
        }
        seeds = self.seeds[: self.rule.looks[number]]
        return self._record(number + 1, seeds, decisions, compared, open_arms, chances, self.prefix)

    def _record(
        self,
        number: int,
        seeds: Sequence[int],
        decisions: Mapping[Question, Decision],
        compared: Compared,
        arms: Collection[Arm],
        chances: Mapping[Question, float] = NO_CHANCES,
        step: int | None = None,
    ) -> RecordedLook:
        used = self._with_references(arms, seeds)
        missing = [
            str(cell.folder.relative_to(self.folder.path)) for cell in self._cells_of(used) if not is_evaluated(cell)
        ]
        return RecordedLook(
            look=number,
            seeds=len(seeds),
            time=time.time(),
            step=step,
            decisions={
                str(q): self._decision(q, decision, compared, chances.get(q)) for q, decision in decisions.items()
            },
            missing=tuple(missing),
            records={str(path.relative_to(self.folder.path)): sha for path, sha in sorted(compared.checksums.items())},
        )

    @staticmethod
    def _decision(question: Question, decision: Decision, compared: Compared, chance: float | None) -> RecordedDecision:
        found = compared.comparisons.get(question)
        if found is None:
            return RecordedDecision(decision=decision, seeds=0)
        return RecordedDecision(
            decision=decision,
            seeds=found.seeds,
            dropped=found.dropped_seeds,
            difference=100 * found.value,
            low=100 * found.low,
            high=100 * found.high,
            p_value=found.p_value,
            chance=chance,
        )

    def _seeds_of(self, looks: LooksFile, arm: Arm, number: int, open_arms: Collection[Arm]) -> int:
        """Planned seeds of an arm at look ``number``: those of the look that stopped it."""
        if arm in open_arms:
            return self.rule.looks[number]
        own = [str(question) for question in self.questions.values() if question.arm == arm]
        stopped = (look.seeds for look in looks.looks if all(look.decisions[name].decision != "open" for name in own))
        return next(stopped, self.rule.looks[number])

    def _wanted(
        self, arms: Collection[Arm], seeds: Sequence[int], stage: str, failed: Collection[Path]
    ) -> list[WantedCell]:
        """Cells without results that ``arms`` and their baselines need, in the order of the grid."""
        needed = self._with_references(arms, seeds)
        missing = [cell for cell in self._cells_of(needed) if cell.folder not in failed and not is_evaluated(cell)]
        order = {seed: position for position, seed in enumerate(seeds, 1)}
        wanted = []
        for cell in missing:
            role = f"{Arm.of(cell)} is open" if Arm.of(cell) in arms else "baseline of open variants"
            wanted.append(WantedCell(cell, f"{stage}: seed {order[cell.config.seed]} of {len(seeds)}, {role}"))
        return wanted

    def _with_references(self, arms: Iterable[Arm], seeds: Sequence[int]) -> dict[Arm, Sequence[int]]:
        references = self.comparisons.references
        return {each: seeds for arm in arms for each in (references[arm], arm)}

    def _cells_of(self, chosen: Mapping[Arm, Sequence[int]]) -> list[StudyCell]:
        return [cell for cell in self.cells if cell.config.seed in chosen.get(Arm.of(cell), ())]

    def _decisions(self, looks: LooksFile) -> dict[Question, Decision]:
        """Decisions after the newest look."""
        last = looks.looks[-1].decisions if looks.looks else {}
        return {self.questions[name]: recorded.decision for name, recorded in last.items()}

    def _open_arms(self, looks: LooksFile) -> list[Arm]:
        """Arms that get further seeds: any of their comparisons is open."""
        decisions = self._decisions(looks)
        arms = {q.arm: None for q in self.questions.values() if decisions.get(q, "open") == "open"}
        return list(arms)

    def _selected(self, looks: LooksFile) -> list[Arm]:
        """Arms to confirm: with a gain, or undecided at the last look."""
        return list({q.arm: None for q, decision in self._decisions(looks).items() if decision in CONFIRMED})

    def _check_records(self, looks: LooksFile) -> None:
        """Raise DataError if a record that a look rests on has changed."""
        taken = [*looks.looks, *([looks.confirmation] if looks.confirmation else [])]
        paths = {name: self.folder.path / name for look in taken for name in look.records}
        now = {name: read_record(ProbeRecord, path).predictions for name, path in paths.items() if path.is_file()}
        check_records(self.folder, taken, now)

    def _recorded_rule(self) -> RecordedRule:
        looks = range(len(self.rule.looks))
        return RecordedRule(
            method=METHOD,
            spending=SPENDING,
            looks=self.rule.looks,
            seeds=self.seeds,
            confirmation=self.confirmation,
            error=self.rule.error,
            margin=round(100 * self.rule.margin, 9),
            futility=self.rule.futility,
            prefix=self.prefix,
            benchmarks={name: self.comparisons.column(name) for name in self.comparisons.evaluations},
            comparisons=tuple(self.questions),
            references={str(arm): str(other) for arm, other in self.comparisons.references.items()},
            difference_levels=tuple(_rounded(self.rule.difference_level(look)) for look in looks),
            equal_levels=tuple(_rounded(self.rule.equal_level(look)) for look in looks),
        )


def _futility(config: SequentialConfig, folder: StudyDir) -> float:
    """The limit that the study states, else that of its recorded rule, else the default of this release."""
    looks = None if "futility" in config.model_fields_set else read_looks(folder)
    return config.futility if looks is None else looks.rule.futility


def _rounded(level: float) -> float:
    """Four digits: the integration differs in the last bits between machines."""
    return float(f"{level:.4g}")
