"""One process of an evaluation of four runs: ``evaluate_together.py BENCHMARK ERRORS RUN RUN RUN RUN``.

On the second process the encoder of the second run fails, and the weights of the third cannot be read. Writes the
errors by run to ERRORS.<rank>.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from hpc_jepa.config import loading
from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.distributed import rank
from hpc_jepa.evaluation.context import EvaluationContext
from hpc_jepa.evaluation.evaluator import RunEvaluation, evaluate_runs, process_group

folders = [Path(argument) for argument in sys.argv[3:]]
encoders = EvaluationContext.encoders


def breaking(self, names):
    found = encoders(self, names)
    if rank() == 1 and self.run.path == folders[2]:
        raise OSError("stale handle")
    if rank() == 1 and self.run.path == folders[1]:
        return {name: replace(encoder, encode=fail) for name, encoder in found.items()}
    return found


def fail(pixels):
    raise RuntimeError("device lost")


EvaluationContext.encoders = breaking
benchmark = loading.read_config(BenchmarkConfig, [sys.argv[1]])
with process_group(folders[0]):
    wanted = [RunEvaluation(folder, ("target", "random_init")) for folder in folders]
    outcomes = list(evaluate_runs(wanted, benchmark, "standard"))
    errors = {str(each.wanted.folder): None if each.error is None else str(each.error) for each in outcomes}
    Path(f"{sys.argv[2]}.{rank()}").write_text(json.dumps(errors))
