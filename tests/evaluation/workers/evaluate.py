"""One process of an evaluation: ``evaluate.py RUN BENCHMARK``."""

import sys
from pathlib import Path

from hpc_jepa.config import tree
from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.evaluation.evaluator import evaluate
from hpc_jepa.evaluation.processes import joined

benchmark = tree.load(BenchmarkConfig, [sys.argv[2]])
with joined():
    for task in ("probe", "few_shot", "robustness"):
        evaluate(Path(sys.argv[1]), benchmark, "careful", ["target", "random_init"], task=task)
