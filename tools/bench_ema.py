#!/usr/bin/env python3
"""What the average of the target encoder costs: one pass over memory, against two, and against a plain copy.

    python tools/bench_ema.py                    ViT-B
    python tools/bench_ema.py --model tiny --rounds 5
    python tools/bench_ema.py --model large --json

``ours`` is what the trainer runs: target and student side by side in memory, one lerp over each stretch, 12 bytes a
parameter. ``two passes`` is the multi-tensor multiply and add of common trainers, 20 bytes. The floor is a copy of as
many parameters between two buffers, 8 bytes, taken 12/8 times; processors that fetch a line before they overwrite it
move 12 bytes for the copy as well, so ours can lie below this floor and then runs as fast as the copy itself. All
sides take turns in every round; figures are medians.
"""

import json
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from measuring import best_device, medians, name_of
from rich.console import Console
from rich.table import Table

from hpc_jepa.cli.screen import progress
from hpc_jepa.config.model import ModelConfig
from hpc_jepa.config.tree import find_config, merge
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.training.average import TargetAverage, lay_out

MOMENTUM = 0.999
OURS, FLOOR = "ours", "copy"


def sides(config: ModelConfig, device: torch.device) -> tuple[int, dict[str, Callable[[], object]]]:
    """Number of parameters, and one update by each way."""
    student, target = Encoder(config.encoder).to(device), Encoder(config.encoder).to(device)
    lay_out(list(student.parameters()))
    average = TargetAverage(student, target)
    values, averages = ([p.detach().clone() for p in network.parameters()] for network in (student, target))
    buffer = torch.cat([value.flatten() for value in values])
    other = torch.empty_like(buffer)

    def two_passes() -> None:
        torch._foreach_mul_(averages, MOMENTUM)
        torch._foreach_add_(averages, values, alpha=1 - MOMENTUM)

    return buffer.numel(), {
        OURS: lambda: average.update(MOMENTUM),
        "two passes": two_passes,
        "tensor by tensor": lambda: [a.lerp_(v, 1 - MOMENTUM) for a, v in zip(averages, values, strict=True)],
        FLOOR: lambda: other.copy_(buffer),
    }


def main(
    model: Annotated[str, typer.Option(help="Name in configs/model/.")] = "base",
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds.")] = 21,
    quick: Annotated[bool, typer.Option("--quick", help="The tiny model, 5 rounds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what one update of the target costs."""
    model, rounds = ("tiny", 5) if quick else (model, rounds)
    device = best_device()
    with torch.no_grad():
        sizes = merge([find_config(model, "model")]).values["model"]
        parameters, ways = sides(ModelConfig.model_validate(sizes), device)
        with progress("bench", rounds + 1) as advance:
            figures = medians(ways, rounds, device, advance)
    ratios = {name: figure / figures[OURS] for name, figure in figures.items()}
    where = name_of(device)
    if as_json:
        typer.echo(json.dumps({"parameters": parameters, "ms": figures, "over_ours": ratios, "device": where}))
        return
    table = Table("one update", "ms", "over ours", "bytes a parameter")
    for name, figure in figures.items():
        moved = {"two passes": 20, FLOOR: 8}.get(name, 12)
        table.add_row(name, f"{figure:.2f}", f"{ratios[name]:.2f}x", str(moved))
    Console().print(table)
    typer.echo(
        f"{parameters / 1e6:.0f} M parameters: {ratios['two passes']:.2f}x the two-pass form, "
        f"{1.5 * ratios[FLOOR]:.0%} of copy bandwidth, {where}"
    )


if __name__ == "__main__":
    typer.run(main)
