#!/usr/bin/env python3
"""Time of a study on a trial cluster of four whole nodes: several cells per job against one, with the same faults.

    python tools/bench_packed_jobs.py                  36 cells, 4 per job; as root, about 15 minutes on two idle cores
    python tools/bench_packed_jobs.py --cells 8 --pause 5 --json

One cell is broken. When a quarter of the cells are done, one node is killed and another job is preempted. The nodes are
emulated and share the cores of this machine, so each cell also sleeps for --pause seconds before it starts, in place of
work on a GPU; the rest of the time is that of this machine. Nothing here says how fast a cell trains.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table
from timing import one_line_errors

from hpc_jepa.config.cluster import COMMAND_NUMBER
from hpc_jepa.errors import HpcJepaError, InputError

SCRIPT = Path(__file__).parents[1] / "slurm" / "trial_cluster.sh"
PORT = 21817
POLL = 1.0  # seconds
LIMIT = 3600.0  # seconds of one side
STEPS = 20
PAUSE = f"""import os, time
if "{COMMAND_NUMBER}" in os.environ:
    time.sleep(float(os.environ["BENCH_PAUSE"]))
"""
"""Runs at the start of every Python of a job, and waits in the commands of cells."""


@dataclass(frozen=True)
class Outcome:
    """One side. ``makespan``: seconds until the last cell ended; ``node_seconds``: of nodes that were given out."""

    cells_per_job: int
    jobs: int
    starts: int
    done: int
    failed: list[str]
    makespan: float
    node_seconds: float


@contextmanager
def trial_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """The variables of processes that use a new trial cluster."""
    variables = {**os.environ, "TRIAL_CLUSTER": str(folder / "c"), "TRIAL_PORT": str(PORT), "OMP_NUM_THREADS": "1"}
    _run([str(SCRIPT), "up"], variables)
    try:
        yield {**variables, "SLURM_CONF": str(folder / "c/etc/slurm.conf")}
    finally:
        _run([str(SCRIPT), "down"], variables)


def write_study(folder: Path, cells: int, cells_per_job: int, pause: float) -> None:
    """A study of three variants, one of which is broken with its last seed, and a profile of whole nodes."""
    regime = {
        "regime": "tiny",
        "model": {
            "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
            "predictor": {"width": 16, "depth": 1, "heads": 2},
        },
        "data": {
            "sources": {"motion8": {"shards": str(folder.parent / "shards/unlabelled")}},
            "clip": {"frames": 8, "stride": 2, "size": 32},
            "decode_threads": 1,
        },
        "schedule": {"steps": STEPS},
        "engine": {"precision": "fp32", "batch_size": 4, "device": "cpu"},
        "checkpoint": {"every": STEPS // 2, "keep": 1},
    }
    seeds = cells // 3 + (cells % 3 > 0)
    counts = {"baseline": seeds, "ld": seeds, "hw": cells - 1 - 2 * seeds, "broken.yaml": 1}
    variants = [{"objective": name, "seeds": list(range(n))} for name, n in counts.items() if n > 0]
    study = {"study": "bench", "regimes": ["tiny.yaml"], "variants": variants, "seeds": [0]}
    (folder / "pause").mkdir(parents=True)
    (folder / "pause/sitecustomize.py").write_text(PAUSE)
    path = os.pathsep.join(filter(None, [str(folder / "pause"), os.environ.get("PYTHONPATH", "")]))
    job = {"cpus_per_node": 4, "time": 60, "cells_per_job": cells_per_job}
    profile = {
        "partition": "low",
        "train": job,
        "evaluate": {"cpus_per_node": 1, "time": 60},
        "sbatch": {"exclusive": True},
        "python": sys.executable,
        "environment": {"BENCH_PAUSE": str(pause), "PYTHONPATH": path},
    }
    broken = {"variant": "broken", "schedule": {"lr": 1e30, "warmup": 0}}
    for name, content in (("tiny", regime), ("grid", study), ("profile", profile), ("broken", broken)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


def run_side(folder: Path, cells: int, cells_per_job: int, pause: float, faults: bool) -> Outcome:
    """Submit the study, break the cluster in the middle, and wait until every cell has ended."""
    write_study(folder, cells, cells_per_job, pause)
    with trial_cluster(folder) as variables:
        started = time.monotonic()
        submit = [sys.executable, "-m", "hpc_jepa", "study", "submit", "grid.yaml", "--cluster", "profile.yaml"]
        _run(submit, variables, folder)
        jobs = {json.loads(line)["job"] for line in (folder / "runs/bench/jobs.jsonl").read_text().splitlines()}
        node_seconds, before, broken = 0.0, started, not faults
        while len(ended := _ended(folder)) < cells:
            time.sleep(POLL)
            now = time.monotonic()
            if now - started > LIMIT:
                raise HpcJepaError(f"{folder}: {cells - len(ended)} cells have not ended after {LIMIT:g} s")
            given = _run(["squeue", "-h", "--array", "--states=RUNNING,COMPLETING", "--format=%N"], variables).split()
            node_seconds += (now - before) * len({*given})
            before = now
            if not broken and len(ended) >= cells // 4 and len({*given}) >= 2:
                broken = True
                _break(sorted({*given}), variables)
        makespan = time.monotonic() - started
    failed = sorted(path for path, state in ended.items() if state == "failed")
    starts = sum(len(path.read_text().splitlines()) for path in folder.glob("runs/bench/**/starts.jsonl"))
    return Outcome(cells_per_job, len(jobs), starts, cells - len(failed), failed, makespan, node_seconds)


def _break(nodes: list[str], variables: dict[str, str]) -> None:
    """Kill one node, which comes back, and take another one for a job that preempts those on it."""
    _run([str(SCRIPT), "kill-node", nodes[0]], variables)
    _run([str(SCRIPT), "start-node", nodes[0]], variables)
    urgent = ["--partition=high", f"--nodelist={nodes[1]}", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    _run(["sbatch", *urgent], variables)


def _ended(folder: Path) -> dict[str, str]:
    """Run folders that are done or have failed."""
    states = {path.parent: _state(path) for path in folder.glob("runs/bench/*/*/*/state.json")}
    return {"/".join(path.parts[-2:]): state for path, state in states.items() if state in ("done", "failed")}


def _state(path: Path) -> str:
    return str(json.loads(path.read_text())["state"])


def _run(command: list[str], variables: dict[str, str], folder: Path | None = None) -> str:
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise HpcJepaError(f"{' '.join(command[:3])}: {' '.join(done.stderr.split())}")
    return done.stdout


@one_line_errors()
def main(
    cells: Annotated[int, typer.Option(min=6, help="Cells of the study, one of them broken.")] = 36,
    per_job: Annotated[int, typer.Option(min=2, max=4, help="Cells per packed job; a node has four cores.")] = 4,
    pause: Annotated[float, typer.Option(min=0, help="Seconds that each start of a cell sleeps.")] = 30.0,
    faults: Annotated[bool, typer.Option(help="Kill a node and preempt a job in the middle.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Compare packed jobs with one cell per job."""
    if os.geteuid() != 0:
        raise InputError("run as root: a trial cluster needs it")
    with tempfile.TemporaryDirectory(prefix="packed-") as name:
        folder = Path(name)
        build = ["shards", "build", "motion8", "--size", "32", "--frames", "16", "--train", "8", "--test", "8"]
        shards = [*build, "--unlabelled", "32", "--out", str(folder / "shards")]
        _run([sys.executable, "-m", "hpc_jepa", *shards], {**os.environ})
        sides = [run_side(folder / str(each), cells, each, pause, faults) for each in (per_job, 1)]
    if as_json:
        typer.echo(json.dumps([asdict(side) for side in sides]))
        return
    table = Table("cells per job", "jobs", "done", "failed", "starts", "makespan s", "node-seconds", box=None)
    for side in sides:
        numbers: list[Any] = [side.cells_per_job, side.jobs, side.done, ", ".join(side.failed), side.starts]
        table.add_row(*map(str, numbers), f"{side.makespan:.0f}", f"{side.node_seconds:.0f}")
    Console().print(table)
    print(f"{sides[1].makespan / sides[0].makespan:.2f} times as fast, on the same nodes")


if __name__ == "__main__":
    typer.run(main)
