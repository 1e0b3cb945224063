"""Still images: recognised by their first bytes and decoded with Pillow."""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hpc_jepa.errors import UndecodableError

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
"""First bytes of JPEG and PNG files, the images that shards hold."""

OTHER_SIGNATURES = re.compile(
    rb"RIFF....WEBP|GIF8[79]a|II[*+]\0|MM\0[*+]|\0\0\0\x0cjP  |\xff\x4f\xff\x51|....ftyp(?:avi[fs]|hei[cxms]|mif1)"
    rb"|BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    re.DOTALL,
)
"""First bytes of WebP, GIF, TIFF, JPEG 2000, AVIF, HEIF and BMP files."""

LOSSY_FORMATS = ("JPEG", "MPO", "WEBP", "JPEG2000", "AVIF")

UNREAD_ANIMATIONS = ("WEBP", "AVIF")
"""FFmpeg reads no frame, or the first one only, of animations in these formats."""

PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""Exceptions that Pillow raises for damaged files."""


def is_image(data: bytes) -> bool:
    """Whether a file is a JPEG or PNG image."""
    return data.startswith(SIGNATURES)


def is_still_image(data: bytes) -> bool:
    """Whether a file is an image that Pillow reads, and not an animation. Only the kinds above are recognised.

    Raises UndecodableError if it is damaged, or an animation that FFmpeg does not read.
    """
    if is_image(data):
        return b"acTL" not in data[:256]  # the mark of an animated PNG
    return bool(OTHER_SIGNATURES.match(data)) and _is_still(data)


def _is_still(data: bytes) -> bool:
    if data[4:8] == b"ftyp" and not opens_as_image(data):
        # FFmpeg would take one tile of it for the picture.
        raise UndecodableError("is a HEIF image, which is not read; convert it to JPEG")
    with open_image(data) as image:
        if image.format == "TIFF" or not getattr(image, "is_animated", False):
            return True
        if image.format in UNREAD_ANIMATIONS:
            raise UndecodableError(f"is an animated {image.format}, which FFmpeg does not read; convert it to a video")
        return False


def opens_as_image(data: bytes) -> bool:
    """Whether Pillow recognises the file."""
    try:
        with open_image(data):
            return True
    except UndecodableError:
        return False


@contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """Open an image in its own mode. Raises UndecodableError if it is damaged, also while the context is open."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except UnidentifiedImageError as error:  # its message has an address in memory
        raise UndecodableError("does not decode: cannot identify the image") from error
    except PILLOW_ERRORS as error:
        raise UndecodableError(f"does not decode: {error}") from error


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """RGB pixels [H, W, 3], also of grey and CMYK images. Raises UndecodableError if the file is damaged."""
    with open_image(data) as image:
        return np.asarray(to_rgb(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB; the high byte of 16-bit grey. Raises UndecodableError for grey of an unknown range."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UndecodableError(f"has pixels of 32 bits (mode {image.mode}), whose range of grey is not known")
    return image.convert("RGB")
