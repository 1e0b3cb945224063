"""Handwritten digits without a download: the 1,797 labelled images of scikit-learn, a task of appearance alone."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hpc_jepa.data.sources.source import EncodedFile, Sample, SampleOrigin, SettingValue
from hpc_jepa.errors import InputError

SIDE = 8
INK = 16
"""Value of full ink in the data set; 0 is paper."""

TRAIN_IMAGES = 1197
"""The images are listed by writer, so the rest, 600 images, is mostly by other writers."""


@dataclass(frozen=True)
class Digits:
    """One split: white digits on black, ``size`` pixels wide and high."""

    split: str
    images: NDArray[np.uint8]
    labels: tuple[int, ...]
    first: int
    size: int

    dataset = "digits"
    classes = tuple("0123456789")

    @property
    def settings(self) -> Mapping[str, SettingValue]:
        """All settings that determine the pixels."""
        return {"first": self.first, "count": len(self), "size": self.size}

    def __len__(self) -> int:
        return len(self.labels)

    def origin(self, index: int) -> SampleOrigin:
        """The key is the number of the image in the data set."""
        number = self.first + index
        return SampleOrigin(f"{self.split}-{number:06d}", f"digits image {number}")

    def load(self, index: int) -> Sample:
        """Enlarge one image and store it as PNG."""
        enlarged = Image.fromarray(self.images[index]).resize((self.size, self.size), Image.Resampling.BILINEAR)
        file = io.BytesIO()
        enlarged.convert("RGB").save(file, "PNG")
        label = self.labels[index]
        return Sample(EncodedFile(file.getvalue()), label, self.classes[label])


def digits_splits(size: int = 64) -> list[Digits]:
    """The first 1,197 images for training, the other 600 for testing. Raises InputError for an unsupported size."""
    if not 16 <= size <= 512 or size % 2:
        raise InputError(f"size {size}: digits supports even sizes from 16 to 512 pixels")
    from sklearn.datasets import load_digits

    numbers, labels = load_digits(return_X_y=True)
    images = np.round(numbers.reshape(-1, SIDE, SIDE) * (255 / INK)).astype(np.uint8)
    parts = {"train": slice(0, TRAIN_IMAGES), "test": slice(TRAIN_IMAGES, len(labels))}
    return [
        Digits(split, images[part], tuple(int(label) for label in labels[part]), part.start, size)
        for split, part in parts.items()
    ]
