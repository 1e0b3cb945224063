"""Logits against the same networks written independently with torch's own layers."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from hpc_jepa.evaluation.probes.attention_block import PostNormAttention
from hpc_jepa.evaluation.probes.knn import knn_votes
from hpc_jepa.evaluation.probes.linear import LinearProbes
from hpc_jepa.evaluation.probes.probe_registry import ProbeShape
from hpc_jepa.evaluation.probes.routers import MotionRouter, SpatialRouter
from hpc_jepa.evaluation.probes.space_time import SpaceTimeAttention
from hpc_jepa.evaluation.probes.stack import StackedModule
from hpc_jepa.evaluation.probes.temporal import TemporalAttention, TemporalConvolution

WIDTH, CLASSES, HEADS, TUBELETS = 64, 5, 8, 4
SHAPE = ProbeShape(WIDTH, CLASSES, tokens=3, tubelets=TUBELETS, heads=HEADS)
CLOSE = {"rtol": 0, "atol": 1e-5}


def shaken(module):
    """No parameter is 0 or 1, and dropout is off."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module.eval()


def torch_attention(block):
    """LayerNorm(x + MultiheadAttention(x)) by torch's own module."""
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    attention.load_state_dict(
        {
            "in_proj_weight": block.qkv.weight,
            "in_proj_bias": block.qkv.bias,
            "out_proj.weight": block.proj.weight,
            "out_proj.bias": block.proj.bias,
        }
    )
    norm = nn.LayerNorm(WIDTH, eps=1e-5)
    norm.load_state_dict(block.norm.state_dict())
    return lambda x: norm(x + attention.eval()(x, x, x)[0])


def head(module):
    """The head, layer by layer; dropout is off."""
    norm, first, _, _, last = module.head
    return lambda x: last(nn.functional.gelu(first(norm(x))))


def with_token(module, x):
    return torch.cat([module.token.expand(len(x), 1, WIDTH), x], dim=1)


def tokens(count=TUBELETS * 9):
    return torch.randn(6, count, WIDTH, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_linear_probes_are_linear_layers():
    probes = shaken(LinearProbes(SHAPE, (0, 1)))
    x = tokens(3)
    for row in range(2):
        expected = torch.nn.functional.linear(x.flatten(1), probes.weight[row], probes.bias[row])
        torch.testing.assert_close(probes(x)[row], expected, **CLOSE)
    torch.manual_seed(4)
    fresh = nn.Linear(3 * WIDTH, CLASSES)
    assert torch.equal(LinearProbes(SHAPE, (4,)).weight[0], fresh.weight)


@torch.no_grad()
def test_attention_and_its_initialisation_equal_torch():
    block = shaken(PostNormAttention(WIDTH, HEADS))
    torch.testing.assert_close(block(tokens()), torch_attention(block)(tokens()), **CLOSE)
    torch.manual_seed(2)
    fresh = PostNormAttention(WIDTH, HEADS)
    torch.manual_seed(2)
    theirs = nn.MultiheadAttention(WIDTH, HEADS)
    assert torch.equal(fresh.qkv.weight, theirs.in_proj_weight)
    assert torch.equal(fresh.proj.weight, theirs.out_proj.weight) and not fresh.qkv.bias.any()


@torch.no_grad()
def test_temporal_attention_equals_its_layers():
    probe = shaken(TemporalAttention(SHAPE))
    x = tokens(TUBELETS)
    mixed = with_token(probe, x)
    for layer in probe.layers:
        mixed = torch_attention(layer)(mixed)
    torch.testing.assert_close(probe(x), head(probe)(mixed[:, 0]), **CLOSE)


@torch.no_grad()
def test_temporal_convolution_equals_its_layers():
    probe = shaken(TemporalConvolution(SHAPE))
    x = tokens(TUBELETS)
    mixed = x.transpose(1, 2)
    for conv, norm in ((probe.layers[0], probe.layers[1]), (probe.layers[3], probe.layers[4])):
        assert (conv.groups, norm.num_groups) == (4, 32)
        mixed = nn.functional.conv1d(mixed, conv.weight, conv.bias, padding=1, groups=4)
        mixed = nn.functional.gelu(nn.functional.group_norm(mixed, 32, norm.weight, norm.bias))
    attended = torch_attention(probe.attention)(with_token(probe, mixed.transpose(1, 2)))
    torch.testing.assert_close(probe(x), probe.head(attended[:, 0]), **CLOSE)


@pytest.mark.parametrize("patches", [1, 9])
@torch.no_grad()
def test_the_motion_router_compares_each_patch_with_the_previous_tubelet(patches):
    probe = shaken(MotionRouter(SHAPE))
    x = tokens(TUBELETS * patches)
    norm, first, _, _, last = probe.score
    expected = []
    for clip in x:
        scores = []
        for place, token in enumerate(clip):
            before = clip[place - patches] if place >= patches else token
            pair = torch.cat([token, (token - before).abs()])
            scores.append(last(nn.functional.gelu(first(norm(pair)))))
        weights = torch.cat(scores).softmax(0)
        expected.append(head(probe)((weights[:, None] * clip).sum(0)))
    torch.testing.assert_close(probe(x), torch.stack(expected), **CLOSE)


@torch.no_grad()
def test_the_spatial_router_weights_tokens_by_content():
    probe = shaken(SpatialRouter(SHAPE))
    x = tokens()
    norm, first, _, _, last = probe.score
    weights = last(nn.functional.gelu(first(norm(x)))).softmax(dim=1)
    torch.testing.assert_close(probe(x), head(probe)((weights * x).sum(dim=1)), **CLOSE)


@torch.no_grad()
def test_space_time_attention_is_temporal_then_spatial():
    probe = shaken(SpaceTimeAttention(SHAPE))
    x = tokens().view(6, TUBELETS, 9, WIDTH)
    patches = torch.stack([torch_attention(probe.time)(x[:, :, p]).mean(dim=1) for p in range(9)], dim=1)
    mixed = torch_attention(probe.space)(with_token(probe, patches))
    torch.testing.assert_close(probe(tokens()), head(probe)(mixed[:, 0]), **CLOSE)


@torch.no_grad()
def test_a_stacked_module_equals_its_parts():
    singles = [shaken(TemporalAttention(SHAPE)) for _ in range(2)]
    singles[1].token.data += 1
    stacked = StackedModule(singles).eval()(tokens(TUBELETS))
    for row, single in enumerate(singles):
        torch.testing.assert_close(stacked[row], single(tokens(TUBELETS)), **CLOSE)


@pytest.mark.parametrize("k", [1, 5, 20, 1000])
def test_knn_votes_equal_scikit_learn(make_features, monkeypatch, k):
    monkeypatch.setattr("hpc_jepa.evaluation.frozen_features.CHUNK_BYTES", 70 * 4 * 32 * 4)
    train, test = (make_features(seed=seed, clips=300, tokens=4, signal=4.0) for seed in (0, 1))
    queries = torch.from_numpy(test.tokens).flatten(1)
    counted = knn_votes(train, queries, (3, k), 4)[1].numpy()
    reference = KNeighborsClassifier(min(k, 300), metric="cosine", algorithm="brute")
    reference.fit(train.tokens.reshape(300, -1), train.labels)
    x = test.tokens.reshape(300, -1)
    np.testing.assert_allclose(counted / min(k, 300), reference.predict_proba(x))
    np.testing.assert_array_equal(counted.argmax(axis=1), reference.predict(x))
