#!/usr/bin/env python3
"""CPU time of runs that train on the same clips at the same time: sharing them against each making its own.

    python tools/bench_packing.py                        four runs of a small model, clips of 16 x 224 px
    python tools/bench_packing.py --shards SHARDS --size 64 --stride 1 --json

Without --shards the videos are those of tools/bench_data.py: H.264 with distant key frames, as cameras and web sites
make them. Both sides alternate. A side starts all runs at once and trains whole steps; the metrics of each run must be
those of the other side. Times are CPU seconds of the processes, after their start and while they still prefetch. The
limit is what the grid would reach if the clips that others have made were free; the second limit counts their copies.
"""

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
import typer
from bench_data import Files, real_videos
from rich.console import Console
from rich.table import Table
from timing import one_line_errors

from hpc_jepa.config.data import DataConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.data.clip_ring import ClipFacts, ClipRing
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.io.malloc import keep_freed_memory

Side = Literal["auto", "off"]
SIDES: tuple[Side, Side] = ("off", "auto")
FIRST, TAIL = 3, 4
"""Steps before and after those that are timed: start-up, and the end, when nothing is prefetched any more."""
COPIES = 16
"""Clips given and taken to time it."""


class RunCost(NamedTuple):
    """CPU seconds and clips of one run, those of them that others made, and its losses and gradient norms."""

    seconds: float
    clips: int
    taken: int
    metrics: list[tuple[float, float | None]]


def run_config(shards: str, folder: Path, side: Side, variant: int, clip: dict[str, int], shape: "Shape") -> RunConfig:
    """One variant of the grid: the variants differ in the objective, not in their clips."""
    patch = next(side for side in range(clip["size"] // 7, 0, -1) if clip["size"] % side == 0)
    return RunConfig.model_validate(
        {
            "regime": "bench",
            "variant": f"v{variant}",
            "runs": str(folder),
            "model": {
                "encoder": {"width": 16, "depth": 2, "heads": 1, "patch": patch, "levels": [1, 2]},
                "predictor": {"width": 16, "depth": 1, "heads": 1},
            },
            "data": {
                "sources": {"bench": {"shards": shards}},
                "clip": clip,
                "decoder": "cpu",
                "reading": {"share": side, "share_limit": shape.limit},
            },
            "objectives": [["fwm"], ["hw"], ["ld"], []][variant % 4],
            "schedule": {"steps": FIRST + shape.steps + TAIL},
            "engine": {"precision": "fp32", "batch_size": shape.batch, "device": "cpu"},
            "monitor": {"log_every": 1, "tensorboard": False},
        }
    )


class Shape(NamedTuple):
    """Timed steps, batch size and GiB of shared memory."""

    steps: int
    batch: int
    limit: float


def train_run(config: RunConfig, steps: int, costs: Any) -> None:
    """Train in this process and put its cost on the queue, None if it fails."""
    from hpc_jepa.distributed import set_ds_accelerator

    set_ds_accelerator("cpu")
    from hpc_jepa.training.loop import train

    torch.set_num_threads(1)
    times, taken, metrics = [], [], []

    def on_log(record: Any) -> None:
        times.append(time.process_time())
        taken.append(record.shared_clips or 0)
        metrics.append((record.loss, record.gradient_norm))

    try:
        train(config, on_log)
    except HpcJepaError as error:
        typer.echo(f"error: {error}", err=True)
        costs.put(None)
        return
    last = FIRST + steps
    clips = steps * config.engine.batch_size
    costs.put((config.variant, RunCost(times[last] - times[FIRST], clips, taken[last] - taken[FIRST], metrics)))


def run_side(configs: Sequence[RunConfig], steps: int) -> list[RunCost]:
    """Train all runs at once. Raises HpcJepaError if one fails."""
    context = multiprocessing.get_context("spawn")
    costs: Any = context.Queue()
    processes = [context.Process(target=train_run, args=(config, steps, costs)) for config in configs]
    for process in processes:
        process.start()
    found = [costs.get() for _ in processes]
    for process in processes:
        process.join()
    if None in found:
        raise HpcJepaError("a run failed")
    return [cost for _, cost in sorted(found)]


def video_shards(folder: Path) -> str:
    """Copied shards of a camera-like video of 640 x 480 pixels."""
    source = Files(real_videos(quick=False).files[1:2])
    build_shards(source, folder, make_recipe(source, 100), 0, lambda samples: None)
    return str(folder)


def data_cost(data: DataConfig, batch: int, steps: int) -> float:
    """CPU seconds of making one clip: reading, decoding, cropping, resizing."""
    keep_freed_memory()  # as training does
    loader = ClipLoader(data, seed=239, batch_size=batch, rank=0, world_size=1, device=torch.device("cpu"))
    loader.batch(0)
    started = time.process_time()
    for step in range(1, steps + 1):
        loader.batch(step)
    seconds = time.process_time() - started
    loader.close()
    return seconds / (batch * steps)


def copy_cost(clip: dict[str, int]) -> tuple[float, float]:
    """CPU seconds of giving a clip to others, and of taking one, with their checksums."""
    pixels = np.zeros(12 * clip["frames"] * clip["size"] ** 2, np.uint8)
    ring = ClipRing(f"bench-{os.getpid()}", COPIES, pixels.nbytes)
    facts = ClipFacts(static=False, real=clip["frames"])
    times = []
    for item in range(2 * COPIES):  # the first half finds the pages of the file
        started = time.process_time()
        ring.put(item, pixels, facts)
        given = time.process_time()
        ring.take(item, pixels)
        times.append((given - started, time.process_time() - given))
    ring.close()
    give, take = (statistics.median(column) for column in zip(*times[COPIES:], strict=True))
    return give, take


def main(
    shards: Annotated[str | None, typer.Option(help="A shard folder of videos.")] = None,
    size: Annotated[int, typer.Option(help="Side of the clips, pixels.")] = 224,
    frames: Annotated[int, typer.Option(help="Frames of a clip.")] = 16,
    stride: Annotated[int, typer.Option(help="Frames of the video between those of the clip.")] = 2,
    runs: Annotated[int, typer.Option(help="Runs of the grid.", min=2)] = 4,
    batch: Annotated[int, typer.Option(help="Clips of a step.", min=1)] = 8,
    steps: Annotated[int, typer.Option(help="Timed steps.", min=1)] = 16,
    rounds: Annotated[int, typer.Option(help="Rounds of both sides.", min=1)] = 3,
    limit: Annotated[float, typer.Option(help="data.reading.share_limit, GiB.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare both sides and print clips per CPU second of the grid."""
    clip, shape = {"frames": frames, "stride": stride, "size": size}, Shape(steps, batch, limit)
    rates: dict[Side, list[float]] = {"off": [], "auto": []}
    shares, taken = [], []
    with one_line_errors(), tempfile.TemporaryDirectory() as folder:
        shards = shards or video_shards(Path(folder) / "shards")
        for number in range(rounds):
            costs: dict[Side, list[RunCost]] = {}
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                path = Path(folder) / f"{number}-{side}"
                configs = [run_config(shards, path, side, variant, clip, shape) for variant in range(runs)]
                costs[side] = run_side(configs, steps)
                total = sum(cost.seconds for cost in costs[side])
                rates[side].append(sum(cost.clips for cost in costs[side]) / total)
            if [cost.metrics for cost in costs["off"]] != [cost.metrics for cost in costs["auto"]]:
                raise HpcJepaError("metrics differ between the sides")
            taken.append(sum(cost.taken for cost in costs["auto"]) / sum(cost.clips for cost in costs["auto"]))
            shares.append(data_cost(configs[0].data, batch, steps) * rates["off"][-1])
    share, (give, take) = statistics.median(shares), copy_cost(clip)
    own = statistics.median(rates["off"])
    result = {
        "runs": runs,
        "clips_per_cpu_second": {side: statistics.median(values) for side, values in rates.items()},
        "ratio": statistics.median(shared / alone for shared, alone in zip(rates["auto"], rates["off"], strict=True)),
        "ratios": [shared / alone for shared, alone in zip(rates["auto"], rates["off"], strict=True)],
        "share_of_data": share,
        "limit": 1 / (1 - share * (1 - 1 / runs)),
        "copy_ms": {"give": 1e3 * give, "take": 1e3 * take},
        "limit_with_copies": 1 / (1 - share * (1 - 1 / runs) + own * (give + (runs - 1) * take) / runs),
        "taken": statistics.median(taken),
        "metrics": "equal to the bit",
    }
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("", "value")
    for name, value in result.items():
        table.add_row(name, str(value))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
