"""``hpc-jepa study`` on this machine, with real runs of a few steps."""

import json
import signal
import subprocess
import sys
import threading

import pytest
import yaml
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.devices import Gpus
from hpc_jepa.errors import InputError
from hpc_jepa.study import local, task
from hpc_jepa.study.grid import create_study_dir, expand_study
from hpc_jepa.study.local import LocalJobs
from hpc_jepa.study.preflight import preflight_errors
from tests.waiting import LEAST_PATIENCE, wait_until


@pytest.fixture
def write_study(tiny_regime, tiny_benchmark, tmp_path, monkeypatch):
    """``write_study(*variants, steps)`` writes a study of tiny runs into the working directory; its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def write(*variants, steps=2):
        study = {
            "study": "demo",
            "regimes": ["regime.yaml"],
            "variants": list(variants),
            "seeds": [0],
            "evaluations": [{"benchmark": "benchmark.yaml", "weights": ["target", "random_init"]}],
        }
        for name, content in (("regime", tiny_regime(steps)), ("benchmark", tiny_benchmark), ("study", study)):
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "study.yaml"

    return write


@pytest.mark.parametrize(
    ("gpus", "cells", "requested", "expected"),
    [
        ([], 5, None, LocalJobs(4)),
        ([], 3, None, LocalJobs(3)),
        ([], 3, 8, LocalJobs(8)),
        (["0", "1"], 5, None, LocalJobs(2, ("0", "1"))),
        (["GPU-a", "GPU-b"], 1, None, LocalJobs(1, ("GPU-a",))),
        (["MIG-1", "MIG-2", "MIG-3"], 9, 2, LocalJobs(2, ("MIG-1", "MIG-2"))),
        (["3", "1"], 5, 5, LocalJobs(5, ("3", "1", "3", "1", "3"))),
    ],
)
def test_concurrent_tasks_get_a_gpu_each(gpus, cells, requested, expected):
    jobs = LocalJobs.plan(gpus, cores=4, cells=cells, requested=requested)
    assert jobs == expected
    assert all(gpu in str(jobs) for gpu in jobs.gpus)


@pytest.mark.parametrize(
    ("gpus", "cells", "requested", "expected"),
    [
        ([], 5, None, LocalJobs(2, (), 2)),
        ([], 5, 3, LocalJobs(3, (), 2)),
        (["0", "1", "2", "3", "4"], 5, None, LocalJobs(2, ("0,1", "2,3"), 2)),
        (["a", "b"], 5, 2, LocalJobs(2, ("a,b", "a,b"), 2)),
    ],
)
def test_tasks_of_two_processes_get_two_gpus_each(gpus, cells, requested, expected):
    jobs = LocalJobs.plan(gpus, cores=4, cells=cells, requested=requested, processes=2)
    assert jobs == expected and "of 2 processes" in str(jobs) and all(gpu in str(jobs) for gpu in jobs.gpus)
    with pytest.raises(InputError, match=r"--processes 3"):
        LocalJobs.plan(gpus[:2] or ["0"], cores=4, cells=1, processes=3)


def test_a_damaged_cell_does_not_stop_the_others(write_study, tmp_path, monkeypatch):
    study = read_config(StudyConfig, [write_study("baseline", "fwm", "ld", "delta")])
    cells = expand_study(study, tmp_path / "runs")
    damaged, linked, *others = cells
    for cell in (damaged, linked):
        cell.folder.mkdir(parents=True)
    damaged.run.state_file.write_text("{")
    (tmp_path / "outside").mkdir()
    linked.run.log_dir.symlink_to(tmp_path / "outside")
    ran = []
    monkeypatch.setattr(task.TaskRunner, "run", lambda self, task: ran.append(task.folder) or 0)
    shown = {}
    failures = local.run_locally(cells, LocalJobs(1), lambda cell, status: shown.setdefault(cell.folder, status.state))
    assert [failure.cell for failure in failures] == [damaged, linked]
    assert str(damaged.run.state_file) in failures[0].message and str(linked.run.log_dir) in failures[1].message
    assert set(ran) == {cell.folder for cell in others} and shown[damaged.folder] == "damaged"
    assert not [*(tmp_path / "outside").iterdir()]
    errors = preflight_errors(cells)
    assert errors.keys() == {damaged.folder, linked.folder}


def test_the_file_of_a_study_is_not_written_through_a_link(write_study, tmp_path):
    study = read_config(StudyConfig, [write_study("baseline")])
    (tmp_path / "runs/demo").mkdir(parents=True)
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "runs/demo/study.yaml").symlink_to(tmp_path / "precious")
    create_study_dir(study, tmp_path / "runs")
    assert (tmp_path / "precious").read_text() == "precious"
    (tmp_path / "runs/demo/slurm").symlink_to(tmp_path)
    with pytest.raises(InputError, match="slurm"):
        create_study_dir(study, tmp_path / "runs")


def test_each_running_task_sees_its_own_gpu(write_study, tmp_path, monkeypatch):
    """Two stand-ins for GPUs and three cells: no two tasks that run at the same time see the same one."""
    starts, lock = [], threading.Lock()
    running, both = {}, threading.Barrier(2, timeout=LEAST_PATIENCE)

    def start(command, *, env, **options):
        gpu = env["CUDA_VISIBLE_DEVICES"]
        with lock:
            assert gpu not in running.values()
            running[threading.get_ident()] = gpu
            starts.append((command[3], gpu))
            first = len(starts) <= 2
        if first:
            both.wait()
        return Ended()

    class Ended:
        def wait(self):
            with lock:
                del running[threading.get_ident()]
            return 1

    monkeypatch.setattr(task.subprocess, "Popen", start)
    monkeypatch.setattr(Gpus, "find", classmethod(lambda cls: cls(2)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c")
    result = call("submit", write_study("baseline", "ld", "hw"))
    assert "3 of 3" in result.stderr
    assert "GPU-a, GPU-b" in result.stderr
    assert [kind for kind, _ in starts] == ["train"] * 3
    assert {gpu for _, gpu in starts[:2]} == {"GPU-a", "GPU-b"}


def call(*arguments):
    return CliRunner().invoke(app, ["study", *map(str, arguments)])


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name not in ("study.yaml", "log")}


def test_a_study_writes_its_files_once(write_study, tmp_path):
    switched = {"objective": "fwm_hw_ld", "semantics": {"preset": "corrected", "ld_hw_gradient": False}}
    study = write_study("baseline", switched)
    plan = call("plan", study)
    assert "2 runs" in plan.stdout
    assert not (tmp_path / "runs").exists()
    assert [cell["state"] for cell in json.loads(call("status", study, "--json").stdout)] == ["not started"] * 2

    assert call("submit", study).exit_code == 0
    for variant in ("baseline", "fwm_hw_ld.ld_hw_gradient=false"):
        run = tmp_path / "runs/demo/tiny" / variant / "seed-0"
        assert {path.name for path in run.iterdir() if not path.name.startswith(".")} == {
            "config.yaml", "state.json", "metrics.jsonl", "events", "log", "checkpoints", "eval", "preview.json",
        }  # fmt: skip
        assert {path.name for path in (run / "log").iterdir()} == {"train.log", "evaluate.log", "starts.jsonl"}
    assert (tmp_path / "runs/demo/study.yaml").is_file()
    cells = json.loads(call("status", study, "--json").stdout)
    assert [(cell["state"], cell["step"]) for cell in cells] == [("done", 2)] * 2
    assert "motion8.standard" in call("status", study).stdout

    before = times(tmp_path / "runs/demo/tiny")
    assert call("submit", study).exit_code == 0
    changed = {path.name for path, when in times(tmp_path / "runs/demo/tiny").items() if before.get(path) != when}
    assert changed <= {"evaluate.log"}


def test_a_failed_cell_is_named_with_its_log_and_does_not_stop_the_others(write_study, tmp_path):
    broken = {"variant": "broken", "data": {"sources": {"motion8": {"shards": "nowhere"}}}}
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(broken))
    result = call("submit", write_study("broken.yaml", "baseline"))
    assert result.exit_code == 1
    for part in ("1 of 2", "nowhere", "runs/demo/tiny/broken/seed-0/log/train.log"):
        assert part in result.stderr
    assert (tmp_path / "runs/demo/tiny/baseline/seed-0/eval/motion8.standard.json").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_study_saves_running_cells_and_starts_no_others(number, write_study, tmp_path):
    study = write_study("baseline", "ld", steps=100_000)
    command = [sys.executable, "-m", "hpc_jepa", "study", "submit", str(study), "--jobs", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    log = tmp_path / "runs/demo/tiny/baseline/seed-0/metrics.jsonl"
    wait_until(lambda: (log.exists() and log.stat().st_size) or process.poll() is not None)
    process.send_signal(number)
    assert process.wait() == 130
    first, second = json.loads(call("status", study, "--json").stdout)
    assert first["state"] == "interrupted"
    assert first["step"] > 0
    assert second["state"] == "not started"
