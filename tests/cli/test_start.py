"""What a command imports: it is most of the time that a process takes to start."""

import gc
import subprocess
import sys

import pytest
import torch
import yaml
from torch.optim.lr_scheduler import CosineAnnealingLR

from hpc_jepa.io.imports import uncollected_imports
from hpc_jepa.kernels.eager_optimizer import eager_optimizer

IMPORTED = """
import sys
from hpc_jepa.cli import main
try:
    main()
finally:
    print(*sys.modules)
"""


def imported(*arguments, **options):
    """Names of the modules that a successful command has imported."""
    command = [sys.executable, "-c", IMPORTED, *arguments]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout.split())


def test_help_does_not_import_torch():
    modules = imported("study", "--help")
    assert "hpc_jepa.cli.shards" in modules
    assert not {"torch", "pandas", "scipy"} & modules


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_that_does_not_compile_does_not_import_the_compiler(stage, tiny_regime, tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tiny_regime(2)))
    modules = imported("train", "run.yaml", f"engine.zero_stage={stage}", cwd=tmp_path)
    assert "hpc_jepa.training.engine" in modules
    assert not {"torch._dynamo", "torch._inductor", "sympy"} & modules


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(torch.optim.AdamW, {"fused": True}), (torch.optim.AdamW, {}), (torch.optim.Adam, {"fused": True})],
)
def test_an_eager_optimizer_computes_the_updates_of_any_other(kind, settings):
    def trained(make):
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(5, 3, generator=generator).requires_grad_()
        optimizer = make([{"params": [weight], "weight_decay": 0.1}], lr=0.1, **settings)
        schedule = CosineAnnealingLR(optimizer, 4)
        for _ in range(4):
            optimizer.zero_grad()
            (weight.exp() * torch.randn(5, 3, generator=generator)).sum().backward()
            optimizer.step()
            schedule.step()
        return weight.detach(), optimizer.state_dict()["state"][0]

    weight, state = trained(lambda *groups, **values: eager_optimizer(kind, *groups, **values))
    expected, expected_state = trained(kind)
    assert torch.equal(weight, expected)
    assert all(torch.equal(state[name], expected_state[name]) for name in expected_state)


def test_an_eager_optimizer_skips_updates_of_infinite_gradients():
    weight = torch.ones(3, requires_grad=True)
    optimizer = eager_optimizer(torch.optim.AdamW, [weight], lr=0.1, fused=True)
    weight.grad = torch.ones(3)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(weight.detach(), torch.ones(3))


def test_the_garbage_collector_is_paused_during_imports_only():
    with uncollected_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
