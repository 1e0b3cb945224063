#!/usr/bin/env python3
"""Time one EMA update of the target encoder.

    python tools/bench_ema.py                    ViT-B
    python tools/bench_ema.py --model tiny --rounds 5
    python tools/bench_ema.py --model large --json
    python tools/bench_ema.py --peer FOLDER      compared with V-JEPA 2 or the study's code; FOLDER is a checkout

``ours`` is the trainer's update: one multi-tensor lerp, 12 bytes a parameter. ``two passes`` is the multi-tensor
multiply and add of common trainers, 20 bytes. The floor is a copy of as many parameters between two buffers, 8 bytes,
multiplied by 12/8; CPUs that fetch a cache line before they overwrite it move 12 bytes for the copy as well, so ours
can be below this floor. ``peer`` is the EMA statement of the peer's training step, on networks of its own.
Every round times all variants in turn; the table shows medians. The tiny model fits into a CPU cache.
"""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from peer_fragments import PeerStep, block_with
from rich.console import Console
from rich.table import Table
from timing import Work, best_device, device_name, medians, one_line_errors, quick_option

from hpc_jepa.cli.console import progress_bar
from hpc_jepa.config.loading import find_config, merge_files
from hpc_jepa.config.model import ModelConfig
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.training.ema import TargetEMA

MOMENTUM = 0.999
OURS, PLAIN, PEER, FLOOR = "ours", "two passes", "peer", "copy"
Sides = dict[str, Work]


def sides(config: ModelConfig, device: torch.device, peer: Path | None) -> tuple[int, Sides]:
    """Number of parameters, and one EMA update by each implementation."""
    student, target, other_student, other_target = (Encoder(config.encoder).to(device) for _ in range(4))
    ema = TargetEMA(student, target)
    values, averages = ([p.detach() for p in network.parameters()] for network in (other_student, other_target))
    theirs = {} if peer is None else {PEER: peer_side(peer, other_student, other_target)}
    buffer = torch.cat([value.flatten() for value in values])
    other = torch.empty_like(buffer)

    def two_passes() -> None:
        torch._foreach_mul_(averages, MOMENTUM)
        torch._foreach_add_(averages, values, alpha=1 - MOMENTUM)

    return buffer.numel(), {
        OURS: lambda: ema.update(MOMENTUM),
        PLAIN: two_passes,
        **theirs,
        "tensor by tensor": lambda: [a.lerp_(v, 1 - MOMENTUM) for a, v in zip(averages, values, strict=True)],
        FLOOR: lambda: other.copy_(buffer),
    }


def peer_side(folder: Path, student: Encoder, target: Encoder) -> Work:
    """The EMA statement of the code in ``folder``."""
    names = {"encoder": student, "target_encoder": target, "m": MOMENTUM}
    return PeerStep(folder).fragment(block_with("_foreach_mul_"), **names)


def main(
    model: Annotated[str, typer.Option(help="Name in configs/model/.")] = "base",
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds.")] = 21,
    peer: Annotated[Path | None, typer.Option(help="Checkout of the code to compare with.")] = None,
    quick: Annotated[bool, quick_option("The tiny model, 5 rounds.", model="tiny", rounds=5)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the time of one EMA update."""
    device = best_device()
    with one_line_errors(), torch.no_grad():
        sizes = merge_files([find_config(model, "model")]).values["model"]
        parameters, implementations = sides(ModelConfig.model_validate(sizes), device, peer)
        with progress_bar("bench", rounds + 1) as advance:
            times = medians(implementations, rounds, device, advance)
    ratios = {name: ms / times[OURS] for name, ms in times.items()}
    where = device_name(device)
    if as_json:
        result = {"parameters": parameters, "ms": times, "over_ours": ratios, "rounds": rounds, "device": where}
        typer.echo(json.dumps(result))
        return
    moved = {PLAIN: 20, PEER: 20, FLOOR: 8}
    table = Table("one update", "ms", "over ours", "bytes a parameter")
    for name, ms in times.items():
        table.add_row(name, f"{ms:.2f}", f"{ratios[name]:.2f}x", str(moved.get(name, 12)))
    Console().print(table)
    past_peer = f"{ratios[PEER]:.2f}x the peer's code, " if PEER in ratios else ""
    typer.echo(
        f"{parameters / 1e6:.0f} M parameters: {ratios[PLAIN]:.2f}x the two-pass form, {past_peer}"
        f"{1.5 * ratios[FLOOR]:.0%} of copy bandwidth, {where}"
    )


if __name__ == "__main__":
    typer.run(main)
