"""Transformer blocks through torch.compile."""

import logging
import os
import shutil
import sysconfig
from pathlib import Path

from torch import nn

from hpc_jepa.errors import InputError
from hpc_jepa.models.block import Block

LOG = logging.getLogger(__name__)


def compile_blocks(train_module: nn.Module) -> None:
    """Let torch.compile fuse what lies between the matrix products of every block.

    Block by block, so that all blocks of a network share what was compiled for the first. The number of tokens stays a
    variable of it (a CPU gets two programs, for few and for many): masks give some 50 different numbers in a run. A
    program for each would take many times as long to compile as all the others together, and to round the numbers down
    would truncate further than the paper does.

    Raises InputError where the tools are missing that compiled code is built with, for GPUs too.
    """
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise InputError(
            f"engine.compile: no program '{compiler}' here; install g++, let CXX be the path of a C++ compiler, or set "
            "engine.compile=false"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise InputError(f"engine.compile: no {header}; install Python's headers, or set engine.compile=false")
    LOG.info("blocks will be compiled: the first step takes a minute or more")
    for module in train_module.modules():
        if isinstance(module, Block):
            module.compile(dynamic=True)
