"""RandAugment and AutoAugment against timm, whose operations V-JEPA 2's evaluation uses."""

import numpy as np
import pytest
from PIL import Image

from hpc_jepa.config.pooler_probe import ProbeAugmentationConfig
from hpc_jepa.data import augmentation_policies as policies
from hpc_jepa.data.augmentation_policies import AUTO_AUGMENT, IMAGENET_POLICY, RAND_AUGMENT, Strength, apply_policy
from hpc_jepa.evaluation.torchvision_operators import register_torchvision_operators

FILL = (124, 116, 104)
RAND_NAMES = {
    "auto_contrast": "AutoContrast", "equalize": "Equalize", "invert": "Invert", "rotate": "Rotate",
    "posterize": "PosterizeIncreasing", "solarize": "SolarizeIncreasing", "solarize_add": "SolarizeAdd",
    "colour": "ColorIncreasing", "contrast": "ContrastIncreasing", "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing", "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}  # fmt: skip
AUTO_NAMES = {
    "auto_contrast": "AutoContrast", "equalize": "Equalize", "invert": "Invert", "rotate": "Rotate",
    "posterize": "PosterizeOriginal", "solarize": "Solarize", "colour": "Color", "contrast": "Contrast",
    "sharpness": "Sharpness", "shear_x": "ShearX",
}  # fmt: skip


@pytest.fixture(scope="module")
def timm_policies():
    register_torchvision_operators()
    return pytest.importorskip("timm.data.auto_augment", reason="the extra 'encoders' is not installed")


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(3).integers(20, 230, (40, 56, 3), dtype=np.uint8))


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("ours", "names"), [(RAND_AUGMENT, RAND_NAMES), (AUTO_AUGMENT, AUTO_NAMES)], ids=["rand", "auto"]
)
def test_operations_are_those_of_timm(ours, names, sign, timm_policies, image, monkeypatch):
    monkeypatch.setattr(timm_policies.random, "random", lambda: 0.6 if sign < 0 else 0.4)
    assert ours.keys() == names.keys()
    for name, theirs in names.items():
        for level in (0, 2.5, 7, 7.3, 10):
            if theirs == "PosterizeIncreasing" and level == 10:
                continue  # Pillow refuses to keep no bit
            settings = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
            expected = timm_policies.AugmentOp(theirs, 1.0, level, settings)(image)
            found = ours[name](image, Strength(level, sign, FILL))
            np.testing.assert_array_equal(found, expected, err_msg=f"{name} {level}")


def test_the_strongest_posterisation_is_black(image):
    assert not np.asarray(RAND_AUGMENT["posterize"](image, Strength(10, 1, FILL))).any()


def test_the_imagenet_policy_is_that_of_timm(timm_policies):
    theirs = timm_policies.auto_augment_policy("original", {"img_mean": FILL})
    expected = [[(op.name, op.prob, op.magnitude) for op in pair] for pair in theirs]
    assert [[(AUTO_NAMES[name], *rest) for name, *rest in pair] for pair in IMAGENET_POLICY] == expected


def test_all_frames_share_the_draws(image):
    frames = [image, image.transpose(Image.Transpose.ROTATE_180), image]
    augmentation = ProbeAugmentationConfig(policy="rand_augment")
    for seed in range(8):
        changed = apply_policy(list(frames), augmentation, np.random.default_rng(seed), (0.5, 0.5, 0.5))
        np.testing.assert_array_equal(changed[0], changed[2])
        alone = apply_policy([frames[1]], augmentation, np.random.default_rng(seed), (0.5, 0.5, 0.5))
        np.testing.assert_array_equal(changed[1], alone[0])


def test_operations_are_applied_to_half_with_the_magnitude_of_the_configuration():
    augmentation = ProbeAugmentationConfig(policy="rand_augment", operations=4, magnitude=7, magnitude_std=0.5)
    random = np.random.default_rng(0)
    drawn = [policies._draw_rand_augment(augmentation, random) for _ in range(2000)]
    strengths = [strength for chosen in drawn for _, strength in chosen]
    assert np.mean([len(chosen) for chosen in drawn]) == pytest.approx(2, abs=0.1)
    assert np.mean([strength.level for strength in strengths]) == pytest.approx(7, abs=0.05)
    assert np.std([strength.level for strength in strengths]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([strength.sign for strength in strengths]) == pytest.approx(0, abs=0.08)
    assert {operation for chosen in drawn for operation, _ in chosen} == set(RAND_AUGMENT.values())


def test_auto_augment_draws_pairs_by_their_probabilities():
    random = np.random.default_rng(0)
    drawn = [policies._draw_auto_augment(random, FILL) for _ in range(4000)]
    expected = np.mean([sum(probability for _, probability, _ in pair) for pair in IMAGENET_POLICY])
    assert np.mean([len(chosen) for chosen in drawn]) == pytest.approx(expected, abs=0.05)


def test_without_a_policy_frames_are_returned(image):
    assert apply_policy([image], ProbeAugmentationConfig(), np.random.default_rng(0), FILL) == [image]
