"""``hpc-jepa checkpoint``: output, exit codes and side effects of every command."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from hpc_jepa.checkpoint import layout, reader
from hpc_jepa.cli.app import app
from hpc_jepa.io.atomic import exclusive_lock
from hpc_jepa.runs.run_dir import RunDir

INPUT, CHECKPOINT = 2, 4


@pytest.fixture
def run(save_run, tmp_path):
    """A run with checkpoints of steps 3, 5 and 7."""
    for step in (3, 5, 7):
        config = save_run(tmp_path / "runs", step=step, world_size=4)
    return config.folder


@pytest.fixture
def checkpoint():
    """``checkpoint(words...)`` runs the command in this process; its result."""

    def call(*words):
        return CliRunner().invoke(app, ["checkpoint", *map(str, words)])

    return call


def as_json(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def step(run, number):
    return run / "checkpoints" / f"step-{number:08d}"


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def test_list_has_step_size_topology_and_errors(run, checkpoint):
    (step(run, 5) / "weights-0000.safetensors").unlink()
    (step(run, 3) / "manifest.json").write_text("{}")
    step(run, 3).with_name("damaged-00000001").mkdir()
    found = {entry["name"]: entry for entry in as_json(checkpoint("list", run, "--json"))}
    assert {name: entry["valid"] for name, entry in found.items()} == {
        "step-00000003": False,
        "step-00000005": False,
        "step-00000007": True,
        "damaged-00000001": False,
    }
    newest = found["step-00000007"]
    on_disk = sum(path.stat().st_size for path in step(run, 7).glob("*.safetensors"))
    assert (newest["step"], newest["world_size"], newest["zero_stage"], newest["bytes"]) == (7, 4, 1, on_disk)
    assert 0 <= newest["age_seconds"] < 600
    table = checkpoint("list", run).stdout
    assert "4 x ZeRO 1" in table and f"{step(run, 5)}: weights-0000.safetensors" in table


def test_inspect_measures_every_tensor_and_counts_heads(run, checkpoint):
    path = step(run, 7)
    found = as_json(checkpoint("inspect", path, "--json"))
    measured = {tensor["name"]: tensor for tensor in found["tensors"]}
    stored = reader.open_tensors(path)
    assert list(measured) == [name for name in stored if name.startswith(layout.WEIGHT_PREFIXES)]
    for name, tensor in measured.items():
        values = stored[name].numpy().astype(np.float64)
        assert tensor["shape"] == list(values.shape) and tensor["dtype"] == "float32"
        assert tensor["norm"] == pytest.approx(np.sqrt((values**2).sum()), rel=1e-9)
        assert tensor["nan"] == tensor["infinite"] == 0
    heads = [name for name in stored if ".ld." in name]
    assert heads and found["heads"] == {"ld": sum(stored[name].numel() for name in heads)}
    table = checkpoint("inspect", run, "--part", "student.modality").stdout
    assert "student.modality.video" in table and "target" not in table
    assert checkpoint("inspect", run, "--part", "nothing").exit_code == INPUT


def test_names_are_not_truncated_in_a_pipe(run, checkpoint):
    lines = checkpoint("inspect", run).stdout.splitlines()
    assert any(line.startswith("student.blocks.0.norm1.weight ") for line in lines)


def test_help_shows_brackets(checkpoint):
    assert "'checkpoint.accept=[schedule.steps]'" in checkpoint("resume", "--help").output


def test_inspect_counts_non_finite_elements(run, checkpoint):
    """Saves refuse them; a file may still have them."""
    path, name = step(run, 7), "student.modality.video"
    content = load_file(path / "weights-0000.safetensors")
    content[f"{name}@0"][:3] = torch.tensor([float("nan"), float("inf"), float("nan")])
    rest = content[f"{name}@0"][3:].double().norm().item()
    save_file(content, path / "weights-0000.safetensors")
    (found,) = as_json(checkpoint("inspect", path, "--part", name, "--json"))["tensors"]
    assert (found["nan"], found["infinite"]) == (2, 1) and found["norm"] == pytest.approx(rest)


def test_verify_accepts_valid_runs_and_names_each_damaged_file(run, checkpoint):
    assert checkpoint("verify", run).exit_code == 0
    flip(step(run, 5) / "weights-0000.safetensors")
    assert checkpoint("verify", step(run, 7)).exit_code == 0
    for path in (run, step(run, 5)):
        result = checkpoint("verify", path)
        assert result.exit_code == CHECKPOINT
        assert "step-00000005/weights-0000.safetensors: checksum differs" in "".join(result.stdout.split("\n"))
        assert "error: " in result.stderr and "step-00000005 damaged" in result.stderr
    errors = json.loads(checkpoint("verify", run, "--json").stdout)["errors"]
    assert [bool(lines) for lines in errors.values()] == [False, True, False]


def test_verify_finds_missing_shards(run, checkpoint):
    """All checksums are right, but a tensor in the manifest has no shard."""
    path = step(run, 7)
    manifest = layout.open_checkpoint(path).manifest
    shapes = manifest.shapes | {"student.ghost": (4,)}
    forged = manifest.model_copy(update={"shapes": shapes, "checksum": layout.CHECKSUM_PLACEHOLDER})
    (path / "manifest.json").write_bytes(forged.to_bytes())
    result = checkpoint("verify", path)
    assert result.exit_code == CHECKPOINT and "student.ghost" in result.stdout


def test_prune_follows_its_options_and_a_dry_run_removes_nothing(run, checkpoint):
    dry = as_json(checkpoint("prune", run, "--keep", 1, "--keep-every", 3, "--dry-run", "--json"))
    assert dry == {"dry_run": True, "removed": ["step-00000005"]}
    assert len(RunDir(run).checkpoint_dirs()) == 3
    assert as_json(checkpoint("prune", run, "--keep", 1, "--json"))["removed"] == ["step-00000003", "step-00000005"]
    assert [path.name for path in RunDir(run).checkpoint_dirs()] == ["step-00000007"]
    assert (run / "checkpoints" / "latest").resolve() == step(run, 7)


def test_prune_keeps_the_latest_valid_checkpoint_and_refuses_a_running_run(run, checkpoint):
    with exclusive_lock(run / ".lock"):
        result = checkpoint("prune", run, "--keep", 1)
        assert result.exit_code == INPUT and f"process {os.getpid()}" in result.stderr
    flip(step(run, 7) / "weights-0000.safetensors")
    assert as_json(checkpoint("prune", run, "--keep", 1, "--json"))["removed"] == ["step-00000003"]
    assert [path.name for path in RunDir(run).checkpoint_dirs()] == ["step-00000005", "step-00000007"]


def test_diff_measures_different_tensors_and_settings(run, save_run, tmp_path, checkpoint):
    assert "all tensors are equal" in checkpoint("diff", run, step(run, 7)).stdout
    other = save_run(tmp_path / "other", variant="changed", schedule={"steps": 11})
    path = other.folder / "checkpoints/step-00000007"
    content = load_file(path / "weights-0000.safetensors")
    content["target.modality.video@0"][:2] += 0.5
    save_file(content, path / "weights-0000.safetensors")
    found = as_json(checkpoint("diff", run, path, "--json"))
    (tensor,) = found["tensors"]
    norm = reader.open_tensors(step(run, 7))["target.modality.video"].double().norm().item()
    assert tensor["name"] == "target.modality.video" and tensor["differing"] == 2
    assert tensor["largest"] == pytest.approx(0.5, rel=1e-5)
    assert tensor["relative"] == pytest.approx(0.5 * 2**0.5 / norm, rel=1e-5)
    assert found["settings"]["schedule.steps"] == [10, 11] and found["settings"]["variant"] == ["baseline", "changed"]
    assert "schedule.steps" in checkpoint("diff", run, other.folder).stdout


def test_diff_names_tensors_that_only_one_has(run, save_run, tmp_path, checkpoint):
    other = save_run(tmp_path / "other", objectives=["fwm"]).folder
    found = as_json(checkpoint("diff", run, other, "--json"))["tensors"]
    assert found and all(tensor["only"] == "A" and ".ld." in tensor["name"] for tensor in found)
    assert {tensor["only"] for tensor in as_json(checkpoint("diff", other, run, "--json"))["tensors"]} == {"B"}


def test_resume_works_in_a_moved_run(motion_shards, save_run, tmp_path, checkpoint):
    data = {"sources": {"motion8": {"shards": str(motion_shards / "unlabelled")}}, "clip": {"frames": 8, "size": 32}}
    small = {"batch_size": 4, "precision": "fp32"}
    run = save_run(tmp_path / "before", step=0, data=data, engine=small, schedule={"steps": 1}).folder
    moved = tmp_path / "after" / run.relative_to(tmp_path / "before")
    shutil.move(tmp_path / "before", tmp_path / "after")
    result = checkpoint("resume", moved, "checkpoint.accept=[data]")
    assert result.exit_code == 0, result.output
    assert layout.latest(moved).step == 1 and not (tmp_path / "before").exists()
    moved.rename(moved.with_name("renamed"))
    result = checkpoint("resume", moved.with_name("renamed"))
    assert result.exit_code == INPUT and "hand/made/baseline/seed-3" in result.stderr


def test_resume_starts_the_chosen_executor(run, checkpoint, monkeypatch):
    class Replaced(Exception):
        pass

    def replace(program, words):
        raise Replaced(program, words)

    monkeypatch.setattr(os, "execvp", replace)
    result = checkpoint("resume", run, "engine.zero_stage=2", "--executor", "torchrun", "--processes", 4)
    program, words = result.exception.args
    assert words[0] == program and "--nproc-per-node=4" in words
    assert words[-5:] == ["hpc_jepa", "train", f"{run}/config.yaml", "engine.zero_stage=2", f"runs={run.parents[3]}"]
    monkeypatch.undo()
    result = checkpoint("resume", run, "--processes", 4)
    assert result.exit_code == INPUT and "--processes" in result.stderr
    if shutil.which("srun") is None:
        result = checkpoint("resume", run, "--executor", "srun", "--processes", 4)
        assert result.exit_code == INPUT and "srun" in result.stderr


@pytest.mark.parametrize("command", ["list", "inspect", "verify", "resume", "prune"])
def test_a_folder_that_is_not_a_run_is_bad_input(command, tmp_path, checkpoint):
    for path in (tmp_path, tmp_path / "nowhere"):
        result = checkpoint(command, path)
        assert result.exit_code == INPUT
        assert result.stderr.startswith("error: ") and len(result.stderr.splitlines()) == 1


def test_a_damaged_manifest_is_a_damaged_checkpoint(run, tmp_path, checkpoint):
    (step(run, 7) / "manifest.json").write_text("{")
    for words in (("inspect", run), ("diff", run, step(run, 5)), ("export", run, "--out", tmp_path / "out")):
        result = checkpoint(*words)
        assert result.exit_code == CHECKPOINT and "step-00000007/manifest.json" in result.stderr


def test_export_and_import_by_command(run, tmp_path, checkpoint):
    result = checkpoint("export", run, "--format", "timm", "--weights", "student", "--out", tmp_path / "out")
    assert result.exit_code == 0 and (tmp_path / "out/README.md").is_file()
    words = [tmp_path / "out", run / "config.yaml", f"runs={tmp_path / 'runs'}", "study=elsewhere"]
    assert checkpoint("import", *words).exit_code == 0
    (imported,) = (tmp_path / "runs" / "elsewhere").glob("*/*/seed-*")
    assert as_json(checkpoint("list", imported, "--json"))[0]["step"] == 0
    assert checkpoint("import", *words).exit_code == INPUT


@pytest.mark.parametrize("command", ["list", "inspect", "verify", "resume", "prune", "diff", "export", "import"])
def test_help_has_an_example(command, checkpoint):
    result = checkpoint(command, "--help")
    assert result.exit_code == 0 and "Example" in result.stdout and f"hpc-jepa checkpoint {command}" in result.stdout
