#!/usr/bin/env python3
"""What each objective adds to a step: time of its terms, forward and backward, and the memory they need.

    python tools/bench_objectives.py                     the paper's shapes: 8 clips, 8x14x14 tokens, 4 levels of 768
    python tools/bench_objectives.py --quick             a quarter of the width, two rounds

Latents are random and the masks real. Objectives take turns in every round, so that a noisy machine disturbs all alike;
the figure of an objective is the median over rounds of its time less that of the baseline in the same round. The share
is of a whole baseline step: the three networks at these shapes, forward and backward, measured in the same run.
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from measuring import PeakMemory, best_device, name_of
from rich.console import Console
from rich.table import Table

from hpc_jepa.cli.screen import progress
from hpc_jepa.config.masking import MaskingConfig
from hpc_jepa.config.model import EncoderConfig, ModelConfig
from hpc_jepa.config.semantics import Preset, Semantics
from hpc_jepa.config.tree import CONFIGS, merge
from hpc_jepa.latents import ClipBatch, Latents, TokenGrid, TokenMasks
from hpc_jepa.masking.sampler import MaskSampler
from hpc_jepa.models.video_jepa import VideoJEPA
from hpc_jepa.objectives import ObjectiveSet, build_objective
from hpc_jepa.objectives.registry import primitives

LEVELS, GRID, CLIP = 4, TokenGrid(8, 14, 14), (3, 16, 224, 224)
FORECAST = "ld_forecast"


def masks_of(name: str, batch: int, semantics: Semantics, device: torch.device) -> tuple[TokenMasks, ...]:
    """The masks of a variant for still clips."""
    path = CONFIGS / "objective" / f"{name}.yaml"
    settings = merge([path]).values.get("masking", {}) if path.is_file() else {}
    masking = MaskingConfig.model_validate({key: value for key, value in settings.items() if key != "motion"})
    nothing = torch.zeros(batch, dtype=torch.int64, device=device)
    clips = ClipBatch(torch.zeros(batch, *CLIP, device=device), nothing, nothing, nothing.bool())
    return MaskSampler(masking, semantics, GRID, seed=0, batch_size=batch)(0, clips)


def random_latents(width: int, batch: int, masks: tuple[TokenMasks, ...], device: torch.device) -> Latents:
    """Latents as the networks leave them: student and target float32, predictions bf16."""

    def draw(tokens: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(batch, tokens, LEVELS * width, device=device).to(dtype).requires_grad_()

    return Latents(
        student=tuple(draw(group.context.shape[1]) for group in masks),
        prediction=tuple(draw(group.target.shape[1], torch.bfloat16) for group in masks),
        context_prediction=tuple(draw(group.context.shape[1], torch.bfloat16) for group in masks),
        target=draw(GRID.tokens).detach(),
        masks=masks,
        grid=GRID,
        pixels=torch.randn(batch, *CLIP, device=device),
    )


def once(objective: ObjectiveSet, latents: Latents, device: torch.device) -> float:
    """Seconds of one forward and backward pass."""
    fresh = Latents(**{name: getattr(latents, name) for name in Latents.__dataclass_fields__ if name != "made"})
    started = _now(device)
    terms = objective(fresh)
    weights = objective.weights(20_000)
    torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()  # type: ignore[no-untyped-call]
    return _now(device) - started


def step_seconds(width: int, batch: int, masks: tuple[TokenMasks, ...], device: torch.device) -> float:
    """Seconds of the three networks and the base loss, forward and backward, bf16."""
    heads = max(width // 64, 1)
    config = ModelConfig(encoder=EncoderConfig(width=width, heads=heads))
    model = VideoJEPA(config, "bf16").to(device)
    objective = build_objective("baseline", width=width, levels=LEVELS, grid=GRID).to(device)
    pixels = torch.randn(batch, *CLIP, device=device)
    seconds = []
    for _ in range(2):
        started = _now(device)
        terms = objective(model(pixels, masks))
        (terms["prediction"] + terms["context"]).backward()
        seconds.append(_now(device) - started)
    return min(seconds)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(width: int, batch: int, rounds: int, preset: Preset, advance: Callable[[], None]) -> dict[str, Any]:
    """Extra milliseconds, share of a step and extra bytes of every primitive."""
    device = best_device()
    semantics = Semantics.of(preset)
    names = ["baseline", *(name for name in primitives() if name != "base"), FORECAST, "fwm_hw_ld"]
    objectives = {
        n: build_objective(n, width=width, levels=LEVELS, grid=GRID, semantics=preset).to(device) for n in names
    }
    masks = {False: masks_of("baseline", batch, semantics, device), True: masks_of(FORECAST, batch, semantics, device)}
    latents = {kind: random_latents(width, batch, group, device) for kind, group in masks.items()}
    plain: dict[bool, list[float]] = {False: [], True: []}
    extra: dict[str, list[float]] = {name: [] for name in names[1:]}
    peaks: dict[str, int] = dict.fromkeys(names, 0)
    for _ in range(rounds + 1):
        for kind in plain:
            plain[kind].append(once(objectives["baseline"], latents[kind], device))
        for name in names:
            with PeakMemory(device).watching() as peak:
                seconds = once(objectives[name], latents[name == FORECAST], device)
            peaks[name] = max(peaks[name], peak.bytes)
            if name != "baseline":
                extra[name].append(seconds - plain[name == FORECAST][-1])
            advance()
    step = step_seconds(width, batch, masks[False], device)
    return {
        "step_ms": 1e3 * step,
        "baseline_ms": 1e3 * statistics.median(plain[False][1:]),
        "baseline_peak_mb": peaks["baseline"] / 1e6,
        "objectives": {
            name: {
                "extra_ms": 1e3 * statistics.median(seconds[1:]),
                "share_of_step": statistics.median(seconds[1:]) / step,
                "peak_mb": peaks[name] / 1e6,
            }
            for name, seconds in extra.items()
        },
        "shapes": {"batch": batch, "width": width, "levels": LEVELS, "grid": [GRID.time, GRID.height, GRID.width]},
        "device": name_of(device),
    }


def main(
    width: Annotated[int, typer.Option(min=64, help="Channels of a level.")] = 768,
    batch: Annotated[int, typer.Option(min=1, help="Clips.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds.")] = 5,
    semantics: Annotated[Preset, typer.Option(help="Reading of the objectives.")] = "corrected",
    quick: Annotated[bool, typer.Option("--quick", help="192 channels, 2 rounds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what each objective adds to a step."""
    width, rounds = (192, 2) if quick else (width, rounds)
    with progress("bench", (rounds + 1) * (len(primitives()) + 2)) as advance:
        result = measure(width, batch, rounds, semantics, advance)
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("objective", "extra ms", "share of a step", "peak MB of its terms")
    for name, figures in result["objectives"].items():
        row = f"{figures['extra_ms']:.1f}", f"{figures['share_of_step']:.1%}", f"{figures['peak_mb']:.0f}"
        table.add_row(name, *row)
    Console().print(table)
    highest = max(result["objectives"].items(), key=lambda item: item[1]["share_of_step"])
    typer.echo(
        f"step {result['step_ms']:.0f} ms, base terms {result['baseline_ms']:.0f} ms, "
        f"dearest {highest[0]} {highest[1]['share_of_step']:.1%}, {result['device']}"
    )


if __name__ == "__main__":
    typer.run(main)
