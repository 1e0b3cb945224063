"""Evaluation under srun: the tasks share the extraction and write the record of one process."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from hpc_jepa.config import loading
from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.evaluation.evaluator import evaluate
from hpc_jepa.evaluation.record import ProbeRecord, read_predictions, read_record

WORKER = Path(__file__).parent / "workers" / "evaluate.py"


@pytest.fixture
def benchmarks(tiny_benchmark, tmp_path):
    """Two benchmark files with the same clips."""
    tiny_benchmark["protocols"]["standard"]["feature_precision"] = "fp32"
    files = [tmp_path / f"{name}.yaml" for name in ("first", "second")]
    for file in files:
        file.write_text(yaml.safe_dump({**tiny_benchmark, "name": file.stem}))
    return files


def test_two_tasks_share_the_clips_and_write_the_record_of_one(cluster, uninterrupted, benchmarks, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder in (alone, shared):
        shutil.copytree(uninterrupted(2).folder, folder)
    command = [sys.executable, WORKER, tmp_path, shared, "--benchmark", benchmarks[0], "--weights", "target"]
    cluster.slurm("srun", "--ntasks=2", "--nodes=1", *map(str, command))

    for rank in (0, 1):
        listening = (tmp_path / f"listening-{rank}").read_text().splitlines()
        assert listening and not {"0.0.0.0", "::"} & {*listening}
    assert list(shared.glob(".rendezvous-*")) == []
    decoded = [(tmp_path / f"rank-{rank}").read_text().splitlines() for rank in (0, 1)]
    assert [len(samples) for samples in decoded] == [12 + 4, 12 + 4]
    every = {f"train {sample}" for sample in range(24)} | {f"test {sample}" for sample in range(8)}
    assert set(decoded[0]) | set(decoded[1]) == every

    benchmark = loading.read_config(BenchmarkConfig, [benchmarks[0]])
    expected = evaluate(alone, benchmark, "standard", ["target"])
    path = shared / "eval/first.standard.json"
    record = read_record(ProbeRecord, path)
    assert record.results == expected.results
    ours, theirs = read_predictions(alone / "eval/first.standard.json", expected), read_predictions(path, record)
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])


def test_a_study_runs_its_evaluations_one_after_the_other_on_two_tasks(grid, benchmarks, eventually):
    study = grid(
        "baseline",
        steps=2,
        evaluations=[{"benchmark": file.name, "weights": ["target"]} for file in benchmarks],
        evaluate={"tasks_per_node": 2, "cpus_per_node": 2, "time": 10},
    )
    study.call("submit")
    eventually(study.done)
    for file in benchmarks:
        assert (study.run().folder / "eval" / f"{file.stem}.standard.json").is_file()
    other = (study.run().folder / "log/evaluate-rank-1.log").read_text()
    assert "error" not in other
