#!/usr/bin/env python3
"""Masked prediction loss, forward and backward: time and peak memory.

    python tools/bench_masked_loss.py                the paper's shapes: 8 clips, 8x14x14 tokens, 4 levels of 768
    python tools/bench_masked_loss.py --quick        2 clips, a quarter of the width, 3 rounds
    python tools/bench_masked_loss.py --peer FOLDER  compared with a checkout of V-JEPA 2 or of the study's code

``ours`` gathers, normalises and compares a few tokens at a time; ``plain`` runs each operation on all tokens. Both use
both mask groups, with targets normalised inside (as in a step) and beforehand. ``peer`` is the normalisation and loss
of the peer's training step (V-JEPA 2 has one level and normalises all channels together). The lower bound reads
predictions and targets once forward and once backward and writes the gradient, at the copy bandwidth measured in the
same run. On a CPU the process keeps freed memory, as training does; otherwise page faults take more than half of the
time of all but ours (``--give-memory-back``). Peak memory is measured before that.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from peer_fragments import PeerStep, function, result_of
from rich.console import Console
from rich.table import Table
from timing import GiveMemoryBack, Work, best_device, device_name, medians, one_line_errors, peak_mb, quick_option
from torch import Tensor

from hpc_jepa.cli.console import progress_bar
from hpc_jepa.config.masking import MaskingConfig
from hpc_jepa.config.semantics import Semantics
from hpc_jepa.io.malloc import keep_freed_memory
from hpc_jepa.kernels.masked_error import masked_error, plain_masked_error
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.types import ClipBatch, TokenGrid

GRID, LEVELS = TokenGrid(8, 14, 14), 4
RAW, NORMALISED = ", raw targets", ", normalised targets"
Form = Callable[[Tensor, Tensor, Tensor, int], Tensor]
FORMS: dict[str, Form] = {"ours": masked_error, "plain": plain_masked_error}


@dataclass(frozen=True)
class Case:
    """Predictions [B, Q, D] of each mask group, the tokens [B, Q] they predict, and target features [B, N, D]."""

    predictions: list[Tensor]
    tokens: list[Tensor]
    features: Tensor

    def loss(self, form: Form, levels: int) -> Tensor:
        """Mean error of each group, and the mean of these."""
        groups = zip(self.predictions, self.tokens, strict=True)
        errors = [form(prediction, self.features, tokens, levels) for prediction, tokens in groups]
        return torch.stack([error.mean() for error in errors]).mean()

    def run(self, loss: Callable[[], Tensor]) -> None:
        """Forward and backward pass over both groups."""
        for prediction in self.predictions:
            prediction.grad = None
        loss().backward()  # type: ignore[no-untyped-call]

    @property
    def shapes(self) -> dict[str, Any]:
        """Sizes of the features, and predicted tokens of each group."""
        clips, _, channels = self.features.shape
        return {
            "clips": clips,
            "grid": [GRID.time, GRID.height, GRID.width],
            "levels": LEVELS,
            "width": channels // LEVELS,
            "predicted_tokens": [tokens.shape[1] for tokens in self.tokens],
        }

    @property
    def bytes(self) -> int:
        """Memory traffic of the lower bound: prediction and target twice, gradient once."""
        return sum(4 * prediction.numel() * 5 for prediction in self.predictions)


def make_case(clips: int, width: int, device: torch.device) -> Case:
    """Random features with the masks of a step."""
    zeros = torch.zeros(clips, dtype=torch.int64, device=device)
    batch = ClipBatch(torch.zeros(clips, 3, 2, 1, 1, device=device), zeros, zeros, zeros.bool())
    masks = MaskSampler(MaskingConfig(), Semantics.of("corrected"), GRID, seed=0, batch_size=clips)(0, batch)
    tokens = [group.target for group in masks]
    channels = LEVELS * width
    predictions = [torch.randn(*t.shape, channels, device=device, requires_grad=True) for t in tokens]
    return Case(predictions, tokens, torch.randn(clips, GRID.tokens, channels, device=device))


def sides(case: Case, peer: Path | None) -> dict[str, Work]:
    """Forward and backward pass of each form, and of the peer if given."""
    losses: dict[str, Callable[[], Tensor]] = {
        f"{name}{targets}": partial(case.loss, form, levels)
        for targets, levels in ((RAW, LEVELS), (NORMALISED, 0))
        for name, form in FORMS.items()
    }
    if peer is not None:
        losses[f"peer{RAW}"] = peer_loss(peer, case)
    return {name: partial(case.run, loss) for name, loss in losses.items()}


def peer_loss(folder: Path, case: Case) -> Callable[[], Tensor]:
    """The loss of the code in ``folder``, on features as its target network would return them."""
    step = PeerStep(folder)
    parts = (function("forward_target"), function("loss_fn"), result_of("forward_target"), result_of("loss_fn"))
    fragment = step.fragment(
        *parts,
        clips=[case.features],
        target_encoder=lambda clips, **_: clips,
        encoder=None,
        disable_ema=False,
        embed_dim_encoder=case.features.shape[-1] // LEVELS,
        levels_predictor=LEVELS,
        z=[case.predictions],
        z_pred=[case.predictions],
        masks_pred=[case.tokens],
        apply_masks=step.module("src.masks.utils").apply_masks,
        loss_exp=1.0,
        has_cls_first=False,
    )

    def loss() -> Tensor:
        after = fragment()
        theirs: Tensor = after["loss_pred"] if "loss_pred" in after else after["loss"]  # the study's name, V-JEPA 2's
        return theirs

    return loss


def measure(case: Case, peer: Path | None, rounds: int, give_memory_back: bool) -> dict[str, Any]:
    """Milliseconds of all sides and of the lower bound; peak memory of the sides with unnormalised targets."""
    device = case.features.device
    source, destination = torch.empty(25_000_000, device=device), torch.empty(25_000_000, device=device)
    works = sides(case, peer)
    raw = {name.removesuffix(RAW): work for name, work in works.items() if name.endswith(RAW)}
    peaks = {name: peak_mb(work, device) for name, work in raw.items()}
    if device.type == "cpu" and not give_memory_back:
        keep_freed_memory()  # as training does
    with progress_bar("bench", rounds + 1) as advance:
        times = medians(works | {"copy": lambda: destination.copy_(source)}, rounds, device, advance)
    bytes_per_ms = 8 * source.numel() / times.pop("copy")
    result = {
        "ms": times,
        "floor_ms": case.bytes / bytes_per_ms,
        "ratio": {
            "raw": times[f"plain{RAW}"] / times[f"ours{RAW}"],
            "normalised": times[f"plain{NORMALISED}"] / times[f"ours{NORMALISED}"],
        },
        "peak_mb": peaks,
        "shapes": case.shapes,
        "rounds": rounds,
        "device": device_name(device),
    }
    if peer is not None:
        result["peer_ratio"] = times[f"peer{RAW}"] / times[f"ours{RAW}"]
    return result


def summary(result: dict[str, Any]) -> str:
    """One line: ratios and peaks."""
    ratio, peaks = result["ratio"], ", ".join(f"{side} {peak:.0f}" for side, peak in result["peak_mb"].items())
    line = f"plain over ours: {ratio['raw']:.1f}x (unnormalised targets), {ratio['normalised']:.1f}x; "
    if "peer_ratio" in result:
        line += f"the peer's code over ours: {result['peer_ratio']:.1f}x; "
    return f"{line}peak memory in MB: {peaks}; {result['device']}"


def main(
    clips: Annotated[int, typer.Option(min=1, help="Clips.")] = 8,
    width: Annotated[int, typer.Option(min=4, help="Channels of a level.")] = 768,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds.")] = 7,
    peer: Annotated[Path | None, typer.Option(help="Checkout of the code to compare with.")] = None,
    give_memory_back: GiveMemoryBack = False,
    quick: Annotated[bool, quick_option("2 clips, 192 channels, 3 rounds.", clips=2, width=192, rounds=3)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what the masked prediction loss costs."""
    with one_line_errors():
        result = measure(make_case(clips, width, best_device()), peer, rounds, give_memory_back)
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("forward and backward", "ms", "over the bound")
    for name, time in result["ms"].items():
        table.add_row(name, f"{time:.1f}", f"{time / result['floor_ms']:.1f}x")
    table.add_row("lower bound", f"{result['floor_ms']:.1f}", "")
    Console().print(table)
    typer.echo(summary(result))


if __name__ == "__main__":
    typer.run(main)
