"""For every room: a small motion benchmark, built by the real builder, and real processes: torchrun and gloo."""

import gc
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from hpc_jepa.config.run import RunConfig
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.sources import motion8
from tests import waiting

settings.register_profile("any load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any load")  # a busy machine is no fault


def pytest_configure(config):
    """Hide the GPUs, also from child processes, unless ``-m gpu`` selects the tests that need one.

    The other tests compare with the CPU, decode clips that are too small for a GPU, and start more processes than GPUs.
    """
    if not selects_gpu_tests(config.getoption("markexpr")):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # CUDA reads it when it is initialised, which importing torch does not
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # kernels run on CPU tensors then; triton reads it when it is imported


def selects_gpu_tests(expression):
    return "gpu" in expression.replace("not gpu", "").split()


NEED_GPU = pytest.StashKey[int]()


def pytest_collection_modifyitems(config, items):
    """Without a GPU, leave out the tests that need one; a run of ``-m gpu`` names each of them as skipped."""
    if torch.cuda.is_available():
        return
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if selects_gpu_tests(config.getoption("markexpr")):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    elif marked:
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=marked)
        config.stash[NEED_GPU] = len(marked)


def pytest_collection_finish():
    """Exempt all that has been imported from garbage collection: every full one would visit a million objects."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()  # libraries report what is not collected at exit


def pytest_terminal_summary(terminalreporter, config):
    if count := config.stash.get(NEED_GPU, 0):
        terminalreporter.write_line(
            f"{count} deselected tests need a GPU: pytest -m gpu, or make gpu-check, on a machine with one"
        )


@pytest.fixture(scope="session")
def motion_shards(tmp_path_factory):
    """Folder with ``train`` (24), ``test`` (8) and ``unlabelled`` (16) clips of 32 pixels and 16 frames."""
    out = tmp_path_factory.mktemp("motion8")
    for source in motion8.motion8_splits(train=24, test=8, unlabelled=16, size=32, frames=16):
        build_shards(source, out / source.split, make_recipe(source, 10), 0, lambda samples: None)
    return out


TORCHRUN = """
from hpc_jepa.io.imports import uncollected_imports
with uncollected_imports():
    from torch.distributed.run import main
main()
"""
WORKER = Path(__file__).parent / "worker.py"


@pytest.fixture(scope="session")
def launch():
    """``launch(script, *arguments, processes=2)`` runs a script under torchrun and returns its finished process."""

    def run(script, *arguments, processes=2, check=True):
        torchrun = [sys.executable, "-c", TORCHRUN, "--standalone", f"--nproc-per-node={processes}"]
        command = [*torchrun, str(WORKER), str(script), *map(str, arguments)]
        finished = waiting.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert not check or finished.returncode == 0, finished.stderr[-4000:]
        return finished

    return run


@pytest.fixture(scope="session")
def triton_interpreter():
    """Skips without Triton. Its interpreter patches triton.language once per kernel here, not in each function too.

    The second patch finds the language patched already and changes nothing, but takes a third of the time.
    """
    pytest.importorskip("triton", reason="triton is not installed")
    import triton.language as tl
    from triton.runtime import interpreter

    patch = interpreter._patch_lang

    def patch_once(function):
        languages = [value for value in function.__globals__.values() if value is tl or value is tl.core]
        unpatched = any(tl.core.is_builtin(language.load) for language in languages)
        return patch(function) if unpatched else interpreter._LangPatchScope()

    interpreter._patch_lang = patch_once
    yield
    interpreter._patch_lang = patch


@pytest.fixture
def configure(motion_shards, tmp_path):
    """A small run in ``tmp_path``; keywords replace or add top-level settings."""

    def make(**changes):
        settings = {
            "regime": "test",
            "seed": 3,
            "runs": str(tmp_path / "runs"),
            "model": {
                "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
                "predictor": {"width": 16, "depth": 1, "heads": 2},
            },
            "data": {
                "sources": {"motion8": {"shards": str(motion_shards / "unlabelled")}},
                "clip": {"frames": 8, "stride": 2, "size": 32},
            },
            "objectives": ["fwm", "hw", {"ld": {"hidden": 8}}],
            "masking": {"groups": [{"blocks": 2, "spatial_scale": 0.2}, {"blocks": 1, "spatial_scale": 0.5}]},
            "schedule": {"steps": 12, "lr": 1e-3, "ema_start": 0.9, "ema_final": 0.99},
            "engine": {"precision": "fp32", "batch_size": 4, "zero_stage": 1},
            "checkpoint": {"every": 4, "keep": 2},
            "monitor": {"log_every": 1, "health_every": 4},
        }
        return RunConfig.model_validate(settings | changes)

    return make


@pytest.fixture(scope="session")
def tiny_regime(motion_shards):
    """``tiny_regime(steps, every=200, name="tiny")``: settings of a regime file whose steps take milliseconds."""

    def make(steps, every=200, name="tiny"):
        return {
            "regime": name,
            "model": {
                "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
                "predictor": {"width": 16, "depth": 1, "heads": 2},
            },
            "data": {
                "sources": {"motion8": {"shards": str(motion_shards / "unlabelled")}},
                "clip": {"frames": 8, "stride": 2, "size": 32},
                "decode_threads": 1,
            },
            "schedule": {"steps": steps},
            "engine": {"precision": "fp32", "batch_size": 4},
            "checkpoint": {"every": every, "keep": 1},
            "monitor": {"log_every": 1},
        }

    return make


@pytest.fixture(scope="session")
def tiny_benchmark(motion_shards):
    """Settings of a benchmark file with one linear probe."""
    protocol = {
        "train": str(motion_shards / "train"),
        "test": str(motion_shards / "test"),
        "clip": {"sampling": "leading", "frames": 8, "stride": 2, "size": 32},
        "probes": {"linear": {"kind": "logistic", "pooling": "mean"}},
        "probe_seeds": [0],
        "batch_size": 8,
    }
    return {"name": "motion8", "title": "Directions", "classes": 8, "protocols": {"standard": protocol}}


@pytest.fixture
def metrics_of():
    """``metrics_of(run_folder)``: all logged metrics except times and memory, step by step."""
    machine = {"time", "clips_per_second", "tflops_per_second", "data_wait_share", "memory_bytes", "shared_clips"}

    def read(run):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key not in machine} for line in lines]

    return read


@pytest.fixture(scope="session")
def torchvision_operators():
    """Declares operators of torchvision that timm and transformers import and that do not load with a CPU torch."""
    if torch.version.cuda is not None:  # torchvision registers them itself, and a second time is fatal
        yield
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield
    del library
