"""``hpc-jepa evaluate`` that also writes the samples that each rank decodes, and the addresses where it listens.

``evaluate.py FOLDER ARGUMENTS``.
"""

import os
import sys
from pathlib import Path

import psutil

from hpc_jepa.cli.app import app
from hpc_jepa.data.evaluation_clips import EvaluationClips

folder, *arguments = sys.argv[1:]
iterate = EvaluationClips.__iter__


def recording(clips):
    listening = [each.laddr.ip for each in psutil.Process().net_connections("tcp") if each.status == "LISTEN"]
    (Path(folder) / f"listening-{os.environ['SLURM_PROCID']}").write_text("\n".join(listening))
    for pixels, labels, samples in iterate(clips):
        with (Path(folder) / f"rank-{os.environ['SLURM_PROCID']}").open("a") as file:
            file.writelines(f"{clips._shards.path.name} {sample}\n" for sample in samples.tolist())
        yield pixels, labels, samples


EvaluationClips.__iter__ = recording
app(["evaluate", *arguments])
