"""Preview of a training clip: its frames with the context and target masks of the first step."""

import base64
import io
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hpc_jepa.config.data import AugmentationConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.runs.preview_file import Preview, PreviewStrip
from hpc_jepa.types import ClipBatch, TokenGrid, TokenMasks

FRAME_SIDE = 168
"""Approximate size of a drawn frame in pixels."""

GAP = 8
TARGET_COLOUR = np.array([230, 97, 0], dtype=np.float32)
TINT = 0.5
HIDDEN_LIGHT = 0.25

Frames = NDArray[np.float32]
"""[T, Hp, Wp, 3] in [0, 255]: the first frame of each tubelet."""


def clip_preview(config: RunConfig, clips: ClipBatch, masks: Sequence[TokenMasks]) -> Preview:
    """The first clip of a batch, unmasked and with each mask group."""
    pixels = clips.pixels[0].float().cpu()
    grid = config.image_grid if pixels.shape[1] == 1 else config.grid
    frames = _frames(pixels, config.model.encoder.tubelet, config.data.augmentation)
    plain = PreviewStrip(caption="The clip, one frame per tubelet", image=_png(frames))
    return Preview(strips=(plain, *_masked(frames, masks, grid)))


def _frames(pixels: torch.Tensor, tubelet: int, augmentation: AugmentationConfig) -> Frames:
    """Frames of a normalised clip [3, F, Hp, Wp] in [0, 255]."""
    mean, std = (np.asarray(values, dtype=np.float32) for values in (augmentation.mean, augmentation.std))
    frames = pixels[:, ::tubelet].permute(1, 2, 3, 0).numpy()
    return np.asarray(np.clip((frames * std + mean) * 255, 0, 255), dtype=np.float32)


def _masked(frames: Frames, masks: Sequence[TokenMasks], grid: TokenGrid) -> Iterator[PreviewStrip]:
    for number, group in enumerate(masks, start=1):
        context, target = _token_mask(group.context[0], grid), _token_mask(group.target[0], grid)
        drawn = np.where(_per_pixel(context, frames), frames, HIDDEN_LIGHT * frames)
        drawn = np.where(_per_pixel(target, frames), (1 - TINT) * frames + TINT * TARGET_COLOUR, drawn)
        caption = f"Mask group {number}: {context.sum()} context and {target.sum()} target tokens of {grid.tokens}"
        yield PreviewStrip(caption=caption, image=_png(drawn))


def _token_mask(tokens: torch.Tensor, grid: TokenGrid) -> NDArray[np.bool_]:
    """Boolean mask [T, H, W] of a list of tokens."""
    mask = np.zeros(grid.tokens, dtype=np.bool_)
    mask[tokens.cpu().numpy()] = True
    return mask.reshape(grid.time, grid.height, grid.width)


def _per_pixel(mask: NDArray[np.bool_], frames: Frames) -> NDArray[np.bool_]:
    """The mask [T, H, W] per pixel: [T, Hp, Wp, 1]."""
    rows, columns = frames.shape[1] // mask.shape[1], frames.shape[2] // mask.shape[2]
    return mask.repeat(rows, axis=1).repeat(columns, axis=2)[..., None]


def _png(frames: Frames) -> str:
    """Frames side by side, enlarged without smoothing, as a PNG data URL."""
    scale = max(1, round(FRAME_SIDE / frames.shape[1]))
    large = frames.astype(np.uint8).repeat(scale, axis=1).repeat(scale, axis=2)
    opaque = np.concatenate([large, np.full_like(large[..., :1], 255)], axis=-1)
    spaced = np.pad(opaque, ((0, 0), (0, 0), (0, GAP), (0, 0)))
    row = np.concatenate(list(spaced), axis=1)[:, :-GAP]
    buffer = io.BytesIO()
    Image.fromarray(row).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
