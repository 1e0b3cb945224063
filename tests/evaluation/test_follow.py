"""Following runs: their checkpoints are evaluated once each, as they save them, until they have ended."""

import shutil
from contextlib import ExitStack

import pytest

from hpc_jepa.checkpoint.layout import RemovedCheckpointError
from hpc_jepa.evaluation.context import StepNotKeptError
from hpc_jepa.evaluation.evaluator import EvaluatedRun, RunEvaluation
from hpc_jepa.evaluation.follow import follow_runs, wait_for_run
from hpc_jepa.runs.lease import hold_lease
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState, write_state


class Training:
    """A run in training as another process sees it: lease, state and folders of checkpoints."""

    def __init__(self, folder, begun=True):
        self.run = RunDir(folder)
        if begun:
            folder.mkdir()
        self._lease = ExitStack()

    def starts(self):
        self._lease.enter_context(hold_lease(self.run))
        self.says("running")

    def saves(self, *steps):
        for step in steps:
            self.run.checkpoint_dir(step).mkdir(parents=True)

    def removes(self, step):
        shutil.rmtree(self.run.checkpoint_dir(step))

    def says(self, state):
        write_state(self.run.state_file, RunState(state=state, step=None, steps=9))

    def ends(self, state="done"):
        self.says(state)
        self._lease.close()


@pytest.fixture
def training(tmp_path):
    training = Training(tmp_path / "run")
    yield training
    training.ends()


def evaluate_as(happens):
    """An evaluation in which ``happens(run, step)`` takes place; what it raises is the error of the outcome."""

    def evaluate(found):
        for run, step in found:
            wanted = RunEvaluation(run.path, ("target",), step)
            try:
                happens(run, step)
            except Exception as error:  # noqa: BLE001  as the evaluator
                yield EvaluatedRun(wanted, error=error)
            else:
                yield EvaluatedRun(wanted)

    return evaluate


@pytest.fixture
def follow(training):
    """``follow(*events, **options)``: the steps in turn, the lines shown, and the outcomes; each step is one event."""

    def run(*events, every=2, on_pause=(), **options):
        steps, shown = [], []
        remaining, pauses = iter(events), iter(on_pause)

        def happens(run, step):
            steps.append(step)
            next(remaining)()

        def notify(line):
            shown.append(line)
            next(pauses, lambda: None)()

        outcomes = follow_runs([training.run], every, evaluate_as(happens), notify, poll=0.0, **options)
        return steps, shown, outcomes

    return run


def test_each_kept_checkpoint_is_evaluated_once_until_the_run_is_done(training, follow):
    training.starts()
    training.saves(1, 2)

    def last():
        training.saves(6, 7)
        training.ends()

    evaluated, shown, outcomes = follow(lambda: training.saves(3, 4), last, lambda: None)
    assert (evaluated, len(outcomes)) == ([2, 4, 6], 3) and shown == []


@pytest.mark.parametrize("error", [StepNotKeptError, RemovedCheckpointError])
def test_a_checkpoint_that_is_removed_before_its_turn_is_named_and_left_out(error, training, follow, caplog):
    training.starts()
    training.saves(2, 4)

    def removed():
        training.removes(4)
        training.saves(6)
        raise error("gone")

    evaluated, _, outcomes = follow(lambda: None, removed, training.ends)
    assert (evaluated, [outcome.wanted.step for outcome in outcomes]) == ([2, 4, 6], [2, 6])
    assert "step 4" in caplog.text and "keep_every" in caplog.text


def test_other_errors_end_it(training, follow):
    training.starts()
    training.saves(2)

    def fails():
        raise ValueError("damaged")

    _, _, [outcome] = follow(fails)
    assert outcome.wanted.step == 2 and isinstance(outcome.error, ValueError)


def test_several_runs_are_followed_until_each_has_ended(training, tmp_path):
    """One begins later and fails to be evaluated; the checkpoints that are there at the same time go together."""
    other, third = Training(tmp_path / "other", begun=False), Training(tmp_path / "third")
    together = []

    def happens(run, step):
        if (run, step) == (training.run, 4):
            other.run.path.mkdir()
            other.starts()
            other.saves(2, 4)
            training.saves(6)
            training.ends()
        if run is third.run:
            raise ValueError("damaged")
        if (run, step) == (other.run, 4):
            other.ends("failed")

    def evaluate(found):
        together.append([(run.path.name, step) for run, step in found])
        yield from evaluate_as(happens)(found)

    for each in (training, third):
        each.starts()
    training.saves(2, 4)
    third.saves(2, 4)
    runs = [training.run, other.run, third.run]
    outcomes = follow_runs(runs, 2, evaluate, lambda line: None, patience=3600.0, poll=0.0)
    third.ends()
    assert together == [
        [("run", 2), ("run", 4), ("third", 2), ("third", 4)],
        [("run", 6), ("other", 2), ("other", 4)],
    ]
    assert [outcome.error is None for outcome in outcomes] == [True, True, False, False, True, True, True]


@pytest.mark.parametrize("before", ["interrupted", "failed"])
def test_a_preempted_or_failed_run_that_is_started_again_is_followed_on(before, training, follow):
    training.says(before)
    training.saves(2)

    def again():
        training.starts()
        training.saves(4)

    evaluated, shown, _ = follow(lambda: None, training.ends, on_pause=[again], patience=3600.0)
    assert evaluated == [2, 4] and len(shown) == 1 and before in shown[0]


def test_a_run_that_fails_meanwhile_has_ended_and_one_that_pauses_ends_after_the_patience(training, follow):
    training.starts()
    training.saves(2, 4)
    evaluated, shown, _ = follow(lambda: training.ends("failed"), lambda: None, patience=3600.0)
    assert evaluated == [2, 4] and shown == []

    training.says("interrupted")
    evaluated, shown, _ = follow(lambda: None, lambda: None, patience=0.0)
    assert evaluated == [2, 4] and "interrupted" in shown[0]


def test_waiting_for_the_first_checkpoint(training):
    shown = []
    wait_for_run(training.run, shown.append, patience=0.0, poll=0.0)
    assert len(shown) == 1 and str(training.run) in shown[0]

    def begin(line):
        training.starts()
        training.run.config_file.write_text("")
        training.saves(1)

    wait_for_run(training.run, begin, patience=3600.0, poll=0.0)
    wait_for_run(training.run, pytest.fail, poll=0.0)
