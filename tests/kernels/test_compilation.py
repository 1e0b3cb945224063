import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_kernel_compiles_for_a_gpu(tmp_path):
    pytest.importorskip("triton", reason="triton is not installed")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    finished = subprocess.run(
        [sys.executable, Path(__file__).parent / "workers" / "compile_kernels.py"],
        capture_output=True,
        text=True,
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    names = [line.split()[0] for line in finished.stdout.splitlines()]
    assert names == [
        "_visible", "_lists", "_lists", "_average_motion", "_block_scores", "_gather", "_forward", "_backward",
    ]  # fmt: skip
