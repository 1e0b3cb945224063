#!/usr/bin/env python3
"""Masks of a step: block positions, index lists, distances and, for motion guidance, motion maps.

    python tools/bench_masks.py                  32 clips of 16x224x224 pixels, both mask groups, one core
    python tools/bench_masks.py --quick          8 clips, 3 rounds
    python tools/bench_masks.py --peer FOLDER    compared with a checkout of V-JEPA 2 or of the study's code

The plain form works clip by clip: a loop over blocks, all distances between context and target, the whole difference
image resized, the mean score of every block position. It is timed on 4 clips and scaled to the batch. The peer's
motion-guided masks need as many clips as tubelets (B24), use the trilinear map, and are scaled too. All sides alternate
in every round; numbers are medians. Lower bounds: reading the relevant pixel rows once (motion maps), writing index
lists (plain masks).
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
import typer
from peer_masks import PeerMasks
from rich.table import Table
from timing import Work, best_device, device_name, medians, one_line_errors, quick_option
from torch import Tensor

from hpc_jepa.cli.console import progress_bar, stdout_console
from hpc_jepa.config.masking import MaskGroupConfig, MaskingConfig, MotionGuidanceConfig
from hpc_jepa.config.semantics import Semantics
from hpc_jepa.masking.block_sampling import block_size
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.types import BlockSize, ClipBatch, TokenGrid

GRID, CLIP, PLAIN_CLIPS = TokenGrid(8, 14, 14), (3, 16, 224, 224), 4
PLAIN = MaskingConfig()
GUIDED = MaskingConfig(motion=MotionGuidanceConfig())
OTHERS = ("plain", "peer")
Pool = Literal["trilinear", "area"]


class Column(NamedTuple):
    """One column of the table."""

    key: str
    title: str
    form: str


COLUMNS = (
    Column("ours_ms", "ours ms", "{:.1f}"),
    Column("floor_ms", "floor ms", "{:.2f}"),
    Column("plain_ms", "plain ms", "{:.0f}"),
    Column("plain_ratio", "plain / ours", "{:.1f}x"),
    Column("peer_ms", "peer ms", "{:.0f}"),
    Column("peer_ratio", "peer / ours", "{:.1f}x"),
)


def plain_masks(pixels: Tensor, config: MaskingConfig, pool: Pool, generator: torch.Generator) -> None:
    """Masks and distances of clips [B, C, F, Hp, Wp], one clip and one block at a time."""
    for clip in pixels:
        motion = None if config.motion is None else plain_motion(clip, pool)
        for group in config.groups:
            size = block_size(group, GRID, 0)
            hidden = torch.zeros(GRID.time, GRID.height, GRID.width, dtype=torch.bool)
            for t, y, x in plain_origins(group, size, motion, generator):
                hidden[t : t + size[0], y : y + size[1], x : x + size[2]] = True
            context, target = (~hidden).nonzero().float(), hidden.nonzero().float()
            torch.cdist(context, target).amin(1).sqrt()


def plain_motion(clip: Tensor, pool: Pool) -> Tensor:
    """Motion map [T, H, W] of a clip [C, F, Hp, Wp] from the whole difference image."""
    change = clip.diff(dim=1).abs().mean(0)
    change = torch.cat([change[:1], change])[None, None]
    if pool == "area":
        return F.adaptive_avg_pool3d(change, (GRID.time, GRID.height, GRID.width))[0, 0]
    size = (GRID.time, GRID.height, GRID.width)
    return F.interpolate(change, size=size, mode="trilinear", align_corners=False)[0, 0]


def plain_origins(
    group: MaskGroupConfig, size: BlockSize, motion: Tensor | None, generator: torch.Generator
) -> Iterator[tuple[int, ...]]:
    """First token of each block of one clip."""
    origins = list(product(*(range(count) for count in GRID.origin_counts(size))))
    scores = torch.ones(len(origins))
    if motion is not None:
        blocks = [motion[t : t + size[0], y : y + size[1], x : x + size[2]] for t, y, x in origins]
        scores = torch.stack([block.mean() for block in blocks]).clamp(min=1e-6) ** 2
    for index in torch.multinomial(scores, group.blocks, replacement=True, generator=generator).tolist():
        yield origins[index]


@dataclass(frozen=True)
class Side:
    """Work on a share of the clips; the time is scaled to the whole batch."""

    work: Work
    share: float = 1.0


def sides(clips: int, device: torch.device, peer: Path | None) -> dict[str, dict[str, Side]]:
    """For each kind of masks: ours, the plain form, the lower bound and, if given, the peer."""
    pixels = torch.randn(clips, *CLIP, device=device)
    kinds: dict[str, tuple[MaskingConfig, Pool, Work]] = {
        "multi-block": (PLAIN, "area", lambda: torch.arange(2 * clips * GRID.tokens, device=device)),
        "guided, trilinear map": (GUIDED, "trilinear", lambda: _middle_rows(pixels).sum()),
        "guided, area map": (GUIDED, "area", pixels.sum),
    }
    table = {}
    for name, (config, pool, floor) in kinds.items():
        some, generator = pixels[:PLAIN_CLIPS].cpu(), torch.Generator().manual_seed(0)
        table[name] = {
            "ours": Side(our_masks(pixels, config, pool)),
            "plain": Side(partial(plain_masks, some, config, pool, generator), len(some) / clips),
            "floor": Side(floor),
        }
        if peer is not None:
            table[name] |= peer_way(peer, config, clips)
    return table


def our_masks(pixels: Tensor, config: MaskingConfig, pool: Pool) -> Work:
    """The trainer's masks of one step after the other."""
    nothing = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)
    batch = ClipBatch(pixels, nothing, nothing, nothing.bool())
    semantics = Semantics.of("corrected").model_copy(update={"motion_pool": pool})
    sampler = MaskSampler(config, semantics, GRID, seed=0, batch_size=len(pixels))
    steps = count()
    return lambda: sampler(next(steps), batch)


def peer_way(folder: Path, config: MaskingConfig, clips: int) -> dict[str, Side]:
    """The masks of the code in ``folder``, on the CPU as it makes them; nothing where it cannot be guided by motion."""
    masks = PeerMasks(folder, config, GRID, CLIP)
    if config.motion is None:
        return {"peer": Side(lambda: masks(torch.empty(clips, 1)))}
    if not masks.supports_motion:
        return {}
    pixels = torch.randn(GRID.time, *CLIP)
    return {"peer": Side(lambda: masks(pixels), len(pixels) / clips)}


def measure(clips: int, rounds: int, peer: Path | None) -> dict[str, Any]:
    """Median milliseconds of every way for each kind of masks, and how many times ours the others take."""
    device = best_device()
    table = sides(clips, device, peer)
    every = {f"{kind}: {side}": way.work for kind, sides in table.items() for side, way in sides.items()}
    with progress_bar("bench", rounds + 1) as advance:
        times = medians(every, rounds, device, advance)
    kinds = {
        kind: {f"{side}_ms": times[f"{kind}: {side}"] / part.share for side, part in sides.items()}
        for kind, sides in table.items()
    }
    for row in kinds.values():
        row |= {f"{side}_ratio": row[f"{side}_ms"] / row["ours_ms"] for side in OTHERS if f"{side}_ms" in row}
    return {"clips": clips, "kinds": kinds, "device": device_name(device)}


def _middle_rows(pixels: Tensor) -> Tensor:
    """The two middle pixel rows of each patch: all that linear interpolation to the grid reads."""
    rows = CLIP[2] // GRID.height
    return pixels[..., rows // 2 - 1 :, :].unfold(3, 2, rows)


def table_of(result: dict[str, Any]) -> Table:
    """One row per kind of masks."""
    rows = result["kinds"]
    columns = [column for column in COLUMNS if any(column.key in row for row in rows.values())]
    table = Table()
    table.add_column("masks", no_wrap=True)
    for column in columns:
        table.add_column(column.title)
    for kind, row in rows.items():
        table.add_row(kind, *(column.form.format(row[column.key]) if column.key in row else "" for column in columns))
    return table


def summary(result: dict[str, Any]) -> str:
    """One line: the smallest ratios over all kinds of masks."""
    line = f"{result['clips']} clips, both groups, {result['device']}: {_least(result, 'plain_ratio')}x the plain form"
    if "peer_ratio" not in result["kinds"]["multi-block"]:
        return line
    return f"{line}, {_least(result, 'peer_ratio')}x the peer's code"


def _least(result: dict[str, Any], ratio: str) -> str:
    """Rounded down, to tenths below ten."""
    least = min(row[ratio] for row in result["kinds"].values() if ratio in row)
    return f"at least {math.floor(least) if least >= 10 else math.floor(10 * least) / 10}"


def main(
    clips: Annotated[int, typer.Option(min=PLAIN_CLIPS, help="Clips per batch.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds.")] = 9,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    peer: Annotated[Path | None, typer.Option(help="Checkout of the code to compare with.")] = None,
    quick: Annotated[bool, quick_option("8 clips, 3 rounds.", clips=8, rounds=3)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the cost of the masks of a step."""
    torch.set_num_threads(threads)
    with one_line_errors():
        result = measure(clips, rounds, peer)
    if as_json:
        typer.echo(json.dumps(result))
        return
    stdout_console().print(table_of(result))
    typer.echo(summary(result))


if __name__ == "__main__":
    typer.run(main)
