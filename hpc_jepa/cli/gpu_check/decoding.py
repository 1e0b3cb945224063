"""Decoding on the GPU: every codec against PyAV, and the rates of all decoders."""

import io
import json
from collections.abc import Sequence
from typing import NamedTuple

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from hpc_jepa.cli.gpu_check.children import module, run_command
from hpc_jepa.cli.gpu_check.clips import colour_cube, generated_shards, moving_colours
from hpc_jepa.cli.gpu_check.part import PartContext, SkipPartError, Verdict, verdict_of
from hpc_jepa.cli.machine import first_line
from hpc_jepa.config.data import AugmentationConfig, ClipConfig
from hpc_jepa.data.crop import View
from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.encode import H264, VP9
from hpc_jepa.data.gpu_decoding import VideoFormat, gpu_refusal

TOLERANCE = 3.0
"""Mean grey difference (of 255). Decoders interpolate chroma differently; a wrong colour matrix gives 10 and more."""
FLAT_TOLERANCE = 4.0
"""Largest difference of any value inside flat patches, where interpolation does not matter: FFmpeg rounds by up to 3,
and decoders of MPEG-4 may round by 1."""
TABLE = "Difference from PyAV's frames in grey levels of 255: mean, and largest in flat patches of all colours"
FRAMES, SIDE = 8, 256
"""No side below the smallest that a GPU decodes (144 for HEVC)."""
PATCH = SIDE // 8


class Codec(NamedTuple):
    """A codec with its encoder and container. name: as in the metadata of shards."""

    title: str
    name: str
    bits: int
    encoder: str
    container: str

    @property
    def pixel_format(self) -> str:
        """FFmpeg's name: 4:2:0."""
        return "yuv420p" if self.bits == 8 else f"yuv420p{self.bits}le"


CODECS = (
    Codec("H.264", "h264", 8, "libx264", "mp4"),
    Codec("HEVC", "hevc", 8, "libx265", "mp4"),
    Codec("VP9", "vp9", 8, "libvpx-vp9", "webm"),
    Codec("MPEG-4", "mpeg4", 8, "mpeg4", "mp4"),
    Codec("AV1", "av1", 8, "libsvtav1", "mp4"),
    Codec("HEVC", "hevc", 10, "libx265", "mp4"),
    Codec("H.264", "h264", 10, "libx264", "mp4"),
    Codec("AV1", "av1", 10, "libsvtav1", "mp4"),
)
"""Common ones first: a decoder that crashes leaves the rows before it."""
HOPPER = (9, 0)
"""The compute capability of an H200, for which a rehearsal applies the rule of training."""


def decode_each_codec(context: PartContext) -> Verdict:
    """Difference of the GPU's frames and PyAV's: the mean of a moving clip, the largest in flat patches of colour.

    A codec that training decodes on the GPU must match; if it is refused, training falls back to PyAV, a warning.
    """
    import nvidia.dali  # noqa: F401  # the part is skipped before any row if it is not installed
    import torch

    capability = HOPPER if context.mode.rehearse else torch.cuda.get_device_capability(0)
    problems, missing, used, decoded = [], [], 0, 0
    for codec in CODECS:
        name = f"{codec.title}, {codec.bits} bit"
        reason = gpu_refusal(VideoFormat(codec.name, codec.pixel_format, SIDE, SIDE), capability)
        training = {"training_uses": "the GPU" if reason is None else "PyAV", "because": reason}
        try:
            clips = encoded(codec, moving_colours(FRAMES, SIDE, SIDE)), encoded(codec, colour_cube(FRAMES, PATCH))
        except (av.FFmpegError, av.codec.codec.UnknownCodecError) as error:
            context.row(TABLE, codec=name, result=f"no encoder here: {first_line(error)}", **training)
            continue
        try:
            differences, decoder = differences_from_pyav(clips, codec, context.mode.rehearse)
        except RuntimeError as error:
            context.row(TABLE, codec=name, result=f"refused: {first_line(error)[:120]}", **training)
            missing += [name] if reason is None else []
            continue
        difference, flat = float(differences[0].mean()), float(in_patches(differences[1]).max())
        context.row(TABLE, codec=name, result=f"decoded by {decoder}", difference=difference, flat=flat, **training)
        decoded += 1
        used += reason is None
        if reason is None and not (difference <= TOLERANCE and flat <= FLAT_TOLERANCE):
            problems.append(f"{name} differs from PyAV by {difference:.1f} of 255, by {flat:.1f} in flat colours")
    for name in missing:
        context.warn(f"{name} is refused by the GPU: training falls back to PyAV on the CPU")
    line = f"{decoded} of {len(CODECS)} codecs decoded"
    if not used:  # also where this PyAV has no encoders: nothing was compared
        return verdict_of(problems, 1, f"{line}; none that training would decode on the GPU")
    return verdict_of(problems, len(missing), f"{line}; those of training within {TOLERANCE:g} of 255 of PyAV")


def differences_from_pyav(
    clips: Sequence[bytes], codec: Codec, rehearse: bool
) -> tuple[list[NDArray[np.float32]], str]:
    """Absolute differences [F, H, W, 3] of each clip, and what decoded them. Raises RuntimeError if that cannot."""
    differences, decoder = [], ""
    for clip in clips:
        expected = decode_frames(clip, range(FRAMES))
        frames, decoder = decode(clip, expected, codec, rehearse)
        differences.append(np.abs(frames - expected.astype(np.float32)))
    return differences, decoder


def in_patches(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """The middle of every patch of :func:`colour_cube`, without the pixels into which compression blurs its border."""
    middle = slice(PATCH // 4, PATCH - PATCH // 4)
    return frames.reshape(len(frames), 8, PATCH, 8, PATCH, 3)[:, :, middle, :, middle]


def encoded(codec: Codec, frames: NDArray[np.uint8]) -> bytes:
    """Frames [F, SIDE, SIDE, 3] as a video without colour tags, so of BT.601 with limited range."""
    file = io.BytesIO()
    quiet = {"x265-params": "log-level=none"} if codec.encoder == "libx265" else {}
    with av.open(file, "w", format=codec.container) as video:
        stream = video.add_stream(codec.encoder, rate=24, options=quiet)
        assert isinstance(stream, VideoStream)
        stream.height = stream.width = SIDE
        stream.pix_fmt = codec.pixel_format
        stream.bit_rate = 8_000_000
        for pixels in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        video.mux(stream.encode())
    return file.getvalue()


def decode(video: bytes, frames: NDArray[np.uint8], codec: Codec, rehearse: bool) -> tuple[NDArray[np.float32], str]:
    """Frames [F, H, W, 3] of the training pipeline in grey levels, and what decoded them.

    In a rehearsal DALI decodes VP9 on the CPU; it gets the frames that PyAV has decoded of everything else.
    """
    from hpc_jepa.data.dali_pipeline import ClipPipeline

    clip, augmentation = ClipConfig(frames=FRAMES, stride=1, size=SIDE), AugmentationConfig()
    on_cpu = codec.name == "vp9"
    if rehearse:
        pipeline = ClipPipeline(clip, augmentation, batch_size=1, device=None, decoder="cpu" if on_cpu else None)
        name = "DALI on the CPU (stand-in)" if on_cpu else "PyAV (stand-in)"
    else:
        pipeline = ClipPipeline(clip, augmentation, batch_size=1, device=0, decoder="mixed")
        name = "DALI on the GPU"
    media = frames if rehearse and not on_cpu else np.frombuffer(video, np.uint8)
    view = View(0, 0, SIDE, SIDE, horizontal_flip=False, vertical_flip=False)
    pixels = pipeline.run([media], [view], [np.arange(FRAMES)])[0].cpu().numpy()
    mean, std = (np.array(values, np.float32)[:, None, None, None] for values in (augmentation.mean, augmentation.std))
    return (255 * (pixels * std + mean)).transpose(1, 2, 3, 0), name


def decode_rates(context: PartContext) -> Verdict:
    """``hpc-jepa shards bench`` on generated clips, H.264 and VP9."""
    import nvidia.dali  # noqa: F401

    best: tuple[float, str, float] = (0.0, "", 0.0)
    small = ["--frames=8", "--size=32", "--batch-size=2", "--batches=2", "--threads=1"]
    arguments = small if context.mode.rehearse else ["--batches=5"]
    for name, encoding in (("H.264", H264), ("VP9", VP9)):
        shards = generated_shards(context.folder / encoding.decoder, context.mode.rehearse, encoding)
        measured = json.loads(
            run_command(module("hpc_jepa", "shards", "bench", str(shards), "--json", *arguments)).splitlines()[-1]
        )
        for decoder in measured["decoders"]:
            rate = decoder["clips_per_second"]
            context.row(
                f"Clips a second, {measured['threads']} threads",
                codec=name,
                decoder=decoder["decoder"],
                clips_per_second=rate,
                clips_per_cpu_second=decoder["clips_per_cpu_second"],
                gpus_fed=decoder["gpus_fed"],
            )
            best = max(best, (rate, f"{decoder['decoder']}, {name}", decoder["gpus_fed"]))
    if not best[1]:
        raise SkipPartError("no decoder")
    line = f"{best[1]}: {best[0]:.0f} clips/s, enough for {best[2]:.1f} GPUs"
    return Verdict("warning" if best[2] < 1 and not context.mode.rehearse else "ok", line)
