#!/usr/bin/env python3
"""Cost of a checkpoint for the training loop: in the background, blocking, and compared with plain ``torch.save``.

    python tools/bench_checkpoint.py                               ViT-B, one clip per step, fp32
    python tools/bench_checkpoint.py --model tiny --folder /scratch    another model, another disk

Trains on random clips. The stall is the extra time of steps during a save over the median step without one: the copy
between two steps, and the slowdown by the writer thread. Faster steps count too, so that noise averages out; a stall
below the noise can be negative.
"""

import json
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table
from timing import device_name, milliseconds, one_line_errors, quick_option, require_writable

from hpc_jepa.cli.console import progress_bar
from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.training.step_runner import StepRunner
from hpc_jepa.types import ClipBatch


def measure(config: RunConfig, home: Path, steps: int) -> dict[str, Any]:
    """Milliseconds of a step, of each way to save, and of resuming from a checkpoint."""
    training = StepRunner(config)
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

        step()  # allocates the optimizer state
        median_step = statistics.median(timed_step() for _ in range(steps))
        with CheckpointWriter(home, config.checkpoint) as writer:
            writer.save(
                checkpoint_info(config, 1, {}, {}), shards_to_save(engine)
            )  # allocates the buffers that later saves reuse
            writer.wait()
            call = milliseconds(lambda: writer.save(checkpoint_info(config, 2, {}, {}), shards_to_save(engine)), device)
            during_save = [timed_step() for _ in range(steps)]
            rest = milliseconds(writer.wait, device)
    with CheckpointWriter(home, config.checkpoint) as writer:
        blocking = milliseconds(lambda: writer.save(checkpoint_info(config, 3, {}, {}), shards_to_save(engine)), device)
        blocking += milliseconds(writer.wait, device)
    state = {piece.key: piece.values for piece in shards_to_save(engine)}
    plain = milliseconds(lambda: torch.save(state, home / "plain.pt"), device)
    checkpoint = layout.open_checkpoint(RunDir(home).checkpoint_dir(3))
    return {
        "gigabytes": sum(piece.values.nbytes for piece in shards_to_save(engine)) / 1e9,
        "step_ms": median_step,
        "steps_during_save_ms": during_save,
        "ms": {
            "background: copy between two steps": call,
            "background: total stall": call + sum(taken - median_step for taken in during_save),
            "background: rest after these steps": rest,
            "blocking": blocking,
            "torch.save, without checksum or fsync": plain,
            "resume: checksums": milliseconds(lambda: layout.verify_files(checkpoint), device),
            "resume: loading": milliseconds(lambda: restore(engine, checkpoint), device),
        },
        "steps": steps,
        "device": device_name(device),
    }


def _batch(config: RunConfig, device: torch.device) -> tuple[Any, ...]:
    """Random clips and their masks."""
    clip, count = config.data.clip, config.engine.batch_size
    pixels = torch.randn(count, 3, clip.frames, clip.size, clip.size, device=device)
    zeros = torch.zeros(count, dtype=torch.int64, device=device)
    sampler = MaskSampler(
        config.masking,
        config.semantics,
        config.grid,
        seed=0,
        batch_size=count,
    )
    return pixels, sampler(0, ClipBatch(pixels, zeros, zeros, zeros.bool()))


def main(
    model: Annotated[str, typer.Option(help="Name in configs/model/.")] = "base",
    clips: Annotated[int, typer.Option(min=1, help="Clips per step.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps without, and as many during a save.")] = 8,
    stage: Annotated[int, typer.Option(min=0, max=3, help="ZeRO stage.")] = 1,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Of the matrix products.")] = "fp32",
    folder: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Disk to write to; files are removed afterwards.",
            show_default="temporary folder",
        ),
    ] = None,
    quick: Annotated[bool, quick_option("The tiny model and small clips, 3 steps.", model="tiny", steps=3)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the cost of a checkpoint."""
    small = ["data.clip={frames: 8, stride: 1, size: 64}"] if quick else []
    settings = [
        *small,
        "regime=bench",
        "data.sources={none: {shards: none}}",
        f"engine={{batch_size: {clips}, zero_stage: {stage}, precision: {precision}}}",
    ]
    with one_line_errors():
        config = read_config(RunConfig, [find_config(model, "model")], settings)
        parent = None if folder is None else require_writable(folder)
        with tempfile.TemporaryDirectory(dir=parent) as home:
            result = measure(config, Path(home), steps)
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("saving and resuming", "ms", "steps")
    for name, taken in result["ms"].items():
        table.add_row(name, f"{taken:.0f}", f"{taken / result['step_ms']:.2f}")
    Console().print(table)
    lost = result["ms"]["background: total stall"] / result["step_ms"]
    typer.echo(
        f"{result['gigabytes']:.2f} GB: a save in the background costs {lost:.2f} of a step of {result['step_ms']:.0f} "
        f"ms; {result['device']}"
    )


if __name__ == "__main__":
    typer.run(main)
