#!/usr/bin/env python3
"""What the masked prediction loss costs, forward and backward: time and the memory it takes at its peak.

    python tools/bench_masked_loss.py                the paper's shapes: 8 clips, 8x14x14 tokens, 4 levels of 768
    python tools/bench_masked_loss.py --quick        2 clips, a quarter of the width, 3 rounds
    python tools/bench_masked_loss.py --peer FOLDER  beside V-JEPA 2, or the code of the study: FOLDER is a checkout

``ours`` gathers, normalises and compares a few tokens at a time; ``plain`` does one operation after the other on all of
them. Each measures both mask groups, with the targets still to be normalised (as a step does it) and normalised before.
``peer`` is what the peer's training step does to targets as a network leaves them (V-JEPA 2 knows one level and
normalises all channels together), and its loss. The floor reads predictions and targets once forward and once backward
and writes the gradient, at the speed of a copy measured in the same run. On a CPU times are those of a process that
keeps the memory it freed, as training does; in others, more than half of the time of all but ours goes into finding it
again (``--give-memory-back``). Peaks are measured before that.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from measuring import GiveMemoryBack, Work, best_device, errors_in_one_line, medians, name_of, peak_mb, quick_form
from peer_fragments import PeerStep, function, result_of
from rich.console import Console
from rich.table import Table
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
        """One forward and backward pass over both groups."""
        for prediction in self.predictions:
            prediction.grad = None
        loss().backward()  # type: ignore[no-untyped-call]

    @property
    def shapes(self) -> dict[str, Any]:
        """Sizes of the features, and how many of a clip's tokens each group predicts."""
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


def sides(case: Case, peer: Path | None) -> dict[str, Work]:
    """Forward and backward by each form, and by the peer where there is one."""
    losses: dict[str, Callable[[], Tensor]] = {
        f"{name}{targets}": partial(case.loss, form, levels)
        for targets, levels in ((RAW, LEVELS), (NORMALISED, 0))
        for name, form in FORMS.items()
    }
    if peer is not None:
        losses[f"peer{RAW}"] = peer_loss(peer, case)
    return {name: partial(case.run, loss) for name, loss in losses.items()}


def peer_loss(folder: Path, case: Case) -> Callable[[], Tensor]:
    """The loss of the code in ``folder`` for features that its target network would leave."""
    step = PeerStep(folder)
    wanted = (function("forward_target"), function("loss_fn"), result_of("forward_target"), result_of("loss_fn"))
    fragment = step.fragment(
        *wanted,
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
    """Milliseconds of all sides and of the floor; peak memory of those whose targets are raw."""
    device = case.features.device
    here, there = torch.empty(25_000_000, device=device), torch.empty(25_000_000, device=device)
    works = sides(case, peer)
    raw = {name.removesuffix(RAW): work for name, work in works.items() if name.endswith(RAW)}
    peaks = {name: peak_mb(work, device) for name, work in raw.items()}
    if device.type == "cpu" and not give_memory_back:
        keep_freed_memory()  # as training does
    with progress_bar("bench", rounds + 1) as advance:
        figures = medians(works | {"copy": lambda: there.copy_(here)}, rounds, device, advance)
    bytes_per_ms = 8 * here.numel() / figures.pop("copy")
    result = {
        "ms": figures,
        "floor_ms": case.bytes / bytes_per_ms,
        "ratio": {
            "raw": figures[f"plain{RAW}"] / figures[f"ours{RAW}"],
            "normalised": figures[f"plain{NORMALISED}"] / figures[f"ours{NORMALISED}"],
        },
        "peak_mb": peaks,
        "shapes": case.shapes,
        "rounds": rounds,
        "device": name_of(device),
    }
    if peer is not None:
        result["peer_ratio"] = figures[f"peer{RAW}"] / figures[f"ours{RAW}"]
    return result


def summary(result: dict[str, Any]) -> str:
    """One line: ratios and peaks."""
    ratio, peaks = result["ratio"], ", ".join(f"{side} {peak:.0f}" for side, peak in result["peak_mb"].items())
    line = f"plain over ours: {ratio['raw']:.1f}x (targets as the network leaves them), {ratio['normalised']:.1f}x; "
    if "peer_ratio" in result:
        line += f"the peer's code over ours: {result['peer_ratio']:.1f}x; "
    return f"{line}peak memory in MB: {peaks}; {result['device']}"


def main(
    clips: Annotated[int, typer.Option(min=1, help="Clips.")] = 8,
    width: Annotated[int, typer.Option(min=4, help="Channels of a level.")] = 768,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds.")] = 7,
    peer: Annotated[Path | None, typer.Option(help="Checkout of the code to compare with.")] = None,
    give_memory_back: GiveMemoryBack = False,
    quick: Annotated[bool, quick_form("2 clips, 192 channels, 3 rounds.", clips=2, width=192, rounds=3)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what the masked prediction loss costs."""
    with errors_in_one_line():
        result = measure(make_case(clips, width, best_device()), peer, rounds, give_memory_back)
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("forward and backward", "ms", "over the floor")
    for name, figure in result["ms"].items():
        table.add_row(name, f"{figure:.1f}", f"{figure / result['floor_ms']:.1f}x")
    table.add_row("floor", f"{result['floor_ms']:.1f}", "")
    Console().print(table)
    typer.echo(summary(result))


if __name__ == "__main__":
    typer.run(main)
