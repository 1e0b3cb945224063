"""Only marked tests see GPUs: pytest runs where CUDA_VISIBLE_DEVICES names two GPUs; torch has a stand-in for them."""

import os
import sys
from pathlib import Path

import pytest

from tests.waiting import run

ROOT = Path(__file__).parents[1]
STAND_IN = """
import os, torch
torch.cuda.is_available = lambda: os.environ["CUDA_VISIBLE_DEVICES"] != ""
"""
TESTS = """
import os, subprocess, sys
import pytest

def variables_of_a_child():
    program = "import os; print([os.environ.get(name) for name in ('CUDA_VISIBLE_DEVICES', 'TRITON_INTERPRET')])"
    return eval(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)

def test_unmarked():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert variables_of_a_child() == ["", "1"]

@pytest.mark.gpu
def test_marked():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert variables_of_a_child() == ["0,1", None]
"""


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ([], {"test_unmarked": "PASSED"}),
        (["-m", "gpu"], {"test_marked": "PASSED"}),
        (["-m", "not gpu"], {"test_unmarked": "PASSED"}),
    ],
    ids=["all", "gpu", "not gpu"],
)
def test_only_marked_tests_see_gpus(selection, expected, tmp_path):
    (tmp_path / "conftest.py").write_text(STAND_IN)
    (tmp_path / "test_it.py").write_text(TESTS)
    options = ["-vv", "-p", "tests.conftest", "-c", ROOT / "pyproject.toml", *selection]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    finished = run(
        [sys.executable, "-m", "pytest", *options, tmp_path],
        cwd=ROOT,
        env={**environment, "CUDA_VISIBLE_DEVICES": "0,1", "PYTEST_ADDOPTS": ""},
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    lines = [line.split("::")[1].split() for line in finished.stdout.splitlines() if "test_it.py::" in line]
    assert {name: outcome for name, outcome, *_ in lines} == expected
