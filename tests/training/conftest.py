"""Start real processes: torchrun, gloo, DeepSpeed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKERS = Path(__file__).parent / "workers"


@pytest.fixture(scope="session")
def launch():
    """``launch(script, *arguments, processes=2)`` runs a worker under torchrun and returns its finished process."""

    def run(script, *arguments, processes=2, check=True):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*torchrun, str(WORKERS / script), *map(str, arguments)]
        finished = subprocess.run(
            command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert not check or finished.returncode == 0, finished.stderr[-4000:]
        return finished

    return run
