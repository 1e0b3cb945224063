"""Kernels, casts, bytes and FLOPs of a training step on a GPU, counted without one: ``bench_step.py --count``."""

from dataclasses import asdict, replace
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import GlooGroup, set_ds_accelerator
from hpc_jepa.objectives.composition import weighted_sum
from hpc_jepa.profiling.fake_cuda import fake_cuda, move_to_cuda, on_cuda
from hpc_jepa.profiling.operation_counts import Count, OperationCounter, largest
from hpc_jepa.training.train_module import TrainModule, build_train_module
from hpc_jepa.types import ClipBatch, TokenMasks

PLACES = 12
"""Lines of code in the printed tables."""


class FakeStep:
    """Module, clips and masks of one step as fake CUDA tensors; make it and use it inside ``fake_cuda()``.

    masks: of a real step, from :func:`real_masks`.
    """

    def __init__(self, config: RunConfig, masks: tuple[TokenMasks, ...], number: int = 0) -> None:
        self.number = number
        self.module = meta_module(config)
        move_to_cuda(self.module)
        clip, clips = config.data.clip, config.engine.batch_size
        self.pixels = torch.empty(clips, 3, clip.frames, clip.size, clip.size, device="cuda")
        self.masks = tuple(_on_cuda(group) for group in masks)

    def loss(self) -> Tensor:
        """Forward pass up to the weighted sum of all terms."""
        terms, _ = self.module(self.pixels, self.masks, self.number)
        return weighted_sum(terms, self.module.objectives.weights(self.number))


def meta_module(config: RunConfig) -> TrainModule:
    """The networks and heads of a run without data, on the meta device."""
    with unset_fake_temporarily(), torch.device("meta"):
        return build_train_module(config)


def _on_cuda(masks: TokenMasks) -> TokenMasks:
    tensors: dict[str, Any] = {name: on_cuda(value) for name, value in vars(masks).items() if value is not None}
    return replace(masks, **tensors)


def real_masks(config: RunConfig, number: int = 0) -> tuple[TokenMasks, ...]:
    """The masks of a step, sampled on the CPU for clips of noise, because their sizes depend on the random numbers."""
    set_ds_accelerator()
    from hpc_jepa.training.build import build_masker

    clip, clips = config.data.clip, config.engine.batch_size
    zeros = torch.zeros(clips, dtype=torch.int64)
    pixels = torch.randn(clips, 3, clip.frames, clip.size, clip.size)
    return build_masker(config, GlooGroup())(number, ClipBatch(pixels, zeros, zeros, zeros.bool()))


def count_step(config: RunConfig) -> dict[str, OperationCounter]:
    """What forward and backward pass of a step execute on one GPU in eager mode, without masks and optimizer."""
    masks = real_masks(config)
    with fake_cuda():
        step = FakeStep(config, masks)
        step.loss()  # makes the rotation tables, once
        with OperationCounter() as forward:
            loss = step.loss()
        with OperationCounter() as backward:
            loss.backward()  # type: ignore[no-untyped-call]
    return {"forward": forward, "backward": backward}


def as_json(counters: dict[str, OperationCounter]) -> dict[str, Any]:
    """Totals and counts by place and operator of each pass."""
    return {
        name: {
            "total": asdict(counter.total),
            "by_place": {place: asdict(count) for place, count in counter.by_place.items()},
            "by_operator": {operator: asdict(count) for operator, count in counter.by_operator.items()},
        }
        for name, counter in counters.items()
    }


def show_counts(counters: dict[str, OperationCounter]) -> None:
    """Print the totals and, for each pass, the lines of code that move most bytes."""
    for name, counter in counters.items():
        table = Table(name, "kernels", "casts", "GB", "GB casts", "TFLOP")
        table.columns[0].no_wrap = True
        for place, count in largest(counter.by_place, lambda count: count.elementwise_bytes, PLACES):
            table.add_row(place, *_cells(count))
        table.add_section()
        table.add_row("all", *_cells(counter.total))
        Console().print(table)
    flops = sum(counter.total.flops for counter in counters.values())
    typer.echo(f"{flops / 1e12:.1f} TFLOP; GB: all but matrix products and attention; eager mode, on fake CUDA tensors")


def _cells(count: Count) -> list[str]:
    moved = [f"{count.elementwise_bytes / 1e9:.1f}", f"{count.cast_bytes / 1e9:.1f}"]
    return [str(count.kernels), str(count.casts), *moved, f"{count.flops / 1e12:.2f}"]
