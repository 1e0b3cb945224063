#!/usr/bin/env python3
"""Soak test: read many clips with the training dataloader and watch memory and open files.

    python tools/soak_reads.py shards/motion8-small/unlabelled --reads 100000 --frames 4 --size 32

Fails if memory grows by more than --allowed MiB after the first tenth, or if files stay open.
"""

import json
import time
from typing import Annotated

import psutil
import torch
import typer

from hpc_jepa.cli.console import progress_bar
from hpc_jepa.config.data import ClipConfig, DataConfig, SourceConfig
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.errors import HpcJepaError

BATCH = 32
SAMPLES = 20
"""Number of measurements of memory and open files."""


def soak(folder: str, reads: int, clip: ClipConfig) -> list[dict[str, float]]:
    """Resident memory (MiB) and open files, 20 times at equal distances."""
    data = DataConfig(sources={"soak": SourceConfig(shards=folder)}, clip=clip, decode_threads=2)
    loader = ClipLoader(data, seed=0, batch_size=BATCH, rank=0, world_size=1, device=torch.device("cpu"))
    process, steps, samples = psutil.Process(), max(SAMPLES, reads // BATCH), []
    with progress_bar(f"soak {folder}", steps) as advance:
        for step in range(steps):
            loader.batch(step)
            advance()
            if (step + 1) % (steps // SAMPLES) == 0:
                resident = process.memory_info().rss / 2**20
                samples.append({"reads": (step + 1) * BATCH, "resident_mib": resident, "files": process.num_fds()})
    loader.close()
    return samples


def main(
    folder: Annotated[str, typer.Argument(help="Shard folder or URL.")],
    reads: Annotated[int, typer.Option(min=1, help="Clips to read.")] = 100_000,
    frames: Annotated[int, typer.Option(min=1, help="Frames per clip.")] = 8,
    stride: Annotated[int, typer.Option(min=1, help="Source frames between clip frames.")] = 2,
    size: Annotated[int, typer.Option(min=1, help="Crop size in pixels.")] = 64,
    allowed: Annotated[float, typer.Option(help="Allowed growth of memory in MiB.")] = 16.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that memory and the number of open files stay constant."""
    started = time.perf_counter()
    try:
        samples = soak(folder, reads, ClipConfig(frames=frames, stride=stride, size=size))
    except HpcJepaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    settled = samples[len(samples) // 10 :]
    growth = settled[-1]["resident_mib"] - settled[0]["resident_mib"]
    opened = settled[-1]["files"] - settled[0]["files"]
    if as_json:
        typer.echo(json.dumps({"samples": samples, "growth_mib": growth, "files_opened": opened}))
    typer.echo(
        f"{samples[-1]['reads']:.0f} reads in {time.perf_counter() - started:.0f} s: memory {growth:+.1f} MiB to "
        f"{settled[-1]['resident_mib']:.0f}, open files {opened:+.0f} to {settled[-1]['files']:.0f}"
    )
    if growth > allowed or opened > 0:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
