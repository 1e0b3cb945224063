import numpy as np
import pytest
import torch

from hpc_jepa.evaluation.features import Standardiser, extract


def clips(count=7, batch=3):
    pixels = torch.rand(count, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    for rows in torch.arange(count).split(batch):
        yield pixels[rows], rows % 2, rows + 100


def tokens_of(pixels):
    """[B, 3, F, 2, 2] -> [B, F * 4, 3]."""
    return pixels.flatten(2).transpose(1, 2)


def test_every_encoder_reads_each_batch_of_one_decode_pass(tmp_path):
    steps = []
    found = extract(
        {"plain": tokens_of, "double": lambda x: 2 * tokens_of(x)},
        clips(),
        4,
        tmp_path,
        "fp32",
        lambda: steps.append(1),
    )
    expected = torch.cat([tokens_of(pixels) for pixels, _, _ in clips()]).numpy()
    np.testing.assert_array_equal(found["plain"].tokens, expected)
    np.testing.assert_array_equal(found["double"].tokens, 2 * expected)
    np.testing.assert_array_equal(found["plain"].labels, np.arange(7) % 2)
    np.testing.assert_array_equal(found["plain"].samples, np.arange(7) + 100)
    assert len(steps) == 3


def test_fp16_halves_the_storage_and_keeps_three_digits(tmp_path):
    found = extract({"plain": tokens_of}, clips(), 4, tmp_path, "fp16", lambda: None)["plain"]
    expected = torch.cat([tokens_of(pixels) for pixels, _, _ in clips()])
    assert found.tokens.dtype == np.float16
    batch = found.batch(np.array([6, 0]), torch.device("cpu"))
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch, expected[[6, 0]], rtol=1e-3, atol=1e-3)


def test_pooling_averages_all_tokens_or_those_of_each_tubelet(make_features):
    found = make_features(seed=0, clips=300)
    np.testing.assert_allclose(found.pooled("mean"), found.tokens.mean(axis=1), rtol=1e-4, atol=1e-5)
    tubelets = found.pooled("tubelets")
    assert tubelets.shape == (300, 4 * 32)
    np.testing.assert_allclose(tubelets[:, 32:64], found.tokens[:, 4:8].mean(axis=1), rtol=1e-4, atol=1e-5)


def test_standardised_channels_have_mean_zero_and_variance_one(make_features):
    found = make_features(seed=0, clips=300)
    found.tokens[..., 5] = 4.0
    tokens = Standardiser.of(found)(found.batch(np.arange(300), torch.device("cpu"))).flatten(0, 1)
    assert tokens.mean(dim=0).abs().max() < 1e-5
    std = tokens.std(dim=0, correction=0)
    assert std[5] == pytest.approx(0, abs=1e-5)
    assert std[torch.arange(32) != 5].sub(1).abs().max() < 1e-4
