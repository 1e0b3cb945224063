"""The pilot of docs/own_videos.md: what its shipped files train, and all of it at tiny size, killed in both phases."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch
import yaml
from typer.testing import CliRunner

from hpc_jepa.checkpoint.layout import latest
from hpc_jepa.checkpoint.reader import open_tensors
from hpc_jepa.cli.app import app
from hpc_jepa.config.loading import dump_config, read_config
from hpc_jepa.config.phases import value_at
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.distributed import local_rows
from hpc_jepa.errors import InputError
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.study.grid import expand_study
from hpc_jepa.training.schedules import schedule_values_at
from tests.released_layout import released_content
from tests.waiting import communicate, wait_until

CONFIGS = Path(__file__).parents[2] / "configs"
WORKER = Path(__file__).parent / "workers" / "recorded.py"
MAIN, COOLDOWN, BATCH = 20, 16, 4
TRAIN, TEST = 10, 8
MODEL = {
    "encoder": {"width": 32, "depth": 4, "heads": 2, "patch": 8, "levels": [4], "norm_blocks": [1, 2, 3, 4]},
    "predictor": {"width": 16, "depth": 2, "heads": 2},
}
PHASES = {
    "lr": [{"initial": 1e-5, "final": 1e-3, "end": 5}],
    "context_weight": [{"initial": 0.0, "final": 0.5, "start": 2, "end": 6}],
}


def test_the_shipped_files_train_the_pilot():
    cells = expand_study(read_config(StudyConfig, [CONFIGS / "study" / "pilot.yaml"]), Path("runs"))
    by_name = {cell.folder.parent.name: cell.config for cell in cells if cell.config.seed == 0}
    assert by_name.keys() == {f"{arm}.{phase}" for arm in ("scratch", "continued") for phase in ("main", "cooldown")}
    for name, config in by_name.items():
        main = name.endswith(".main")
        assert config.grid == config.grid.__class__(8, 14, 14) and config.data.clip.fps == 8
        assert (config.model.encoder.width, config.model.encoder.depth, config.model.encoder.levels) == (768, 12, (12,))
        predictor = config.model.predictor
        assert (predictor.width, predictor.depth, predictor.mask_tokens) == (384, 12, 2)
        assert config.engine.batch_size == 256 and local_rows(256, 3, 4) == slice(192, 256)
        assert (config.data.sampling, config.data.padding) == ("passes", "ignore")
        augmentation = config.data.augmentation
        assert (augmentation.area, augmentation.horizontal_flip, augmentation.vertical_flip) == ((0.5, 1.0), 0, 0)
        assert config.schedule.steps == (3900 if main else 900)
        steps = (0, 225, 450, 3899) if main else (0, 450, 899)
        rates = [schedule_values_at(step, config.schedule).learning_rate for step in steps]
        slope = (4.375e-5 - 1e-6) / 900
        expected = [1e-5, 2.6875e-5, 4.375e-5, 4.375e-5] if main else [4.375e-5, 4.375e-5 - 450 * slope, 1e-6 + slope]
        assert rates == pytest.approx(expected, rel=1e-9)
        assert {schedule_values_at(step, config.schedule).ema for step in steps} == {0.99925}
        context = [value_at(config.context_ramps, step) for step in (0, 200, 300, 400, 899)]
        assert context == pytest.approx([0, 0, 0.25, 0.5, 0.5] if main else 5 * [0.5])
        assert config.masking.context_distance_weights == main
    assert by_name["scratch.main"].init is None
    assert by_name["continued.main"].init.parts == ("encoder", "target", "predictor")
    for arm in ("scratch", "continued"):
        begins = by_name[f"{arm}.cooldown"].init
        assert (begins.run, begins.step, begins.what) == (by_name[f"{arm}.main"].folder, 3900, "all")
        assert begins.count == "own"


def _write_video(path, frames):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for picture in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())


def _square(rng, direction, frames):
    """A bright square that moves right or left over noise: [F, 64, 64, 3]."""
    video = rng.integers(0, 90, (frames, 64, 64, 3), np.uint8)
    top = int(rng.integers(0, 44))
    for number, picture in enumerate(video):
        left = 20 + direction * (number - frames // 2)
        picture[top : top + 20, left : left + 20] = 230
    return video


@pytest.fixture
def table(tmp_path):
    """Videos, two of each patient, some shorter than a clip, and the table that names patients and their splits."""
    rng = np.random.default_rng(0)
    (tmp_path / "videos").mkdir()
    rows = []
    for number in range(TRAIN + TEST):
        name, moves_right = f"v{number:02}.mp4", number % 2
        _write_video(tmp_path / "videos" / name, _square(rng, 1 if moves_right else -1, (16, 32, 40)[number % 3]))
        split = "train" if number < TRAIN else "test"
        rows.append((name, ("left", "right")[moves_right], split, f"patient{number // 2}"))
    with (tmp_path / "videos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "split", "cluster"), *rows])
    return tmp_path / "videos.csv"


@pytest.fixture
def pilot(table, tmp_path, monkeypatch):
    """The shipped study at tiny size, in the working directory, with its shards and a released file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    build = ["shards", "build", "csv", "--videos", "videos", "--annotations", str(table), "--out", "shards/own"]
    built = CliRunner().invoke(app, [*build, "--workers", "1"])
    assert built.exit_code == 0, built.output
    torch.save(released_content(MODEL), "vitb.pt")
    regime = {
        "extends": str(CONFIGS / "regime" / "pilot.yaml"),
        "model": MODEL,
        "data": {"clip": {"frames": 8, "fps": 2, "size": 32}, "decode_threads": 1},
        "schedule": {"steps": MAIN, "phases": PHASES},
        "engine": {"device": "cpu", "precision": "fp32", "batch_size": BATCH},
        "checkpoint": {"every": 4, "keep_every": 8},
        "monitor": {"log_every": 1, "health_every": 4, "tensorboard": False},
    }
    benchmark = yaml.safe_load((CONFIGS / "benchmark" / "pilot.yaml").read_text())
    protocol = benchmark["protocols"]["standard"]
    protocol["clip"].update(frames=8, size=32)
    protocol |= {"probes": {"linear": {"kind": "logistic"}}, "probe_seeds": [0], "validation": 0.0, "batch_size": 4}
    study = yaml.safe_load((CONFIGS / "study" / "pilot.yaml").read_text())
    digest = hashlib.sha256(Path("vitb.pt").read_bytes()).hexdigest()
    study["variants"][1]["overrides"] = [f"init={{file: vitb.pt, sha256: {digest}}}"]
    study["phases"][1]["overrides"][0] = f"schedule.steps={COOLDOWN}"
    study |= {"regimes": ["regime.yaml"], "seeds": [0], "evaluations": [{"benchmark": "own.yaml", "every": 8}]}
    for name, content in (("regime", regime), ("own", benchmark), ("pilot", study)):
        Path(f"{name}.yaml").write_text(yaml.safe_dump(content))
    return read_config(StudyConfig, ["pilot.yaml"])


def by_name(study, runs):
    return {cell.folder.parent.name: cell for cell in expand_study(study, Path(runs))}


def _train_undisturbed(cells, launch):
    """Train all cells in two processes that are never killed; what each process read at each step."""
    files = {name: Path(f"{name}.run.yaml") for name in cells}
    for name, file in files.items():
        file.write_text(dump_config(cells[name].config))
    launch(WORKER, *files.values(), processes=2)
    return {
        name: [json.loads(file.with_suffix(f".{rank}.json").read_text()) for rank in (0, 1)]
        for name, file in files.items()
    }


def _submit(kill_at=None):
    """``study submit`` with two processes per run; with a run folder and a line all of it is killed at that line."""
    command = [sys.executable, "-m", "hpc_jepa", "study", "submit", "pilot.yaml", "--processes", "2", "--jobs", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    if kill_at is None:
        _, errors = communicate(process)
        assert process.returncode == 0, errors
        return
    run, line = kill_at
    metrics = run.metrics_file
    reached = lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= line  # noqa: E731
    wait_until(lambda: reached() or process.poll() is not None, poll=0.002)
    for each in (process, *psutil.Process(process.pid).children(recursive=True)):
        os.kill(each.pid, signal.SIGKILL)
    communicate(process)
    assert run.state.state == "running", "the run ended before it could be killed"


@pytest.mark.slow
def test_the_pilot_is_killed_in_both_phases_and_ends_as_the_undisturbed_one(pilot, launch, metrics_of):
    undisturbed, cells = by_name(pilot, "undisturbed"), by_name(pilot, "runs")
    read = _train_undisturbed(undisturbed, launch)
    _check_clips_and_masks(read)

    _submit(kill_at=(cells["continued.main"].run, 6))
    _submit(kill_at=(cells["continued.cooldown"].run, 5))
    _submit()
    for name, cell in cells.items():
        assert metrics_of(cell.folder) == metrics_of(undisturbed[name].folder)
        ended, expected = (open_tensors(latest(each.folder).path) for each in (cell, undisturbed[name]))
        assert ended.keys() == expected.keys()
        assert [key for key in expected if not torch.equal(ended[key], expected[key])] == []
        kept = {int(path.name.removeprefix("step-")) for path in cell.run.checkpoint_dirs()}
        assert set(range(8, cell.config.schedule.steps + 1, 8)) <= kept
    _check_report(cells)


def _check_clips_and_masks(read):
    """Both arms read the same at every step; over both phases every clip comes once per pass."""
    for phase, steps in (("main", MAIN), ("cooldown", COOLDOWN)):
        assert read[f"scratch.{phase}"] == read[f"continued.{phase}"]
        assert [len(of_rank) for of_rank in read[f"scratch.{phase}"]] == [steps, steps]
    steps = [zip(*read[f"scratch.{phase}"], strict=True) for phase in ("main", "cooldown")]
    records = list(chain(*steps))
    assert len({record["masks"] for ranks in records for record in ranks}) == 2 * (MAIN + COOLDOWN)
    samples = [sample for ranks in records for record in ranks for sample in record["samples"]]
    assert len(samples) == BATCH * (MAIN + COOLDOWN)
    for first in range(0, len(samples) - TRAIN + 1, TRAIN):
        assert Counter(samples[first : first + TRAIN]) == Counter(range(TRAIN))
    real = {count for ranks in records for record in ranks for count in record["real"]}
    assert min(real) < max(real) == 8, "no clip had padding, or all had"


def _check_report(cells):
    reported = CliRunner().invoke(app, ["report", "runs/pilot", "--out", "report"])
    assert reported.exit_code == 0, reported.output
    with Path("report/grid.csv").open(newline="") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert {*cells} <= rows.keys()
    for phase in ("main", "cooldown"):
        compared = rows[f"continued.{phase}"]
        assert compared["reference"] == f"scratch.{phase}" and not rows[f"scratch.{phase}"]["reference"]
        assert float(compared["difference_low"]) <= float(compared["difference"]) <= float(compared["difference_high"])
        assert compared["also_differs_in"] == "" and int(compared["clusters"]) == TEST // 2
    with Path("report/over_steps.csv").open(newline="") as file:
        steps = [(row["variant"], int(row["steps"])) for row in csv.DictReader(file)]
    lengths = {"main": (8, 16, MAIN), "cooldown": (8, COOLDOWN)}
    assert Counter(steps) == Counter((name, step) for name in cells for step in lengths[name.partition(".")[2]])
    folder = cells["scratch.main"].folder
    refused = CliRunner().invoke(app, ["evaluate", str(folder), "--benchmark", "own.yaml", "--step", "3"])
    assert refused.exit_code == InputError.exit_code and "8, 16, 20" in " ".join(refused.output.split())
    origin = RunDir(cells["continued.cooldown"].folder).origin
    assert origin.path == str(cells["continued.main"].folder) and any("vitb.pt" in line for line in origin.before)
    page = Path("report/index.html").read_text()
    assert "Accuracy over steps" in page
    assert "left out of all comparisons" not in page and "never started" not in page
