import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "bench_masks.py"
KINDS = {"multi-block", "guided, trilinear map", "guided, area map"}

COLLATOR = """
    import time
    import torch

    class Generator:
        def __init__(self, group):
            assert 0 < group["spatial_scale"][0] == group["spatial_scale"][1] <= 1
            self.guided = group["motion_guided"]

        def compute_motion_maps(self, batch):
            assert batch[0][0].shape == (8, 3, 16, 224, 224)
            time.sleep(0.05)
            return batch[0][0][:, 0, ::2, ::16, ::16]

        def __call__(self, batch_size, motion_maps=None):
            assert self.guided == (motion_maps is not None)
            return torch.zeros(batch_size, 3), torch.ones(batch_size, 5)

    class MaskCollator:
        def __init__(self, cfgs_mask, dataset_fpcs, crop_size, patch_size, tubelet_size):
            assert (dataset_fpcs, crop_size, patch_size, tubelet_size) == ([16], (224, 224), (16, 16), 2)
            self.mask_generators = {16: [Generator(group) for group in cfgs_mask]}
"""
DISTANCES = """
    import time
    import torchvision

    def compute_mask_distance(masks_pred, masks_enc, grid_size, offset_context_loss):
        assert masks_pred[0][0].shape[1] == 5 and masks_enc[0][0].shape[1] == 3 and grid_size == 14
        time.sleep(0.05)
"""


@pytest.fixture
def peer(tmp_path):
    """A checkout with the names of the study's code, whose functions sleep."""
    for name, text in {
        "src/masks/multiseq_multiblock3d.py": COLLATOR,
        "app/vjepa_2_1/models/utils/masks_dist.py": DISTANCES,
    }.items():
        path = tmp_path / "study" / "vjepa2" / name
        path.parent.mkdir(parents=True)
        path.write_text(dedent(text))
    return tmp_path / "study"


def bench(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, "--clips", "4", "--rounds", "1", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def kinds_of(finished):
    assert finished.returncode == 0, finished.stderr[-2000:]
    return json.loads(finished.stdout.splitlines()[-1])["kinds"]


def test_all_sides_are_timed_for_every_kind_of_mask():
    kinds = kinds_of(bench("--json"))
    assert set(kinds) == KINDS
    assert all(set(row) == {"ours_ms", "plain_ms", "floor_ms", "plain_ratio"} for row in kinds.values())
    assert all(figure > 0 for row in kinds.values() for figure in row.values()), kinds


def test_masks_of_a_peer_are_timed(peer):
    kinds = kinds_of(bench("--json", "--peer", peer))
    assert kinds["multi-block"]["peer_ms"] >= 100  # two groups sleep in the distances
    assert kinds["guided, area map"]["peer_ms"] >= 200 / 2  # and in the maps of 8 clips, of which the batch has 4
    assert all(row["peer_ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"]) for row in kinds.values())


def test_a_peer_without_motion_and_distances_is_compared_in_part(peer):
    masks = peer / "vjepa2" / "src" / "masks" / "multiseq_multiblock3d.py"
    masks.write_text(masks.read_text().replace("compute_motion_maps", "unknown"))
    (peer / "vjepa2" / "app" / "vjepa_2_1" / "models" / "utils" / "masks_dist.py").unlink()
    finished = bench("--peer", peer / "vjepa2")
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.splitlines()[-1].endswith("x the peer's code")
    assert "peer ms" in finished.stdout and "peer / ours" in finished.stdout


def test_without_a_peer_the_table_has_no_peer_columns():
    finished = bench()
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "plain / ours" in finished.stdout and "peer" not in finished.stdout


def test_a_folder_without_the_peer_is_an_input_error(tmp_path):
    finished = bench("--peer", tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1].startswith(f"error: {tmp_path}: ")
