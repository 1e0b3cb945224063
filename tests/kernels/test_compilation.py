import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parent / "workers" / "compile_kernels.py"
KERNELS = {
    "_visible", "_lists", "_average_motion", "_block_scores", "_gather", "_rotate", "_rotate_back", "_forward",
    "_backward",
}  # fmt: skip
SHARED_BYTES = 99 * 1024
"""Shared memory of a program on compute capability 8.6 and 8.9; 8.0, 9.0 and 10.0 have more."""
STACK_BYTES = 128
"""What a thread may spill; 80 bytes were seen. A whole grid of 384 pixels in registers would spill two kilobytes."""


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_every_kernel_compiles_and_fits_a_gpu(capability, pytestconfig):
    """At the shapes of ViT-B, L and g. Programs are kept between test runs, in the cache of pytest."""
    pytest.importorskip("triton", reason="triton is not installed")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    finished = subprocess.run(
        [sys.executable, WORKER, str(capability)],
        capture_output=True,
        text=True,
        env={**environment, "TRITON_CACHE_DIR": str(pytestconfig.cache.mkdir("triton"))},
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    programs = [json.loads(line) for line in finished.stdout.splitlines()]
    assert {program["kernel"] for program in programs} == KERNELS
    assert not [program for program in programs if program["stack"] > STACK_BYTES or program["shared"] > SHARED_BYTES]
