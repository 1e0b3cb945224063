"""Trackers that work, fail or hang, as processes beside a run: a stand-in for the package, the rest is real."""

import json
import logging
import os
import signal
import sys

import psutil
import pytest

from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.io.jsonl import append_jsonl
from hpc_jepa.runs.metrics_log import read_metrics
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState, write_state
from hpc_jepa.trackers.clients import environment
from hpc_jepa.trackers.identity import read_tracked_run, sent_file
from hpc_jepa.trackers.processes import send_evaluations
from hpc_jepa.training.loop import train
from tests import waiting


def children():
    return [child for child in psutil.Process().children(recursive=True) if "sender" in " ".join(child.cmdline())]


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_run_is_one_through_preemption_and_resume(tracked, session, stand_in):
    config, run = tracked("trackio")
    given = stand_in()
    session(config, run, 0, 5, "interrupted")
    identity = read_tracked_run(run)
    session(config, run, 3, 8)  # steps 3 and 4 are logged again
    assert given.steps == list(range(8))
    assert read_tracked_run(run) == identity
    names = {line["name"] for line in given.lines if "name" in line}
    assert len(names) == 1 and names.pop().endswith(f"test.baseline.seed-3.{identity.id[:8]}")
    assert sum("finished" in line for line in given.lines) == 2
    assert [record.step for record in read_metrics(run.metrics_file)] == list(range(8))


def test_another_configuration_from_step_0_is_another_run(tracked, session, stand_in):
    config, run = tracked("trackio")
    given = stand_in()
    session(config, run, 0, 3, "failed")
    first = read_tracked_run(run).id
    other = config.model_copy(update={"seed": 3, "ema": "never"})
    session(other, run, 0, 3)
    assert read_tracked_run(run).id != first
    assert given.steps == [0, 1, 2, 0, 1, 2]


def test_accepted_changes_keep_the_identity(tracked, session, stand_in):
    config, run = tracked("trackio")
    stand_in()
    session(config, run, 0, 3, "interrupted")
    first = read_tracked_run(run).id
    session(config.model_copy(update={"ema": "never"}), run, 2, 4)
    assert read_tracked_run(run).id == first


def test_scalars_and_the_configuration_are_sent_and_nothing_else(tracked, session, stand_in):
    config, run = tracked("trackio")
    given = stand_in()
    session(config, run, 0, 2)
    begun, *logged, _ = given.lines
    assert begun["config"] == config.model_dump(mode="json")
    assert logged[1]["metrics"] == {"loss": 0.5, "ema": 0.9, "skipped_steps": 0}
    assert begun["environment"]["CUDA_VISIBLE_DEVICES"] == ""
    assert not {"RANK", "WORLD_SIZE"} & environment({"RANK": "0", "WORLD_SIZE": "2"}).keys()


@pytest.mark.parametrize(
    ("body", "reason"),
    [("raise ValueError('no such project')", "no such project"), ("os.kill(os.getpid(), 9)", "killed")],
)
def test_a_tracker_that_fails_is_disabled_with_one_warning(body, reason, tracked, session, stand_in, caplog):
    config, run = tracked("trackio")
    given = stand_in(f"if step == 2:\n    {body}")

    def more(trackers):
        waiting.wait_until(lambda: trackers.check() or warnings(caplog))
        for _ in range(3):
            trackers.check()

    session(config, run, 0, 5, until=more)
    (warning,) = warnings(caplog)
    assert "trackio" in warning and reason in warning
    assert given.steps == [0, 1]
    assert len(read_metrics(run.metrics_file)) == 5
    stand_in()
    session(config, run, 5, 7)  # goes on with what is new: the record that failed is not repeated
    assert given.steps == [0, 1, 3, 4, 5, 6]


def test_a_tracker_that_hangs_is_ended_after_the_wait(tracked, session, stand_in, caplog):
    config, run = tracked("trackio", tracker_wait=0.2)
    given = stand_in("write(hangs=True); time.sleep(10**6)")
    session(config, run, 0, 50, until=lambda _: waiting.wait_until(lambda: len(given.lines) == 2))
    (warning,) = warnings(caplog)
    assert "tracker_wait" in warning
    assert children() == []
    assert len(read_metrics(run.metrics_file)) == 50


def python(code):
    return waiting.run([sys.executable, "-c", code], env=dict(os.environ))


def test_a_call_that_takes_too_long_ends_the_process():
    code = "import time\nfrom hpc_jepa.trackers.sender import limited\nwith limited(0.05, 'trackio'): time.sleep(600)"
    finished = python(code)
    assert finished.returncode == 1 and "trackio" in finished.stderr


def test_a_folder_that_cannot_be_written_disables_the_trackers(tracked, session, stand_in, caplog):
    config, run = tracked("trackio")
    given = stand_in()
    run.trackers_dir.write_text("a file")
    session(config, run, 0, 3)
    assert given.lines == [] and len(warnings(caplog)) == 1
    assert len(read_metrics(run.metrics_file)) == 3


def test_the_process_outlives_signals_and_ends_after_its_trainer(tracked, session, stand_in):
    config, run = tracked("trackio")
    given = stand_in()

    def disturb(trackers):
        waiting.wait_until(lambda: len(given.steps) == 3)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            children()[0].send_signal(number)
        append_jsonl(run.metrics_file, {"step": 3, "loss": 0.1})

    session(config, run, 0, 3, until=disturb)
    assert given.steps == [0, 1, 2, 3] and children() == []


def test_what_the_trainer_left_when_it_was_killed_is_sent(tracked, session, stand_in):
    config, run = tracked("trackio")
    given = stand_in()
    session(config, run, 0, 2, "interrupted")
    code = f"""
import os
from hpc_jepa.io.jsonl import append_jsonl
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.trackers.processes import TrackerProcesses
run = RunDir({str(run.path)!r})
trackers = TrackerProcesses(run, ("trackio",), 0.0)
append_jsonl(run.metrics_file, {{"step": 2, "loss": 0.1}})
os.kill(os.getpid(), 9)
"""
    assert python(code).returncode == -signal.SIGKILL
    waiting.wait_until(lambda: given.steps == [0, 1, 2] and "finished" in given.lines[-1])


def record(step, value):
    return {
        "benchmark": "motion8",
        "protocol": "standard",
        "protocol_fingerprint": "x",
        "run": {"step": step},
        "results": [{"weights": "target", "probe": "linear", "value": value}],
    }


def test_evaluations_are_sent_once_during_and_after_training(tracked, session, stand_in):
    config, run = tracked("trackio")
    given = stand_in()
    name = "eval/motion8/standard/target/linear"

    def evaluate(trackers):
        path = run.record_file("motion8", "standard", step=4)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record(4, 0.25)))
        waiting.wait_until(lambda: {name: 0.25} in [line.get("metrics") for line in given.lines])

    session(config, run, 0, 5, until=evaluate)
    run.record_file("motion8", "standard").write_text(json.dumps(record(5, 0.5)))
    for _ in range(2):
        send_evaluations(RunDir(run.path))
    assert sorted(given.steps) == [0, 1, 2, 3, 4, 4, 5]
    results = [(line["step"], line["metrics"][name]) for line in given.lines if name in line.get("metrics", {})]
    assert results == [(4, 0.25), (5, 0.5)]


def test_evaluations_are_left_to_a_training_that_runs(tracked, session, stand_in, caplog):
    config, run = tracked("trackio")
    given = stand_in()

    def other(trackers):
        waiting.wait_until(lambda: given.steps == [0])
        send_evaluations(RunDir(run.path))

    session(config, run, 0, 1, until=other)
    assert sum("name" in line for line in given.lines) == 1 and warnings(caplog) == []


def test_a_run_without_trackers_has_no_files_of_them(tracked, session):
    config, run = tracked()
    session(config, run, 0, 2)
    send_evaluations(run)
    assert not run.trackers_dir.exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_refused_before_the_run_begins(name, tracked, monkeypatch):
    config, _ = tracked(name)
    monkeypatch.setattr("hpc_jepa.trackers.clients.find_spec", lambda package: None)
    config = config.model_copy(update={"study": "never_begun"})
    with pytest.raises(InputError, match=rf"hpc_jepa\[{name}\]"):
        train(config, lambda record: None)
    assert not config.folder.exists()


def test_a_damaged_list_of_what_was_sent_is_named(tracked, session, stand_in, caplog):
    config, run = tracked("trackio")
    stand_in()
    session(config, run, 0, 2, "interrupted")
    sent_file(run, "trackio").write_text("{")
    session(config, run, 2, 3)
    (warning,) = warnings(caplog)
    assert "trackio.json" in warning


def test_training_feeds_its_tracker_and_ends_bit_for_bit_as_without(configure, tracked, stand_in, metrics_of):
    given = stand_in()
    plain = configure(study="plain")
    train(plain, lambda record: None)
    config, _ = tracked("trackio")

    def fail(record):
        if record.step == 6:
            raise HpcJepaError("planned")

    with pytest.raises(HpcJepaError, match="planned"):
        train(config, fail)
    assert train(config, lambda record: None) == "done"
    assert given.steps == list(range(12))
    assert metrics_of(config.folder) == metrics_of(plain.folder)
    logged = read_metrics(config.folder / "metrics.jsonl")
    losses = [line["metrics"]["loss"] for line in given.lines if "step" in line]
    assert losses == [record.loss for record in logged]


def test_how_a_run_ended(tracked):
    from hpc_jepa.trackers.sender import _how

    _, run = tracked()
    assert _how(run, b"failed") == "failed" and _how(run, b"") == "interrupted"
    write_state(run.state_file, RunState(state="running", step=1, steps=2))
    assert _how(run, b"") == "interrupted"
    write_state(run.state_file, RunState(state="done", step=2, steps=2))
    assert _how(run, b"") == "done"
