"""Jobs with GPUs that torch does not see: those of the trial cluster are fake."""

from pathlib import Path

import pytest
import yaml

GPUS = {"gpus_per_node": 2, "cpus_per_node": 2, "time": 10}


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="the jobs would use the real GPUs of this machine")
def test_a_job_with_gpus_uses_the_cpu_only_on_purpose(grid, tiny_benchmark, tmp_path, eventually):
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(tiny_benchmark))
    (tmp_path / "chosen.yaml").write_text("{variant: chosen, engine: {device: cpu}}")
    evaluation = {"benchmark": "benchmark.yaml", "weights": ["target"]}
    study = grid("baseline", "chosen.yaml", steps=2, evaluations=[evaluation], train=GPUS, evaluate=GPUS)
    study.call("submit")
    eventually(lambda: study.states() == {"failed", "done"})
    assert study.cell("tiny/chosen")["state"] == "done"
    assert "CUDA_VISIBLE_DEVICES=0,1" in study.cell("tiny/baseline")["note"]
