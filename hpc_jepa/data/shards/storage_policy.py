"""How a sample comes to be stored: as it is, without its sound, or compressed anew.

A file is stored as it is when every reader can take it: H.264, HEVC, VP8, VP9, AV1, MPEG-4 or MJPEG in MP4, WebM,
Matroska or AVI, 8-bit 4:2:0, upright, with presentation times, whole. Streams besides the pictures are left out without
touching these. Whatever else decodes is compressed anew, and so is everything in mode ``transcode``.
"""

import io
from typing import NamedTuple

from PIL import Image

from hpc_jepa.data.decode import inspect_video
from hpc_jepa.data.encode import Encoding, encode
from hpc_jepa.data.images import is_image, open_image
from hpc_jepa.data.shards.container import MAX_FRAME_PIXELS, ContainerInfo, probe_container
from hpc_jepa.data.shards.manifest import Recipe, SampleInfo
from hpc_jepa.data.shards.transcode import keep_video_stream, transcode
from hpc_jepa.data.sources.source import EncodedFile, PackedSample, RawFrames, Sample
from hpc_jepa.errors import UndecodableError

CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg")
OPEN_CODECS = ("vp8", "vp9", "av1")
PIXEL_FORMATS = ("yuv420p", "yuvj420p")
IMAGE_MODES = ("RGB", "L")
JPEG_QUALITY = 95


class TarEntry(NamedTuple):
    """Two members of a tar: the description as JSON, and the video under its extension. how: with the reason."""

    info: SampleInfo
    json: bytes
    extension: str
    video: bytes
    how: str


class _Video(NamedTuple):
    """A file and what is in it."""

    data: bytes
    extension: str
    codec: str
    frames: int
    fps: float
    width: int
    height: int
    how: str


def to_tar_entry(sample: Sample, file: str, classes: tuple[str, ...], recipe: Recipe) -> TarEntry:
    """What goes into the tar. Raises UndecodableError for what cannot be read."""
    media = sample.media
    if isinstance(media, PackedSample):
        info = SampleInfo.model_validate_json(media.info)
        return TarEntry(info, media.info, media.extension, media.data, info.stored or "copied")
    video = _generated(media, recipe.encoding) if isinstance(media, RawFrames) else _filed(media, recipe)
    cut = media if isinstance(media, EncodedFile) else None
    info = SampleInfo(
        frames=video.frames,
        fps=video.fps,
        width=video.width,
        height=video.height,
        codec=video.codec,
        label=sample.label,
        class_name=None if sample.label is None or not classes else classes[sample.label],
        text=sample.text,
        template=sample.template,
        placeholders=sample.placeholders,
        file=file,
        start=cut.start if cut else None,
        end=cut.end if cut else None,
        stored=video.how.partition(":")[0],
    )
    return TarEntry(info, info.to_json(), video.extension, video.data, video.how)


def _generated(frames: RawFrames, encoding: Encoding) -> _Video:
    data = encode(frames.pixels, frames.fps, encoding)
    facts = inspect_video(data)
    return _Video(data, encoding.extension, facts.codec, facts.frames, facts.fps, facts.width, facts.height, "encoded")


def _filed(file: EncodedFile, recipe: Recipe) -> _Video:
    if is_image(file.data):
        return _picture(file.data, recipe)
    facts = probe_container(file.data)
    if facts.width * facts.height > MAX_FRAME_PIXELS:
        raise UndecodableError(f"claims frames of {facts.width}x{facts.height}")
    reason = transcode_reason(facts, file, recipe)
    if reason:
        return _transcoded(file, recipe.encoding, reason)
    return _copied(file.data, facts, recipe)


def transcode_reason(facts: ContainerInfo, file: EncodedFile, recipe: Recipe) -> str | None:
    """Why a file cannot be stored as it is, in a word or two; None if it can."""
    rules = {
        "as asked for": recipe.mode == "transcode",
        "cut": file.start is not None or file.end is not None,
        f"codec {facts.codec}": facts.codec not in CODECS,
        f"container {facts.container}": _extension(facts) is None,
        f"pixels {facts.pixel_format}": facts.pixel_format not in PIXEL_FORMATS,
        "rotated": facts.rotated,
        "no presentation times": not facts.timed,
    }
    return next((reason for reason, applies in rules.items() if applies), None)


def _extension(facts: ContainerInfo) -> str | None:
    """What files of this kind should be called, whatever this one is called."""
    if "matroska" in facts.container:
        return "webm" if facts.codec in OPEN_CODECS else "mkv"
    return next((kind for kind in ("mp4", "avi") if kind in facts.container), None)


def _copied(data: bytes, facts: ContainerInfo, recipe: Recipe) -> _Video:
    extension = _extension(facts)
    assert extension is not None
    how = "copied"
    if facts.other_streams:
        data, how = keep_video_stream(data, extension), "stripped"
    frames, fps, width, height = facts.packets, float(facts.rate), facts.width, facts.height
    if recipe.check == "decode":
        frames, fps, width, height, _ = inspect_video(data)
    return _Video(data, extension, facts.codec, frames, fps, width, height, how)


def _transcoded(file: EncodedFile, encoding: Encoding, reason: str) -> _Video:
    data, frames, fps, width, height = transcode(file.data, encoding, file.start, file.end)
    return _Video(data, encoding.extension, encoding.decoder, frames, fps, width, height, f"transcoded: {reason}")


def _picture(data: bytes, recipe: Recipe) -> _Video:
    """An image that is stored as it is if it is a plain JPEG or PNG, and as a JPEG if not."""
    with open_image(data) as image:
        if image.width * image.height > MAX_FRAME_PIXELS:
            raise UndecodableError(f"claims {image.width}x{image.height} pixels")
        plain = image.format in ("JPEG", "PNG") and image.mode in IMAGE_MODES
        if recipe.mode == "copy" and plain:
            if recipe.check == "decode":
                image.load()
            form = str(image.format).lower()
            return _Video(data, "jpg" if form == "jpeg" else form, form, 1, 0.0, *image.size, "copied")
        picture = _shrunk(image.convert("RGB"), recipe.encoding.short_side if recipe.mode == "transcode" else None)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    reason = "as asked for" if recipe.mode == "transcode" else f"pixels {image.mode}"
    return _Video(file.getvalue(), "jpg", "jpeg", 1, 0.0, *picture.size, f"transcoded: {reason}")


def _shrunk(image: Image.Image, short_side: int | None) -> Image.Image:
    scale = 1.0 if short_side is None else min(1.0, short_side / min(image.size))
    if scale == 1.0:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)
