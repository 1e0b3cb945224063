"""``follow(page)`` does what a page of ``docs/`` says, in a copy of the checkout."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("hpc_jepa", "configs", "slurm", "tests", "pyproject.toml")
BLOCK = re.compile(r"(?:^`(?P<path>[\w./-]+)`:\n\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.S | re.M)


def apply_diff(text, diff):
    """The text with the hunks of a unified diff without line numbers; hunks are separated by ``...``."""
    for hunk in diff.split("...\n"):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if not line.startswith("+"))
        after = "".join(line[1:] for line in lines if not line.startswith("-"))
        assert text.count(before) == 1, f"the page changes lines that are not in the file:\n{before}"
        text = text.replace(before, after)
    return text


def write(path, language, text):
    """A new file, or a change of an existing one."""
    if language == "diff":
        path.write_text(apply_diff(path.read_text(), text))
        return
    assert not path.exists(), f"{path} exists already"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def follow(tmp_path):
    """``follow(page)``: write every named block, run every ``console`` block, lint; returns what commands printed."""
    copy = tmp_path / "checkout"
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name)  # with compiled modules: they would be compiled for each page
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(source, copy)
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    programs = {
        "hpc-jepa": [sys.executable, "-m", "hpc_jepa"],
        "pytest": [sys.executable, "-m", "pytest"],
        "python": [sys.executable],
        "ruff": [sys.executable, "-m", "ruff"],
    }

    def run(line):
        program, *arguments = shlex.split(line, comments=True)
        command = [*programs.get(program, [program]), *arguments]
        finished = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, f"{line}\n{finished.stdout[-3000:]}{finished.stderr[-3000:]}"
        return finished.stdout

    def follow_page(name, **files):
        for path, source in files.items():
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            (copy / path).symlink_to(source)
        printed, written = [], []
        for block in BLOCK.finditer((ROOT / "docs" / name).read_text()):
            if block["path"]:
                write(copy / block["path"], block["language"], block["text"])
                written += [block["path"]] if block["path"].startswith(("hpc_jepa/", "tests/")) else []
            elif block["language"] == "console":
                printed += [run(line[2:]) for line in block["text"].splitlines() if line.startswith("$ ")]
        if written:
            run(f"ruff check {' '.join(written)}")
            run(f"ruff format --check {' '.join(written)}")
        return printed

    return follow_page
