import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

TOOL = Path(__file__).parents[2] / "tools" / "bench_step.py"


def test_every_phase_of_a_step_is_timed(motion_shards, tmp_path):
    config = {
        "regime": "tiny",
        "model": {
            "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
            "predictor": {"width": 16, "depth": 1, "heads": 2},
        },
        "data": {
            "sources": {"motion8": {"shards": str(motion_shards / "unlabelled")}},
            "clip": {"frames": 8, "stride": 2, "size": 32},
        },
        "objectives": ["fwm", "hw", "ld"],
        "engine": {"precision": "fp32", "batch_size": 4},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    finished = subprocess.run(
        [sys.executable, TOOL, path, "--quick", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    result = json.loads(finished.stdout.splitlines()[-1])
    assert all(figures["median_ms"] > 0 for figures in result["phases"].values()), result
