import pytest
import torch
from torch._dynamo.utils import counters

from hpc_jepa.config.model import EncoderConfig
from hpc_jepa.config.training import EngineConfig
from hpc_jepa.errors import InputError
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.training.engine import compile_blocks

CONFIG = EncoderConfig(width=32, depth=3, heads=2, patch=8, levels=(1, 3))


@pytest.mark.parametrize("rotary", ["vjepa2.1", "vjepa2"])
def test_one_program_serves_all_blocks_and_all_numbers_of_tokens(rotary, compiler):
    plain, compiled = (seeded(CONFIG.model_copy(update={"rotary": rotary})) for _ in range(2))
    compile_blocks(compiled)
    torch._dynamo.reset()
    counters.clear()
    pixels = torch.randn(2, 3, 8, 32, 32)
    for count in (9, 13, 22, 40):
        tokens = torch.stack([torch.randperm(64)[:count].sort().values for _ in range(2)])
        groups = [count - 4, 4]
        features, expected = compiled(pixels, tokens, groups), plain(pixels, tokens, groups)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
        for encoder, made in ((plain, expected), (compiled, features)):
            encoder.zero_grad()
            made.square().sum().backward()
        for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
            if theirs.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_a_missing_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="no-such-compiler"):
        compile_blocks(seeded(CONFIG))


def test_compile_is_refused_at_zero_stage_3():
    with pytest.raises(ValueError, match="zero_stage 3"):
        EngineConfig(compile=True, zero_stage=3)


def seeded(config):
    torch.manual_seed(0)
    return Encoder(config)
