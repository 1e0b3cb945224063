"""``hpc-jepa shards bench``: throughput of the dataloader, and how many GPUs it keeps busy."""

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hpc_jepa.cli.console import AsJson, examples, progress_bar, stdout_console

if TYPE_CHECKING:
    from hpc_jepa.data.throughput import DecoderThroughput

EXAMPLES = examples(
    "hpc-jepa shards bench shards/ucf101/train",
    "hpc-jepa shards bench shards/something-something-v2/train --stride 2 --threads 16 --clips-per-gpu 250",
)

CLIPS_PER_GPU = 400.0
"""ViT-B on 16 x 224 x 224: about 1 TFLOP per clip (forward, target, backward) at 400 TFLOP/s in bf16."""


def shards_bench(
    folder: Annotated[str, typer.Argument(help="Shard folder or URL.")],
    frames: Annotated[int, typer.Option(min=1, help="Frames per clip.")] = 16,
    stride: Annotated[int, typer.Option(min=1, help="Source frames between clip frames.")] = 2,
    size: Annotated[int, typer.Option(min=1, help="Crop size in pixels.")] = 224,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips per batch.")] = 8,
    batches: Annotated[int, typer.Option(min=1, help="Batches per decoder.")] = 10,
    threads: Annotated[int | None, typer.Option(min=1, help="Decoding threads.", show_default="one per core")] = None,
    clips_per_gpu: Annotated[
        float,
        typer.Option(min=0.01, help="Training speed of one GPU in clips/s, as bench_step.py or a run shows it."),
    ] = CLIPS_PER_GPU,
    as_json: AsJson = False,
) -> None:
    """Measure every decoder of this machine: clips/s, share of each stage, GPUs it keeps busy, and what to set."""
    from hpc_jepa.config.data import AugmentationConfig, ClipConfig
    from hpc_jepa.data.shards.shard_folder import ShardFolder
    from hpc_jepa.data.throughput import available_decoders, measure_throughput

    shards, cores = ShardFolder(folder), threads or len(os.sched_getaffinity(0))
    clip, augmentation = ClipConfig(frames=frames, stride=stride, size=size), AugmentationConfig()
    decoders = available_decoders(shards)
    shards.close()
    results: list[DecoderThroughput] = []
    with progress_bar(f"bench {folder}", len(decoders)) as advance:
        for decoder in decoders:
            results.append(
                measure_throughput(
                    decoder, folder, clip, augmentation, batch_size=batch_size, batches=batches, threads=cores
                )
            )
            advance()
    best = max((result for result in results if result.setting), key=lambda result: result.clips_per_second)
    settings = {"decoder": best.setting, "decode_threads": cores}
    if as_json:
        rows = [{**asdict(result), "gpus_fed": result.clips_per_second / clips_per_gpu} for result in results]
        answer = {"folder": folder, "threads": cores, "clips_per_gpu": clips_per_gpu, "decoders": rows}
        typer.echo(json.dumps(answer | {"settings": settings}))
        return
    stdout_console().print(_table(results, clips_per_gpu))
    typer.echo(
        f"set data.decoder={best.setting} data.decode_threads={cores}, or fewer threads for more processes a node"
    )
    typer.echo(
        f"{best.decoder}, {cores} threads: {best.clips_per_second:.1f} clips/s of {frames} x {size} keep "
        f"{best.clips_per_second / clips_per_gpu:.2f} GPUs busy at {clips_per_gpu:g} clips/s each (--clips-per-gpu)"
    )


def _table(results: "list[DecoderThroughput]", clips_per_gpu: float) -> Table:
    table = Table("decoder", "clips/s", "per CPU second", "read", "decode", "augment", "left to PyAV", "GPUs fed")
    for result in results:
        table.add_row(
            result.decoder,
            f"{result.clips_per_second:.1f}",
            f"{result.clips_per_cpu_second:.1f}",
            f"{result.read:.0%}",
            "with augment" if result.decode is None else f"{result.decode:.0%}",
            f"{result.augment:.0%}",
            f"{result.left_to_pyav:.0%}",
            f"{result.clips_per_second / clips_per_gpu:.2f}",
        )
    return table
