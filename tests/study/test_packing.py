"""Packed jobs: their keys, the pool from which they take cells, and what they do when a cell ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from hpc_jepa.config.cluster import find_profile
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import EXIT_INTERRUPTED, InputError
from hpc_jepa.runs.lease import LEASE_TIMEOUT, LeaseHolder
from hpc_jepa.runs.state import RunState, write_state
from hpc_jepa.study import packed_job, submit, task
from hpc_jepa.study.cell_pool import CellPool, Claim, PooledTask
from hpc_jepa.study.forecast import estimated_step, forecast_study
from hpc_jepa.study.grid import expand_study
from hpc_jepa.study.job_log import JobLog, SubmittedJob, newest, packed_states
from hpc_jepa.study.packed_job import PackedJob, PackedRun
from hpc_jepa.study.packed_slots import CellShape, packed_slots, process_slots, step_command
from hpc_jepa.study.packing import pooled_trainings, refuse_online_packed, sharing_note
from hpc_jepa.study.slurm_cli import JobState
from hpc_jepa.study.slurm_submitter import SlurmSubmitter
from hpc_jepa.study.submit import missing_work
from tests.waiting import wait_until

NODE = {"gpus_per_node": 8, "cpus_per_node": 96, "memory_gib": 480, "time": 60}


@pytest.fixture
def profile(tmp_path):
    """``profile(evaluate, **train)`` writes a profile of nodes with eight GPUs and reads it."""

    def write(evaluate=None, **train):
        path = tmp_path / "site.yaml"
        sections = {"train": {**NODE, **train}, "evaluate": {"cpus_per_node": 8, "time": 5, **(evaluate or {})}}
        path.write_text(yaml.safe_dump(sections, sort_keys=False))
        return find_profile(str(path))

    return write


@pytest.fixture
def expand(tiny_regime, tiny_benchmark, tmp_path, monkeypatch):
    """``expand(**changes)``: cells of a study of two variants and two seeds."""
    monkeypatch.chdir(tmp_path)

    def make(**changes):
        study = {
            "study": "demo", "regimes": ["regime.yaml"], "variants": ["baseline", "ld"], "seeds": [0, 1],
            "evaluations": [{"benchmark": "benchmark.yaml", "weights": ["target"]}], **changes,
        }  # fmt: skip
        for name, content in (("regime", tiny_regime(4)), ("benchmark", tiny_benchmark), ("study", study)):
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        return expand_study(read_config(StudyConfig, [tmp_path / "study.yaml"]), tmp_path / "runs")

    return make


def mark_done(folder):
    folder.mkdir(parents=True, exist_ok=True)
    write_state(folder / "state.json", RunState(state="done", step=4, steps=4))


def tasks(folder, *groups):
    return [
        PooledTask(kind="train", folder=folder / str(number), commands=(("train",),), group=group)
        for number, group in enumerate(groups)
    ]


def take_first(pool, numbers):
    """The number of the task that was taken, None if none is free."""
    return next(iter(pool.take(numbers)), None)


@pytest.mark.parametrize(
    ("train", "key", "part"),
    [
        ({"cells_per_job": 9}, "cells_per_job", "at most 8"),
        ({"cells_per_job": 5, "gpus_per_cell": 2}, "cells_per_job", "at most 4"),
        ({"cells_per_job": 17, "cells_per_gpu": 2}, "cells_per_job", "at most 16"),
        ({"cells_per_job": 2, "gpus_per_cell": 9}, "cells_per_job", "gpus_per_cell"),
        ({"cells_per_job": 97, "gpus_per_node": 0}, "cells_per_job", "at most 96"),
        ({"cells_per_job": 12, "cells_per_gpu": 2, "cpus_per_node": 8}, "cells_per_job", "at most 8"),
        ({"cells_per_job": 2, "nodes": 2}, "nodes", "nodes: 1"),
        ({"cells_per_job": 2, "tasks_per_node": 4}, "tasks_per_node", "remove"),
        ({"cells_per_job": 2, "gpus_per_cell": 2, "cells_per_gpu": 2}, "cells_per_gpu", "gpus_per_cell: 1"),
        ({"cells_per_job": 2, "gpus_per_node": 0, "gpus_per_cell": 1}, "gpus_per_cell", "gpus_per_node"),
        ({"cells_per_job": 2, "gpus_per_node": 0, "cells_per_gpu": 2}, "cells_per_gpu", "gpus_per_node"),
        ({"gpus_per_cell": 1}, "gpus_per_cell", "cells_per_job"),
        ({"cells_per_gpu": 2}, "cells_per_gpu", "cells_per_job"),
        ({"cells_per_job": 0}, "cells_per_job", "greater"),
    ],
)  # fmt: skip
def test_cells_without_room_are_refused_with_line_key_and_remedy(profile, train, key, part):
    with pytest.raises(InputError, match=rf"site\.yaml:\d+: train\.{key}: .*{part}"):
        profile(**train)


def test_a_report_is_not_packed_and_trainings_share_no_pass(tmp_path):
    path = tmp_path / "site.yaml"
    for section, key in (("report", "cells_per_job"), ("report", "cells_per_pass"), ("train", "cells_per_pass")):
        profile = {"train": NODE, "evaluate": NODE, "report": {"cpus_per_node": 4, "time": 5}}
        profile[section] = {**profile[section], key: 2}
        path.write_text(yaml.safe_dump(profile))
        with pytest.raises(InputError, match=rf"site\.yaml:\d+: {section}\.{key}"):
            find_profile(str(path))


@pytest.mark.parametrize(
    ("train", "gpus", "processes"),
    [
        ({}, 8, 8),
        ({"nodes": 2}, 16, 16),
        ({"gpus_per_cell": 8}, 8, 8),
        ({"cells_per_job": 8}, 1, 1),
        ({"cells_per_job": 4}, 2, 2),
        ({"cells_per_job": 3, "gpus_per_cell": 2}, 2, 2),
        ({"cells_per_job": 16, "cells_per_gpu": 2}, 1, 1),
        ({"cells_per_job": 4, "gpus_per_node": 0}, 0, 1),
    ],
)
def test_gpus_and_processes_are_those_of_a_cell(profile, train, gpus, processes):
    resources = profile(**train).cluster.train
    assert (resources.gpus, resources.processes) == (gpus, processes)


def test_hours_of_packed_cells(expand, profile):
    cells = expand(seeds=list(range(32)))
    whole, packed = profile().cluster, profile(cells_per_job=8).cluster
    shared = profile(cells_per_job=16, cells_per_gpu=2).cluster
    hours = [forecast_study(cells, site, step_seconds=3600).gpu_hours for site in (whole, packed, shared)]
    assert hours == [64 * 4 * 8, 64 * 4, 64 * 4 / 2]
    days = [forecast_study(cells, site, step_seconds=3600).days for site in (whole, packed)]
    assert days == [64 * 4 / 16 / 24, 64 * 4 / 64 / 24]
    alone, two = (estimated_step(cells[0].config, 1e-3, 1, sharing).seconds for sharing in (1, 2))
    assert two == pytest.approx(2 * alone)


def test_a_task_is_taken_once_and_again_only_if_it_was_interrupted(tmp_path):
    pool = CellPool.create(tmp_path, tasks(tmp_path, 0, 0, 0))
    other = CellPool(pool.path)
    assert [take_first(pool, range(3)), take_first(other, range(3)), take_first(pool, range(3))] == [0, 1, 2]
    assert take_first(other, range(3)) is None
    pool.finish(0, EXIT_INTERRUPTED)
    other.finish(1, 7)
    pool.finish(2, 0)
    assert {number: claim.code for number, claim in other.claims().items()} == {0: EXIT_INTERRUPTED, 1: 7, 2: 0}
    assert [take_first(other, range(3)), take_first(other, range(3))] == [0, None]
    assert pool.lost == other.lost == set()


def test_two_jobs_never_get_the_same_task(tmp_path, monkeypatch):
    """The second job looks at the claims before the first one has written its own."""
    pool = CellPool.create(tmp_path, tasks(tmp_path, 0))
    late = CellPool(pool.path)
    generations = late._generations

    def overtaken():
        found = generations()
        take_first(pool, [0])
        return found

    monkeypatch.setattr(late, "_generations", overtaken)
    assert take_first(late, [0]) is None and pool._held == {0: 1}


def claim_by(pool, holder, code=None):
    (pool.path / "0.1.json").write_text(Claim(holder=holder, job="9", code=code).model_dump_json())


@pytest.mark.parametrize("late", [False, True])
def test_a_task_of_another_machine_is_taken_over_without_heartbeats(tmp_path, late):
    pool = CellPool.create(tmp_path, tasks(tmp_path, 0))
    claim_by(pool, LeaseHolder.current().model_copy(update={"identity": None, "host": "elsewhere"}))
    if late:
        os.utime(pool.path / "0.1.json", (time.time() - 2 * LEASE_TIMEOUT,) * 2)
    assert take_first(pool, [0]) == (0 if late else None)


def test_a_restarted_job_takes_its_own_tasks_at_once_and_the_older_start_notices(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    pool = CellPool.create(tmp_path, tasks(tmp_path, 0, 0))
    assert take_first(pool, [0]) == 0
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = CellPool(pool.path)
    assert take_first(again, [0]) == 0
    pool._renew()
    assert pool.lost == {0} and not again.lost
    pool.finish(0, 0)
    assert again.claims()[0].code is None


def test_a_task_of_a_dead_process_is_free_and_a_torn_claim_is_not(tmp_path):
    pool = CellPool.create(tmp_path, tasks(tmp_path, 0, 0))
    script = (
        "import sys, pathlib; from hpc_jepa.study.cell_pool import CellPool; "
        "CellPool(pathlib.Path(sys.argv[1])).take([0])"
    )
    subprocess.run([sys.executable, "-c", script, str(pool.path)], check=True)
    (pool.path / "1.1.json").write_text("{")
    assert (pool.path / "0.1.json").exists()
    assert [take_first(pool, [0]), take_first(pool, [1])] == [0, None]


def test_what_is_done_or_waits_for_another_run_or_is_trained_by_hand_is_not_taken(tmp_path):
    done, first, later, evaluation = tasks(tmp_path, 0, 0, 0, 0)
    mark_done(done.folder)
    later = later.model_copy(update={"after": first.folder})
    evaluation = evaluation.model_copy(update={"kind": "evaluate"})
    pool = CellPool.create(tmp_path, [done, first, later, evaluation])
    assert list(pool.due(range(4))) == [1]
    mark_done(first.folder)
    mark_done(evaluation.folder)
    assert list(pool.due(range(4))) == [2, 3]
    later.folder.mkdir()
    (later.folder / "lease.json").write_text(LeaseHolder.current().model_dump_json())
    assert list(pool.due(range(4))) == [3]


class Runs:
    """Stands in for the commands: records the order of the cells, and ends them with chosen codes."""

    def __init__(self, monkeypatch, **codes):
        self.order, self.codes = [], codes
        monkeypatch.setattr(task.TaskRunner, "run", lambda runner, each: self._run(each))

    def _run(self, each):
        name = each.folder.name
        self.order.append(name)
        code = self.codes.get(f"cell_{name}", 0)
        if code == 0:
            mark_done(each.folder)
        return code


def packed(pool, cells, first=0, cells_per_pass=1):
    shape = CellShape(cells=cells, processes=1, cores=1, cells_per_pass=cells_per_pass)
    return PackedRun(PackedJob(pool.path, first, shape))


def test_a_job_takes_its_own_cells_then_those_with_the_same_clips_then_the_last(tmp_path, monkeypatch):
    runs = Runs(monkeypatch)
    pool = CellPool.create(tmp_path, tasks(tmp_path, 0, 0, 0, 1, 1, 2))
    assert packed(pool, 2, first=2).run() == 0
    assert runs.order[:2] == ["2", "3"] or runs.order[:2] == ["3", "2"]
    assert sorted(runs.order) == list("012345")
    run = packed(pool, 2, first=2)
    run._running = {object(): packed_job._Pass((1,), pool.tasks[1].task)}
    assert list(run._preferred()) == [2, 3, 1, 0, 5, 4]


def test_a_failed_cell_ends_alone_and_gives_the_job_its_code(tmp_path, monkeypatch):
    runs = Runs(monkeypatch, cell_1=3)
    pool = CellPool.create(tmp_path, tasks(tmp_path, 0, 0, 0, 0))
    assert packed(pool, 2).run() == 3
    assert sorted(runs.order) == list("0123")
    assert [claim.code for _, claim in sorted(pool.claims().items())] == [0, 3, 0, 0]
    assert packed(pool, 2).run() == 0 and len(runs.order) == 4


def test_a_cell_that_was_stopped_ends_the_job_and_is_left_for_the_next_start(tmp_path, monkeypatch):
    runs = Runs(monkeypatch, cell_0=EXIT_INTERRUPTED)
    pool = CellPool.create(tmp_path, tasks(tmp_path, 0, 0, 0))
    assert packed(pool, 1).run() == EXIT_INTERRUPTED
    assert runs.order == ["0"]
    runs.codes.clear()
    assert packed(pool, 1).run() == 0 and sorted(runs.order) == list("0012")


def test_no_cell_starts_when_the_time_is_nearly_up_but_one(tmp_path, monkeypatch):
    runs = Runs(monkeypatch)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 5))
    pool = CellPool.create(tmp_path, tasks(tmp_path, 0, 0, 0))
    assert packed(pool, 1).run() == EXIT_INTERRUPTED
    assert runs.order == ["0"]
    assert packed(pool, 2).run() == EXIT_INTERRUPTED and runs.order == ["0", "1"]
    assert packed(pool, 2).run() == 0 and runs.order == ["0", "1", "2"]


def test_a_signal_reaches_every_cell_and_no_other_starts(tmp_path, monkeypatch):
    pool = CellPool.create(tmp_path, tasks(tmp_path, 0, 0, 0))
    received, started = [], []
    monkeypatch.setattr(task.TaskRunner, "send_signal", lambda runner, number: received.append(number))

    def run(runner, each):
        started.append(each.folder.name)
        if each.folder.name == "0":
            wait_until(lambda: len(started) == 2)
            os.kill(os.getpid(), signal.SIGUSR2)
        wait_until(lambda: len(received) == 2)
        return 1  # srun's code if the signal comes before its step

    monkeypatch.setattr(task.TaskRunner, "run", run)
    assert packed(pool, 2).run() == EXIT_INTERRUPTED
    assert received == [signal.SIGUSR2] * 2 and sorted(started) == ["0", "1"]
    assert {claim.code for claim in pool.claims().values()} == {EXIT_INTERRUPTED}


def test_a_job_whose_cells_were_taken_over_starts_no_others_and_is_not_queued_again(tmp_path, monkeypatch):
    pool = CellPool.create(tmp_path, tasks(tmp_path, 0, 0))

    def taken_over(runner, each):
        (pool.path / "0.2.json").write_text((pool.path / "0.1.json").read_text())
        return EXIT_INTERRUPTED

    monkeypatch.setattr(task.TaskRunner, "run", taken_over)
    assert packed(pool, 1).run() == 1
    assert pool.claims().keys() == {0}


class Evaluations:
    """Stands in for evaluate commands: each run of one that fails has no record. Remembers the commands by runs."""

    def __init__(self, monkeypatch, *broken):
        self.passes, self.broken = [], set(broken)
        monkeypatch.setattr(task.TaskRunner, "run", lambda runner, each: self._run(each))

    def _run(self, each):
        names = []
        for command in each.commands:
            folders = command[1 : command.index("--benchmark")]
            names.append("".join(Path(folder).name for folder in folders))
        self.passes.append(tuple(names))
        return 4 if self.broken & set(names[0]) else 0


def evaluations(folder, *benchmarks):
    """Evaluations of trained runs 0, 1, ..., each on some benchmarks."""
    for number in range(len(benchmarks)):
        mark_done(folder / str(number))
    return [
        PooledTask(
            kind="evaluate",
            folder=folder / str(number),
            commands=tuple(("evaluate", str(folder / str(number)), "--benchmark", name) for name in names),
        )
        for number, names in enumerate(benchmarks)
    ]


def test_a_pass_takes_evaluations_with_the_same_options_and_at_most_as_many_as_the_profile_says(tmp_path, monkeypatch):
    commands = Evaluations(monkeypatch)
    pool = CellPool.create(tmp_path, evaluations(tmp_path, "ab", "ab", "a", "ab", "ab", "a"))
    assert packed(pool, 1, cells_per_pass=3).run() == 0
    assert commands.passes == [("014", "014"), ("25",), ("3", "3")]  # its own first, then the last
    assert [claim.code for claim in pool.claims().values()] == [0] * 6
    (log,) = {(tmp_path / name / "log/evaluate.log").read_text() for name in "14"}
    assert str(tmp_path / "0/log/evaluate.log") in log


def test_a_pass_that_fails_is_done_cell_by_cell_and_only_the_broken_one_fails(tmp_path, monkeypatch):
    commands = Evaluations(monkeypatch, "1")
    pool = CellPool.create(tmp_path, evaluations(tmp_path, "a", "a", "a", "a"))
    assert packed(pool, 2, cells_per_pass=2).run() == 4
    assert sorted(commands.passes) == [("0",), ("01",), ("1",), ("23",)]
    assert [claim.code for _, claim in sorted(pool.claims().items())] == [0, 4, 0, 0]


def test_cells_of_a_failed_pass_are_given_back_when_the_time_is_nearly_up(tmp_path, monkeypatch):
    commands = Evaluations(monkeypatch, "0")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 5))
    pool = CellPool.create(tmp_path, evaluations(tmp_path, "a", "a"))
    assert packed(pool, 1, cells_per_pass=2).run() == EXIT_INTERRUPTED
    assert commands.passes == [("01",)] and {claim.code for claim in pool.claims().values()} == {EXIT_INTERRUPTED}
    assert list(CellPool(pool.path).due(range(2))) == [0, 1]


def test_a_step_gets_its_part_of_the_job(monkeypatch, profile, tmp_path):
    monkeypatch.delenv("SLURM_MEM_PER_CPU", raising=False)
    submitter = SlurmSubmitter(profile(cells_per_job=4, memory_gib=480), tmp_path, "demo")
    words = step_command(submitter._shape("train"))
    assert {
        "srun",
        "--exact",
        "--nodes=1",
        "--ntasks=2",
        "--cpus-per-task=12",
        "--gpus-per-node=2",
        "--mem=122880M",
    } <= {*words}
    several = profile(evaluate={"nodes": 2, "tasks_per_node": 2, "cpus_per_node": 8}, cells_per_job=4)
    words = step_command(SlurmSubmitter(several, tmp_path, "demo")._shape("evaluate"))
    assert {"--nodes=2", "--ntasks=4", "--cpus-per-task=4", "--mem=0"} <= {*words}
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    assert not any(word.startswith("--mem") for word in step_command(CellShape(2, 1, 1)))


def test_a_step_does_not_inherit_the_step_that_starts_it(monkeypatch, tmp_path):
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_STEP_ID", "SLURM_NTASKS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "3")
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_CONF", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.setenv(name, "3")
    (tmp_path / "srun").write_text("#!/bin/sh\nenv > variables\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    with packed_slots(CellShape(1, 1, 1)) as (slots, about):
        assert slots.submit(task.StudyTask("train", tmp_path, (("train",),))).result() == 0
    assert "step" in about
    names = {line.partition("=")[0] for line in (tmp_path / "variables").read_text().splitlines()}
    assert {"SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_CONF", "SLURM_ARRAY_TASK_ID"} <= names
    assert not {"SLURM_CPUS_PER_TASK", "SLURM_STEP_ID", "SLURM_NTASKS", "CUDA_VISIBLE_DEVICES"} & names


def test_processes_get_gpus_and_cores_of_their_own_or_share_a_gpu():
    alone = [*process_slots(CellShape(2, 2, 3, gpus=2), ("0", "1", "2", "3"), {}, list(range(12)))]
    assert [slot.environment for slot in alone] == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    assert [slot.cores for slot in alone] == [frozenset(range(6)), frozenset(range(6, 12))]
    shared = [*process_slots(CellShape(4, 1, 1, gpus=1, cells_per_gpu=2), ("a", "b"), {"X": "y"}, [0])]
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in shared] == ["a", "a", "b", "b"]
    assert {slot.environment["X"] for slot in shared} == {"y"} and not any(slot.cores for slot in shared)


SHARED = CellShape(2, 1, 1, gpus=1, cells_per_gpu=2)


def test_without_mps_cells_take_turns_on_the_gpu_and_the_job_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with packed_slots(SHARED) as (_, about):
        assert "take turns" in about and "nvidia-cuda-mps-control" in about
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "NoDevFiles")
    with pytest.raises(InputError, match="gpus_per_node"), packed_slots(SHARED):
        pass


def test_mps_serves_the_gpus_of_the_job_and_ends_with_it(monkeypatch, tmp_path):
    scripts = {
        "nvidia-smi": 'echo "3, GPU-abc"',
        "nvidia-cuda-mps-control": '(echo "$1 $CUDA_VISIBLE_DEVICES"; [ "$1" ] || cat) >> calls',
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.chdir(tmp_path)
    with packed_slots(SHARED) as (slots, about):
        assert "MPS" in about and "turns" not in about
        environment = slots._free.get().environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-abc" and environment["CUDA_MPS_PIPE_DIRECTORY"]
    assert (tmp_path / "calls").read_text().split() == ["-d", "GPU-abc", "3", "quit"]
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 4, GPU-x\n")
    with packed_slots(SHARED) as (slots, about):
        assert "take turns" in about and "GPU 3" in about


class Submitter:
    """Numbers jobs as Slurm does, and remembers tasks and dependencies."""

    def __init__(self, profile, folder):
        self.profile, self.folder, self.arrays = profile, folder, []

    def submit_packed(self, pool, numbers, dependency=None):
        cells = self.profile.cluster.train.cells_of_job
        if pool.tasks[numbers[0]].kind == "evaluate":
            cells = self.profile.cluster.evaluate.cells_of_job
        array = 100 + len(self.arrays)
        self.arrays.append((pool.tasks[numbers[0]].kind, len(numbers), dependency))
        return [self._job(f"{array}_{index // cells}", pool.tasks[n], pool) for index, n in enumerate(numbers)]

    def submit_array(self, tasks, dependency=None):
        array = 100 + len(self.arrays)
        self.arrays.append((tasks[0].kind, len(tasks), dependency))
        return [self._job(f"{array}_{index}", each) for index, each in enumerate(tasks)]

    def _job(self, job, each, pool=None):
        path = pool.path if pool else None
        return SubmittedJob(job=job, kind=each.kind, folder=each.folder, cluster="c", time=0, pool=path)


def submitted(cells, profile, tmp_path, queue=None):
    study = type("S", (), {"jobs_file": tmp_path / "jobs.jsonl", "refused_file": tmp_path / "refused.json"})
    batch = submit._PackedBatch(Submitter(profile, tmp_path / "slurm"), JobLog(study))
    batch.submit(missing_work(cells, queue or submit.JobQueue({}, {})))
    return batch


def test_evaluations_wait_for_all_trainings_and_phases_for_the_one_before(expand, profile, tmp_path):
    site = profile(cells_per_job=8, evaluate={"cells_per_job": 2})
    batch = submitted(expand(), site, tmp_path)
    assert batch._submitter.arrays == [("train", 4, None), ("evaluate", 4, "afterany:100")]
    assert "4 cells in 1 job" in batch.submitted.lines[0] and "4 cells in 2 jobs" in batch.submitted.lines[1]
    one = profile(evaluate={"cells_per_job": 2, "cells_per_pass": 2})
    assert "4 cells in 1 job" in submitted(expand(), one, tmp_path).submitted.lines[1]
    phases = [{"name": "main"}, {"name": "end", "after": "main", "overrides": ["schedule.steps=1"]}]
    arrays = submitted(expand(phases=phases), site, tmp_path)._submitter.arrays
    assert arrays == [("train", 4, None), ("train", 4, "afterany:100"), ("evaluate", 8, "afterany:100:101")]


def test_only_the_evaluations_can_be_packed(expand, profile, tmp_path):
    arrays = submitted(expand(), profile(evaluate={"cells_per_job": 4}), tmp_path)._submitter.arrays
    assert arrays == [("train", 4, None), ("evaluate", 4, "afterany:100")]


def test_what_is_trained_is_evaluated_without_waiting_for_the_others(expand, profile, tmp_path):
    cells = expand()
    mark_done(cells[0].folder)
    arrays = submitted(cells, profile(cells_per_job=8), tmp_path)._submitter.arrays
    assert arrays == [("train", 3, None), ("evaluate", 3, "afterany:100"), ("evaluate", 1, None)]


def test_cells_of_one_seed_are_next_to_each_other_and_a_study_without_them_says_so(expand):
    cells = expand(seeds=[0, 1, 2])
    pooled = pooled_trainings(cells)
    assert [each.folder.name for each in pooled] == ["seed-0", "seed-0", "seed-1", "seed-1", "seed-2", "seed-2"]
    assert [each.group for each in pooled] == [0, 0, 1, 1, 2, 2]
    assert "up to 2" in sharing_note(pooled)
    assert "no two cells" in sharing_note(pooled_trainings([cell for cell in cells if cell.config.variant == "ld"]))


def test_an_evaluation_beside_a_packed_training_is_refused(expand, profile):
    online = {"benchmark": "benchmark.yaml", "weights": ["target"], "every": 2, "online": True}
    with pytest.raises(InputError, match=r"site\.yaml:\d+: train\.cells_per_job: .*online: false"):
        refuse_online_packed(expand(evaluations=[online]), profile(cells_per_job=2))
    refuse_online_packed(expand(evaluations=[online]), profile())
    refuse_online_packed(expand(), profile(cells_per_job=2))


RUNNING, PENDING, ENDED = (
    JobState("RUNNING", "", "node3"),
    JobState("PENDING", "Priority", ""),
    JobState("COMPLETED", "", ""),
)


@pytest.mark.parametrize(
    ("claim", "states", "expected"),
    [
        (None, {"5_0": RUNNING, "5_1": PENDING}, "PENDING"),
        (None, {"5_0": RUNNING, "5_1": ENDED}, "PENDING"),
        (None, {"5_0": ENDED, "5_1": ENDED}, "COMPLETED"),
        (None, {}, None),
        (("5_1", None), {"5_0": ENDED, "5_1": RUNNING}, "RUNNING"),
        (("5_1", None), {"5_0": ENDED, "5_1": PENDING}, "PENDING"),
        (("5_1", None), {"5_0": ENDED, "5_1": ENDED}, "COMPLETED"),
        (("5_1", 0), {"5_0": RUNNING, "5_1": RUNNING}, "COMPLETED"),
        (("5_1", 3), {"5_0": RUNNING, "5_1": RUNNING}, "FAILED"),
        (("5_1", EXIT_INTERRUPTED), {"5_0": RUNNING, "5_1": ENDED}, "PENDING"),
    ],
)  # fmt: skip
def test_the_state_of_a_cell_is_that_of_the_job_that_has_it(tmp_path, claim, states, expected):
    pool = CellPool.create(tmp_path, tasks(tmp_path, 0, 0))
    jobs = [
        SubmittedJob(job=f"5_{n}", kind="train", folder=each.folder, cluster="c", time=0, pool=pool.path)
        for n, each in enumerate(pool.tasks)
    ]
    if claim:
        content = Claim(holder=LeaseHolder.current(), job=claim[0], code=claim[1])
        (pool.path / "0.1.json").write_text(content.model_dump_json())
    found = packed_states(jobs, newest(jobs), states)[pool.tasks[0].folder, "train"]
    assert (found.state.state if found.state else None) == expected and list(found.jobs) == ["5_0", "5_1"]


def test_the_list_of_jobs_of_unpacked_studies_is_as_before(tmp_path):
    study = type("S", (), {"jobs_file": tmp_path / "jobs.jsonl", "refused_file": tmp_path / "refused.json"})
    JobLog(study).append([SubmittedJob(job="1", kind="train", folder=tmp_path, cluster="c", time=0)])
    assert json.loads((tmp_path / "jobs.jsonl").read_text()).keys() == {"job", "kind", "folder", "cluster", "time"}
