"""Evaluation of checkpoints while their run trains: a job beside it on Slurm, a free slot on this machine."""

import threading
from pathlib import Path

import pytest
import yaml

from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState, write_state
from hpc_jepa.study import local, task
from hpc_jepa.study.grid import expand_study
from hpc_jepa.study.job_log import JobQueue, SubmittedJob
from hpc_jepa.study.local import LocalJobs
from hpc_jepa.study.preflight import preflight_errors
from hpc_jepa.study.slurm_cli import JobState
from tests.study.test_phases import submit

ONLINE = {"benchmark": "benchmark.yaml", "weights": ["target"], "every": 2, "online": True}


@pytest.fixture
def expand(tiny_regime, tiny_benchmark, tmp_path, monkeypatch):
    """``expand(**changes)``: cells of a study of two seeds with an online evaluation."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "regime.yaml").write_text(yaml.safe_dump(tiny_regime(4, 2)))
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(tiny_benchmark))

    def make(**changes):
        settings = {"study": "demo", "regimes": ["regime.yaml"], "variants": ["baseline"], "seeds": [0, 1]}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump({**settings, "evaluations": [ONLINE], **changes}))
        return expand_study(read_config(StudyConfig, [tmp_path / "study.yaml"]), Path("runs"))

    return make


@pytest.mark.parametrize(
    ("evaluations", "key"),
    [
        ([{**ONLINE, "every": None}], "evaluations.0.online"),
        ([ONLINE, {**ONLINE, "benchmark": "other.yaml"}], "evaluations.1.online"),
        ([{**ONLINE, "protocols": ["standard", "published"]}], "evaluations.0.online"),
    ],
)
def test_what_cannot_be_evaluated_online_is_refused(expand, evaluations, key):
    with pytest.raises(InputError, match=rf"study\.yaml:\d+: {key}: "):
        expand(evaluations=evaluations)


def test_on_slurm_each_training_has_a_job_beside_it_and_the_last_evaluation_waits_for_both(expand, tmp_path):
    arrays = submit(expand(), tmp_path)
    assert [(kind, dependency) for _, kind, dependency in arrays] == [
        ("train", None),
        ("follow", "after:100_0"),
        ("evaluate", "afterok:100_0,afterany:101"),
        ("follow", "after:100_1"),
        ("evaluate", "afterok:100_1,afterany:103"),
    ]
    plain = submit(expand(evaluations=[{**ONLINE, "online": False}]), tmp_path)
    assert [(kind, dependency) for _, kind, dependency in plain] == [("train", None), ("evaluate", "aftercorr:100")]


def queue_of(cells, *kinds):
    """A queue in which jobs of these kinds run for the first cell."""
    jobs = [SubmittedJob(job=f"7_{kind}", kind=kind, folder=cells[0].folder, cluster="c", time=0) for kind in kinds]
    running = {job.job: JobState("RUNNING", "", "node") for job in jobs}
    return JobQueue({(job.folder, job.kind): job for job in jobs}, running)


def test_a_job_that_ended_early_is_submitted_again_beside_its_running_training(expand, tmp_path):
    cells = expand(seeds=[0])
    arrays = submit(cells, tmp_path, queue_of(cells, "train", "evaluate"))
    assert [(kind, dependency) for _, kind, dependency in arrays] == [("follow", "after:7_train")]
    assert submit(cells, tmp_path, queue_of(cells, "train", "evaluate", "follow")) == []


def test_a_job_that_waits_for_a_killed_training_is_replaced_with_it(expand, tmp_path, monkeypatch):
    cancelled = []
    monkeypatch.setattr("hpc_jepa.study.submit.scancel", cancelled.extend)
    cells = expand(seeds=[0])
    arrays = submit(cells, tmp_path, queue_of(cells, "follow"))
    assert [kind for _, kind, _ in arrays] == ["train", "follow", "evaluate"] and cancelled == ["7_follow"]


def test_a_finished_run_is_evaluated_without_a_job_beside_it(expand, tmp_path):
    (cell,) = expand(seeds=[0])
    cell.folder.mkdir(parents=True)
    write_state(cell.run.state_file, RunState(state="done", step=4, steps=4))
    assert [kind for _, kind, _ in submit([cell], tmp_path)] == ["evaluate"]


class Machine:
    """Runs tasks of one cell: training ends when all its checkpoints were looked at, or at once without a slot."""

    def __init__(self, monkeypatch, follow_code=0, waits=True):
        self.ran, self.evaluated = [], threading.Event()
        self._code, self._waits = follow_code, waits
        monkeypatch.setattr(task.TaskRunner, "run", lambda runner, task: self._run(task))

    def _run(self, task):
        self.ran.append(task.kind)
        run = RunDir(task.folder)
        if task.kind == "train":
            run.checkpoint_dir(2).mkdir(parents=True)
            assert not self._waits or self.evaluated.wait(timeout=60)
            write_state(run.state_file, RunState(state="done", step=4, steps=4))
        if task.kind == "follow":
            assert task.commands[0][-2:] == ("--every", "2")
            record = run.record_file("motion8", "standard", step=2)
            record.parent.mkdir(parents=True)
            record.write_text("{}")
            self.evaluated.set()
            return self._code
        return 0


@pytest.mark.parametrize("code", [0, 4])
def test_on_this_machine_a_free_slot_evaluates_once_and_its_failure_is_not_that_of_the_cell(expand, code, monkeypatch):
    machine = Machine(monkeypatch, follow_code=code)
    assert local.run_locally(expand(seeds=[0]), LocalJobs(2), lambda cell, status: None) == []
    assert machine.ran == ["train", "follow", "evaluate"]


def test_on_this_machine_training_needs_no_second_slot(expand, monkeypatch):
    machine = Machine(monkeypatch, waits=False)
    assert local.run_locally(expand(seeds=[0]), LocalJobs(1), lambda cell, status: None) == []
    assert machine.ran == ["train", "evaluate"]


def test_an_interrupted_evaluation_interrupts_the_study(expand, monkeypatch):
    Machine(monkeypatch, follow_code=130)
    with pytest.raises(KeyboardInterrupt):
        local.run_locally(expand(seeds=[0]), LocalJobs(2), lambda cell, status: None)


BEST = "checkpoint.keep_best={benchmark: motion8, probe: linear, every: 2}"


@pytest.mark.parametrize(
    ("best", "evaluation", "named"),
    [
        (BEST, ONLINE, ""),
        (BEST, {**ONLINE, "every": None, "online": False}, "every: 2"),
        (BEST, {**ONLINE, "every": 4}, "every 2 steps"),
        (BEST.replace("motion8", "other"), ONLINE, "other"),
        (BEST.replace("linear", "lineal"), ONLINE, "lineal"),
    ],
)
def test_a_plan_refuses_a_best_checkpoint_that_no_record_decides(expand, best, evaluation, named):
    errors = preflight_errors(expand(overrides=[best], evaluations=[evaluation]))
    assert all("checkpoint.keep_best" in error and named in error for error in errors.values())
    assert len(errors) == (2 if named else 0), errors
