import json
import math
import re

import pytest
import torch

from hpc_jepa.checkpoint.format_2 import upgrade_name
from hpc_jepa.config.model import EncoderConfig, PredictorConfig
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.models.predictor import Predictor

LARGE = 100_000


@pytest.fixture(scope="module")
def counts(counts_file):
    counts = json.loads(counts_file.read_text())
    for name in ("encoder", "predictor"):
        counts[name]["kinds"] = {upgrade_name(kind): entry for kind, entry in counts[name]["kinds"].items()}
    return counts


@pytest.fixture(scope="module")
def networks():
    """ViT-B encoder and predictor as the mixed regime allocates them, freshly initialised."""
    torch.manual_seed(0)
    encoder = EncoderConfig()
    return {"encoder": Encoder(encoder), "predictor": Predictor(PredictorConfig(mask_tokens=6), encoder)}


def kind_of(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", re.sub(r"(mask_tokens|norms)\.\d+", r"\1.*", name))


@pytest.mark.parametrize("regime", ["mixed", "ucf101", "synth"])
def test_parameter_counts_are_the_published_ones(counts, networks, regime):
    published = counts["by_regime"][regime]
    with torch.device("meta"):
        predictor = Predictor(PredictorConfig(mask_tokens=published["mask_tokens"]), EncoderConfig())
    assert sum(p.numel() for p in networks["encoder"].parameters()) == published["encoder"]
    assert sum(p.numel() for p in predictor.parameters()) == published["predictor"]


@pytest.mark.parametrize("name", ["encoder", "predictor"])
def test_every_kind_of_parameter_has_the_published_shape_and_number(counts, networks, name):
    found: dict[str, list[list[int]]] = {}
    for key, parameter in networks[name].named_parameters():
        found.setdefault(f"{name}.{kind_of(key)}", []).append(list(parameter.shape))
    assert found == {kind: [entry["shape"]] * entry["tensors"] for kind, entry in counts[name]["kinds"].items()}


@pytest.mark.parametrize("name", ["encoder", "predictor"])
def test_exactly_the_unused_parameters_are_frozen(counts, networks, name):
    trained = {"index 0 only": lambda key: key.endswith(".0"), True: lambda key: True, False: lambda key: False}
    for key, parameter in networks[name].named_parameters():
        expected = trained[counts[name]["kinds"][f"{name}.{kind_of(key)}"]["trained"]](key)
        assert parameter.requires_grad == expected, key


@pytest.mark.parametrize("name", ["encoder", "predictor"])
def test_initial_spread_is_the_published_one(networks, name):
    for key, parameter in networks[name].named_parameters():
        if parameter.numel() < LARGE or parameter.ndim < 2:
            continue
        residual = re.match(r"blocks\.(\d+)\.(attn\.proj|mlp\.fc2)", key)
        expected = 0.02 / math.sqrt(2 * (int(residual[1]) + 1)) if residual else 0.02
        assert parameter.std().item() == pytest.approx(expected, rel=0.01), key
        assert parameter.abs().max() < 7 * expected, f"{key} holds a stray entry"


@pytest.mark.parametrize("name", ["encoder", "predictor"])
def test_biases_norms_and_mask_tokens_are_neutral_at_first(networks, name):
    for key, parameter in networks[name].named_parameters():
        if key.endswith("bias") or "mask_tokens" in key:
            assert not parameter.any(), key
        elif "norm" in key:
            assert (parameter == 1).all(), key


def test_modality_vectors_start_near_zero(networks):
    vectors = torch.cat([p.flatten() for n in networks.values() for k, p in n.named_parameters() if "modality" in k])
    assert vectors.std().item() == pytest.approx(1e-6, rel=0.1)
