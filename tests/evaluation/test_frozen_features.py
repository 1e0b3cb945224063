import numpy as np
import pytest
import torch

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation import frozen_features
from hpc_jepa.evaluation.frozen_features import Standardiser


def test_standardised_channels_have_mean_zero_and_variance_one(make_features):
    found = make_features(seed=0, clips=300)
    found.tokens[..., 5] = 4.0
    tokens = Standardiser.of(found)(found.batch(np.arange(300), torch.device("cpu"))).flatten(0, 1)
    assert tokens.mean(dim=0).abs().max() < 1e-5
    std = tokens.std(dim=0, correction=0)
    assert std[5] == pytest.approx(0, abs=1e-5)
    assert std[torch.arange(32) != 5].sub(1).abs().max() < 1e-4


def test_chunks_cover_all_rows_in_order(make_features, monkeypatch):
    found = make_features(seed=0, clips=100)
    monkeypatch.setattr(frozen_features, "CHUNK_BYTES", 7 * 16 * 32 * 4)
    chunks = list(found.chunks())
    np.testing.assert_array_equal(np.concatenate(chunks), np.arange(100))
    assert max(map(len, chunks)) == 7


def test_a_matrix_above_the_limit_is_refused(make_features, monkeypatch):
    monkeypatch.setattr(frozen_features, "MAX_MATRIX_BYTES", 1000)
    with pytest.raises(InputError, match=r"10 clips.*GiB.*linear"):
        make_features(seed=0, clips=10).flat()
