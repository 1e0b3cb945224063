"""``bench_step.py --count``: what a GPU would execute, counted without one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hpc_jepa.profiling.operation_counts import OperationCounter

TOOL = Path(__file__).parents[2] / "tools" / "bench_step.py"


def test_a_step_of_the_study_has_the_flops_of_its_shapes_and_few_casts():
    finished = subprocess.run([sys.executable, TOOL, "--count", "--json"], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-4000:]
    passes = json.loads(finished.stdout.splitlines()[-1])
    flops = {name: counts["total"]["flops"] for name, counts in passes.items()}
    assert sum(flops.values()) == pytest.approx(47.6e12, rel=0.02)
    assert all(counts["total"]["casts"] <= 40 for counts in passes.values()), "see by_place of --json"
    for counts in passes.values():
        for key, total in counts["total"].items():
            assert total == sum(count[key] for count in counts["by_place"].values())
            assert total == sum(count[key] for count in counts["by_operator"].values())
    assert passes["forward"]["total"]["casts"] <= 40
    assert {"triton._forward", "aten._scaled_dot_product_flash_attention"} <= passes["forward"]["by_operator"].keys()


def test_kernels_casts_bytes_and_flops_are_counted_by_hand():
    x, w = torch.ones(4, 8), torch.ones(8, 8)
    with OperationCounter() as counter:
        y = x.bfloat16()  # 128 bytes read, 64 written
        y = y.view(8, 4).t()  # no kernel
        torch.empty(100)  # no kernel
        y + y  # 64 read, 64 written
        x.expand(3, 4, 8).sum()  # 128 read, 4 written: an expanded axis is in memory once
        x @ w
        w.index_select(0, torch.tensor([3, 5]))  # two rows of 32 bytes read and written, two indexes of 8 bytes
    assert vars(counter.total) == {
        "kernels": 5,
        "casts": 1,
        "elementwise_bytes": 192 + 128 + 132 + 144,
        "cast_bytes": 192,
        "flops": 2 * 4 * 8 * 8,
    }
