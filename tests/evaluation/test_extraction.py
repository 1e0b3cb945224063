"""Features of every encoder from one decode pass, in files that are not loaded into memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from hpc_jepa.distributed import GlooGroup
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation import extraction
from hpc_jepa.evaluation.extraction import FeatureExtraction, TokenEncoder


def clips(count=7, batch=3, first=100):
    pixels = torch.rand(count, 3, 4, 2, 2, generator=torch.Generator().manual_seed(first))
    for rows in torch.arange(count).split(batch):
        yield pixels[rows], rows % 2, rows + first


def tokens_of(pixels):
    """[B, 3, F, 2, 2] -> [B, F * 4, 3]."""
    return pixels.flatten(2).transpose(1, 2)


ENCODERS = {
    "plain": TokenEncoder(tokens_of, 4),
    "timm:other/model@a.safetensors": TokenEncoder(lambda x: 2 * tokens_of(x), 4),
}


def extract(folder, passes=None, poolings=("tokens",), precision="fp32", limit=2.0**30, advance=lambda: None):
    passes = [clips()] if passes is None else passes
    wanted = FeatureExtraction(folder, poolings, precision, "fp32", limit)
    return wanted.run(ENCODERS, passes, 7 * len(passes), GlooGroup(), advance)


def test_every_encoder_reads_each_batch_of_one_decode_pass(tmp_path):
    steps = []
    found = extract(tmp_path, advance=lambda: steps.append(1))
    expected = torch.cat([tokens_of(pixels) for pixels, _, _ in clips()]).numpy()
    np.testing.assert_array_equal(found["plain", "tokens"].tokens[:], expected)
    np.testing.assert_array_equal(found["timm:other/model@a.safetensors", "tokens"].tokens[:], 2 * expected)
    np.testing.assert_array_equal(found["plain", "tokens"].labels, np.arange(7) % 2)
    np.testing.assert_array_equal(found["plain", "tokens"].samples, np.arange(7) + 100)
    assert len(steps) == 3


def test_several_files_are_read_as_one_table(tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "MAX_FILE_BYTES", 400)
    found = extract(tmp_path)["plain", "tokens"]
    assert len(found.tokens.files) == 3
    expected = torch.cat([tokens_of(pixels) for pixels, _, _ in clips()]).numpy()
    rows = np.array([6, 0, 3, 3])
    np.testing.assert_array_equal(found.tokens[rows], expected[rows])
    np.testing.assert_array_equal(found.subset(np.array([5, 1])).tokens[:], expected[[5, 1]])


def test_fp16_halves_the_storage_and_keeps_three_digits(tmp_path):
    found = extract(tmp_path, precision="fp16")["plain", "tokens"]
    expected = torch.cat([tokens_of(pixels) for pixels, _, _ in clips()])
    assert found.tokens.dtype == np.float16
    batch = found.batch(np.array([6, 0]), torch.device("cpu"))
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch, expected[[6, 0]], rtol=1e-3, atol=1e-3)


def test_poolings_are_means_over_all_tokens_or_per_tubelet(tmp_path):
    found = extract(tmp_path, poolings=("tokens", "tubelets", "mean"))
    tokens = found["plain", "tokens"].tokens[:]
    np.testing.assert_allclose(found["plain", "mean"].flat(), tokens.mean(axis=1), rtol=1e-6)
    tubelets = tokens.reshape(7, 4, 4, 3).mean(axis=2)
    np.testing.assert_allclose(found["plain", "tubelets"].tokens[:], tubelets, rtol=1e-6)
    np.testing.assert_allclose(found["plain", "tubelets"].flat(), tubelets.reshape(7, 12), rtol=1e-6)


def test_clips_are_ordered_by_number_then_sample(tmp_path):
    found = extract(tmp_path, [clips(), ((2 * p, y, i) for p, y, i in clips())])["plain", "tokens"]
    assert (len(found), found.clips) == (14, 2)
    np.testing.assert_array_equal(found.tokens[7:14], 2 * found.tokens[:7])
    picked = found.subset(np.array([3]))
    np.testing.assert_array_equal(picked.samples, [103, 103])
    np.testing.assert_array_equal(found.first_clips().tokens[:], found.tokens[:7])


def test_features_above_the_disk_limit_are_refused_after_one_batch(tmp_path):
    batches = []
    with pytest.raises(InputError, match=r"7 clips.*GiB.*feature_limit"):
        extract(tmp_path, limit=7 * 2 * 192 - 1, advance=lambda: batches.append(1))
    assert not batches
    extract(tmp_path / "fits", limit=7 * 2 * 192)


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from hpc_jepa.config.benchmark import TrainedProbeConfig
from hpc_jepa.distributed import GlooGroup
from hpc_jepa.evaluation.extraction import FeatureExtraction, TokenEncoder
from hpc_jepa.evaluation.frozen_features import Standardiser
from hpc_jepa.evaluation.probes.trainer import ProbeHyperparameters, predict_probabilities, train_probes

def batches(count):
    for start in range(0, count, 8):
        yield torch.full((8, 1), float(start % 7)), torch.arange(start, start + 8) % 4, torch.arange(start, start + 8)

def encode(pixels):
    return pixels[:, :, None] + torch.arange(1568 * 192).view(1568, 192) / 1e6

def run(count, name):
    extraction = FeatureExtraction(Path(sys.argv[1]) / name, ["tokens"], "fp16", "fp32", 1e12)
    encoders = {"one": TokenEncoder(encode, 8)}
    found = extraction.run(encoders, [batches(count)], count, GlooGroup(), lambda: None)["one", "tokens"]
    probe = TrainedProbeConfig(kind="attentive", pooling="tokens", updates=4, batch_size=16)
    standardiser = Standardiser.of(found)
    probes = train_probes(found, standardiser, probe, 4, [ProbeHyperparameters(1e-3, 0.01, 0)], lambda: None)
    predict_probabilities(probes, standardiser, found)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

small, large = run(64, "small"), run(1024, "large")
print(large - small)
"""


def test_memory_does_not_grow_with_the_data(tmp_path):
    """Writing, standardising and probing 0.6 GB of features takes less than half a GiB of memory."""
    output = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(output.stdout) < 300  # MiB beyond the smallest run; the features are 588
