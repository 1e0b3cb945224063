"""Follow a run: evaluate its checkpoints as it keeps them, in another process, until it has ended."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hpc_jepa.checkpoint.layout import RemovedCheckpointError
from hpc_jepa.distributed import GlooGroup, is_main
from hpc_jepa.evaluation.context import COLLECTIVE_TIMEOUT, StepNotKeptError
from hpc_jepa.evaluation.evaluator import kept_steps
from hpc_jepa.runs.lease import is_held
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState

LOG = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""Between two looks at the run: it waits for nothing."""
PATIENCE_SECONDS = 600.0
"""How long a run may pause, between a preemption and the next start of its job."""

Notify = Callable[[str], object]
"""Shows a line to whoever waits."""


def follow_run(
    run: RunDir,
    every: int,
    evaluate: Callable[[int], None],
    notify: Notify,
    *,
    patience: float = PATIENCE_SECONDS,
    poll: float = POLL_SECONDS,
) -> int:
    """Call ``evaluate(step)`` once for each checkpoint at a multiple of ``every``, until the run is done or has failed,
    or has not trained for ``patience`` seconds; the number of evaluated steps. Collective.

    A checkpoint that the run removes before its turn is left out with a warning. Raises what ``evaluate`` raises else.
    """
    group = GlooGroup(COLLECTIVE_TIMEOUT)
    watch = _Watch(run, every, patience, notify)
    evaluated = 0
    while True:
        # all processes wait for the first one, which alone looks: they would see different checkpoints
        step, ended = group.gather_objects(watch.look() if is_main() else None)[0]
        if step is not None:
            with _removed_is_left_out(run, step):
                evaluate(step)
                evaluated += 1
        elif ended:
            return evaluated
        else:
            time.sleep(poll)


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

    def look(self) -> tuple[int | None, bool]:
        """The next step to evaluate, None if there is none now, and whether none will come."""
        ended = self._has_ended()  # before the checkpoints are listed: the last one is saved before the run ends
        new = [step for step in self.run.checkpoint_steps() if step and step % self.every == 0]
        step = next((step for step in new if step not in self.seen), None)
        if step is not None:
            self.seen.add(step)
        return step, ended

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


def evaluate_kept(run: RunDir, every: int, evaluate: Callable[[int], None], notify: Notify) -> None:
    """Call ``evaluate(step)`` for each checkpoint that the run has now at a multiple of ``every``. Collective.

    One that the run removes before its turn is left out with a warning.
    """
    kept = kept_steps(run.path, every)
    if not kept:
        notify(f"{run}: no checkpoint at a multiple of {every}; see checkpoint.keep_every")
    for step in kept:
        with _removed_is_left_out(run, step):
            evaluate(step)


@contextmanager
def _removed_is_left_out(run: RunDir, step: int) -> Iterator[None]:
    """Warn, and go on, if a training run has removed the checkpoint that the block evaluates."""
    try:
        yield
    except (RemovedCheckpointError, StepNotKeptError):
        if is_main():
            LOG.warning(
                "%s: step %d was removed before it was evaluated; checkpoint.keep_every or keep_best keep it", run, step
            )


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
