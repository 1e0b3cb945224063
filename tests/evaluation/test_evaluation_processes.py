"""Several processes write the same record as one."""

import shutil
from pathlib import Path

import numpy as np

from hpc_jepa.config import loading
from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.evaluation import record
from hpc_jepa.evaluation.evaluator import evaluate
from hpc_jepa.evaluation.record import FewShotRecord, RobustnessRecord
from hpc_jepa.runs.run_dir import RunDir

WORKER = Path(__file__).parent / "workers" / "evaluate.py"


def test_three_processes_write_the_record_of_one(run_folder, benchmark, launch, tmp_path):
    values = benchmark.model_dump()
    values["protocols"]["standard"] |= {
        "probes": {"linear": {"kind": "linear", "pooling": "mean", "updates": 20}},
        "few_shot": {"shots": [1], "draws": 2, "episodes": 3, "episode_shots": [1], "ways": 2, "queries": 1},
        "robustness": {"corruptions": ["reversal", "noise"]},
        "feature_precision": "fp32",
    }
    wanted = BenchmarkConfig.model_validate(values)
    (tmp_path / "tiny8.yaml").write_text(loading.dump_config(wanted))
    shared = tmp_path / "shared"
    shutil.copytree(run_folder, shared)
    launch(WORKER, shared, tmp_path / "tiny8.yaml", processes=3)
    kinds = {"probe": record.ProbeRecord, "few_shot": FewShotRecord, "robustness": RobustnessRecord}
    for task, kind in kinds.items():
        alone = evaluate(run_folder, wanted, "standard", ["target", "random_init"], task=task)
        path = RunDir(shared).record_file("tiny8", "standard", task)
        together = record.read_record(kind, path)
        ours = record.read_predictions(RunDir(run_folder).record_file("tiny8", "standard", task), alone)
        theirs = record.read_predictions(path, together)
        assert ours.keys() == theirs.keys()
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])
        assert together.results == alone.results
    assert not list(shared.glob(".features-*"))
