#!/usr/bin/env python3
"""What a checkpoint costs the training loop: in the background, waited for, and beside a plain ``torch.save``.

    python tools/bench_checkpoint.py                               ViT-B, one clip a step, in fp32
    python tools/bench_checkpoint.py --model tiny --folder /scratch    another model, the disk of that folder

Trains on a random clip. The stall is the time that the steps with a save beside them took longer than the median step
without: the copy between two steps, and whatever the writing takes from the steps. Steps that took less count too, so
that noise evens out; where the stall is smaller than the noise, it can come out below nothing.
"""

import json
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from measuring import errors_in_one_line, milliseconds, name_of, quick_form, require_writable
from rich.console import Console
from rich.table import Table
from stepping import Training

from hpc_jepa.cli.console import progress_bar
from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.types import ClipBatch


def measure(config: RunConfig, home: Path, steps: int) -> dict[str, Any]:
    """Milliseconds of a step, of each way to save, and of what it takes to go on from a checkpoint."""
    training = Training(config)
    from hpc_jepa.checkpoint import layout
    from hpc_jepa.checkpoint.writer import CheckpointWriter
    from hpc_jepa.training.checkpoint_state import checkpoint_info, restore, shards_to_save

    device, engine = training.device, training.engine
    step = partial(training.step, *_batch(config, device))
    with progress_bar("bench", 2 * steps) as advance:

        def timed_step() -> float:
            taken = milliseconds(step, device)
            advance()
            return taken

        step()  # makes the optimizer's state
        usual = statistics.median(timed_step() for _ in range(steps))
        with CheckpointWriter(home, config.checkpoint) as writer:
            writer.save(
                checkpoint_info(config, 1, {}, {}), shards_to_save(engine)
            )  # takes the memory that later saves use again
            writer.wait()
            call = milliseconds(lambda: writer.save(checkpoint_info(config, 2, {}, {}), shards_to_save(engine)), device)
            beside = [timed_step() for _ in range(steps)]
            rest = milliseconds(writer.wait, device)
    with CheckpointWriter(home, config.checkpoint) as writer:
        waited = milliseconds(lambda: writer.save(checkpoint_info(config, 3, {}, {}), shards_to_save(engine)), device)
        waited += milliseconds(writer.wait, device)
    state = {piece.key: piece.values for piece in shards_to_save(engine)}
    plain = milliseconds(lambda: torch.save(state, home / "plain.pt"), device)
    checkpoint = layout.open_checkpoint(RunDir(home).checkpoint_dir(3))
    return {
        "gigabytes": sum(piece.values.nbytes for piece in shards_to_save(engine)) / 1e9,
        "step_ms": usual,
        "steps_beside_ms": beside,
        "ms": {
            "in the background: between two steps": call,
            "in the background: all that the steps lost": call + sum(taken - usual for taken in beside),
            "in the background: left after these steps": rest,
            "waited for": waited,
            "torch.save, without checksum or fsync": plain,
            "going on: checksums": milliseconds(lambda: layout.verify_files(checkpoint), device),
            "going on: loading": milliseconds(lambda: restore(engine, checkpoint), device),
        },
        "steps": steps,
        "device": name_of(device),
    }


def _batch(config: RunConfig, device: torch.device) -> tuple[Any, ...]:
    """Random clips, and masks for them."""
    clip, count = config.data.clip, config.engine.batch_size
    pixels = torch.randn(count, 3, clip.frames, clip.size, clip.size, device=device)
    nothing = torch.zeros(count, dtype=torch.int64, device=device)
    sampler = MaskSampler(
        config.masking,
        config.semantics,
        config.grid,
        seed=0,
        batch_size=count,
    )
    return pixels, sampler(0, ClipBatch(pixels, nothing, nothing, nothing.bool()))


def main(
    model: Annotated[str, typer.Option(help="Name in configs/model/.")] = "base",
    clips: Annotated[int, typer.Option(min=1, help="Clips of a step.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps without a save, and as many beside one.")] = 8,
    stage: Annotated[int, typer.Option(min=0, max=3, help="ZeRO stage.")] = 1,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Of the matrix products.")] = "fp32",
    folder: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Disk to write to, a temporary folder when not given; what is written there is removed afterwards.",
        ),
    ] = None,
    quick: Annotated[bool, quick_form("The tiny model and small clips, 3 steps.", model="tiny", steps=3)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a checkpoint costs."""
    small = ["data.clip={frames: 8, stride: 1, size: 64}"] if quick else []
    settings = [
        *small,
        "regime=bench",
        "data.sources={none: {shards: none}}",
        f"engine={{batch_size: {clips}, zero_stage: {stage}, precision: {precision}}}",
    ]
    with errors_in_one_line():
        config = read_config(RunConfig, [find_config(model, "model")], settings)
        place = None if folder is None else require_writable(folder)
        with tempfile.TemporaryDirectory(dir=place) as home:
            result = measure(config, Path(home), steps)
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("saving and going on", "ms", "steps")
    for name, taken in result["ms"].items():
        table.add_row(name, f"{taken:.0f}", f"{taken / result['step_ms']:.2f}")
    Console().print(table)
    lost = result["ms"]["in the background: all that the steps lost"] / result["step_ms"]
    typer.echo(
        f"{result['gigabytes']:.2f} GB: saving in the background cost {lost:.2f} of a step of {result['step_ms']:.0f} "
        f"ms; {result['device']}"
    )


if __name__ == "__main__":
    typer.run(main)
