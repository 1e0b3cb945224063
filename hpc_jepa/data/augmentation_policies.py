"""RandAugment (Cubuk et al. 2020) and the ImageNet policy of AutoAugment (Cubuk et al. 2019), on all frames of a clip.

Operations and strengths are those of timm, which V-JEPA 2's evaluations use: ``rand-m7-n4-mstd0.5-inc1`` for videos and
``original`` for images. An operation has one strength and direction for all frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from hpc_jepa.config.pooler_probe import ProbeAugmentationConfig

Colour = tuple[int, int, int]
GREY: Colour = (128, 128, 128)
"""Fill of RandAugment for what a geometric operation moves into the frame."""

MAX_LEVEL = 10
OPERATION_PROBABILITY = 0.5

MAX_ROTATION = 30.0
MAX_SHEAR = 0.3
MAX_SHIFT = 0.45
MAX_ENHANCEMENT = 0.9
MAX_ADDED = 110


@dataclass(frozen=True)
class Strength:
    """How strong an operation is: level in 0..10, direction -1 or 1, fill colour."""

    level: float
    sign: int
    fill: Colour

    @property
    def share(self) -> float:
        """The level as a fraction of the largest."""
        return self.level / MAX_LEVEL

    @property
    def enhancement(self) -> float:
        """Factor of an enhancement of which 1 changes nothing, 0.1 to 1.9."""
        return 1 + self.sign * self.share * MAX_ENHANCEMENT

    @property
    def original_enhancement(self) -> float:
        """The same in AutoAugment: 0.1 at level 0, 1.9 at level 10."""
        return self.share * 2 * MAX_ENHANCEMENT + (1 - MAX_ENHANCEMENT)


Operation = Callable[[Image.Image, Strength], Image.Image]


def _rotate(image: Image.Image, by: Strength) -> Image.Image:
    angle = by.sign * by.share * MAX_ROTATION
    return image.rotate(angle, resample=Image.Resampling.BICUBIC, fillcolor=by.fill)


def _affine(image: Image.Image, matrix: Sequence[float], fill: Colour) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, tuple(matrix), resample=Image.Resampling.BICUBIC, fillcolor=fill
    )


def _shear_x(image: Image.Image, by: Strength) -> Image.Image:
    return _affine(image, (1, by.sign * by.share * MAX_SHEAR, 0, 0, 1, 0), by.fill)


def _shear_y(image: Image.Image, by: Strength) -> Image.Image:
    return _affine(image, (1, 0, 0, by.sign * by.share * MAX_SHEAR, 1, 0), by.fill)


def _shift_x(image: Image.Image, by: Strength) -> Image.Image:
    return _affine(image, (1, 0, by.sign * by.share * MAX_SHIFT * image.width, 0, 1, 0), by.fill)


def _shift_y(image: Image.Image, by: Strength) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, by.sign * by.share * MAX_SHIFT * image.height), by.fill)


def _posterize(image: Image.Image, bits: int) -> Image.Image:
    """Keep the highest bits; Pillow refuses to keep none."""
    table = [value >> (8 - bits) << (8 - bits) for value in range(256)]
    return image.point(table * len(image.getbands()))


def _add_to_dark(image: Image.Image, by: Strength) -> Image.Image:
    added = int(by.share * MAX_ADDED)
    table = [min(255, value + added) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


COMMON: dict[str, Operation] = {
    "auto_contrast": lambda image, by: ImageOps.autocontrast(image),
    "equalize": lambda image, by: ImageOps.equalize(image),
    "invert": lambda image, by: ImageOps.invert(image),
    "rotate": _rotate,
    "shear_x": _shear_x,
}

RAND_AUGMENT: dict[str, Operation] = {
    "auto_contrast": COMMON["auto_contrast"],
    "equalize": COMMON["equalize"],
    "invert": COMMON["invert"],
    "rotate": _rotate,
    "posterize": lambda image, by: _posterize(image, 4 - int(by.share * 4)),
    "solarize": lambda image, by: ImageOps.solarize(image, 256 - int(by.share * 256)),
    "solarize_add": _add_to_dark,
    "colour": lambda image, by: ImageEnhance.Color(image).enhance(by.enhancement),
    "contrast": lambda image, by: ImageEnhance.Contrast(image).enhance(by.enhancement),
    "brightness": lambda image, by: ImageEnhance.Brightness(image).enhance(by.enhancement),
    "sharpness": lambda image, by: ImageEnhance.Sharpness(image).enhance(by.enhancement),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _shift_x,
    "translate_y": _shift_y,
}
"""All are stronger at a higher level; ``inc1`` in timm. The position is what a draw selects: do not reorder."""

AUTO_AUGMENT: dict[str, Operation] = {
    **COMMON,
    "posterize": lambda image, by: _posterize(image, 4 + int(by.share * 4)),
    "solarize": lambda image, by: ImageOps.solarize(image, min(256, int(by.share * 256))),
    "colour": lambda image, by: ImageEnhance.Color(image).enhance(by.original_enhancement),
    "contrast": lambda image, by: ImageEnhance.Contrast(image).enhance(by.original_enhancement),
    "sharpness": lambda image, by: ImageEnhance.Sharpness(image).enhance(by.original_enhancement),
}

IMAGENET_POLICY: tuple[tuple[tuple[str, float, float], ...], ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("colour", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("colour", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("colour", 1.0, 2)),
    (("colour", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("colour", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("colour", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)
"""Pairs of (operation, probability, level), one pair drawn for a clip."""


def apply_policy(
    frames: list[Image.Image],
    augmentation: ProbeAugmentationConfig,
    random: np.random.Generator,
    mean: Sequence[float],
) -> list[Image.Image]:
    """The policy applied to all frames of a clip alike. ``mean``: colour in [0, 1] that AutoAugment fills with."""
    if augmentation.policy == "rand_augment":
        chosen = _draw_rand_augment(augmentation, random)
    elif augmentation.policy == "auto_augment":
        red, green, blue = (round(255 * value) for value in mean)
        chosen = _draw_auto_augment(random, (red, green, blue))
    else:
        return frames
    for operation, strength in chosen:
        frames = [operation(frame, strength) for frame in frames]
    return frames


def _draw_rand_augment(
    augmentation: ProbeAugmentationConfig, random: np.random.Generator
) -> list[tuple[Operation, Strength]]:
    """Operations drawn with replacement, each applied with probability 1/2 and a strength of its own."""
    chosen = []
    for number in random.integers(len(RAND_AUGMENT), size=augmentation.operations):
        applied, negative, level = random.random(), random.random(), random.normal()
        level = min(max(augmentation.magnitude + augmentation.magnitude_std * level, 0.0), MAX_LEVEL)
        if applied < OPERATION_PROBABILITY:
            operation = list(RAND_AUGMENT.values())[number]
            chosen.append((operation, Strength(level, -1 if negative < 0.5 else 1, GREY)))
    return chosen


def _draw_auto_augment(random: np.random.Generator, fill: Colour) -> list[tuple[Operation, Strength]]:
    chosen = []
    for name, probability, level in IMAGENET_POLICY[random.integers(len(IMAGENET_POLICY))]:
        applied, negative = random.random(), random.random()
        if applied < probability:
            chosen.append((AUTO_AUGMENT[name], Strength(level, -1 if negative < 0.5 else 1, fill)))
    return chosen
