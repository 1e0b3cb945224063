"""One process of an evaluation: ``evaluate.py RUN BENCHMARK``."""

import sys
from pathlib import Path

from hpc_jepa.config import loading
from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.evaluation.evaluator import evaluate, process_group

benchmark = loading.read_config(BenchmarkConfig, [sys.argv[2]])
with process_group(Path(sys.argv[1])):
    for task in ("probe", "few_shot", "robustness"):
        evaluate(Path(sys.argv[1]), benchmark, "standard", ["target", "random_init"], task=task)
