"""How a cell stands, from the files of its run and from what Slurm says about its jobs."""

import json
import os
import time

import pytest
import yaml

from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import DataError
from hpc_jepa.runs.lease import LEASE_TIMEOUT, LeaseHolder
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState, write_state
from hpc_jepa.study.grid import expand_study
from hpc_jepa.study.job_log import JobLog, SubmittedJob
from hpc_jepa.study.slurm_cli import JobState
from hpc_jepa.study.status import CellJobs, cell_status
from hpc_jepa.study.submit import JobQueue, missing_work

RUNNING, WAITING, FAILED = (
    JobState("RUNNING", "None", "n1"),
    JobState("PENDING", "Priority", ""),
    JobState("FAILED", "", "n1"),
)


@pytest.fixture
def cell(tmp_path):
    """One cell of ten steps and one evaluation, whose run folder exists."""
    path = tmp_path / "study.yaml"
    content = {"study": "s", "regimes": ["ucf101"], "variants": ["baseline"], "overrides": ["schedule.steps=10"]}
    content["evaluations"] = [{"benchmark": "trial", "weights": ["target"]}]
    path.write_text(yaml.safe_dump(content))
    (found,) = expand_study(read_config(StudyConfig, [path]), tmp_path / "runs")
    (found.folder / "log").mkdir(parents=True)
    (found.folder / "eval").mkdir()
    return found


def logged(cell, step, clips_per_second=32.0):
    line = {"step": step, "loss": 0.5, "clips_per_second": clips_per_second}
    (cell.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def evaluated(cell, **changes):
    fingerprint = cell.evaluations[0].fingerprint
    record = {"results": [{"weights": "target"}], "run": {"step": 10}, "protocol_fingerprint": fingerprint}
    (cell.folder / "eval" / "trial.careful.json").write_text(json.dumps(record | changes))


def test_a_running_cell_tells_its_speed_and_time_left(cell):
    write_state(RunDir(cell.folder).state_file, RunState(state="running", step=0, steps=10))
    logged(cell, 3)
    how = cell_status(cell, CellJobs(train=RUNNING))
    assert (how.state, how.step, how.seconds_left) == ("running", 4, 6.0)
    assert "32 clips/s" in how.note


def test_a_job_that_waits_is_queued_whatever_its_run_said_before(cell):
    write_state(RunDir(cell.folder).state_file, RunState(state="interrupted", step=5, steps=10))
    assert cell_status(cell, CellJobs(train=WAITING)).words == "queued  priority"


def test_a_run_that_says_it_runs_though_no_job_does_stands_still(cell):
    write_state(RunDir(cell.folder).state_file, RunState(state="running", step=5, steps=10))
    assert cell_status(cell, CellJobs(train=FAILED)).state == "stalled"
    assert cell_status(cell).state == "stalled"
    holder = LeaseHolder(token="t", host="elsewhere", process=1, job=None, restart=0)
    RunDir(cell.folder).lease_file.write_text(holder.model_dump_json())
    assert cell_status(cell).state == "running"
    silent = time.time() - LEASE_TIMEOUT - 1
    os.utime(RunDir(cell.folder).lease_file, (silent, silent))
    assert cell_status(cell).state == "stalled"


def test_a_failed_cell_shows_its_last_line_and_its_log(cell):
    log = cell.folder / "log" / "train.log"
    log.write_text("first\nerror: no such thing\n")
    how = cell_status(cell, CellJobs(train=FAILED))
    assert (how.state, how.note, how.log) == ("failed", "error: no such thing", log)


def test_a_trained_cell_is_done_when_its_records_are_of_its_last_step_and_its_benchmark(cell):
    write_state(RunDir(cell.folder).state_file, RunState(state="done", step=10, steps=10))
    assert cell_status(cell).state == "trained"
    assert cell_status(cell, CellJobs(evaluate=RUNNING)).state == "evaluating"
    assert cell_status(cell, CellJobs(evaluate=FAILED)).state == "failed"
    for stale in ({"run": {"step": 9}}, {"protocol_fingerprint": "older"}, {"results": []}):
        evaluated(cell, **stale)
        assert cell_status(cell).state == "trained"
    evaluated(cell)
    assert cell_status(cell).words == "done  evaluated on trial.careful"


def test_a_refused_cell_says_why(cell):
    assert cell_status(cell, refused="no shards").words == "refused  no shards"


def test_only_what_is_missing_is_needed(cell):
    job = {"folder": cell.folder, "cluster": "c", "time": 0.0}
    latest = {(cell.folder, kind): SubmittedJob(job=kind, kind=kind, **job) for kind in ("train", "evaluate")}
    (need,) = missing_work([cell], JobQueue({}, {}))
    assert (need.train, need.evaluate) == (True, True)
    assert missing_work([cell], JobQueue(latest, {"train": RUNNING, "evaluate": WAITING})) == []
    (need,) = missing_work([cell], JobQueue(latest, {"train": RUNNING}))
    assert (need.train, need.evaluate, need.training_job) == (False, True, "train")
    (need,) = missing_work([cell], JobQueue(latest, {"train": FAILED, "evaluate": WAITING}))
    assert (need.train, need.evaluate) == (True, True)
    write_state(RunDir(cell.folder).state_file, RunState(state="done", step=10, steps=10))
    (need,) = missing_work([cell], JobQueue(latest, {}))
    assert (need.train, need.evaluate) == (False, True)
    evaluated(cell)
    assert missing_work([cell], JobQueue(latest, {})) == []


def test_a_ledger_keeps_its_jobs_and_names_a_damaged_line(cell, tmp_path):
    ledger = JobLog(tmp_path)
    first, second = (SubmittedJob(job=f"1_{n}", kind="train", folder=cell.folder, cluster="c", time=n) for n in (0, 1))
    ledger.add([first])
    ledger.add([second])
    assert ledger.jobs() == [first, second]
    assert ledger.latest() == {(cell.folder, "train"): second}
    with ledger.path.open("a") as file:
        file.write("{]\n")
    with pytest.raises(DataError, match=r"jobs.jsonl:3: damaged line"):
        ledger.jobs()
