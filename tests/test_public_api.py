"""The names that ``import hpc_jepa`` offers, and masks from the indices of other samplers."""

import subprocess
import sys

import pytest
import torch

import hpc_jepa
from hpc_jepa import TokenGrid, TokenMasks
from hpc_jepa.config.masking import MaskingConfig
from hpc_jepa.config.semantics import Semantics
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.types import ClipBatch


def test_every_public_name_can_be_imported():
    assert set(hpc_jepa.__all__) == set(dir(hpc_jepa)) - {"__version__"}
    assert all(getattr(hpc_jepa, name).__doc__ for name in hpc_jepa.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        hpc_jepa.no_such_name  # noqa: B018


def test_the_import_does_not_load_torch():
    code = "import sys, hpc_jepa; hpc_jepa.load_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_masks_from_indices_equal_those_of_the_sampler():
    grid, zeros = TokenGrid(4, 6, 6), torch.zeros(3, dtype=torch.int64)
    sampler = MaskSampler(MaskingConfig(), Semantics.of("corrected"), grid, seed=0, batch_size=3)
    for masks in sampler(0, ClipBatch(torch.zeros(3, 3, 8, 48, 48), zeros, zeros, zeros.bool())):
        shuffled = [tokens[:, torch.randperm(tokens.shape[1])] for tokens in (masks.context, masks.target)]
        built = TokenMasks.from_indices(*(tokens.int() for tokens in shuffled), grid)
        for name in ("context", "target", "context_distance", "next_in_context", "pairs"):
            assert torch.equal(getattr(built, name), getattr(masks, name)), name


@pytest.mark.parametrize(("context", "target"), [((2, 3), (1, 3)), ((6,), (6,))])
def test_masks_of_unequal_batches_are_refused(context, target):
    with pytest.raises(ValueError, match="context"):
        TokenMasks.from_indices(torch.zeros(context), torch.zeros(target), TokenGrid(1, 2, 2))
