"""Random resized crop and flips, one view for all frames of a clip."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.data import AugmentationConfig

CROP_ATTEMPTS = 10
"""Windows drawn before falling back to the central one."""


class View(NamedTuple):
    """Crop window in source pixels and flips, the same for all frames of a clip."""

    top: int
    left: int
    height: int
    width: int
    horizontal_flip: bool
    vertical_flip: bool

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the crop."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def random_view(
    height: int,
    width: int,
    augmentation: AugmentationConfig,
    crop: NDArray[np.float64],
    flips: NDArray[np.float64],
) -> View:
    """Random resized crop and flips of a frame of ``height`` x ``width`` pixels.

    ``crop`` [CROP_ATTEMPTS, 4] has uniforms in [0, 1) for area, aspect (log-uniform), row and column of each attempt,
    ``flips`` [2] those for the horizontal and the vertical flip.
    """
    window = _random_window(height, width, augmentation, crop) or _central_window(height, width, augmentation.aspect)
    horizontal, vertical = flips[0] < augmentation.horizontal_flip, flips[1] < augmentation.vertical_flip
    return View(*window, bool(horizontal), bool(vertical))


def _random_window(
    height: int, width: int, augmentation: AugmentationConfig, crop: NDArray[np.float64]
) -> tuple[int, int, int, int] | None:
    """The first attempt that fits into the frame, as (top, left, height, width)."""
    smallest, largest = augmentation.area
    narrowest, widest = np.log(augmentation.aspect)
    area = height * width * (smallest + crop[:, 0] * (largest - smallest))
    aspect = np.exp(narrowest + crop[:, 1] * (widest - narrowest))
    widths = np.rint(np.sqrt(area * aspect)).astype(int)
    heights = np.rint(np.sqrt(area / aspect)).astype(int)
    inside = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    if not inside.any():
        return None
    first = int(inside.argmax())
    h, w = int(heights[first]), int(widths[first])
    return int(crop[first, 2] * (height - h + 1)), int(crop[first, 3] * (width - w + 1)), h, w


def _central_window(height: int, width: int, aspect: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest central window with an allowed aspect: torchvision's fallback."""
    h, w = height, width
    if width / height < aspect[0]:
        h = min(height, round(width / aspect[0]))
    elif width / height > aspect[1]:
        w = min(width, round(height * aspect[1]))
    return (height - h) // 2, (width - w) // 2, h, w
