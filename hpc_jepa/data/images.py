"""Still images, told from videos by their first bytes."""

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
"""How JPEG and PNG files begin."""

PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises for damaged files."""


def is_image(data: bytes) -> bool:
    """Whether a file is a still image."""
    return data.startswith(SIGNATURES)


@contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """The image of a file, in whatever mode it has. Raises UndecodableError where it is damaged."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except PILLOW_ERRORS as error:
        raise UndecodableError(f"does not decode: {error}") from error


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """RGB pixels [H, W, 3]; grey and CMYK become RGB. Raises UndecodableError where the file is damaged."""
    with open_image(data) as image:
        return np.asarray(image.convert("RGB"))
