#!/usr/bin/env python3
"""Where a training step spends its time: median and share of each phase, one process.

    python tools/bench_step.py configs/regime/quickstart.yaml configs/objective/fwm_hw_ld.yaml --steps 20

Phases are timed one after the other, with the device idle in between, so nothing overlaps: their sum is an upper bound
of a real step, in which data and masks are made while the step before is running.
"""

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from hpc_jepa.cli.screen import progress
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.tree import load
from hpc_jepa.distributed import HostGroup, name_accelerator
from hpc_jepa.errors import HpcJepaError

PHASES = ("data", "masks", "target", "student", "predictor", "objectives", "backward", "optimizer", "EMA")


class PhaseTimer:
    """Seconds spent in each phase of each step."""

    def __init__(self, device: torch.device) -> None:
        self.steps: list[dict[str, float]] = []
        self._device = device

    def begin(self) -> None:
        """Start another step."""
        self.steps.append(defaultdict(float))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a block."""
        started = self._now()
        yield
        self.steps[-1][name] += self._now() - started

    def watch(self, module: nn.Module, name: str) -> None:
        """Time the forward pass of a module. Not by hooks: training calls some modules without them."""
        forward = module.forward

        def timed(*inputs: Any) -> Any:
            with self.phase(name):
                return forward(*inputs)

        module.forward = timed

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def measure(config: RunConfig, steps: int, warmup: int) -> list[dict[str, float]]:
    """Seconds by phase of ``steps`` steps, after ``warmup`` uncounted ones."""
    name_accelerator()
    from hpc_jepa.training.assembly import build_loader, build_masker
    from hpc_jepa.training.average import TargetAverage
    from hpc_jepa.training.engine import build_engine, optimizer_step, set_rates
    from hpc_jepa.training.loop import weighted_sum
    from hpc_jepa.training.processes import join_process_group
    from hpc_jepa.training.schedules import rates_at
    from hpc_jepa.training.trainee import build_trainee

    device = join_process_group()
    engine = build_engine(build_trainee(config), config)
    loader, masker = build_loader(config, device), build_masker(config, HostGroup())
    model, objectives = engine.module.model, engine.module.objectives
    average = TargetAverage(model.student, model.target)
    timer = PhaseTimer(device)
    for name in ("target", "student", "predictor"):
        timer.watch(getattr(model, name), name)
    timer.watch(objectives, "objectives")
    with progress("bench", steps + warmup) as advance:
        for step in range(steps + warmup):
            timer.begin()
            with timer.phase("data"):
                clips = loader.batch(step)
            with timer.phase("masks"):
                masks = masker(step, clips)
            rates = rates_at(step, config.schedule)
            set_rates(engine, rates)
            terms, _ = engine(clips.pixels, masks, step)
            loss = weighted_sum(terms, objectives.weights(step))
            with timer.phase("backward"):
                engine.backward(loss)
            with timer.phase("optimizer"):
                optimizer_step(engine, torch.zeros((), dtype=torch.bool, device=loss.device))
            with timer.phase("EMA"):
                average.update(rates.ema)
            advance()
    loader.close()
    return timer.steps[warmup:]


def summarise(steps: list[dict[str, float]]) -> dict[str, Any]:
    """Median milliseconds and share of each phase."""
    medians = {phase: 1e3 * statistics.median(step[phase] for step in steps) for phase in PHASES}
    total = sum(medians.values())
    phases = {phase: {"median_ms": value, "share": value / total} for phase, value in medians.items()}
    return {"phases": phases, "total_ms": total, "steps": len(steps), "threads": torch.get_num_threads()}


def main(
    arguments: Annotated[list[str], typer.Argument(metavar="CONFIG|KEY=VALUE")],
    steps: Annotated[int, typer.Option(min=1, help="Counted steps.")] = 20,
    warmup: Annotated[int, typer.Option(min=0, help="Steps before the counted ones.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="5 counted steps.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the median time and share of every phase of a training step."""
    layers = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            config = load(RunConfig, layers, [*overrides, f"runs={Path(scratch)}"])
            result = summarise(measure(config, 5 if quick else steps, warmup))
        except HpcJepaError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("phase", "median ms", "share")
    for phase, figures in result["phases"].items():
        table.add_row(phase, f"{figures['median_ms']:.2f}", f"{figures['share']:.1%}")
    Console().print(table)
    typer.echo(f"step {result['total_ms']:.1f} ms, median of {result['steps']}, {result['threads']} threads")


if __name__ == "__main__":
    typer.run(main)
