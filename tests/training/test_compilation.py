import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_jepa.config.model import EncoderConfig
from hpc_jepa.config.training import EngineConfig
from hpc_jepa.errors import InputError
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.training.engine import compile_blocks

WORKER = Path(__file__).parent / "workers" / "compiled_blocks.py"


@pytest.mark.parametrize("rotary", ["vjepa2.1", "vjepa2"])
def test_one_program_serves_all_blocks_and_all_numbers_of_tokens(rotary, compiler, tmp_path):
    """In its own process: after compilations of other tests PyTorch 2.13 may take a stride for a constant."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    finished = subprocess.run([sys.executable, WORKER, rotary], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-4000:]


def test_a_missing_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="no-such-compiler"):
        compile_blocks(Encoder(EncoderConfig(width=32, depth=3, heads=2, patch=8, levels=(1, 3))))


def test_compile_is_refused_at_zero_stage_3():
    with pytest.raises(ValueError, match=r"compile.*zero_stage"):
        EngineConfig(compile=True, zero_stage=3)
