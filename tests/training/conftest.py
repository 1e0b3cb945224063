"""For tests of torch.compile."""

import pytest
from torch import nn

from hpc_jepa.errors import InputError
from hpc_jepa.training.engine import compile_blocks


@pytest.fixture
def compiler():
    """Skips where nothing can be compiled."""
    try:
        compile_blocks(nn.Identity())
    except InputError as error:
        pytest.skip(str(error))
