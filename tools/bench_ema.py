#!/usr/bin/env python3
"""What the average of the target encoder costs: alone, and beside the update of the weights that it follows.

    python tools/bench_ema.py                    ViT-B
    python tools/bench_ema.py --model tiny --rounds 5
    python tools/bench_ema.py --model large --json
    python tools/bench_ema.py --peer FOLDER      beside V-JEPA 2, or the code of the study: FOLDER is a checkout

``ours`` is what the trainer runs: target and student side by side in memory, one lerp over each stretch, 12 bytes a
parameter. ``two passes`` is the multi-tensor multiply and add of common trainers, 20 bytes. The floor is a copy of as
many parameters between two buffers, 8 bytes, taken 12/8 times; processors that fetch a line before they overwrite it
move 12 bytes for the copy as well, so ours can lie below this floor and then runs as fast as the copy itself.

``AdamW`` is PyTorch's fused update of one flat buffer, 28 bytes. ``AdamW with average`` is the kernel for both: 36
bytes in one pass on a GPU, where its floor is AdamW and a copy; on a CPU it is the two one after the other. ``peer`` is
the statement of the peer's training step that averages, on networks of its own; so are the other multi-tensor forms.
All sides take turns in every round; figures are medians. The tiny model fits into a processor's cache: what the layout
saves in traffic to memory does not show there.
"""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from measuring import Work, best_device, errors_in_one_line, medians, name_of, quick_form
from peer_fragments import PeerStep, block_with
from rich.console import Console
from rich.table import Table

from hpc_jepa.cli.console import progress_bar
from hpc_jepa.config.loading import find_config, merge_files
from hpc_jepa.config.model import ModelConfig
from hpc_jepa.kernels.adamw import adamw_average_
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.training.ema import TargetEMA, pack_parameters

MOMENTUM = 0.999
OURS, PLAIN, PEER, FLOOR = "ours", "two passes", "peer", "copy"
ADAMW, APART, TOGETHER = "AdamW", "AdamW, then average", "AdamW with average"
Sides = dict[str, Work]


def sides(config: ModelConfig, device: torch.device, peer: Path | None) -> tuple[int, Sides]:
    """Number of parameters, and one update of the target by each way."""
    student, target, other_student, other_target = (Encoder(config.encoder).to(device) for _ in range(4))
    pack_parameters(list(student.parameters()))
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
    """The averaging statement of the code in ``folder``."""
    names = {"encoder": student, "target_encoder": target, "m": MOMENTUM}
    return PeerStep(folder).fragment(block_with("_foreach_mul_"), **names)


def joined_sides(parameters: int, device: torch.device) -> Sides:
    """One update of that many weights in one flat buffer: without the average, with it after, and with it inside."""
    student, gradient, target = (torch.rand(parameters, device=device) for _ in range(3))
    weights = torch.nn.Parameter(student)
    weights.grad = gradient
    optimizer = torch.optim.AdamW([weights], fused=True)
    optimizer.step()  # makes the moments
    state, (group,) = optimizer.state[weights], optimizer.param_groups
    buffers = (student, gradient, state["exp_avg"], state["exp_avg_sq"], target)
    settings = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
    going_on = torch.zeros((), device=device)

    def apart() -> None:
        optimizer.step()
        target.lerp_(student, 1 - MOMENTUM)

    return {
        ADAMW: optimizer.step,
        APART: apart,
        TOGETHER: lambda: adamw_average_(*buffers, step=state["step"], skip=going_on, momentum=MOMENTUM, **settings),
    }


def main(
    model: Annotated[str, typer.Option(help="Name in configs/model/.")] = "base",
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds.")] = 21,
    peer: Annotated[Path | None, typer.Option(help="Checkout of the code to compare with.")] = None,
    quick: Annotated[bool, quick_form("The tiny model, 5 rounds.", model="tiny", rounds=5)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what one update of the target costs."""
    device = best_device()
    with errors_in_one_line(), torch.no_grad():
        sizes = merge_files([find_config(model, "model")]).values["model"]
        parameters, ways = sides(ModelConfig.model_validate(sizes), device, peer)
        ways |= joined_sides(parameters, device)
        with progress_bar("bench", rounds + 1) as advance:
            figures = medians(ways, rounds, device, advance)
    ratios = {name: figure / figures[OURS] for name, figure in figures.items()}
    where = name_of(device)
    if as_json:
        result = {"parameters": parameters, "ms": figures, "over_ours": ratios, "rounds": rounds, "device": where}
        typer.echo(json.dumps(result))
        return
    moved = {PLAIN: 20, PEER: 20, FLOOR: 8, ADAMW: 28, APART: 40, TOGETHER: 36 if device.type == "cuda" else 40}
    table = Table("one update", "ms", "over ours", "bytes a parameter")
    for name, figure in figures.items():
        table.add_row(name, f"{figure:.2f}", f"{ratios[name]:.2f}x", str(moved.get(name, 12)))
    Console().print(table)
    over_apart, over_floor = (figures[TOGETHER] / past for past in (figures[APART], figures[ADAMW] + figures[FLOOR]))
    past_peer = f"{ratios[PEER]:.2f}x the peer's code, " if PEER in ratios else ""
    typer.echo(
        f"{parameters / 1e6:.0f} M parameters: {ratios[PLAIN]:.2f}x the two-pass form, {past_peer}"
        f"{1.5 * ratios[FLOOR]:.0%} of copy bandwidth; AdamW with average: {over_apart:.2f} of one after the other, "
        f"{over_floor:.2f} of AdamW and a copy, {where}"
    )


if __name__ == "__main__":
    typer.run(main)
