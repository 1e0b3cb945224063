"""Transformer blocks through torch.compile."""

import os
import shutil
import sysconfig
from pathlib import Path

from torch import nn

from hpc_jepa.errors import InputError
from hpc_jepa.models.block import Block


def compile_blocks(trainee: nn.Module) -> None:
    """Let torch.compile fuse what lies between the matrix products of every block.

    Block by block, so that all blocks of a network share what was compiled for the first. The number of tokens stays a
    variable of it: masks give some 50 different numbers in a run. A program for each would take many times as long to
    compile as all the others together, and to round the numbers down would truncate further than the paper does.

    Raises InputError where the tools are missing that compiled code is built with, for GPUs too.
    """
    compiler = os.environ.get("CXX", "g++")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    for tool, there in ((f"the C++ compiler {compiler}", shutil.which(compiler)), (header, header.exists())):
        if not there:
            raise InputError(f"engine.compile: {tool} is not on this machine; install it, or set engine.compile=false")
    for module in trainee.modules():
        if isinstance(module, Block):
            module.compile(dynamic=True)
