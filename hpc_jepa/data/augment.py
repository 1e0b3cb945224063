"""Augmentation of a batch: crop, flip, resize and normalise videos and images side by side."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from hpc_jepa.config.data import AugmentationConfig, ClipConfig
from hpc_jepa.data.clip import Clip, EncodedClip
from hpc_jepa.data.dali_pipeline import ClipPipeline, Media, import_dali
from hpc_jepa.data.gpu_decoding import DaliDecoder, DecodingPipeline
from hpc_jepa.io.malloc import mmap_large_blocks

GPU_DECODER_THREADS = 16
"""Videos that a process decodes on its GPU at a time, at most one batch: about twice the 5 to 8 NVDEC engines of A100,
H100 and B200, so that the host parses one video while another is decoded. DALI caches up to 100 decoders itself."""


class _Kind(NamedTuple):
    """Clips that go through one DALI pipeline."""

    encoded: bool
    media: Media = "video"


class Augmenter:
    """Turns clips into pixels: decoded clips, and encoded clips, which DALI decodes by ``decoder``.

    Videos and single images run through separate DALI pipelines, so an image is cropped and resized once, however often
    it is repeated. Decoded clips are cropped and resized on the CPU, for a GPU too: their pixels are the same there.
    Raises InputError without DALI.
    """

    def __init__(
        self,
        clip: ClipConfig,
        augmentation: AugmentationConfig,
        batch_size: int,
        threads: int,
        device: torch.device,
        decoder: DaliDecoder | None = None,
    ) -> None:
        import_dali()  # an error here, not in a thread at the first batch
        mmap_large_blocks()
        self._clip = clip
        self._augmentation = augmentation
        self._batch_size = batch_size
        self._threads = threads
        self._device = device
        self._decoder = decoder
        self._pipelines: dict[_Kind, DecodingPipeline] = {}

    def empty(self, clips: int, frames: int, on_host: bool = False) -> Tensor:
        """Memory for pixels [B, C, ``frames``, size, size] of ``clips`` clips; with ``on_host`` pinned for a GPU."""
        shape = (clips, 3, frames, self._clip.size, self._clip.size)
        if on_host:
            return torch.empty(shape, pin_memory=self._device.type == "cuda")
        return torch.empty(shape, device=self._device)

    def fill(self, pixels: Tensor, clips: Mapping[int, Clip]) -> dict[int, str]:
        """Write clips, by row, into ``pixels`` [B, C, F, size, size]; a clip of one frame is repeated.

        If DALI cannot decode a batch, its clips are decoded one by one, so that what becomes of a clip does not depend
        on the others. Returns the rows that DALI cannot decode and why; they are not written.
        """
        groups: dict[tuple[_Kind, int], list[int]] = {}
        for row, clip in clips.items():
            groups.setdefault((_kind(clip), len(clip.plan.frames)), []).append(row)
        failures: dict[int, str] = {}
        for (kind, _), rows in groups.items():
            reason = self._write(pixels, kind, rows, clips)
            if reason is not None and len(rows) == 1:
                failures[rows[0]] = reason
            elif reason is not None:
                alone = {row: self._write(pixels, kind, [row], clips) for row in rows}
                failures |= {row: found for row, found in alone.items() if found is not None}
        return failures

    def _write(self, pixels: Tensor, kind: _Kind, rows: list[int], clips: Mapping[int, Clip]) -> str | None:
        """Write clips of one kind; why DALI cannot decode them, else None."""
        chosen = [clips[row] for row in rows]
        views, frames = [clip.plan.view for clip in chosen], [clip.plan.frames for clip in chosen]
        try:
            made = self._pipeline(kind).run([clip.video for clip in chosen], views, frames)
        except RuntimeError as error:
            self._pipelines.clear()  # a pipeline cannot be used after an error
            if not kind.encoded:
                raise
            return dali_reason(error)
        if made.device.type == "cpu" and self._device.type == "cuda":
            made = made.pin_memory()  # so that the copies do not wait for the device
        for row, clip_pixels in zip(rows, made, strict=True):
            pixels[row].copy_(clip_pixels, non_blocking=True)
        if made.is_cuda:  # the next run uses DALI's own stream and overwrites its output
            torch.cuda.current_stream(self._device).synchronize()
        return None

    def _pipeline(self, kind: _Kind) -> DecodingPipeline:
        """Decoded images and videos share one pipeline; encoded ones need one each."""
        if kind not in self._pipelines:
            self._pipelines[kind] = self._make_pipeline(kind)
        return self._pipelines[kind]

    def _make_pipeline(self, kind: _Kind) -> DecodingPipeline:
        settings = (self._clip, self._augmentation, self._batch_size)
        if not kind.encoded or self._decoder is None:
            return ClipPipeline(*settings, self._threads)
        threads, device = self._threads, None
        if self._decoder.device == "mixed":
            threads = max(threads, min(self._batch_size, GPU_DECODER_THREADS))
            device = self._device.index or 0
        make = self._decoder.make_pipeline
        return make(*settings, threads, device, self._decoder.device, kind.media)


def dali_reason(error: RuntimeError) -> str:
    """The cause in an error message of DALI: the line after the traceback of the pipeline definition."""
    lines = [line.strip() for line in str(error).partition("encountered:")[2].splitlines() if line.strip()]
    cause = lines[0] if lines else (str(error).splitlines() or ["no message"])[0]
    return cause.partition("failed: ")[2] or cause


def _kind(clip: Clip) -> _Kind:
    if isinstance(clip, EncodedClip):
        return _Kind(True, clip.plan.media)
    return _Kind(False)
