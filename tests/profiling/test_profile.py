"""Profiled runs, in a process of their own: after hundreds of other tests the tracer of Python calls crashed once."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).parent / "workers" / "profile_checks.py"


@pytest.mark.slow
def test_profiled_runs():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", CHECKS]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-2000:]
