import pytest
import torch

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.probes.attentive import AttentiveProbes
from hpc_jepa.evaluation.probes.probe_registry import ProbeShape


def shape(width, classes, heads):
    return ProbeShape(width, classes, tokens=20, tubelets=4, heads=heads)


@pytest.fixture
def probes():
    """Three probes without parameters that are 0 or 1."""
    torch.manual_seed(0)
    probes = AttentiveProbes(shape(32, 5, 8), seeds=(0, 1, 2))
    for parameter in probes.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return probes


def test_logits_equal_the_full_token_by_token_attention(probes, full_probe):
    tokens = torch.randn(6, 20, 32)
    with torch.no_grad():
        logits = probes(tokens)
        for index in range(3):
            expected = full_probe(probes, index, 32, 5)(tokens)
            torch.testing.assert_close(logits[index], expected, rtol=1e-5, atol=1e-5)


def test_a_key_bias_changes_nothing(probes, full_probe):
    tokens = torch.randn(6, 20, 32)
    full = full_probe(probes, 0, 32, 5)
    with torch.no_grad():
        full.attention.in_proj_bias[32:64] = torch.randn(32)
        torch.testing.assert_close(probes(tokens)[0], full(tokens), rtol=1e-5, atol=1e-5)


def test_initialisation_is_that_of_torch_layers():
    probes = AttentiveProbes(shape(64, 10, 8), seeds=range(40))
    assert probes.class_token.std().item() == pytest.approx(0.02, rel=0.05)
    xavier = (6 / (64 + 3 * 64)) ** 0.5
    assert probes.query_weight.abs().max().item() == pytest.approx(xavier, rel=1e-3)
    assert probes.head_weight.abs().max().item() == pytest.approx(64**-0.5, rel=1e-3)
    assert not probes.query_bias.any() and not probes.value_bias.any() and not probes.output_bias.any()


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match=r"5.*32"):
        AttentiveProbes(shape(32, 4, 5), seeds=(0,))
