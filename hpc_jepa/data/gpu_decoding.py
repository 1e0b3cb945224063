"""Where a clip is decoded: by the GPU's video decoder (NVDEC, through DALI) or by PyAV on the CPU.

``auto`` and ``gpu`` decode on the GPU what both NVDEC and DALI are known to decode right: 8-bit 4:2:0 video of one of
the codecs in LIMITS with BT.601 colours and limited range, and JPEG images. Codecs follow NVIDIA's NVDEC application
note (Video Codec SDK 13.0, table 1), sizes the capabilities that the driver reports (cuvidGetDecoderCaps). DALI
converts all frames as NV12 by BT.601, so other pixel formats and colours are left to PyAV even where NVDEC decodes
them.
"""

import ctypes
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_jepa.config.data import DecoderSetting
from hpc_jepa.data.colour import FULL_RANGE, uncommon_colour
from hpc_jepa.data.crop import View
from hpc_jepa.data.dali_pipeline import ClipPipeline, Decoder
from hpc_jepa.data.decode import open_video
from hpc_jepa.data.images import is_image, open_image
from hpc_jepa.data.shards.shard_folder import StoredVideo
from hpc_jepa.errors import InputError

LOG = logging.getLogger(__name__)

NVCUVID = "libnvcuvid.so.1"
"""The driver's video library. Containers have it only with NVIDIA_DRIVER_CAPABILITIES=video (or all)."""

Capability = tuple[int, int]
"""CUDA compute capability."""

MIN_CAPABILITY = (7, 0)
AV1_CAPABILITIES = ((8, 6), (8, 7), (8, 9))
"""Below 10.0; GA100 (8.0) and Hopper (9.0) have no AV1 decoder."""

LARGE_H264 = (10, 0)
"""From this capability on, H.264 is decoded up to 8192 x 8192."""

FAILURES_TO_DISABLE = 8
"""Clips of a process that fail before any is decoded, after which it does not try the decoder again."""


LOSSLESS_PROFILES = ("High 4:4:4 Predictive", "CAVLC 4:4:4")
"""Of H.264. x264 writes the first for lossless 4:2:0 too; NVDEC has Baseline, Main and High only."""


class VideoFormat(NamedTuple):
    """What decides where a file is decoded. codec: as in SampleInfo; pixel_format: FFmpeg's, or Pillow's mode.

    lossless: it is H.264 of a profile with lossless blocks.
    """

    codec: str
    pixel_format: str
    width: int
    height: int
    interlaced: bool = False
    lossless: bool = False


class SizeLimits(NamedTuple):
    """Width and height of the smallest and the largest frames, and macroblocks of 16 x 16 pixels per frame."""

    smallest: tuple[int, int]
    largest: tuple[int, int]
    macroblocks: int = 1 << 18


LIMITS = {
    "h264": SizeLimits((48, 16), (4096, 4096)),
    "hevc": SizeLimits((144, 144), (8192, 8192)),
    "vp8": SizeLimits((48, 16), (4096, 4096)),
    "vp9": SizeLimits((128, 128), (8192, 8192)),
    "av1": SizeLimits((128, 128), (8192, 8192)),
    "mpeg4": SizeLimits((48, 16), (2032, 2032), 8192),
}


def gpu_refusal(video: VideoFormat, capability: Capability) -> str | None:
    """Why a GPU does not decode a file, None if it does. The reason names limits, not the file."""
    if video.codec in ("jpeg", "png"):
        return image_refusal(video)
    limits = LIMITS.get(video.codec)
    if limits is None:
        return f"no GPU decoder for {video.codec}"
    if capability < MIN_CAPABILITY:
        return f"compute capability {_dotted(capability)} is below {_dotted(MIN_CAPABILITY)}"
    if video.codec == "av1" and capability < (10, 0) and capability not in AV1_CAPABILITIES:
        return f"no av1 decoder in GPUs of compute capability {_dotted(capability)}"
    if video.pixel_format != "yuv420p":
        return f"pixel format {video.pixel_format}, not yuv420p"
    if video.interlaced:
        return "interlaced frames"
    if video.lossless:
        return "lossless H.264"
    if video.codec == "h264" and capability >= LARGE_H264:
        limits = limits._replace(largest=(8192, 8192))
    return _size_refusal(video, limits)


def _size_refusal(video: VideoFormat, limits: SizeLimits) -> str | None:
    width, height = video.width, video.height
    if width % 2 or height % 2:
        return "odd frame size"
    if width < limits.smallest[0] or height < limits.smallest[1]:
        return f"{video.codec} frames below {limits.smallest[0]}x{limits.smallest[1]}"
    if width > limits.largest[0] or height > limits.largest[1] or width * height > 256 * limits.macroblocks:
        return f"{video.codec} frames above {limits.largest[0]}x{limits.largest[1]} or {limits.macroblocks} macroblocks"
    return None


def dali_cpu_refusal(video: VideoFormat) -> str | None:
    """Why DALI does not decode a file without a GPU, None if it does."""
    if video.codec in ("jpeg", "png"):
        return image_refusal(video)
    if video.codec not in ("vp8", "vp9"):
        return f"no CPU decoder for {video.codec} in DALI"
    return None if video.pixel_format == "yuv420p" else f"pixel format {video.pixel_format}, not yuv420p"


def image_refusal(image: VideoFormat) -> str | None:
    """Why DALI does not decode an image: PNG gains nothing, and other than 8-bit grey or RGB is converted otherwise."""
    if image.codec == "jpeg" and image.pixel_format in ("RGB", "L"):
        return None
    return f"{image.codec} image of mode {image.pixel_format}"


def _dotted(capability: Capability) -> str:
    return f"{capability[0]}.{capability[1]}"


class DecodingPipeline(Protocol):
    """Decodes and augments compressed clips, as ClipPipeline does."""

    def run(
        self, videos: Sequence[NDArray[np.uint8]], views: Sequence[View], frames: Sequence[NDArray[np.int64]]
    ) -> Tensor:
        """Normalised pixels [B, C, F, size, size]. Raises RuntimeError if a clip cannot be decoded."""


@dataclass(frozen=True)
class DaliDecoder:
    """DALI's decoding step. device: ``mixed`` on the GPU, ``cpu`` without one; refusal: why PyAV decodes a file."""

    device: Decoder
    refusal: Callable[[VideoFormat], str | None]
    make_pipeline: Callable[..., DecodingPipeline] = ClipPipeline


DALI_ON_CPU = DaliDecoder("cpu", dali_cpu_refusal)


def choose_decoder(setting: DecoderSetting, device: torch.device) -> DaliDecoder | None:
    """DALI's decoder for ``data.decoder``, None where PyAV decodes everything.

    Raises InputError if the setting is ``gpu`` and there is no usable GPU decoder.
    """
    if setting == "cpu":
        return None
    problem = gpu_problem(device)
    if problem is None:
        return DaliDecoder("mixed", partial(gpu_refusal, capability=torch.cuda.get_device_capability(device)))
    if setting == "gpu":
        raise InputError(f"data.decoder: gpu, but {problem}; correct that, or set auto or cpu")
    if device.type == "cuda":
        LOG.warning("%s: PyAV decodes all clips on the CPU", problem)
    return None


def gpu_problem(device: torch.device) -> str | None:
    """Why the process cannot decode on a GPU, None if it can."""
    if device.type != "cuda":
        return "this process has no GPU"
    try:
        ctypes.CDLL(NVCUVID)
    except OSError:
        return f"the driver's {NVCUVID} cannot be loaded (containers need NVIDIA_DRIVER_CAPABILITIES=video,compute)"
    return None


class DecoderChoice:
    """Decides for each sample once whether DALI decodes it. Thread-safe.

    ``samples``: number of samples of each source. Failures are counted for this process alone.
    """

    def __init__(self, decoder: DaliDecoder, samples: Sequence[int]) -> None:
        self._refusal = decoder.refusal
        self._decisions: list[str | None] = []
        self._numbers: dict[str | None, int] = {}
        self._chosen = [np.zeros(count, np.int32) for count in samples]
        self._lock = Lock()
        self._decoded = 0
        self._failed = 0
        self._disabled: str | None = None

    def decide(self, source: int, sample: int, video: StoredVideo) -> str | None:
        """Why PyAV decodes a sample, None for DALI. Raises UndecodableError if its header cannot be read."""
        if self._disabled is not None:
            return self._disabled
        if number := int(self._chosen[source][sample]):
            return self._decisions[number - 1]
        return self._remember(source, sample, self._decide(video))

    def refuse(self, source: int, sample: int, reason: str) -> None:
        """Leave a sample that DALI failed to decode to PyAV from now on."""
        self._remember(source, sample, reason)
        self._failed += 1
        if not self._decoded and self._failed >= FAILURES_TO_DISABLE:
            LOG.warning("DALI decoded none of %d clips (%s): PyAV decodes all clips from now on", self._failed, reason)
            self._disabled = reason

    def count_decoded(self, clips: int) -> None:
        """Count clips that DALI decoded."""
        self._decoded += clips

    def _remember(self, source: int, sample: int, decision: str | None) -> str | None:
        with self._lock:
            if decision not in self._numbers:
                self._decisions.append(decision)
                self._numbers[decision] = len(self._decisions)
            self._chosen[source][sample] = self._numbers[decision]
        return decision

    def _decide(self, video: StoredVideo) -> str | None:
        refusal = self._refusal(probe_format(video.data))
        if refusal is not None or is_image(video.data):
            return refusal
        return colour_refusal(video.info.colour if video.info.stored else probe_colour(video.data))


def colour_refusal(colour: str | None) -> str | None:
    """Why DALI does not convert the colours of a video right; ``colour`` as in SampleInfo, None if it does."""
    if colour is None:
        return None
    return "full colour range" if colour == FULL_RANGE else f"colour matrix {colour}, not BT.601"


def probe_format(file: bytes) -> VideoFormat:
    """Codec, pixel format and size from the headers of a video or image. Raises UndecodableError if it is neither."""
    if is_image(file):
        with open_image(file) as image:
            codec = "png" if image.format == "PNG" else "jpeg"
            return VideoFormat(codec, image.mode, image.width, image.height)
    with open_video(file) as (_, stream):
        decoder = stream.codec_context
        codec, pixel_format = decoder.codec.canonical_name, decoder.pix_fmt or "unknown"
        lossless = codec == "h264" and decoder.profile in LOSSLESS_PROFILES
        return VideoFormat(codec, pixel_format, decoder.width, decoder.height, decoder.field_order > 1, lossless)


def probe_colour(video: bytes) -> str | None:
    """Colours of the first frame, as ``SampleInfo.colour``; for shards whose metadata do not state them."""
    with open_video(video) as (container, stream):
        return next((uncommon_colour(frame) for frame in container.decode(stream)), None)
