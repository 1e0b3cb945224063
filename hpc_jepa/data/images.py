"""Still images: recognised by their first bytes and decoded with Pillow."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hpc_jepa.errors import UndecodableError

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
"""First bytes of JPEG and PNG files."""

PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""Exceptions that Pillow raises for damaged files."""


def is_image(data: bytes) -> bool:
    """Whether a file is a JPEG or PNG image."""
    return data.startswith(SIGNATURES)


@contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """Open an image in its own mode. Raises UndecodableError if it is damaged, also while the context is open."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except PILLOW_ERRORS as error:
        raise UndecodableError(f"does not decode: {error}") from error


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """RGB pixels [H, W, 3], also of grey and CMYK images. Raises UndecodableError if the file is damaged."""
    with open_image(data) as image:
        return np.asarray(image.convert("RGB"))
