"""``hpc-jepa shards bench``: how fast this machine turns shards into clips, and how many GPUs that feeds."""

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from hpc_jepa.cli.console import progress_bar

if TYPE_CHECKING:
    from hpc_jepa.data.throughput import DecoderThroughput

EXAMPLES = """Examples:

  hpc-jepa shards bench shards/ucf101/train

  hpc-jepa shards bench shards/something-something-v2/train --stride 2 --threads 16 --clips-per-gpu 250
"""

FED_BY_DEFAULT = 400.0
"""ViT-B on 16 x 224 x 224: about 1 TFLOP a clip (forward, target and backward) at 400 TFLOP/s in bf16."""


def shards_bench(
    folder: Annotated[str, typer.Argument(help="A shard folder, or the URL of one.")],
    frames: Annotated[int, typer.Option(min=1, help="Frames of a clip.")] = 16,
    stride: Annotated[int, typer.Option(min=1, help="Source frames between two of them.")] = 2,
    size: Annotated[int, typer.Option(min=1, help="Side of the crop in pixels.")] = 224,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips in a batch.")] = 8,
    batches: Annotated[int, typer.Option(min=1, help="Batches to make with each decoder.")] = 10,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that read and decode; one per core.")] = None,
    clips_per_gpu: Annotated[
        float,
        typer.Option(min=0.01, help="Assumption: clips a GPU trains ViT-B on per second; bench_step measures it."),
    ] = FED_BY_DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure each decoder this machine has: clips per second, where the time goes, GPUs it keeps busy."""
    from hpc_jepa.config.data import AugmentationConfig, ClipConfig
    from hpc_jepa.data.shards.shard_folder import ShardFolder
    from hpc_jepa.data.throughput import available_decoders, measure_throughput

    shards, cores = ShardFolder(folder), threads or len(os.sched_getaffinity(0))
    clip, augmentation = ClipConfig(frames=frames, stride=stride, size=size), AugmentationConfig()
    decoders = available_decoders(shards)
    shards.close()
    found: list[DecoderThroughput] = []
    with progress_bar(f"bench {folder}", len(decoders)) as advance:
        for decoder in decoders:
            found.append(
                measure_throughput(
                    decoder, folder, clip, augmentation, batch_size=batch_size, batches=batches, threads=cores
                )
            )
            advance()
    if as_json:
        figures = [{**asdict(one), "gpus_fed": one.clips_per_second / clips_per_gpu} for one in found]
        typer.echo(
            json.dumps({"folder": folder, "threads": cores, "clips_per_gpu": clips_per_gpu, "decoders": figures})
        )
        return
    Console().print(_table(found, clips_per_gpu))
    best = max(found, key=lambda one: one.clips_per_second)
    typer.echo(
        f"{best.decoder}, {cores} threads: {best.clips_per_second:.1f} clips/s of {frames} x {size} feed "
        f"{best.clips_per_second / clips_per_gpu:.2f} GPUs that take {clips_per_gpu:g} clips/s each (--clips-per-gpu)"
    )


def _table(found: "list[DecoderThroughput]", clips_per_gpu: float) -> Table:
    table = Table("decoder", "clips/s", "per CPU second", "read", "decode", "augment", "GPUs fed")
    for one in found:
        table.add_row(
            one.decoder,
            f"{one.clips_per_second:.1f}",
            f"{one.clips_per_cpu_second:.1f}",
            f"{one.read:.0%}",
            "in one with" if one.decode is None else f"{one.decode:.0%}",
            f"{one.augment:.0%}",
            f"{one.clips_per_second / clips_per_gpu:.2f}",
        )
    return table
