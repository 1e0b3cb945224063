"""Paths with blanks, quotes and brackets: suggested commands quote them, and every command shows them."""

import hashlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from hpc_jepa.cli.app import app

FOLDER = "my  data; echo $(id) 'x[/y]' [v2]"


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def suggested(message):
    """The words of the first command in a message, and of the text after it."""
    return [word.removesuffix(";") for word in shlex.split(re.search(r"hpc-jepa .*", message.rstrip()).group())]


@pytest.fixture(scope="module")
def world(motion_shards, tiny_regime, tiny_benchmark, tmp_path_factory):
    """A working directory whose only folder, FOLDER, has configurations, shards, and a run that was trained."""
    here = tmp_path_factory.mktemp("odd")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        odd = Path(FOLDER)
        shutil.copytree(motion_shards, odd / "shards")
        settings = tiny_regime(2, every=1)
        settings["data"]["sources"]["motion8"]["shards"] = f"{FOLDER}/shards/unlabelled"
        splits = {split: f"{FOLDER}/shards/{split}" for split in ("train", "test")}
        benchmark = {**tiny_benchmark, "protocols": {"standard": tiny_benchmark["protocols"]["standard"] | splits}}
        study = {"study": "s", "regimes": [f"{FOLDER}/regime.yaml"], "variants": ["baseline"]}
        for name, content in {"regime": settings | {"runs": f"{FOLDER}/runs"}, "benchmark": benchmark}.items():
            (odd / f"{name}.yaml").write_text(yaml.safe_dump(content))
        (odd / "study.yaml").write_text(yaml.safe_dump(study))
        assert call("train", odd / "regime.yaml", "checkpoint.keep=2").exit_code == 0
        yield odd


@pytest.fixture
def damaged(motion_shards, tmp_path, monkeypatch):
    """A copy of labelled shards under the odd name, to be damaged."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(motion_shards / "train", Path(FOLDER))
    return Path(FOLDER)


def change(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "command", "words"),
    [
        (lambda path: (path / "000000.idx").unlink(), "verify", ["index", FOLDER]),
        (lambda path: change(path / "000000.idx", b"mp4 ", b"mp4 9"), "verify", ["index", FOLDER]),
        (lambda path: change(path / "000000.idx", b"mp4 ", b"mp4 9"), "preview", ["index", FOLDER]),
        (lambda path: change(path / "000000.tar", b'"frames":16', b'"frames":99'), "preview", ["verify", FOLDER]),
        (
            lambda path: (path / "manifest.json").unlink(),
            "info",
            ["build", "DATASET", "--out", str(Path(FOLDER).parent)],
        ),
    ],
)
def test_suggested_commands_name_the_folder_that_they_are_about(damaged, damage, command, words):
    damage(damaged)
    result = call("shards", command, damaged)
    assert result.exit_code == 3
    assert suggested(result.stderr)[: len(words) + 2] == ["hpc-jepa", "shards", *words]


def test_commands_in_the_middle_of_a_message_are_quoted(damaged):
    tar, manifest = damaged / "000000.tar", damaged / "manifest.json"
    before = hashlib.sha256(tar.read_bytes()).hexdigest()
    change(tar, b'"frames":16', b'"frames":15')
    change(manifest, before.encode(), hashlib.sha256(tar.read_bytes()).hexdigest().encode())
    words = suggested(call("shards", "verify", damaged, "--decode").stderr)
    assert words == ["hpc-jepa", "shards", "reshard", FOLDER, "--out", "NEW", "--repair"]


def test_the_root_of_a_study_is_quoted(world):
    (world / "runs/s").mkdir(exist_ok=True)
    message = call("study", "status", world / "runs/s").stderr
    assert shlex.split(message.rpartition("root: ")[2]) == ["s", "--runs", f"{FOLDER}/runs"]


RUN = f"{FOLDER}/runs/adhoc/tiny/baseline/seed-239"


@pytest.mark.parametrize(
    "command",
    [
        ["train", f"{FOLDER}/regime.yaml", "checkpoint.keep=2"],
        ["train", f"{FOLDER}/none.yaml"],
        ["evaluate", RUN, "--benchmark", f"{FOLDER}/benchmark.yaml"],
        ["evaluate", RUN, "--benchmark", f"{FOLDER}/none.yaml"],
        ["report", RUN, "--out", f"{FOLDER}/report"],
        ["report", f"{FOLDER}/shards"],
        ["init", f"{FOLDER}/new"],
        ["doctor", "--folder", f"{FOLDER}/none"],
        ["objectives", "show", FOLDER],
        ["checkpoint", "list", f"{FOLDER}/none"],
        ["checkpoint", "inspect", RUN],
        ["checkpoint", "verify", RUN],
        ["checkpoint", "resume", RUN],
        ["checkpoint", "prune", RUN, "--dry-run"],
        ["checkpoint", "diff", RUN, f"{RUN}/checkpoints/step-00000001"],
        ["checkpoint", "export", RUN, "--out", f"{FOLDER}/export"],
        ["checkpoint", "import", f"{FOLDER}/none.pt", f"{FOLDER}/regime.yaml"],
        ["shards", "build", "folder", "--videos", f"{FOLDER}/none", "--out", f"{FOLDER}/built"],
        ["shards", "verify", f"{FOLDER}/shards/train"],
        ["shards", "info", f"{FOLDER}/shards"],
        ["shards", "index", f"{FOLDER}/shards/train"],
        ["shards", "preview", f"{FOLDER}/shards/train", "--out", f"{FOLDER}/sheet.png", "--samples", "1"],
        ["shards", "reshard", f"{FOLDER}/shards/train", "--out", f"{FOLDER}/long", "--workers", "1"],
        ["shards", "bench", f"{FOLDER}/none"],
        ["study", "plan", f"{FOLDER}/study.yaml", "--runs", RUN + "/config.yaml", "--json"],
        ["study", "submit", f"{FOLDER}/none.yaml"],
        ["study", "resume", f"{FOLDER}/none.yaml"],
        ["study", "cancel", f"{FOLDER}/none.yaml"],
        ["study", "status", f"{FOLDER}/none.yaml"],
        ["study", "report", f"{FOLDER}/study.yaml", "--runs", f"{FOLDER}/runs"],
    ],
    ids=lambda command: " ".join(command[:2]).removesuffix(f" {RUN}"),
)
def test_every_command_shows_the_path_as_it_is(world, command):
    shown = call(*command).output
    assert FOLDER in shown.replace('\\"', '"'), shown


def test_a_damaged_cell_of_a_study_is_shown_with_its_path(world):
    run = world / "runs/s/tiny/baseline/seed-239"
    run.mkdir(parents=True, exist_ok=True)
    (run / "state.json").write_text("{")
    assert str(run / "state.json") in call("study", "status", world / "study.yaml", "--runs", world / "runs").output
