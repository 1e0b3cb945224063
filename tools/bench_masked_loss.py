#!/usr/bin/env python3
"""What the masked prediction loss costs, forward and backward: time and the memory it takes at its peak.

    python tools/bench_masked_loss.py                the paper's shapes: 8 clips, 8x14x14 tokens, 4 levels of 768
    python tools/bench_masked_loss.py --quick        2 clips, a quarter of the width, 3 rounds

``ours`` gathers, normalises and compares a few tokens at a time; ``plain`` does one operation after the other on all of
them. Each measures both mask groups, with the targets still to be normalised (as a step does it) and normalised before.
The floor reads predictions and targets once forward and once backward and writes the gradient, at the speed of a copy
measured in the same run.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer
from measuring import PeakMemory, best_device, medians, name_of, release_freed_memory
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hpc_jepa.cli.screen import progress
from hpc_jepa.config.masking import MaskingConfig
from hpc_jepa.config.semantics import Semantics
from hpc_jepa.kernels.masked_error import masked_error, plain_masked_error
from hpc_jepa.latents import ClipBatch, TokenGrid
from hpc_jepa.masking.sampler import MaskSampler

GRID, LEVELS = TokenGrid(8, 14, 14), 4
Form = Callable[[Tensor, Tensor, Tensor, int], Tensor]
FORMS: dict[str, Form] = {"ours": masked_error, "plain": plain_masked_error}


@dataclass(frozen=True)
class Case:
    """Predictions [B, Q, D] of each mask group, the tokens [B, Q] they predict, and target features [B, N, D]."""

    predictions: list[Tensor]
    tokens: list[Tensor]
    features: Tensor

    def run(self, form: Form, levels: int) -> None:
        """One forward and backward pass over both groups."""
        for prediction, tokens in zip(self.predictions, self.tokens, strict=True):
            prediction.grad = None
            form(prediction, self.features, tokens, levels).mean().backward()  # type: ignore[no-untyped-call]

    @property
    def bytes(self) -> int:
        """What must be moved: prediction and target twice, the gradient once."""
        return sum(4 * prediction.numel() * 5 for prediction in self.predictions)


def make_case(clips: int, width: int, device: torch.device) -> Case:
    """Random features under the masks of a step."""
    nothing = torch.zeros(clips, dtype=torch.int64, device=device)
    batch = ClipBatch(torch.zeros(clips, 3, 2, 1, 1, device=device), nothing, nothing, nothing.bool())
    masks = MaskSampler(MaskingConfig(), Semantics.of("corrected"), GRID, seed=0, batch_size=clips)(0, batch)
    tokens = [group.target for group in masks]
    channels = LEVELS * width
    predictions = [torch.randn(*t.shape, channels, device=device, requires_grad=True) for t in tokens]
    return Case(predictions, tokens, torch.randn(clips, GRID.tokens, channels, device=device))


def measure(clips: int, width: int, rounds: int, device: torch.device, advance: Callable[[], None]) -> dict[str, Any]:
    """Milliseconds of both forms and the floor; peak memory of both forms."""
    case = make_case(clips, width, device)
    here, there = torch.empty(25_000_000, device=device), torch.empty(25_000_000, device=device)
    ways: dict[str, Callable[[], object]] = {
        f"{name}, {'raw' if levels else 'normalised'} targets": lambda form=form, levels=levels: case.run(form, levels)  # type: ignore[misc]
        for levels in (LEVELS, 0)
        for name, form in FORMS.items()
    }
    ways["copy"] = lambda: there.copy_(here)
    figures = medians(ways, rounds, device, advance)
    bytes_per_ms = 8 * here.numel() / figures.pop("copy")
    peaks = {}
    for name, form in FORMS.items():
        release_freed_memory()
        with PeakMemory(device).watching() as peak:
            case.run(form, LEVELS)
        peaks[name] = peak.bytes / 1e6
    return {
        "ms": figures,
        "floor_ms": case.bytes / bytes_per_ms,
        "ratio": {t: figures[f"plain, {t} targets"] / figures[f"ours, {t} targets"] for t in ("raw", "normalised")},
        "peak_mb": peaks,
        "device": name_of(device),
    }


def main(
    clips: Annotated[int, typer.Option(min=1, help="Clips.")] = 8,
    width: Annotated[int, typer.Option(min=4, help="Channels of a level.")] = 768,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds.")] = 7,
    quick: Annotated[bool, typer.Option("--quick", help="2 clips, 192 channels, 3 rounds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what the masked prediction loss costs."""
    clips, width, rounds = (2, 192, 3) if quick else (clips, width, rounds)
    with progress("bench", rounds + 1) as advance:
        result = measure(clips, width, rounds, best_device(), advance)
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("forward and backward", "ms", "over the floor")
    for name, figure in result["ms"].items():
        table.add_row(name, f"{figure:.1f}", f"{figure / result['floor_ms']:.1f}x")
    table.add_row("floor", f"{result['floor_ms']:.1f}", "")
    Console().print(table)
    peak, ratio = result["peak_mb"], result["ratio"]
    typer.echo(
        f"plain over ours: {ratio['raw']:.1f}x (targets as the network leaves them), {ratio['normalised']:.1f}x; peak "
        f"memory {peak['ours']:.0f} against {peak['plain']:.0f} MB; {result['device']}"
    )


if __name__ == "__main__":
    typer.run(main)
