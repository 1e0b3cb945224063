"""The definitions in containers/: what cannot be built on every machine is at least consistent."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "containers"
SOURCE = "/opt/source/"


@pytest.fixture(scope="module")
def containerfile():
    """Instructions of the Containerfile, continued lines joined: (name, rest)."""
    text = (FOLDER / "Containerfile").read_text().replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip() and line[0] != "#"]


@pytest.fixture(scope="module")
def definition():
    """Sections of the Apptainer definition, with the header under an empty name, as lists of stripped lines."""
    sections = {"": []}
    lines = [line.strip() for line in (FOLDER / "hpc_jepa.def").read_text().splitlines()]
    name = ""
    for line in lines:
        if line.startswith("%"):
            name = line[1:]
            sections[name] = []
        elif line and not line.startswith("#"):
            sections[name].append(line)
    return sections


def test_both_definitions_copy_what_an_installation_needs(containerfile, definition):
    copied = [rest.split() for name, rest in containerfile if name == "COPY"]
    oci = {source for *sources, _ in copied for source in sources}
    pairs = dict(line.split() for line in definition["files"])
    assert oci == set(pairs)
    assert all(target == SOURCE + source for source, target in pairs.items())
    assert all((ROOT / source).exists() for source in oci)
    needed = {"setup.py", "pyproject.toml", "hpc_jepa", "configs", "slurm", "containers", *constraints_files()}
    assert needed <= oci


def test_both_definitions_run_the_same_script_with_the_same_choices(containerfile, definition):
    (run,) = [rest for name, rest in containerfile if name == "RUN"]
    (post,) = definition["post"]
    script = f"bash {SOURCE}containers/install.sh"
    assert run == f'{script} "${{EXTRA}}"' and post == f'{script} "{{{{ EXTRA }}}}"'
    arguments = {rest for name, rest in containerfile if name == "ARG"}
    assert arguments == set(definition["arguments"])
    assert definition[""] == ["Bootstrap: docker", "From: {{ BASE }}"]


def test_the_environment_finds_the_program_and_the_video_decoder(containerfile, definition):
    (oci,) = [rest for name, rest in containerfile if name == "ENV"]
    apptainer = " ".join(definition["environment"])
    for setting in ("PATH=/opt/hpc_jepa/bin:$PATH", "PYTHONNOUSERSITE=1"):
        assert setting in oci and setting in apptainer
    assert re.search(r"NVIDIA_DRIVER_CAPABILITIES=\S*video", oci)


def test_the_script_installs_each_extra_with_its_constraints(tmp_path):
    """The script with stand-ins for every program it starts."""
    for extra, constraints in {"cpu": "constraints.txt", "cuda12": "constraints-cuda12.txt"}.items():
        source = tmp_path / extra / "source"
        shutil.copytree(FOLDER, source / "containers")
        stand_ins = "\n".join(f"{name}() {{ echo {name} $*; }}" for name in ("apt-get", "rm", "python3"))
        text = (source / "containers" / "install.sh").read_text()
        assert "/opt/hpc_jepa/bin/pip" in text
        text = text.replace("/opt/hpc_jepa/bin/pip", "echo").replace(
            "set -euo pipefail\n", f"set -euo pipefail\n{stand_ins}\n"
        )
        (source / "containers" / "install.sh").write_text(text)
        done = subprocess.run(["bash", source / "containers" / "install.sh", extra], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        installs = [line for line in done.stdout.splitlines() if f"--constraint {constraints} " in line]
        assert len(installs) == 2 and installs[1].split()[-1].startswith(f".[{extra},")
        (packages,) = [line for line in done.stdout.splitlines() if line.startswith("apt-get install")]
        assert {"gcc", "python3-dev", "python3-venv"} <= set(packages.split())


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_valid_bash(script):
    subprocess.run(["bash", "-n", script], check=True)


def test_the_profile_runs_the_image_that_the_definition_builds():
    profile = yaml.safe_load((ROOT / "slurm" / "profiles" / "large.yaml").read_text())
    (image,) = [word for word in profile["python"].split() if word.endswith(".sif")]
    commands = [line for line in (FOLDER / "hpc_jepa.def").read_text().splitlines() if "apptainer build" in line]
    assert Path(image).name in commands[0].split()


def constraints_files():
    return {path.name for path in ROOT.glob("constraints*.txt")}
