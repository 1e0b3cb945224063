"""Files of run and study folders: states, leases, metrics, starts, jobs, records, previews, ledgers."""

import io
import itertools
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from mutations import damaged_json, fuzz

from hpc_jepa.cli import study_table
from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.data.shards.build_task import DroppedSample
from hpc_jepa.evaluation.record import RECORD_TYPES, read_record
from hpc_jepa.io.escape import SafeConsole
from hpc_jepa.io.jsonl import read_jsonl
from hpc_jepa.runs.evaluations import read_summary
from hpc_jepa.runs.lease import read_holder
from hpc_jepa.runs.metrics_log import last_metrics, read_metrics
from hpc_jepa.runs.origin import read_origin
from hpc_jepa.runs.preview_file import read_preview
from hpc_jepa.runs.process_identity import is_in_use
from hpc_jepa.runs.restarts import read_starts
from hpc_jepa.runs.run_dir import RunDir, StudyDir
from hpc_jepa.runs.state import read_state
from hpc_jepa.study.cell import CellEvaluation, StudyCell
from hpc_jepa.study.job_log import JobLog
from hpc_jepa.study.looks_file import not_needed, read_looks
from hpc_jepa.study.status import read_study_status

STATE = {
    "state": "running",
    "step": 5,
    "steps": 10,
    "time": 1.7e9,
    "pid": 12,
    "decode_errors": {"a": 1},
    "cpu_decoded": {},
    "stopped_by": "SIGTERM",
    "error": "e",
}
IDENTITY = {"machine": "m", "pid": 12, "start": 3, "command": ["python", "-m"]}
LEASE = {"token": "t", "host": "h", "process": 12, "job": "7", "restart": 0, "identity": IDENTITY}
METRICS = {
    "step": 10,
    "time": 1.7e9,
    "loss": 1.5,
    "gradient_norm": 1.0,
    "terms": {"ld": 0.5},
    "coefficients": {"ld": 1.0},
    "clips_per_second": 20.0,
    "memory_bytes": 100,
    "health": {"target_std": 0.5, "effective_rank": 8.0},
}
START = {"time": 1.7e9, "job": "7", "step": 5}
JOB = {"job": "7_1", "kind": "train", "folder": "runs/s/r/v/seed-0", "cluster": "c", "time": 1.7e9}
LOOK = {
    "look": 1,
    "seeds": 2,
    "time": 1.7e9,
    "decisions": {
        "r/v on b": {"decision": "gain", "seeds": 2, "difference": 1.5, "low": 1.0, "high": 2.0, "p_value": 0.01}
    },
    "records": {"r/v/seed-0/eval/b.standard.json": "a" * 64},
}
LOOKS = {
    "rule": {
        "method": "m",
        "spending": {"equal": "linear"},
        "looks": [2, 3],
        "seeds": [0, 1, 2],
        "confirmation": [7, 8],
        "error": 0.05,
        "margin": 1.0,
        "futility": 0.15,
        "benchmarks": {"b": "standard, linear"},
        "comparisons": ["r/v on b"],
        "references": {"r/v": "r/baseline"},
        "difference_levels": [0.001, 0.05],
        "equal_levels": [0.03, 0.04],
    },
    "evaluated_before": 0,
    "looks": [LOOK],
    "confirmation": {**LOOK, "look": 2},
}
PREVIEW = {"strips": [{"caption": "clip", "image": "data:image/png;base64,AAAA"}]}
DROP = {"key": "a/b", "file": "a/b.mp4", "reason": "too short"}
IDENTITY_OF_RUN = {
    "study": "s",
    "regime": "r",
    "variant": "v",
    "seed": 0,
    "semantics": "corrected",
    "overridden": {"ld_hw_gradient": False},
    "switches": {"ld_hw_gradient": False},
    "fingerprint": "f",
    "step": 10,
    "steps": 10,
}
RECORD = {
    "format": 1,
    "run": IDENTITY_OF_RUN,
    "benchmark": "motion8",
    "title": "Motion",
    "classes": 8,
    "protocol": "standard",
    "protocol_fingerprint": "p",
    "data": {"train": "0" * 64, "test": "1" * 64},
    "software": {"torch": "2"},
    "encoders": {},
    "predictions": "2" * 64,
    "clusters": 4,
}
RESULT = {"weights": "target", "value": 0.5, "low": 0.4, "high": 0.6, "n": 8, "per_seed": [0.5, 0.5]}
RESULTS = {
    "probe": {"probe": "knn", "pooling": "mean", "probe_seeds": [], "metric": "top1", "setting": {"k": 5.0}},
    "few_shot": {"kind": "draws", "ways": 8, "shots": 5, "pooling": "mean", "count": 2, "per_draw": [0.5, 0.5]},
    "robustness": {"probe": "knn", "corruption": "noise", "severity": 1, "level": 0.1, "consistency": 0.9},
    "text": {"dropout": 0.0, "direction": "class_names", "metric": "top1", "seeds": [0]},
}


def record_of(task):
    common = {key: value for key, value in RESULT.items() if not (task == "few_shot" and key == "per_seed")}
    return {**RECORD, "results": [{**common, **RESULTS[task]}]}


@pytest.fixture(scope="module")
def fresh(sandbox):
    """``fresh(name, content)`` writes the file of one example."""
    numbers = itertools.count()

    def write(name, content):
        path = sandbox / str(next(numbers) % 50) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


@pytest.fixture(scope="module")
def cell(sandbox):
    """A cell of a study with one evaluation, and its study folder."""
    settings = {"study": "s", "regime": "r", "variant": "v", "seed": 0, "runs": str(sandbox / "runs")}
    config = RunConfig.model_validate({**settings, "data": {"sources": {"s": {"shards": "none"}}}})
    benchmark = read_config(BenchmarkConfig, [find_config("motion8", "benchmark")])
    protocol = next(iter(benchmark.protocols))
    evaluation = CellEvaluation(benchmark, "motion8", protocol, ("target",))
    cell = StudyCell(config, (), (evaluation,))
    for folder in (cell.run.log_dir, cell.run.record_dir()):
        folder.mkdir(parents=True)
    cell.run.metrics_file.write_text(json.dumps(METRICS) + "\n")
    cell.run.starts_file.write_text(json.dumps(START) + "\n")
    return cell, StudyDir(sandbox / "runs" / "s")


@pytest.mark.parametrize("task", RECORD_TYPES)
def test_valid_files_are_read(task, fresh):
    path = fresh("record.json", json.dumps(record_of(task)).encode())
    assert read_record(RECORD_TYPES[task], path).results[0].key
    assert read_state(fresh("state.json", json.dumps(STATE).encode())).summary
    assert read_holder(RunDir(fresh("lease.json", json.dumps(LEASE).encode()).parent))


@fuzz
@given(content=damaged_json(STATE))
def test_state(content, survives, fresh):
    path = fresh("state.json", content)
    state = survives(lambda: read_state(path), path.name)
    assert state is None or state.summary


@fuzz
@given(content=damaged_json(LEASE))
def test_lease(content, survives, fresh):
    run = RunDir(fresh("lease.json", content).parent)
    holder = survives(lambda: read_holder(run), "lease.json")
    assert holder is None or (not (holder.identity and holder.identity.is_running) and str(holder))


@fuzz
@given(content=damaged_json(IDENTITY))
def test_user_of_a_temporary_folder(content, survives, fresh):
    path = fresh(".user.json", content)
    survives(lambda: is_in_use(path.parent), path.name)


@fuzz
@given(content=damaged_json(METRICS))
def test_metrics(content, survives, fresh):
    path = fresh("metrics.jsonl", content + b"\n" + json.dumps(METRICS).encode() + b"\n" + content + b"\n")
    survives(lambda: last_metrics(path), path.name)
    for record in survives(lambda: read_metrics(path), path.name) or ():
        survives(record.scalars, path.name)


@fuzz
@given(content=damaged_json(START))
def test_starts(content, survives, fresh):
    path = fresh("log/starts.jsonl", content + b"\n")
    survives(lambda: read_starts(RunDir(path.parents[1])), path.name)


@fuzz
@given(content=damaged_json(JOB))
def test_jobs(content, survives, fresh):
    log = JobLog(StudyDir(fresh("jobs.jsonl", content + b"\n").parent))
    survives(log.jobs, "jobs.jsonl")


@fuzz
@given(content=damaged_json({"runs/s/r/v/seed-0": "too large", "b": ""}))
def test_refused_cells(content, survives, fresh):
    log = JobLog(StudyDir(fresh("refused.json", content).parent))
    survives(log.refused, "refused.json")


@fuzz
@given(content=damaged_json(LOOKS))
def test_looks(content, survives, fresh):
    study = StudyDir(fresh("looks.json", content).parent)

    def read():
        looks = read_looks(study)
        return looks and [not_needed(looks)(arm, seed) for arm in ("r/v", "r/baseline") for seed in (0, 2, 7, 9)]

    survives(read, "looks.json")


@fuzz
@given(content=damaged_json(PREVIEW))
def test_preview(content, survives, fresh):
    path = fresh("preview.json", content)
    survives(lambda: read_preview(path), path.name)


ORIGIN = {
    "kind": "run",
    "path": "runs/a",
    "step": 3,
    "what": "all",
    "parts": ["encoder", "target", "predictor"],
    "sha256": 64 * "a",
    "drawn": ["objectives.auxiliary.ld.head.0.weight"],
    "before": ["weights of b.pt"],
}


@fuzz
@given(content=damaged_json(ORIGIN))
def test_origin(content, survives, fresh):
    path = fresh("origin.json", content)
    origin = survives(lambda: read_origin(path), path.name)
    assert origin is None or origin.lines[1:] == list(origin.before)


@fuzz
@given(content=damaged_json(DROP))
def test_ledger(content, survives, fresh):
    path = fresh("ledger.jsonl", content + b"\n")
    survives(lambda: read_jsonl(path, DroppedSample, "build again"), path.name)


@pytest.mark.parametrize("task", RECORD_TYPES)
@fuzz
@given(content=damaged_json(*map(record_of, RESULTS)))
def test_records(task, content, survives, fresh):
    path = fresh("record.json", content)
    survives(lambda: read_record(RECORD_TYPES[task], path), path.name)
    summary = survives(lambda: read_summary(path), path.name)
    assert summary is None or isinstance(list(summary.rows("probe")), list)


@pytest.mark.parametrize(
    ("name", "value"), [("state.json", STATE), ("metrics.jsonl", METRICS), ("starts.jsonl", START)]
)
@fuzz
@given(content=damaged_json(*(STATE, METRICS, START)))
def test_status_of_a_study(name, value, content, survives, cell):
    cell, study = cell
    sound = {cell.run.state_file: STATE, cell.run.metrics_file: METRICS, cell.run.starts_file: START}
    for path, valid in sound.items():
        path.write_bytes((content if path.name == name else json.dumps(valid).encode()) + b"\n")
    console = SafeConsole(file=io.StringIO(), width=200)

    def show():
        view = read_study_status([cell], study)
        console.print(study_table._render(view, ["v"]))

    survives(show, "nothing: the damaged cell is shown")


def test_a_pipe_and_a_device_are_no_files(tmp_path, survives):
    (tmp_path / "log").mkdir()
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir):
        run, study = RunDir(tmp_path), StudyDir(tmp_path)
        paths = (run.state_file, run.lease_file, run.metrics_file, run.starts_file, run.preview_file, run.origin_file)
        paths += (study.jobs_file,)
        for path in (*paths, study.refused_file, tmp_path / "record.json"):
            make(Path(path))
        for read in (
            lambda run=run: read_state(run.state_file),
            lambda run=run: read_metrics(run.metrics_file),
            lambda run=run: last_metrics(run.metrics_file),
            lambda run=run: read_starts(run),
            lambda run=run: read_preview(run.preview_file),
            lambda run=run: read_origin(run.origin_file),
            lambda study=study: JobLog(study).jobs(),
            lambda study=study: JobLog(study).refused(),
            lambda: read_summary(tmp_path / "record.json"),
        ):
            assert survives(read, str(tmp_path)) is None
        for path in (*paths, study.refused_file, tmp_path / "record.json"):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
