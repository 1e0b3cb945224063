"""What the model sees: frames of a training clip with the masks of its first step drawn over them."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hpc_jepa.config.data import AugmentationConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.types import ClipBatch, TokenGrid, TokenMasks

FRAME_SIDE = 168
"""Pixels of a drawn frame, about."""

GAP = 8
TARGET_COLOUR = np.array([230, 97, 0], dtype=np.float32)
TINT = 0.5
HIDDEN_LIGHT = 0.25

Frames = NDArray[np.float32]
"""[T, Hp, Wp, 3] in [0, 255]: the first frame of each tubelet."""


@dataclass(frozen=True)
class PreviewStrip:
    """One row of frames as a PNG data address, and what it shows."""

    caption: str
    image: str


def preview_strips(config: RunConfig) -> list[PreviewStrip]:
    """The first clip of the run's first step: as it is, and under each mask group.

    Raises DataError where the training shards are gone.
    """
    clips = _first_batch(config)
    grid = config.grid
    masks = MaskSampler(config.masking, config.semantics, grid, seed=config.seed, batch_size=config.engine.batch_size)
    frames = _frames(clips.pixels[0], config.model.encoder.tubelet, config.data.augmentation)
    return [PreviewStrip("The clip, one frame per tubelet", _png(frames)), *_masked(frames, masks(0, clips), grid)]


def _first_batch(config: RunConfig) -> ClipBatch:
    device = torch.device("cpu")
    batch_size = config.engine.batch_size
    loader = ClipLoader(config.data, seed=config.seed, batch_size=batch_size, rank=0, world_size=1, device=device)
    try:
        return loader.batch(0)
    finally:
        loader.close()


def _frames(pixels: torch.Tensor, tubelet: int, augmentation: AugmentationConfig) -> Frames:
    """Undo the normalisation of a clip [3, F, Hp, Wp]."""
    mean, std = (np.asarray(values, dtype=np.float32) for values in (augmentation.mean, augmentation.std))
    frames = pixels[:, ::tubelet].permute(1, 2, 3, 0).numpy()
    return np.asarray(np.clip((frames * std + mean) * 255, 0, 255), dtype=np.float32)


def _masked(frames: Frames, masks: tuple[TokenMasks, ...], grid: TokenGrid) -> Iterator[PreviewStrip]:
    for number, group in enumerate(masks, start=1):
        context, target = _cells(group.context[0], grid), _cells(group.target[0], grid)
        drawn = np.where(_over(context, frames), frames, HIDDEN_LIGHT * frames)
        drawn = np.where(_over(target, frames), (1 - TINT) * frames + TINT * TARGET_COLOUR, drawn)
        caption = f"Mask group {number}: {context.sum()} context and {target.sum()} target tokens of {grid.tokens}"
        yield PreviewStrip(caption, _png(drawn))


def _cells(tokens: torch.Tensor, grid: TokenGrid) -> NDArray[np.bool_]:
    """[T, H, W]: which tokens are listed."""
    cells = np.zeros(grid.tokens, dtype=np.bool_)
    cells[tokens.numpy()] = True
    return cells.reshape(grid.time, grid.height, grid.width)


def _over(cells: NDArray[np.bool_], frames: Frames) -> NDArray[np.bool_]:
    """Each cell over the pixels it covers: [T, Hp, Wp, 1]."""
    rows, columns = frames.shape[1] // cells.shape[1], frames.shape[2] // cells.shape[2]
    return cells.repeat(rows, axis=1).repeat(columns, axis=2)[..., None]


def _png(frames: Frames) -> str:
    """Frames side by side, enlarged without smoothing, as a data address."""
    scale = max(1, round(FRAME_SIDE / frames.shape[1]))
    large = frames.astype(np.uint8).repeat(scale, axis=1).repeat(scale, axis=2)
    opaque = np.concatenate([large, np.full_like(large[..., :1], 255)], axis=-1)
    spaced = np.pad(opaque, ((0, 0), (0, 0), (0, GAP), (0, 0)))
    row = np.concatenate(list(spaced), axis=1)[:, :-GAP]
    buffer = io.BytesIO()
    Image.fromarray(row).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
