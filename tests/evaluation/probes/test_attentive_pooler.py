"""The attentive pooler of V-JEPA 2 against two independent implementations: plain torch, and that of transformers."""

import math

import pytest
import torch
from torch import nn

from hpc_jepa.config.pooler_probe import PoolerProbeConfig
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.probes.attentive_pooler import PoolerClassifier
from hpc_jepa.evaluation.torchvision_operators import register_torchvision_operators

WIDTH, CLASSES, HEADS = 32, 7, 4
SETTINGS = PoolerProbeConfig(kind="attentive", blocks=4, lr=(1e-3, 1e-4), weight_decay=0.1, epochs=1, batch_size=1)


def randomised(blocks: int) -> PoolerClassifier:
    torch.manual_seed(0)
    probe = PoolerClassifier(WIDTH, CLASSES, blocks, HEADS)
    for parameter in probe.parameters():
        parameter.data = 0.2 * torch.randn_like(parameter)
    return probe


def norm(x, weights, name):
    shifted = x - x.mean(-1, keepdim=True)
    scaled = shifted / (shifted.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def mlp(x, weights, name):
    hidden = linear(x, weights, f"{name}.fc1")
    return linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), weights, f"{name}.fc2")


def attend(query, key, value):
    """Heads one after the other."""
    parts = []
    for q, k, v in zip(*(x.split(WIDTH // HEADS, dim=-1) for x in (query, key, value)), strict=True):
        parts.append((q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v)
    return torch.cat(parts, dim=-1)


@pytest.mark.parametrize("blocks", [1, 4])
def test_the_logits_are_those_of_the_definition(blocks):
    probe, x = randomised(blocks), torch.randn(3, 11, WIDTH)
    weights = probe.state_dict()
    expected = x
    for number in range(blocks - 1):
        name = f"pooler.blocks.{number}"
        parts = linear(norm(expected, weights, f"{name}.norm1"), weights, f"{name}.attn.qkv").chunk(3, dim=-1)
        expected = expected + linear(attend(*parts), weights, f"{name}.attn.proj")
        expected = expected + mlp(norm(expected, weights, f"{name}.norm2"), weights, f"{name}.mlp")
    name = "pooler.cross_attention_block"
    query = weights["pooler.query_tokens"].repeat(3, 1, 1)
    key, value = linear(norm(expected, weights, f"{name}.norm1"), weights, f"{name}.xattn.kv").chunk(2, dim=-1)
    query = query + attend(linear(query, weights, f"{name}.xattn.q"), key, value)
    query = query + mlp(norm(query, weights, f"{name}.norm2"), weights, f"{name}.mlp")
    torch.testing.assert_close(probe(x), linear(query[:, 0], weights, "linear"), atol=1e-5, rtol=1e-5)


def test_it_is_the_pooler_of_transformers():
    register_torchvision_operators()
    transformers = pytest.importorskip("transformers", reason="the extra 'encoders' is not installed")
    config = transformers.VJEPA2Config(
        hidden_size=WIDTH, num_attention_heads=HEADS, num_hidden_layers=1, num_pooler_layers=3, num_labels=CLASSES,
        layer_norm_eps=1e-5, crop_size=32, pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1,
    )  # fmt: skip
    theirs = transformers.VJEPA2ForVideoClassification(config).eval()
    ours, x = randomised(4), torch.randn(3, 11, WIDTH)
    theirs.pooler.load_state_dict(in_their_names(ours.pooler.state_dict()))
    theirs.classifier.load_state_dict(ours.linear.state_dict())
    torch.testing.assert_close(ours(x), theirs.classifier(theirs.pooler(x)), atol=1e-5, rtol=1e-5)
    count = sum(p.numel() for part in (theirs.pooler, theirs.classifier) for p in part.parameters())
    assert count == sum(p.numel() for p in ours.parameters()) == SETTINGS.parameters(WIDTH, CLASSES)


def in_their_names(weights):
    names = [
        ("cross_attention_block", "cross_attention_layer"), ("blocks", "self_attention_layers"), ("norm", "layer_norm"),
        ("xattn", "cross_attn"), (".attn", ".self_attn"), (".proj", ".out_proj"), (".q.", ".q_proj."),
    ]  # fmt: skip
    found = {}
    for name, tensor in weights.items():
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        joined = next((part for part in (".qkv.", ".kv.") if part in name), None)
        letters = joined.strip(".") if joined else ""
        for letter, part in zip(letters, tensor.chunk(max(len(letters), 1)), strict=False):
            found[name.replace(joined, f".{letter}_proj.")] = part
        if not joined:
            found[name] = tensor
    return found


def test_parameters_of_the_published_size():
    """ViT-L on Something-Something: three blocks of 12 w^2 + 13 w, cross-attention without projection, a head."""
    width, classes = 1024, 174
    expected = 3 * (12 * width**2 + 13 * width) + 11 * width**2 + 12 * width + width + (width + 1) * classes
    with torch.device("meta"):
        probe = PoolerClassifier(width, classes, 4, 16)
    assert sum(p.numel() for p in probe.parameters()) == expected == SETTINGS.parameters(width, classes)
    assert SETTINGS.memory(width, classes, 3) == 6 * 16 * expected


def test_the_initialisation_is_scaled_by_depth():
    torch.manual_seed(1)
    probe = PoolerClassifier(256, 5, 4, 4).pooler
    scales = [block.mlp.fc2.weight.std().item() for block in (*probe.blocks, probe.cross_attention_block)]
    projections = [block.attn.proj.weight.std().item() for block in probe.blocks]
    expected = [0.02 / math.sqrt(2 * number) for number in (1, 2, 3, 3)]
    assert scales == pytest.approx(expected, rel=0.02) and projections == pytest.approx(expected[:3], rel=0.02)
    assert probe.query_tokens.std().item() == pytest.approx(0.02, rel=0.2)
    assert probe.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert all(not m.bias.any() for m in probe.modules() if isinstance(m, nn.Linear))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match=r"5.*32"):
        PoolerClassifier(32, 3, 4, 5)
