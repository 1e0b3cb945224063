"""Follow runs: evaluate their checkpoints as they keep them, in another process, until they have ended."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpc_jepa.distributed import GlooGroup, is_main
from hpc_jepa.evaluation.evaluator import NOT_KEPT, EvaluatedRun, kept_steps
from hpc_jepa.evaluation.progress import Notify
from hpc_jepa.evaluation.split_clips import COLLECTIVE_TIMEOUT
from hpc_jepa.runs.lease import is_held
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState

LOG = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""Between two looks at the runs: they wait for nothing."""
PATIENCE_SECONDS = 600.0
"""How long a run may pause, between a preemption and the next start of its job."""

Checkpoints = Sequence[tuple[RunDir, int]]
"""Runs and steps."""
Evaluate = Callable[[Checkpoints], Iterable[EvaluatedRun]]
"""Evaluates checkpoints that were found at the same time."""


def follow_runs(
    runs: Sequence[RunDir],
    every: int,
    evaluate: Evaluate,
    notify: Notify,
    *,
    patience: float = PATIENCE_SECONDS,
    poll: float = POLL_SECONDS,
) -> list[EvaluatedRun]:
    """Evaluate each checkpoint at a multiple of ``every`` once, until every run is done or has failed, or has not
    trained for ``patience`` seconds; what was evaluated. Collective.

    A checkpoint that its run removes before its turn is left out with a warning. A run whose evaluation fails is not
    followed on.
    """
    group = GlooGroup(COLLECTIVE_TIMEOUT)
    watches = [_Watch(run, every, patience, notify) for run in runs]
    evaluated: list[EvaluatedRun] = []
    while True:
        # all processes wait for the first one, which alone looks: they would see different checkpoints
        found, watched = group.gather_objects(_look(watches) if is_main() else None)[0]
        watches = [watch for watch in watches if watch.run.path in watched]
        if found:
            outcomes = list(without_removed(evaluate(found)))
            failed = {outcome.wanted.folder for outcome in outcomes if outcome.error is not None}
            watches = [watch for watch in watches if watch.run.path not in failed]
            evaluated += outcomes
        elif not watches:
            return evaluated
        else:
            time.sleep(poll)


def _look(watches: "Sequence[_Watch]") -> tuple[Checkpoints, set[Path]]:
    """The checkpoints to evaluate now, and the folders of the runs that may have more later."""
    looks = [(watch, *watch.look()) for watch in watches]
    found = [(watch.run, step) for watch, steps, _ in looks for step in steps]
    return found, {watch.run.path for watch, _, ended in looks if not ended}


@dataclass
class _Watch:
    """What the first process knows of the run. ``seen``: steps that had their turn."""

    run: RunDir
    every: int
    patience: float
    notify: Notify
    seen: set[int] = field(default_factory=set)
    first: RunState | None = None
    paused_at: float | None = None

    def __post_init__(self) -> None:
        self.first = self.run.state

    def look(self) -> tuple[list[int], bool]:
        """The steps to evaluate now, and whether none will come later."""
        ended = self._has_ended()  # before the checkpoints are listed: the last one is saved before the run ends
        new = [step for step in self.run.checkpoint_steps() if step and step % self.every == 0]
        steps = [step for step in new if step not in self.seen]
        self.seen.update(steps)
        return steps, ended

    def _has_ended(self) -> bool:
        if is_held(self.run):
            self.paused_at = None
            return False
        state = self.run.state
        if state is not None and (state.state == "done" or (state.state == "failed" and state != self.first)):
            return True
        now = time.monotonic()
        if self.paused_at is None:
            self.paused_at = now
            what = state.state if state is not None else "not started"
            self.notify(f"{self.run}: {what}; waiting up to {self.patience / 60:g} minutes for it to train")
        return now - self.paused_at >= self.patience


def evaluate_kept(runs: Sequence[RunDir], every: int, evaluate: Evaluate, notify: Notify) -> list[EvaluatedRun]:
    """Evaluate the checkpoints that the runs have now at multiples of ``every``. Collective.

    One that its run removes before its turn is left out with a warning.
    """
    kept = [(run, step) for run in runs for step in kept_steps(run.path, every)]
    for run in runs:
        if not any(owner is run for owner, _ in kept):
            notify(f"{run}: no checkpoint at a multiple of {every}; see checkpoint.keep_every")
    return list(without_removed(evaluate(kept))) if kept else []


def without_removed(outcomes: Iterable[EvaluatedRun]) -> Iterator[EvaluatedRun]:
    """Leave out checkpoints that a training run has removed, with a warning."""
    for outcome in outcomes:
        if not isinstance(outcome.error, NOT_KEPT):
            yield outcome
        elif is_main():
            LOG.warning(
                "%s: step %d was removed before it was evaluated; checkpoint.keep_every or keep_best keep it",
                outcome.wanted.folder, outcome.wanted.step,
            )  # fmt: skip


def wait_for_run(
    run: RunDir, notify: Notify, *, patience: float = PATIENCE_SECONDS, poll: float = POLL_SECONDS
) -> None:
    """Wait until the folder has a configuration and a checkpoint, or for ``patience`` seconds without training.

    Each process waits by itself: they meet in the folder of the run.
    """
    waiting_since: float | None = None
    while not (run.is_run and run.checkpoint_dirs()):
        now = time.monotonic()
        if waiting_since is None:
            notify(f"{run}: no checkpoint yet; waiting for the first one")
        if waiting_since is None or is_held(run):
            waiting_since = now
        if now - waiting_since >= patience:
            return
        time.sleep(poll)
