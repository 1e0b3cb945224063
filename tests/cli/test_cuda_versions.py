"""Driver, torch and DALI: which combinations ``hpc-jepa doctor`` refuses, and what it advises."""

import os
import subprocess
from pathlib import Path

import pytest

from hpc_jepa.cli.machine import cuda, hardware
from hpc_jepa.cli.machine.cuda import CudaVersions, compare_versions, extra_for
from hpc_jepa.kernels.build_tools import BuildTools

ROOT = Path(__file__).parents[2]


def found(driver, torch_cuda, dali, gpus=2, visible=None, visible_devices=None):
    """``driver`` 0: none. All GPUs are visible unless the build of torch cannot use them."""
    torch = "2.13.0" if torch_cuda else "2.13.0+cpu"
    return CudaVersions(
        driver=f"{driver}.65.06" if driver else None,
        gpus=gpus if driver else 0,
        torch=torch,
        torch_cuda=torch_cuda,
        visible=gpus if visible is None else visible,
        dali=dali,
        visible_devices=visible_devices,
    )


FITTING = {
    "CUDA 13": found(580, "13.0", (13,)),
    "CUDA 12 on its own driver": found(550, "12.8", (12,)),
    "CUDA 12 on a newer driver": found(580, "12.8", (12,)),
    "the oldest driver of CUDA 12": found(525, "12.8", (12,)),
    "CUDA newer than known": found(700, "14.0", ()),
    "some GPUs hidden": found(580, "13.0", (13,), gpus=8, visible=2, visible_devices="0,1"),
    "nvidia-smi is not in the container": found(0, "13.0", (13,), visible=2),
}
WRONG = {
    "driver too old for both": (found(550, "13.0", (13,), visible=0), {"CUDA of torch", "CUDA of DALI"}, "cuda12"),
    "driver too old for torch": (found(550, "13.0", (12,), visible=0), {"CUDA of torch"}, "cuda12"),
    "driver too old for DALI": (found(550, "12.8", (13,)), {"CUDA of DALI"}, "cuda12"),
    "driver too old for CUDA 12": (found(470, "12.8", (12,), visible=0), {"CUDA of torch", "CUDA of DALI"}, "525"),
    "torch for CPUs": (found(580, None, (13,), visible=0), {"CUDA of torch"}, "cuda13"),
    "torch for CPUs, older driver": (found(535, None, (12,), visible=0), {"CUDA of torch"}, "cuda12"),
    "both builds of DALI": (found(580, "13.0", (12, 13)), {"CUDA of DALI"}, "uninstall"),
    "DALI of another version": (found(580, "13.0", (12,)), {"CUDA of DALI"}, "cuda13"),
    "hidden by the environment": (found(580, "13.0", (13,), visible=0, visible_devices=""), {"CUDA"}, "Slurm"),
    "hidden by a fault": (found(580, "13.0", (13,), visible=0), {"CUDA"}, "torch.cuda.init"),
}


@pytest.mark.parametrize("versions", FITTING.values(), ids=FITTING)
def test_versions_that_fit_are_one_line(versions):
    (result,) = compare_versions(versions)
    assert result.status == "ok" and not result.advice
    assert str(versions.visible) in result.detail and versions.torch_cuda in result.detail


@pytest.mark.parametrize(("versions", "checks", "remedy"), WRONG.values(), ids=WRONG)
def test_a_mismatch_is_named_with_its_remedy(versions, checks, remedy):
    results = compare_versions(versions)
    assert {result.check for result in results} == checks
    for result in results:
        assert result.status in ("missing", "note") and remedy in result.advice
        assert "\n" not in result.detail + result.advice


def test_a_machine_without_gpu_and_driver_has_nothing_to_compare():
    assert compare_versions(found(0, None, (13,), visible=0)) == []
    assert compare_versions(found(0, "13.0", (), visible=0)) == []


@pytest.fixture
def fake_driver(tmp_path, monkeypatch):
    """``fake_driver(version, gpus=1)`` puts an nvidia-smi of that driver on the PATH."""

    def install(version, gpus=1):
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\n" + f"echo {version}\n" * gpus)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return install


def test_doctor_reads_the_driver_once_per_gpu(fake_driver):
    fake_driver("550.54.14", gpus=4)
    assert hardware.driver_versions() == ["550.54.14"] * 4
    versions = cuda.installed_versions()
    assert (versions.driver, versions.gpus) == ("550.54.14", 4)
    if versions.torch_cuda is None:
        assert "make install EXTRA=cuda12" in compare_versions(versions)[0].advice


@pytest.mark.parametrize("driver", ["470.256.02", "525.60.13", "550.54.14", "575.57.08", "580.65.06", "610.3"])
def test_make_install_takes_the_extra_that_doctor_advises(driver, fake_driver):
    fake_driver(driver, gpus=2)
    arguments = ["make", "--dry-run", "--always-make", "install", "VENV=/nonexistent"]
    environment = {name: value for name, value in os.environ.items() if name != "EXTRA" and "MAKE" not in name}
    planned = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    extra = extra_for(driver)
    assert f"[{extra}," in planned
    assert ("constraints-cuda12.txt" in planned) == (extra == "cuda12")


def test_missing_build_tools_matter_on_a_gpu(monkeypatch):
    assert cuda.build_tools(BuildTools("/usr/bin/gcc", Path("/usr/include/Python.h"))).status == "ok"
    for available, status in ((False, "note"), (True, "missing")):
        monkeypatch.setattr("torch.cuda.is_available", lambda available=available: available)
        result = cuda.build_tools(BuildTools(None, None))
        assert result.status == status and result.advice and "Python.h" in result.detail
