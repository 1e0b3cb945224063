#!/usr/bin/env python3
"""What a checkpoint costs the training loop: in the background, waited for, and beside a plain ``torch.save``.

Trains on random clips with random masks. The stall is the time that the steps with a save in them took longer than the
median step: the copy between two steps, and whatever the writing takes from the steps beside it.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def main(
    preset: Annotated[str, typer.Option(help="Model under configs/model.")] = "base",
    batch: Annotated[int, typer.Option(help="Clips per step.")] = 1,
    steps: Annotated[int, typer.Option(help="Steps measured of each way.")] = 8,
    stage: Annotated[int, typer.Option(help="ZeRO stage.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    folder: Annotated[Path | None, typer.Option(help="Disk to write to; a temporary folder when not given.")] = None,
) -> None:
    """Measure what saving costs."""
    from hpc_jepa.distributed import name_accelerator

    name_accelerator()
    with tempfile.TemporaryDirectory(dir=folder) as home:
        for line in measured(_config(preset, batch, stage, precision), Path(home), steps):
            typer.echo(line)


def measured(config: Any, home: Path, steps: int) -> list[str]:
    """A line for each way to save, and for what it takes to go on from a checkpoint."""
    import torch

    from hpc_jepa.checkpoint import store
    from hpc_jepa.checkpoint.saver import Saver
    from hpc_jepa.training.engine import build_engine
    from hpc_jepa.training.processes import join_process_group
    from hpc_jepa.training.snapshot import facts, pieces, restore
    from hpc_jepa.training.trainee import build_trainee

    device = join_process_group()
    engine = build_engine(build_trainee(config), config)
    step = _stepper(engine, config, device)
    step()  # makes the optimizer's state
    usual = statistics.median(_timed(step) for _ in range(steps))
    size = sum(piece.values.nbytes for piece in pieces(engine))
    lines = [f"{size / 1e9:.2f} GB of state, a step takes {usual:.3f} s without saving"]
    with Saver(home, config.checkpoint) as saver:
        saver.start(facts(config, 1, {}, {}), pieces(engine))  # takes the memory that later saves use again
        saver.wait()
        call = _timed(lambda: saver.start(facts(config, 2, {}, {}), pieces(engine)))
        beside = [_timed(step) for _ in range(steps)]
        rest = _timed(saver.wait)
    stall = call + sum(max(taken - usual, 0.0) for taken in beside)
    lines.append(
        f"background: {call:.3f} s between two steps, {stall:.3f} s in all over {steps} steps beside it "
        f"({stall / usual:.2f} steps), then {rest:.3f} s to wait"
    )
    with Saver(home, config.checkpoint) as saver:
        waited = _timed(lambda: saver.start(facts(config, 3, {}, {}), pieces(engine))) + _timed(saver.wait)
    lines.append(f"waited for: {waited:.3f} s ({waited / usual:.2f} steps)")
    state = {piece.key: piece.values for piece in pieces(engine)}
    plain = _timed(lambda: torch.save(state, home / "plain.pt"))
    lines.append(f"torch.save of the same state, without checksum or fsync: {plain:.3f} s ({plain / usual:.2f} steps)")
    checkpoint = store.opened(store.folder(home, 3))
    checking = _timed(lambda: store.damage(checkpoint))
    lines.append(
        f"going on: {checking:.3f} s for checksums, {_timed(lambda: restore(engine, checkpoint)):.3f} s to load"
    )
    return lines


def _config(preset: str, batch: int, stage: int, precision: str) -> Any:
    from hpc_jepa.config import tree
    from hpc_jepa.config.run import RunConfig

    layers = [tree.find_config(preset, "model")]
    overrides = ["regime=bench", "data.sources={none: {shards: none}}", f"engine.batch_size={batch}"]
    return tree.load(RunConfig, layers, [*overrides, f"engine.zero_stage={stage}", f"engine.precision={precision}"])


def _stepper(engine: Any, config: Any, device: Any) -> Callable[[], None]:
    """A training step on the same random clip."""
    import torch

    from hpc_jepa.latents import ClipBatch, TokenGrid
    from hpc_jepa.masking.sampler import MaskSampler
    from hpc_jepa.training.engine import optimizer_step
    from hpc_jepa.training.loop import weighted_sum

    encoder, clip = config.model.encoder, config.data.clip
    batch, side = config.engine.batch_size, clip.size // encoder.patch
    pixels = torch.randn(batch, 3, clip.frames, clip.size, clip.size, device=device)
    nothing = torch.zeros(batch, dtype=torch.int64, device=device)
    grid = TokenGrid(clip.frames // encoder.tubelet, side, side)
    masks = MaskSampler(config.masking, config.semantics, grid, seed=0, batch_size=batch)(
        0, ClipBatch(pixels, nothing, nothing, nothing.bool())
    )
    sound = torch.zeros((), dtype=torch.bool, device=device)

    def step() -> None:
        terms, _ = engine(pixels, masks, 0)
        engine.backward(weighted_sum(terms, engine.module.objectives.weights(0)))
        optimizer_step(engine, sound)

    return step


def _timed(action: Callable[[], object]) -> float:
    """Seconds until it is done, on the device too."""
    import torch

    started = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    typer.run(main)
