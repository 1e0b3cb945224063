"""For every step read from stdin, start a child process that commits the checkpoints after it until it is killed.

usage: save_forever.py RUN
"""

import os
import sys
from pathlib import Path

import torch

from hpc_jepa.checkpoint.layout import CheckpointInfo
from hpc_jepa.checkpoint.rank_file import TensorShard
from hpc_jepa.checkpoint.writer import CheckpointWriter
from hpc_jepa.config.training import CheckpointConfig


def save_from(run, step):
    with CheckpointWriter(run, CheckpointConfig(keep=2)) as writer:
        while True:
            step += 1
            info = CheckpointInfo(
                step=step,
                time=0.0,
                world_size=1,
                zero_stage=1,
                fingerprint="f",
                config={},
                versions={},
                data_hashes={},
                metrics={},
            )
            weights = torch.full((5000,), float(step))
            writer.save(
                info, [TensorShard("student.w", (50, 100), 0, weights), TensorShard("exp_avg.w", (5000,), 0, weights)]
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            save_from(Path(sys.argv[1]), int(line))
        print(child, flush=True)
        os.waitpid(child, 0)
        print("dead", flush=True)
