"""Every variant on fake CUDA tensors, in its own process: PyTorch counts devices at the first backward pass."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).parent / "workers" / "fake_cuda_checks.py"


@pytest.mark.slow
def test_every_variant_on_fake_cuda_tensors():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", CHECKS]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-2000:]
