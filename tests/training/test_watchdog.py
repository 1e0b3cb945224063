"""A stalled rank prints its stacks and exits, even if a call holds the GIL."""

import ctypes.util
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "workers" / "stalled.py"


def test_every_rank_of_a_stalled_collective_prints_its_stacks_and_exits(launch):
    finished = launch(WORKER, processes=2, check=False)
    assert finished.returncode != 0
    # Both ranks write at the same time: names stay whole, lines may not.
    assert "all_reduce" in finished.stderr, "rank 0 waits for the sum"
    assert "oversleep" in finished.stderr, "rank 1 is the cause"


@pytest.mark.parametrize("library", ["CDLL", "PyDLL"], ids=["without the GIL", "holding the GIL"])
def test_it_fires_while_a_foreign_call_blocks(library):
    program = (
        f"import ctypes; from hpc_jepa.training.watchdog import Watchdog\n"
        f"with Watchdog(1.0): ctypes.{library}({ctypes.util.find_library('c')!r}).sleep(600); print('slept')"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert "<module>" in finished.stderr


def test_it_does_not_fire_while_it_is_reset_or_after_the_block():
    program = (
        "import time; from hpc_jepa.training.watchdog import Watchdog\n"
        "with Watchdog(4.0) as watchdog:\n"
        "    for _ in range(18): time.sleep(0.25); watchdog.reset()\n"
        "time.sleep(4.5)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
