"""``hpc-jepa evaluate`` that also writes the samples that each rank decodes: ``evaluate.py FOLDER ARGUMENTS``."""

import os
import sys
from pathlib import Path

from hpc_jepa.cli.app import app
from hpc_jepa.data.evaluation_clips import EvaluationClips

folder, *arguments = sys.argv[1:]
iterate = EvaluationClips.__iter__


def recording(clips):
    for pixels, labels, samples in iterate(clips):
        with (Path(folder) / f"rank-{os.environ['SLURM_PROCID']}").open("a") as file:
            file.writelines(f"{clips._shards.path.name} {sample}\n" for sample in samples.tolist())
        yield pixels, labels, samples


EvaluationClips.__iter__ = recording
app(["evaluate", *arguments])
