"""One process of an evaluation with poolers: ``evaluate_poolers.py RUN BENCHMARK WEIGHTS``; writes WEIGHTS.<rank>."""

import sys
from pathlib import Path

import torch

from hpc_jepa.config import loading
from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.distributed import rank
from hpc_jepa.evaluation.evaluator import evaluate, process_group
from hpc_jepa.evaluation.tasks import pooler_probe

train = pooler_probe.train_poolers


def train_and_keep(poolers, *rest):
    train(poolers, *rest)
    torch.save([head.state_dict() for head in poolers.heads], f"{sys.argv[3]}.{rank()}")


pooler_probe.train_poolers = train_and_keep
benchmark = loading.read_config(BenchmarkConfig, [sys.argv[2]])
with process_group(Path(sys.argv[1])):
    evaluate(Path(sys.argv[1]), benchmark, "vjepa", ["target"])
