"""Losses of a few steps in bf16 at each ZeRO stage, with weights cast by autocast and together, and how often together.

usage: cast_weights.py OUTPUT
"""

import sys

import curve
import torch

from hpc_jepa.kernels import casts
from hpc_jepa.training.launch import join_process_group


def main(output):
    """Stage 3 comes last: DeepSpeed replaces ``torch.nn.functional.linear`` then."""
    device, found = join_process_group(), {}
    curve.STEPS = 4
    original, calls = casts.CastTogether.forward, []

    def counted(*arguments):
        calls.append(1)
        return original(*arguments)

    casts.CastTogether.forward = staticmethod(counted)
    for stage in range(4):
        engine = curve.Mixed.config.engine.model_copy(update={"zero_stage": stage})
        curve.Mixed.config = curve.Mixed.config.model_copy(update={"engine": engine})
        for together in (False, True):
            casts.fused = lambda _, together=together: together
            calls.clear()
            found[stage, together] = curve.curve(curve.Mixed, device), len(calls)
    torch.save(found, output)


if __name__ == "__main__":
    main(sys.argv[1])
