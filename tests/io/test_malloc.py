"""A freed block of 64 MiB is kept or returned to the system, as the malloc setting says."""

import subprocess
import sys

import pytest

PAGES_OF_A_BLOCK = (64 << 20) // 4096

FAULTS = """
import resource, sys
import torch
from hpc_jepa.io import malloc

for name in sys.argv[1:]:
    getattr(malloc, name)()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(40):  # warm-up: until malloc finds a hole that fits
    torch.zeros(16 << 20).sum()
before = faults()
for _ in range(10):
    torch.zeros(16 << 20).sum()
print((faults() - before) // 10)
"""


@pytest.mark.parametrize(
    ("calls", "kept"),
    [
        (["keep_freed_memory"], True),
        (["keep_freed_memory", "mmap_large_blocks"], True),  # training reads clips as well
        (["mmap_large_blocks"], False),
    ],
)
def test_freed_block_is_kept_or_returned(calls, kept):
    finished = subprocess.run([sys.executable, "-c", FAULTS, *calls], capture_output=True, text=True, check=True)
    pages = int(finished.stdout)
    assert pages < PAGES_OF_A_BLOCK / 100 if kept else pages > PAGES_OF_A_BLOCK / 2
