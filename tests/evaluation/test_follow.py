"""Following a run: its checkpoints are evaluated once each, as it saves them, until it has ended."""

import shutil
from contextlib import ExitStack

import pytest

from hpc_jepa.checkpoint.layout import RemovedCheckpointError
from hpc_jepa.evaluation.context import StepNotKeptError
from hpc_jepa.evaluation.follow import follow_run, wait_for_run
from hpc_jepa.runs.lease import hold_lease
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState, write_state


class Training:
    """A run in training as another process sees it: lease, state and folders of checkpoints."""

    def __init__(self, folder):
        self.run = RunDir(folder)
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


@pytest.fixture
def follow(training):
    """``follow(*events, **options)``: the evaluated steps, and the lines shown; each evaluation is one event."""

    def run(*events, every=2, on_pause=(), **options):
        evaluated, shown = [], []
        remaining, pauses = iter(events), iter(on_pause)

        def evaluate(step):
            evaluated.append(step)
            next(remaining)()

        def notify(line):
            shown.append(line)
            next(pauses, lambda: None)()

        count = follow_run(training.run, every, evaluate, notify, poll=0.0, **options)
        return evaluated, shown, count

    return run


def test_each_kept_checkpoint_is_evaluated_once_until_the_run_is_done(training, follow):
    training.starts()
    training.saves(1, 2)

    def last():
        training.saves(6, 7)
        training.ends()

    evaluated, shown, count = follow(lambda: training.saves(3, 4), last, lambda: None)
    assert (evaluated, count) == ([2, 4, 6], 3) and shown == []


@pytest.mark.parametrize("error", [StepNotKeptError, RemovedCheckpointError])
def test_a_checkpoint_that_is_removed_before_its_turn_is_named_and_left_out(error, training, follow, caplog):
    training.starts()
    training.saves(2, 4)

    def removed():
        training.removes(4)
        training.saves(6)
        raise error("gone")

    evaluated, _, count = follow(lambda: None, removed, training.ends)
    assert (evaluated, count) == ([2, 4, 6], 2)
    assert "step 4" in caplog.text and "keep_every" in caplog.text


def test_other_errors_end_it(training, follow):
    training.starts()
    training.saves(2)

    def fails():
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        follow(fails)


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
