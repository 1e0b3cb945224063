"""For tests of torch.compile and of fake CUDA tensors."""

import sys
from pathlib import Path

import pytest
from torch import nn

from hpc_jepa.errors import InputError
from hpc_jepa.training.engine import compile_blocks

sys.path.insert(0, str(Path(__file__).parent))  # device_only


@pytest.fixture
def compiler():
    """Skips where nothing can be compiled."""
    try:
        compile_blocks(nn.Identity())
    except InputError as error:
        pytest.skip(str(error))
