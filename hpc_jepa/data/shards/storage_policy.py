"""Storage policy: whether a sample is stored unchanged, without its sound, or transcoded.

A file is stored unchanged if every supported reader can decode it: H.264, HEVC, VP8, VP9, AV1, MPEG-4 or MJPEG in MP4,
WebM, Matroska or AVI, 8-bit 4:2:0, not rotated, not cut, with frames that are found at random as in a sequential
decode. Other streams are removed, and wrong times or packed B-frames mended, without re-encoding the video. Everything
else that decodes is transcoded, and so is every file in mode ``transcode``.
"""

import io
from typing import NamedTuple

from PIL import Image

from hpc_jepa.data.colour import FULL_RANGE
from hpc_jepa.data.decode import VideoInfo
from hpc_jepa.data.encode import Encoding, encode
from hpc_jepa.data.images import LOSSY_FORMATS, is_still_image, open_image, opens_as_image, to_rgb
from hpc_jepa.data.shards.container import MAX_FRAME_PIXELS, ContainerInfo, probe_container
from hpc_jepa.data.shards.manifest import Recipe, SampleInfo
from hpc_jepa.data.shards.transcode import keep_video_stream, remux_in_order, transcode
from hpc_jepa.data.sources.source import EncodedFile, PackedSample, RawFrames, Sample
from hpc_jepa.data.timeline import Timeline, establish, inspect_video
from hpc_jepa.data.track import RATE_TOLERANCE
from hpc_jepa.errors import UndecodableError

CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg")
OPEN_CODECS = ("vp8", "vp9", "av1")
PIXEL_FORMATS = ("yuv420p", "yuvj420p")
IMAGE_MODES = ("RGB", "L")
JPEG_QUALITY = 95


class TarEntry(NamedTuple):
    """A sample as stored: metadata, the same as JSON, and the video with its extension. method: with the reason."""

    info: SampleInfo
    json: bytes
    extension: str
    video: bytes
    method: str


class _Video(NamedTuple):
    """A video or image file."""

    data: bytes
    extension: str
    info: VideoInfo
    method: str
    colour: str | None = None


def to_tar_entry(sample: Sample, file: str, classes: tuple[str, ...], recipe: Recipe) -> TarEntry:
    """Convert a sample to its stored form. Raises UndecodableError if it cannot be read."""
    media = sample.media
    if isinstance(media, PackedSample):
        return _mend(media, recipe) if media.repair else _keep(media)
    video = _encode_frames(media, recipe.encoding) if isinstance(media, RawFrames) else _store_file(media, recipe)
    interval = (media.start, media.end) if isinstance(media, EncodedFile) else (None, None)
    info = SampleInfo(
        **video.info._asdict(),
        label=sample.label,
        class_name=None if sample.label is None or not classes else classes[sample.label],
        text=sample.text,
        template=sample.template,
        placeholders=sample.placeholders,
        file=file,
        start=interval[0],
        end=interval[1],
        stored=video.method.partition(":")[0],
        colour=video.colour,
        cluster=sample.cluster,
        targets=None if sample.targets is None else dict(sample.targets),
    )
    return TarEntry(info, info.to_json(), video.extension, video.data, video.method)


def _keep(sample: PackedSample) -> TarEntry:
    info = SampleInfo.model_validate_json(sample.info)
    return TarEntry(info, sample.info, sample.extension, sample.data, info.stored or "copied")


def _mend(sample: PackedSample, recipe: Recipe) -> TarEntry:
    """Remux or transcode a stored video that readers would not decode in order or upright; correct its metadata."""
    kept = _keep(sample)
    if kept.info.is_image:
        return kept
    timeline, container = establish(sample.data), probe_container(sample.data)
    colour = container.colour
    video = _Video(sample.data, sample.extension, timeline.info, kept.method, colour)
    if container.rotated:
        video = _transcode(EncodedFile(sample.data), recipe.encoding, "rotated")
    elif timeline.fault:
        remuxed = _remux(sample.data, timeline, sample.extension, timeline.fault)
        if remuxed:
            video = remuxed._replace(colour=colour)
        else:
            video = _transcode(EncodedFile(sample.data), recipe.encoding, timeline.fault)
    elif colour == kept.info.colour and not metadata_differences(timeline.info, kept.info):
        return kept
    changed = video.info._asdict() | {"stored": video.method.partition(":")[0], "colour": video.colour}
    info = kept.info.model_copy(update=changed)
    return TarEntry(info, info.to_json(), video.extension, video.data, video.method)


def metadata_differences(decoded: VideoInfo, info: SampleInfo) -> list[str]:
    """How a decoded video contradicts its metadata; fps may differ as far as a rate may from the header's."""
    names = [name for name in ("frames", "width", "height", "codec") if getattr(decoded, name) != getattr(info, name)]
    if abs(decoded.fps - info.fps) > RATE_TOLERANCE * info.fps + 1 / max(info.seconds, 1):
        names.append("fps")
    return [f"has {name} {getattr(decoded, name)}, but {getattr(info, name)} in its metadata" for name in names]


def _encode_frames(frames: RawFrames, encoding: Encoding) -> _Video:
    data = encode(frames.pixels, frames.fps, encoding)
    return _Video(data, encoding.extension, inspect_video(data), "encoded")


def _store_file(file: EncodedFile, recipe: Recipe) -> _Video:
    if is_still_image(file.data):
        return _store_image(file.data, recipe)
    info = probe_container(file.data)
    if info.width * info.height > MAX_FRAME_PIXELS:
        raise UndecodableError(f"has a header with frames of {info.width}x{info.height}")
    if info.container.endswith("_pipe") and info.packets == 1 and opens_as_image(file.data):
        return _store_image(file.data, recipe)
    reason = transcode_reason(info, file, recipe)
    if reason:
        return _transcode(file, recipe.encoding, reason)
    stored = _copy(file, info, recipe)
    return stored if stored.method.startswith("transcoded") else stored._replace(colour=info.colour)


def transcode_reason(info: ContainerInfo, file: EncodedFile, recipe: Recipe) -> str | None:
    """Why a file cannot be stored unchanged, in a few words; None if it can."""
    rules = {
        "requested": recipe.mode == "transcode",
        "cut": file.start is not None or file.end is not None,
        f"codec {info.codec}": info.codec not in CODECS,
        f"container {info.container}": _extension(info) is None,
        f"pixels {info.pixel_format}": info.pixel_format not in PIXEL_FORMATS,
        "rotated": info.rotated,
        # H.264 and HEVC of full range decode to yuvj420p; torchcodec takes other frames for limited range.
        FULL_RANGE: info.colour == FULL_RANGE and info.pixel_format == "yuv420p",
    }
    return next((reason for reason, applies in rules.items() if applies), None)


def _extension(info: ContainerInfo) -> str | None:
    """The extension for this container, whatever the name of the file."""
    if "matroska" in info.container:
        return "webm" if info.codec in OPEN_CODECS else "mkv"
    return next((kind for kind in ("mp4", "avi") if kind in info.container), None)


def _copy(file: EncodedFile, info: ContainerInfo, recipe: Recipe) -> _Video:
    """Store the file, or its video stream, if every reader finds the right frames; else remux it, or transcode."""
    extension = _extension(info)
    assert extension is not None
    original, fault = None, "other streams"
    data, method = file.data, "copied"
    try:
        if info.other_streams:
            data, method = keep_video_stream(data, extension), "stripped"
        if recipe.check == "probe" and info.in_order:
            video = VideoInfo(info.packets, float(info.rate), info.width, info.height, info.codec, info.times)
            return _Video(data, extension, video, method)
        original = establish(data)
        if original.fault is None:
            return _Video(data, extension, original.info, method)
        fault = original.fault
    except UndecodableError:
        if not info.other_streams:
            raise
    if original is None or info.other_streams:
        original = establish(file.data)
    fault = original.fault or fault
    return _remux(file.data, original, extension, fault) or _transcode(file, recipe.encoding, fault)


def _remux(data: bytes, original: Timeline, extension: str, fault: str) -> _Video | None:
    """The same frames with times of their own, unless that does not mend the file."""
    extension = "mp4" if extension == "avi" else extension
    try:
        remuxed = remux_in_order(data, original, extension)
        found = establish(remuxed)
    except UndecodableError:
        return None
    if found.fault or found.checksums != original.checksums:
        return None
    return _Video(remuxed, extension, original.info, f"remuxed: {fault}")


def _transcode(file: EncodedFile, encoding: Encoding, reason: str) -> _Video:
    data, info = transcode(file.data, encoding, file.start, file.end)
    return _Video(data, encoding.extension, info, f"transcoded: {reason}")


def _store_image(data: bytes, recipe: Recipe) -> _Video:
    """A plain JPEG or PNG is stored unchanged, a lossless image of another kind as a PNG, any other image as a JPEG."""
    with open_image(data) as image:
        if image.width * image.height > MAX_FRAME_PIXELS:
            raise UndecodableError(f"has a header with {image.width}x{image.height} pixels")
        storable = image.format in ("JPEG", "PNG")
        if recipe.mode == "copy" and storable and image.mode in IMAGE_MODES:
            if recipe.check == "decode":
                image.load()
            codec = str(image.format).lower()
            return _Video(data, "jpg" if codec == "jpeg" else codec, VideoInfo(1, 0.0, *image.size, codec), "copied")
        rgb = _downscale(to_rgb(image), recipe.encoding.short_side if recipe.mode == "transcode" else None)
    file = io.BytesIO()
    if recipe.mode == "copy" and not storable and image.format not in LOSSY_FORMATS:
        extension, codec = "png", "png"
        rgb.save(file, "PNG")
    else:
        extension, codec = "jpg", "jpeg"
        rgb.save(file, "JPEG", quality=JPEG_QUALITY)
    if recipe.mode == "transcode":
        reason = "requested"
    else:
        reason = f"pixels {image.mode}" if storable else f"codec {str(image.format).lower()}"
    return _Video(file.getvalue(), extension, VideoInfo(1, 0.0, *rgb.size, codec), f"transcoded: {reason}")


def _downscale(image: Image.Image, short_side: int | None) -> Image.Image:
    scale = 1.0 if short_side is None else min(1.0, short_side / min(image.size))
    if scale == 1.0:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)
