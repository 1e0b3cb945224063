import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "count_compiled.py"


def test_a_compiled_block_is_counted_beside_an_eager_one():
    arguments = ["--width", "64", "--heads", "2", "--clips", "4", "--tokens", "128", "--json"]
    finished = subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-4000:]
    counts = json.loads(finished.stdout.splitlines()[-1])
    hidden = 4 * 128 * 256 * 2 / 1e9  # the hidden layer of the MLP in bf16, which GELU reads and writes
    for forward, backward in counts.values():
        assert 5 <= forward["kernels"] < backward["kernels"] < 60
        assert 2 * hidden < forward["GB"] < backward["GB"] < 60 * hidden
