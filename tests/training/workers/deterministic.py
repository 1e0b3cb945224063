"""Train one configuration; every rank writes its losses and whether only deterministic algorithms were allowed.

usage: deterministic.py CONFIG FOLDER
"""

import os
import sys
from pathlib import Path

import torch

from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import rank
from hpc_jepa.training.loop import train

if __name__ == "__main__":
    lines = []

    def note(record):
        lines.append((record.loss, torch.are_deterministic_algorithms_enabled(), os.environ["CUBLAS_WORKSPACE_CONFIG"]))

    train(read_config(RunConfig, [sys.argv[1]]), note)
    torch.save(lines, Path(sys.argv[2]) / f"{rank()}.pt")
