#!/usr/bin/env python3
"""Cost of each objective in a step: time of its terms, forward and backward, and their peak memory.

    python tools/bench_objectives.py                     the paper's shapes: 8 clips, 8x14x14 tokens, 4 levels of 768
    python tools/bench_objectives.py --quick             a quarter of the width, two rounds
    python tools/bench_objectives.py --peer FOLDER       compared with a checkout of the study's code

Latents are random, masks are real. Objectives alternate in every round, so that noise affects all of them. The cost of
an objective is the median over rounds of its time minus that of the baseline in the same round. The share is relative
to a whole baseline step: the three networks at these shapes, forward and backward, measured in the same run.

``peer`` is the term that the study's code adds to the loss for the same objective, forward and backward, on the same
latents and with the same heads; ours use ``published`` semantics then. If ours takes less than a tenth of the base
terms, the difference is below the noise and no ratio is shown. The peer's ``sigreg`` needs the package lejepa. On a CPU
the process keeps freed memory, as training does; peak memory is measured before that.
"""

import dataclasses
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from peer_objectives import STEP, PeerObjectives
from rich.console import Console
from rich.table import Table
from timing import GiveMemoryBack, best_device, device_name, milliseconds, one_line_errors, peak_mb, quick_option

from hpc_jepa.cli.console import progress_bar
from hpc_jepa.config.loading import CONFIGS, merge_files
from hpc_jepa.config.masking import MaskingConfig
from hpc_jepa.config.model import EncoderConfig, ModelConfig
from hpc_jepa.config.semantics import Preset, Semantics
from hpc_jepa.io.malloc import keep_freed_memory
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.models.video_jepa import VideoJEPA
from hpc_jepa.objectives import ObjectiveSet, build_objective
from hpc_jepa.objectives.registry import primitives
from hpc_jepa.types import ClipBatch, Latents, TokenGrid, TokenMasks

LEVELS, GRID, CLIP = 4, TokenGrid(8, 14, 14), (3, 16, 224, 224)
FORECAST = "ld_forecast"
NOISE = 0.1
"""Differences below this share of the base terms are noise."""


class Column(NamedTuple):
    """One column of the table."""

    key: str
    title: str
    form: str


COLUMNS = (
    Column("extra_ms", "extra ms", "{:.1f}"),
    Column("share_of_step", "share of a step", "{:.1%}"),
    Column("peak_mb", "peak MB of its terms", "{:.0f}"),
    Column("peer_ms", "peer ms", "{:.1f}"),
    Column("peer_ratio", "peer / ours", "{:.1f}x"),
    Column("peer_peak_mb", "peer's peak MB", "{:.0f}"),
)


def masks_of(name: str, batch: int, semantics: Semantics, device: torch.device) -> tuple[TokenMasks, ...]:
    """The masks of a variant for static clips."""
    path = CONFIGS / "objective" / f"{name}.yaml"
    settings = merge_files([path]).values.get("masking", {}) if path.is_file() else {}
    masking = MaskingConfig.model_validate({key: value for key, value in settings.items() if key != "motion"})
    zeros = torch.zeros(batch, dtype=torch.int64, device=device)
    clips = ClipBatch(torch.zeros(batch, *CLIP, device=device), zeros, zeros, zeros.bool())
    return MaskSampler(masking, semantics, GRID, seed=0, batch_size=batch)(0, clips)


def random_latents(width: int, batch: int, masks: tuple[TokenMasks, ...], device: torch.device) -> Latents:
    """Latents as the networks return them: student and target float32, predictions bf16."""

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


def our_loss(objective: ObjectiveSet, latents: Latents) -> torch.Tensor:
    """The weighted sum of all terms, with an empty cache."""
    fresh = dataclasses.replace(latents)
    terms, weights = objective(fresh), objective.weights(STEP)
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


class Side:
    """One implementation of a loss: peak memory and milliseconds of forward and backward pass."""

    def __init__(self, loss: Callable[[], torch.Tensor], device: torch.device) -> None:
        self._loss = loss
        self._device = device
        self.peak_mb = peak_mb(self._pass, device)
        self.ms: list[float] = []

    def take_turn(self) -> None:
        """Time one pass."""
        self.ms.append(milliseconds(self._pass, self._device))

    def median(self) -> float:
        """Median milliseconds without the warm-up."""
        return statistics.median(self.ms[1:])

    def median_over(self, other: "Side") -> float:
        """Median difference in milliseconds to another side in the same round."""
        return statistics.median(mine - theirs for mine, theirs in list(zip(self.ms, other.ms, strict=True))[1:])

    def _pass(self) -> None:
        loss = self._loss()
        if loss.requires_grad:  # the published kinematic term has no gradient (B4)
            loss.backward()  # type: ignore[no-untyped-call]


def step_ms(width: int, batch: int, masks: tuple[TokenMasks, ...], device: torch.device) -> float:
    """Milliseconds of the three networks and the base loss, forward and backward, bf16."""
    heads = max(width // 64, 1)
    config = ModelConfig(encoder=EncoderConfig(width=width, heads=heads))
    model = VideoJEPA(config, "bf16").to(device)
    objective = build_objective("baseline", width=width, levels=LEVELS, grid=GRID).to(device)
    pixels = torch.randn(batch, *CLIP, device=device)

    def step() -> None:
        terms = objective(model(pixels, masks))
        (terms["prediction"] + terms["context"]).backward()

    return min(milliseconds(step, device) for _ in range(2))


def measured() -> list[str]:
    """All primitives except the base, a forecast variant, and the headline objective."""
    return [*(name for name in primitives() if name != "base"), FORECAST, "fwm_hw_ld"]


def kind_of(name: str) -> str:
    """Kind of masks of an objective."""
    return FORECAST if name == FORECAST else "baseline"


def peer_sides(
    peer: PeerObjectives, objectives: dict[str, ObjectiveSet], latents: Latents, device: torch.device
) -> dict[str, Side]:
    """The peer's terms of the objectives it has."""
    known = [name for name, objective in objectives.items() if name != FORECAST and peer.has_terms_of(objective)]
    return {name: Side(peer.loss(objectives[name], latents), device) for name in known}


def measure(
    width: int, batch: int, rounds: int, preset: Preset, peer: PeerObjectives | None, give_memory_back: bool
) -> dict[str, Any]:
    """Extra milliseconds, share of a step and peak memory of every objective and of the peer's terms."""
    device, semantics = best_device(), Semantics.of(preset)
    masks = {kind: masks_of(kind, batch, semantics, device) for kind in ("baseline", FORECAST)}
    latents = {kind: random_latents(width, batch, group, device) for kind, group in masks.items()}
    objectives = {
        name: build_objective(name, width=width, levels=LEVELS, grid=GRID, semantics=preset).to(device)
        for name in ("baseline", *measured())
    }
    baseline = objectives.pop("baseline")
    base = {kind: Side(partial(our_loss, baseline, latents[kind]), device) for kind in latents}
    ours = {name: Side(partial(our_loss, o, latents[kind_of(name)]), device) for name, o in objectives.items()}
    theirs = {} if peer is None else peer_sides(peer, objectives, latents["baseline"], device)
    if device.type == "cpu" and not give_memory_back:
        keep_freed_memory()  # as training does
    with progress_bar("bench", rounds + 1) as advance:
        for _ in range(rounds + 1):
            for side in (*base.values(), *ours.values(), *theirs.values()):
                side.take_turn()
            advance()
    step = step_ms(width, batch, masks["baseline"], device)
    return {
        "step_ms": step,
        "baseline_ms": base["baseline"].median(),
        "baseline_peak_mb": base["baseline"].peak_mb,
        "objectives": {name: row(side, base[kind_of(name)], theirs.get(name), step) for name, side in ours.items()},
        "shapes": {"batch": batch, "width": width, "levels": LEVELS, "grid": [GRID.time, GRID.height, GRID.width]},
        "device": device_name(device),
    }


def row(ours: Side, base: Side, theirs: Side | None, step: float) -> dict[str, float | None]:
    """Results of one objective."""
    extra = ours.median_over(base)
    values: dict[str, float | None] = {"extra_ms": extra, "share_of_step": extra / step, "peak_mb": ours.peak_mb}
    if theirs is not None:
        is_significant = extra > NOISE * base.median()
        values |= {"peer_ms": theirs.median(), "peer_peak_mb": theirs.peak_mb}
        values["peer_ratio"] = theirs.median() / extra if is_significant else None
    return values


def table_of(result: dict[str, Any]) -> Table:
    """One row per objective."""
    columns = [column for column in COLUMNS if any(column.key in row for row in result["objectives"].values())]
    table = Table()
    table.add_column("objective", no_wrap=True)
    for column in columns:
        table.add_column(column.title)
    for name, row in result["objectives"].items():
        values = [row.get(column.key) for column in columns]
        cells = [
            "" if value is None else column.form.format(value) for column, value in zip(columns, values, strict=True)
        ]
        table.add_row(name, *cells)
    return table


def summary(result: dict[str, Any]) -> str:
    """One line: the most expensive objective, and the range of ratios."""
    rows = result["objectives"]
    most_expensive = max(rows, key=lambda name: rows[name]["share_of_step"])
    line = f"step {result['step_ms']:.0f} ms, base terms {result['baseline_ms']:.0f} ms, "
    line += f"most expensive {most_expensive} {rows[most_expensive]['share_of_step']:.1%}, "
    ratios = [values["peer_ratio"] for values in rows.values() if values.get("peer_ratio") is not None]
    if ratios:
        line += f"the peer's code over ours {min(ratios):.1f}x to {max(ratios):.1f}x, "
    return line + str(result["device"])


def main(
    width: Annotated[int, typer.Option(min=64, help="Channels per level.")] = 768,
    batch: Annotated[int, typer.Option(min=1, help="Clips.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds.")] = 5,
    semantics: Annotated[
        Preset | None, typer.Option(help="Semantics.", show_default="corrected; published with --peer")
    ] = None,
    peer: Annotated[Path | None, typer.Option(help="Checkout of the study's code to compare with.")] = None,
    give_memory_back: GiveMemoryBack = False,
    quick: Annotated[bool, quick_option("192 channels, 2 rounds.", width=192, rounds=2)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the cost of each objective."""
    preset = semantics or ("corrected" if peer is None else "published")
    with one_line_errors():
        theirs = None if peer is None else PeerObjectives(peer)
        result = measure(width, batch, rounds, preset, theirs, give_memory_back)
    if as_json:
        typer.echo(json.dumps(result))
        return
    Console().print(table_of(result))
    typer.echo(summary(result))


if __name__ == "__main__":
    typer.run(main)
