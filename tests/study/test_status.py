"""Status of a cell, from the files of its run and the Slurm state of its jobs."""

import json
import os
import time
from dataclasses import replace

import pytest
import yaml

from hpc_jepa.cli.study_table import print_status
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import DataError
from hpc_jepa.runs.lease import LEASE_TIMEOUT, LeaseHolder
from hpc_jepa.runs.run_dir import StudyDir
from hpc_jepa.runs.state import RunState, write_state
from hpc_jepa.study.grid import expand_study
from hpc_jepa.study.job_log import CellJobs, JobLog, JobQueue, SubmittedJob, newest
from hpc_jepa.study.slurm_cli import JobState
from hpc_jepa.study.status import cell_status, read_study_status
from hpc_jepa.study.submit import missing_work

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
    found.run.log_dir.mkdir(parents=True)
    found.run.record_dir().mkdir()
    return found


def logged(cell, step, clips_per_second=32.0):
    line = {"step": step, "loss": 0.5, "clips_per_second": clips_per_second}
    cell.run.metrics_file.write_text(json.dumps(line) + "\n")


def evaluated(cell, **changes):
    (evaluation,) = cell.evaluations
    record = {
        "results": [{"weights": "target"}],
        "run": {"step": 10},
        "protocol_fingerprint": max(evaluation.fingerprints),
    }
    cell.run.record_file("trial", evaluation.protocol).write_text(json.dumps(record | changes))


def set_state(cell, state, step):
    write_state(cell.run.state_file, RunState(state=state, step=step, steps=10))


def test_a_running_cell_has_speed_and_time_left(cell):
    set_state(cell, "running", 0)
    logged(cell, 3)
    status = cell_status(cell, CellJobs(train=RUNNING))
    assert (status.state, status.step, status.seconds_left) == ("running", 4, 6.0)
    assert "32 clips/s" in status.note


def test_a_waiting_job_makes_the_cell_queued_whatever_its_last_run_state(cell):
    set_state(cell, "interrupted", 5)
    status = cell_status(cell, CellJobs(train=WAITING))
    assert (status.state, status.note) == ("queued", "priority")


def test_a_run_in_state_running_without_an_active_job_or_lease_is_stalled(cell):
    set_state(cell, "running", 5)
    assert cell_status(cell, CellJobs(train=FAILED)).state == "stalled"
    assert cell_status(cell).state == "stalled"
    holder = LeaseHolder(token="t", host="elsewhere", process=1, job=None, restart=0)
    cell.run.lease_file.write_text(holder.model_dump_json())
    assert cell_status(cell).state == "running"
    expired = time.time() - LEASE_TIMEOUT - 1
    os.utime(cell.run.lease_file, (expired, expired))
    assert cell_status(cell).state == "stalled"


def test_a_failed_cell_has_its_last_log_line_and_its_log(cell):
    log = cell.run.log_dir / "train.log"
    log.write_text("first\nerror: no such thing\n")
    status = cell_status(cell, CellJobs(train=FAILED))
    assert (status.state, status.note, status.log) == ("failed", "error: no such thing", log)


def test_a_trained_cell_is_done_once_records_of_the_last_step_and_current_protocol_exist(cell):
    set_state(cell, "done", 10)
    assert cell_status(cell).state == "trained"
    assert cell_status(cell, CellJobs(evaluate=RUNNING)).state == "evaluating"
    assert cell_status(cell, CellJobs(evaluate=FAILED)).state == "failed"
    for stale in ({"run": {"step": 9}}, {"protocol_fingerprint": "older"}, {"results": []}):
        evaluated(cell, **stale)
        assert cell_status(cell).state == "trained"
    evaluated(cell)
    assert cell_status(cell).state == "done"
    assert "trial" in cell_status(cell).note


def test_a_refused_cell_has_its_reason_unless_it_is_running(cell):
    assert cell_status(cell, refused="no shards").note == "no shards"
    set_state(cell, "running", 5)
    assert cell_status(cell, CellJobs(train=RUNNING), refused="no shards").state == "running"


def test_only_missing_work_is_submitted(cell):
    job = {"folder": cell.folder, "cluster": "c", "time": 0.0}
    latest = {(cell.folder, kind): SubmittedJob(job=kind, kind=kind, **job) for kind in ("train", "evaluate")}

    def missing(latest, **states):
        return [
            (work.train, work.evaluate, work.training_job) for work in missing_work([cell], JobQueue(latest, states))
        ]

    assert missing({}) == [(True, True, None)]
    assert missing(latest, train=RUNNING, evaluate=WAITING) == []
    assert missing(latest, train=RUNNING) == [(False, True, "train")]
    assert missing(latest, train=FAILED, evaluate=WAITING) == [(True, True, None)]
    set_state(cell, "done", 10)
    assert missing(latest) == [(False, True, None)]
    evaluated(cell)
    assert missing(latest) == []


def test_a_job_log_keeps_its_jobs_and_names_a_damaged_line(cell, tmp_path):
    job_log = JobLog(StudyDir(tmp_path))
    first, second = (SubmittedJob(job=f"1_{n}", kind="train", folder=cell.folder, cluster="c", time=n) for n in (0, 1))
    job_log.append([first])
    job_log.append([second])
    assert job_log.jobs() == [first, second]
    assert newest(job_log.jobs()) == {(cell.folder, "train"): second}
    with job_log.path.open("a") as file:
        file.write("{]")  # without an end of line
    job_log.append([second])
    with pytest.raises(DataError, match=r"jobs\.jsonl:3: "):
        job_log.jobs()
    jobs, damaged = job_log.sound_jobs()
    assert jobs == [first, second, second] and "jobs.jsonl:3: " in damaged


@pytest.mark.parametrize("damage", ["{]\n", "{}\n", "\0\n"])
def test_damaged_line_of_the_jobs_is_named_and_the_other_jobs_count(cell, tmp_path, monkeypatch, damage):
    study = StudyDir(tmp_path)
    job = SubmittedJob(job="7", kind="train", folder=cell.folder, cluster="c", time=0.0)
    study.jobs_file.write_text(f"{damage}{job.model_dump_json()}\n{damage}")
    monkeypatch.setattr("hpc_jepa.study.job_log.squeue_jobs", lambda: {"7": WAITING})
    status = read_study_status([cell], study)
    assert f"{study.jobs_file}:1: " in status.warning and "1 more" in status.warning
    assert [one.state for one in status.statuses] == ["queued"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state_file", "{}"),
        ("state_file", "\0\0"),
        ("starts_file", "{x}\n"),
        ("starts_file", "{}\n"),
        ("metrics_file", "{x}\n"),
        ("metrics_file", '{"step":3,"lo{"step":4}\n'),
        ("metrics_file", '{"step": 3}\n'),
        ("metrics_file", "\0\0\n"),
    ],
)
def test_damaged_file_of_one_run_is_named_and_the_other_cells_are_shown(cell, file, content, tmp_path):
    path = getattr(cell.run, file)
    path.write_text(content)
    other = replace(cell, config=cell.config.model_copy(update={"seed": 99}))
    study = read_study_status([cell, other], StudyDir(tmp_path))
    damaged, shown = study.statuses
    assert damaged.state == "damaged" and str(path) in damaged.note
    assert shown.state == "not started"
    assert study.unfinished == []


def test_a_pipe_in_place_of_the_lease_is_named(cell, tmp_path):
    set_state(cell, "running", 5)
    os.mkfifo(cell.run.lease_file)
    (status,) = read_study_status([cell], StudyDir(tmp_path)).statuses
    assert status.state == "damaged" and str(cell.run.lease_file) in status.note


def test_the_file_of_a_damaged_cell_is_printed_whole_in_a_pipe(cell, tmp_path, capsys):
    deep = tmp_path / "/".join(5 * ["a" * 60])
    cell = replace(cell, config=cell.config.model_copy(update={"runs": deep}))
    cell.run.path.mkdir(parents=True)
    cell.run.state_file.write_text("{")
    print_status([cell], ["one"], StudyDir(tmp_path))
    assert str(cell.run.state_file) in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{}", "[]", '{"results": 1}'])
def test_damaged_record_is_named(cell, content, tmp_path):
    set_state(cell, "done", 10)
    evaluated(cell)
    (path,) = cell.run.record_dir().iterdir()
    path.write_text(content)
    (status,) = read_study_status([cell], StudyDir(tmp_path)).statuses
    assert status.state == "damaged" and str(path) in status.note


@pytest.mark.parametrize(
    "content", ['{"step": 3, "loss": 1.0, "clips_per_second": 0.0}\n', '{"step": 3, "loss": NaN}\n']
)
def test_run_without_a_speed_has_no_time_left(cell, content):
    set_state(cell, "running", 0)
    cell.run.metrics_file.write_text(content + '{"step": 4, "lo')
    status = cell_status(cell, CellJobs(train=RUNNING))
    assert (status.state, status.step, status.seconds_left) == ("running", 4, None)


def test_damaged_list_of_refused_cells_is_a_warning(cell, tmp_path):
    study = StudyDir(tmp_path)
    study.refused_file.write_text("[]")
    status = read_study_status([cell], study)
    assert str(study.refused_file) in status.warning
    assert [one.state for one in status.statuses] == ["not started"]
