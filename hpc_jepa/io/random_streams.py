"""Counter-based random streams: pure functions of (seed, stream, step, row), independent of rank and call order.

Every process draws the numbers of the whole global batch and takes its own rows. So clips, crops and masks are the same
for any world size and number of workers, and a resumed run needs the step only.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class RandomStream(IntEnum):
    """Independent random sequences of one seed."""

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
    PASS = 15
    PROBE_CLIP = 16
    SEGMENT = 17


def uniforms(
    seed: int, stream: RandomStream, step: int, shape: tuple[int, ...], part: int = 0, repeats: int = 1
) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) of the given shape; row i depends on (seed, stream, step, part, i) alone.

    Philox (Salmon et al. 2011) with key (seed, stream, part) and counter (step). Rows are drawn in order, so a longer
    first axis leaves earlier rows unchanged. With ``repeats`` the first axis consists of that many copies of the same
    numbers, as if every process used the same seed.
    """
    rows = random_generator(seed, stream, step, part).random((shape[0] // repeats, *shape[1:]))
    return np.concatenate([rows] * repeats)


def random_generator(seed: int, stream: RandomStream, step: int, part: int = 0, epoch: int = 0) -> np.random.Generator:
    """Generator of an unlimited number of draws that depend on the arguments alone."""
    key = np.array([seed, (int(stream) << 32) | part], dtype=np.uint64)
    counter = np.array([0, 0, step, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
