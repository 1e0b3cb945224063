"""TF32 and deterministic algorithms are applied where they are configured, and nowhere else."""

import ast
from pathlib import Path

import pytest
import torch

import hpc_jepa.kernels.triton
from hpc_jepa.config.training import EngineConfig
from hpc_jepa.errors import InputError
from hpc_jepa.training.loop import train
from hpc_jepa.training.numerics import WORKSPACE_VARIABLE, numerics

WORKERS = Path(__file__).parent / "workers"


def state():
    return (
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.matmul.fp32_precision,
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )


def test_settings_that_are_off_change_nothing():
    before = state()
    with numerics(EngineConfig()):
        assert state() == before


def test_tf32_is_set_for_both_interfaces_of_pytorch_and_restored():
    before = state()
    with numerics(EngineConfig(tf32=True)):
        assert torch.get_float32_matmul_precision() == "high"  # raises if the two differ, in Inductor too
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert state()[0] == before[0] and torch.backends.cuda.matmul.fp32_precision != "tf32"


def test_deterministic_algorithms_are_required_and_the_state_is_restored(monkeypatch):
    monkeypatch.setenv(WORKSPACE_VARIABLE, ":16:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = state()
    with numerics(EngineConfig(deterministic=True)):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert state() == before


def test_a_workspace_without_equal_bits_is_refused(monkeypatch):
    monkeypatch.setenv(WORKSPACE_VARIABLE, ":0:0")
    with pytest.raises(InputError, match=WORKSPACE_VARIABLE), numerics(EngineConfig(deterministic=True)):
        pass
    assert not torch.are_deterministic_algorithms_enabled()


def test_every_process_of_a_deterministic_run_has_the_flag_and_the_losses_of_any_run(configure, launch, tmp_path):
    losses = []
    settings = {"schedule": {"steps": 3, "lr": 1e-3}, "monitor": {"log_every": 1, "health_every": 2}}
    config = configure(**settings, engine={"precision": "fp32", "batch_size": 4, "deterministic": True})
    file = tmp_path / "config.yaml"
    file.write_text(config.model_dump_json())
    launch(WORKERS / "deterministic.py", file, tmp_path, processes=2)
    for rank in (0, 1):
        lines = torch.load(tmp_path / f"{rank}.pt")
        assert [line[1:] for line in lines] == [(True, ":4096:8")] * 3
    plain = configure(**settings, study="plain", engine={"precision": "fp32", "batch_size": 4})
    train(plain, lambda record: losses.append(record.loss))
    assert [line[0] for line in lines] == pytest.approx(losses, rel=1e-5)


def test_our_triton_kernels_use_no_atomics():
    """A kernel with atomics adds in any order: it needs a second form for ``engine.deterministic``."""
    sources = sorted(Path(hpc_jepa.kernels.triton.__file__).parent.glob("*.py"))
    assert len(sources) > 3
    for source in sources:
        names = {node.attr for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Attribute)}
        assert not {name for name in names if name.startswith("atomic")}, source
