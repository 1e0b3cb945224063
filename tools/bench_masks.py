#!/usr/bin/env python3
"""What the masks of a step cost: block positions, index lists, distances and, where motion guides them, motion maps.

    python tools/bench_masks.py                  32 clips of 16x224x224 pixels, both mask groups, one core
    python tools/bench_masks.py --quick          8 clips, 3 rounds

The plain form does what the words say, clip by clip: a loop over blocks, all distances between context and target, the
difference image resized as a whole, the score of every block position by a mean. It measures 4 clips and its figure is
scaled to the batch. Both sides take turns in every round; the figures are medians. Floors are measured too: for motion
maps the time it takes to read the pixels once, for plain masks that of writing their index lists.
"""

import json
import math
import statistics
from collections.abc import Callable, Iterator
from itertools import product
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
import typer
from measuring import best_device, milliseconds, name_of
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hpc_jepa.cli.screen import progress
from hpc_jepa.config.masking import MaskGroupConfig, MaskingConfig, MotionGuidanceConfig
from hpc_jepa.config.semantics import Semantics
from hpc_jepa.kernels.blocks import BlockSize, origin_counts
from hpc_jepa.latents import ClipBatch, TokenGrid
from hpc_jepa.masking.blocks import block_size
from hpc_jepa.masking.sampler import MaskSampler

GRID, CLIP, PLAIN_CLIPS = TokenGrid(8, 14, 14), (3, 16, 224, 224), 4
PLAIN = MaskingConfig()
GUIDED = MaskingConfig(motion=MotionGuidanceConfig())
Pool = Literal["trilinear", "area"]


def plain_masks(pixels: Tensor, config: MaskingConfig, pool: Pool, generator: torch.Generator) -> None:
    """Masks and distances of every clip, one clip and one block at a time."""
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
    """First tokens of the blocks of one clip."""
    places = list(product(*(range(count) for count in origin_counts(size, GRID))))
    scores = torch.ones(len(places))
    if motion is not None:
        blocks = [motion[t : t + size[0], y : y + size[1], x : x + size[2]] for t, y, x in places]
        scores = torch.stack([block.mean() for block in blocks]).clamp(min=1e-6) ** 2
    for index in torch.multinomial(scores, group.blocks, replacement=True, generator=generator).tolist():
        yield places[index]


def measure(clips: int, rounds: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Milliseconds of ours, the plain form and the floor for each kind of mask."""
    device = best_device()
    pixels = torch.randn(clips, *CLIP, device=device)
    some = pixels[:PLAIN_CLIPS].cpu()
    nothing = torch.zeros(clips, dtype=torch.int64, device=device)
    batch = ClipBatch(pixels, nothing, nothing, nothing.bool())
    generator = torch.Generator().manual_seed(0)
    kinds: dict[str, tuple[MaskingConfig, Pool, Callable[[], object]]] = {
        "multi-block": (PLAIN, "area", lambda: torch.arange(2 * clips * GRID.tokens, device=device)),
        "motion-guided, trilinear map": (GUIDED, "trilinear", lambda: _pixels_that_count(pixels).sum()),
        "motion-guided, area map": (GUIDED, "area", lambda: pixels.sum()),
    }
    times: dict[str, dict[str, list[float]]] = {kind: {"ours": [], "plain": [], "floor": []} for kind in kinds}
    for step in range(rounds + 1):
        for kind, (config, pool, floor) in kinds.items():
            semantics = Semantics.of("corrected").model_copy(update={"motion_pool": pool})
            sampler = MaskSampler(config, semantics, GRID, seed=0, batch_size=clips)
            times[kind]["ours"].append(milliseconds(lambda: sampler(step, batch), device))  # noqa: B023 - called at once
            plain = milliseconds(lambda: plain_masks(some, config, pool, generator), device)  # noqa: B023 - called at once
            times[kind]["plain"].append(plain * clips / len(some))
            times[kind]["floor"].append(milliseconds(floor, device))
            advance()
    figures = {
        kind: {side: statistics.median(seconds[1:]) for side, seconds in sides.items()} for kind, sides in times.items()
    }
    return {
        "clips": clips,
        "kinds": {kind: {**row, "ratio": row["plain"] / row["ours"]} for kind, row in figures.items()},
        "device": name_of(device),
    }


def _pixels_that_count(pixels: Tensor) -> Tensor:
    """The two by two pixels around each patch's centre, all that linear interpolation to the grid looks at."""
    rows = CLIP[2] // GRID.height
    return pixels.unfold(3, 2, rows)[..., rows // 2 - 1 :, :].unfold(4, 2, rows)


def main(
    clips: Annotated[int, typer.Option(min=PLAIN_CLIPS, help="Clips of a batch.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds.")] = 9,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="8 clips, 3 rounds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what the masks of a step cost."""
    torch.set_num_threads(threads)
    clips, rounds = (8, 3) if quick else (clips, rounds)
    with progress("bench", 3 * (rounds + 1)) as advance:
        result = measure(clips, rounds, advance)
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("masks", "ours ms", "plain ms", "ratio", "floor ms")
    for kind, row in result["kinds"].items():
        table.add_row(kind, f"{row['ours']:.1f}", f"{row['plain']:.0f}", f"{row['ratio']:.0f}x", f"{row['floor']:.1f}")
    Console().print(table)
    least = math.floor(min(row["ratio"] for row in result["kinds"].values()))
    typer.echo(f"{clips} clips, both groups, {result['device']}: at least {least}x the plain form")


if __name__ == "__main__":
    typer.run(main)
