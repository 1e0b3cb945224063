"""Elastic resume: saved on 1, 2 or 4 ranks at any ZeRO stage, resumed on 1, 2 or 4 ranks at any stage, all pairs."""

from itertools import product
from pathlib import Path

import pytest
import torch

from hpc_jepa.checkpoint import layout, reader
from hpc_jepa.runs.run_dir import RunDir

WORKER = Path(__file__).parent / "workers" / "elastic.py"
WORLDS, STAGES = (1, 2, 4), (0, 1, 2, 3)
SAVED_AT, MORE = 2, 2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def resumed(launch, tmp_path_factory):
    """Results by (ranks, stage) at the save and (ranks, stage) at the resume, and the folder with the saved runs."""
    root = tmp_path_factory.mktemp("elastic")
    (root / "saved").mkdir()
    for world in WORLDS:
        launch(WORKER, "save", root / "saved", processes=world)
    results = {}
    for world in WORLDS:
        launch(WORKER, "load", root / "saved", root / f"{world}.pt", processes=world)
        for (name, to_world, to_stage), result in torch.load(root / f"{world}.pt").items():
            _, from_world, _, from_stage = name.split("-")
            results[int(from_world), int(from_stage), to_world, to_stage] = result
    return results, root / "saved"


def differences(one, other):
    """Names of tensors that differ, apart from random states, of which each rank has its own."""
    return [name for name in one if not name.startswith("random") and not torch.equal(one[name], other[name])]


def test_every_pair_was_tried(resumed):
    assert set(resumed[0]) == set(product(WORLDS, STAGES, WORLDS, STAGES))


def test_weights_and_target_are_equal_to_the_bit_after_every_resume(resumed):
    assert [pair for pair, result in resumed[0].items() if not result["weights_equal"]] == []


def test_a_resumed_state_saves_the_same_tensors_with_moments(resumed):
    results, saved = resumed
    for (world, stage, *to), result in results.items():
        before = reader.open_tensors(RunDir(saved / f"world-{world}-stage-{stage}").checkpoint_dir(SAVED_AT))
        after = reader.open_tensors(RunDir(Path(result["again"])).checkpoint_dir(SAVED_AT))
        named = {name for name in before if not name.startswith("random")}
        assert named == {name for name in after if not name.startswith("random")}
        assert differences(before, after) == [], f"{world}, {stage} -> {to}"


def test_the_same_topology_continues_bit_for_bit(resumed):
    results, saved = resumed
    for world, stage in product(WORLDS, STAGES):
        run, result = saved / f"world-{world}-stage-{stage}", results[world, stage, world, stage]
        assert result["losses"] == torch.load(run / "losses.pt")
        ends = [
            reader.open_tensors(RunDir(path).checkpoint_dir(SAVED_AT + MORE)) for path in (run, Path(result["again"]))
        ]
        assert differences(*ends) == []


def test_the_loss_continues_in_every_pair(resumed):
    results, saved = resumed
    for (world, stage, *to), result in results.items():
        undisturbed = torch.load(saved / f"world-{world}-stage-{stage}" / "losses.pt")
        assert result["losses"] == pytest.approx(undisturbed, rel=1e-5), f"{world}, {stage} -> {to}"


def test_every_topology_writes_every_weight_once(resumed):
    for run in resumed[1].iterdir():
        checkpoint = layout.open_checkpoint(RunDir(run).checkpoint_dir(SAVED_AT))
        assert layout.verify_files(checkpoint) == []
        stored = reader.open_tensors(checkpoint.path)
        floats = sum(stored[name].numel() for name in stored if not name.startswith("random"))
        on_disk = sum(facts.size for facts in checkpoint.manifest.files.values())
        random = sum(stored[name].numel() for name in stored if name.startswith("random"))
        assert 4 * floats + random < on_disk < 4 * floats + random + 40_000 * checkpoint.manifest.world_size
