"""Counter-based random numbers: a function of (seed, stream, step, row), never of who asks or in which order.

Every process draws the table of the whole global batch and takes its own rows, so clips, crops and masks are the same
for any number of processes and workers, and a resumed run needs nothing but the step.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class RandomStream(IntEnum):
    """Independent sequences of one seed."""

    SAMPLE = 1
    CLIP_START = 2
    CROP = 3
    FLIP = 4
    REPLACEMENT = 5
    MASK_ORIGIN = 6
    MASK_TRUNCATION = 7
    MOTION_CHOICE = 8
    MODALITY = 9
    SHARD = 10
    SHARD_ORDER = 11
    CORRUPTION = 12
    FEW_SHOT = 13
    EPISODE = 14


def uniforms(
    seed: int, stream: RandomStream, step: int, shape: tuple[int, ...], part: int = 0, repeats: int = 1
) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) of the given shape; row i depends on (seed, stream, step, part, i) alone.

    Philox (Salmon et al. 2011) keyed by seed, stream and part, its counter set by the step. Rows are drawn one after
    the other, so a longer first axis leaves earlier rows unchanged. The first axis may consist of ``repeats`` equal
    parts with the same numbers: what processes get that all start from one seed.
    """
    key = np.array([seed, (int(stream) << 32) | part], dtype=np.uint64)
    counter = np.array([0, 0, step, 0], dtype=np.uint64)
    rows = np.random.Generator(np.random.Philox(key=key, counter=counter)).random((shape[0] // repeats, *shape[1:]))
    return np.concatenate([rows] * repeats)
