"""For every room: a small motion benchmark, built by the real builder, and real processes: torchrun and gloo."""

import os
import subprocess
import sys

import pytest
import torch

from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.sources import motion8

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run on CPU tensors then; triton reads it when it is imported


@pytest.fixture(scope="session")
def motion_shards(tmp_path_factory):
    """Folder with ``train`` (24), ``test`` (8) and ``unlabelled`` (16) clips of 32 pixels and 16 frames."""
    out = tmp_path_factory.mktemp("motion8")
    for source in motion8.motion8_splits(train=24, test=8, unlabelled=16, size=32, frames=16):
        build_shards(source, out / source.split, make_recipe(source, 10), 0, lambda samples: None)
    return out


@pytest.fixture(scope="session")
def launch():
    """``launch(script, *arguments, processes=2)`` runs a script under torchrun and returns its finished process."""

    def run(script, *arguments, processes=2, check=True):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        finished = subprocess.run(
            [*torchrun, str(script), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert not check or finished.returncode == 0, finished.stderr[-4000:]
        return finished

    return run
