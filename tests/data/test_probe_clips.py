"""Views of test samples and augmented clips: against crops and windows made by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from hpc_jepa.config.benchmark import EvaluationClipConfig
from hpc_jepa.config.pooler_probe import ProbeAugmentationConfig
from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.evaluation_clips import EvaluationClips
from hpc_jepa.data.frame_sampling import segment_frames
from hpc_jepa.data.probe_clips import ProbeClips, erase_rectangle
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.sources.source import EncodedFile, RawFrames

RAW = {"mean": (0, 0, 0), "std": (1, 1, 1)}
NONE = ProbeAugmentationConfig(area=(1.0, 1.0), aspect=(1.0, 1.0))


def reference_window(frames, frames_per_clip, step, segments, segment, start):
    """VideoDataset in facebookresearch/vjepa2 with overlap; ``start`` in [0, 1) draws the end of a window."""
    span, part = frames_per_clip * step, frames // segments
    if part > span:
        end = span + int(start * (part - span))
        indices = np.linspace(end - span, end, num=frames_per_clip)
        return np.clip(indices, end - span, end - 1).astype(np.int64) + segment * part
    last = min(span, frames) - 1
    indices = np.concatenate([np.linspace(0, last, num=last // step), np.full(frames_per_clip - last // step, last)])
    shift = (frames - span) // (segments - 1) if frames > span and segments > 1 else 0
    return np.clip(indices, 0, last - 1).astype(np.int64) + segment * shift


@pytest.mark.parametrize("frames", [5, 17, 31, 32, 33, 47, 64, 65, 90, 301])
@pytest.mark.parametrize("segments", [1, 2, 4])
def test_windows_are_those_of_the_original(frames, segments):
    clip = EvaluationClipConfig(frames=8, stride=4, sampling="segments", clips=segments)
    for segment in range(segments):
        for start in (0.0, 0.37, 0.999):
            expected = reference_window(frames, 8, 4, segments, segment, start)
            found = segment_frames(frames, clip, segment, start)
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == np.int64 and found.min() >= 0 and found.max() < frames


def test_a_video_of_one_frame_repeats_it():
    clip = EvaluationClipConfig(frames=4, stride=2, sampling="segments", clips=2)
    assert segment_frames(1, clip, 1, 0.5).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("height", "width"), [(32, 56), (56, 32), (32, 32)])
def test_three_crops_along_the_long_side(listed, built, noise, tmp_path, height, width):
    folder = built(listed((RawFrames(noise(12, height, width), 10),)), tmp_path / "train")
    clip = EvaluationClipConfig(frames=4, sampling="segments", stride=1, clips=2, crops=3, size=24, **RAW)
    found = ProbeClips(folder, clip, NONE, 0).views(0)
    assert found.pixels.shape == (3, 2, 3, 4, 24, 24) and found.label == 0
    decoded = decode_frames(ShardFolder(folder).read(0).data, range(12))
    frames = torch.from_numpy(decoded).permute(0, 3, 1, 2).float() / 255
    frames = interpolate(frames, (24 * height // 32, 24 * width // 32), mode="bilinear")
    for segment in range(2):
        windows = [frames[segment * 6 + end - 4 : segment * 6 + end] for end in (4, 5)]  # ends in [4, 6)
        for crop in range(3):
            corner = crop * ((24 * max(height, width) // 32 - 24) // 2)
            rows, columns = (
                (slice(corner, corner + 24), slice(0, 24))
                if height > width
                else (slice(0, 24), slice(corner, corner + 24))
            )
            cropped = [window[:, :, rows, columns].transpose(0, 1) for window in windows]
            assert any(torch.allclose(found.pixels[crop, segment], each, atol=1e-5) for each in cropped)


def test_views_are_those_of_the_evaluation_clips(shards):
    clip = EvaluationClipConfig(frames=4, sampling="segments", stride=1, clips=2, crops=3, size=16)
    clips = ProbeClips(shards / "test", clip, NONE, 0)
    for view in range(clip.views):
        segment, crop = divmod(view, 3)
        for pixels, labels, samples in EvaluationClips(shards / "test", clip, 3, view=view):
            for row, sample in enumerate(samples.tolist()):
                found = clips.views(sample)
                torch.testing.assert_close(found.pixels[crop, segment], pixels[row], atol=0, rtol=0)
                assert found.label == labels[row]


def test_a_larger_resize_before_the_crop(listed, built, noise, tmp_path):
    folder = built(listed((RawFrames(noise(4, 32, 40), 10),)), tmp_path / "train")
    clip = EvaluationClipConfig(frames=4, sampling="leading", size=24, resize=28, **RAW)
    ((pixels, _, _),) = EvaluationClips(folder, clip, 1)
    frames = (
        torch.from_numpy(decode_frames(ShardFolder(folder).read(0).data, range(4))).permute(0, 3, 1, 2).float() / 255
    )
    expected = interpolate(frames, (28, 35), mode="bilinear")[:, :, 2:26, 5:29].transpose(0, 1)
    torch.testing.assert_close(pixels[0], expected, atol=1e-5, rtol=0)


def test_augmented_clips_depend_on_seed_sample_and_epoch_alone(shards):
    clip = EvaluationClipConfig(frames=4, sampling="segments", stride=1, clips=2, size=16)
    augmentation = ProbeAugmentationConfig(policy="rand_augment", horizontal_flip=0.5, erase=0.5)
    first, again, other = (ProbeClips(shards / "train", clip, augmentation, seed) for seed in (0, 0, 1))
    assert not torch.equal(first.augmented(3, 0).pixels, first.augmented(3, 1).pixels)
    assert torch.equal(first.augmented(3, 1).pixels, again.augmented(3, 1).pixels)
    assert not torch.equal(first.augmented(3, 1).pixels, other.augmented(3, 1).pixels)
    pixels = first.augmented(3, 1).pixels
    assert pixels.shape == (1, 2, 3, 4, 16, 16) and pixels.dtype == torch.float32
    assert not torch.equal(pixels[0, 0], pixels[0, 1])


def test_without_augmentation_a_training_clip_is_the_resized_window(listed, built, noise, tmp_path):
    folder = built(listed((RawFrames(noise(4, 32, 32), 10),)), tmp_path / "train")
    clip = EvaluationClipConfig(frames=4, sampling="leading", size=24, **RAW)
    found = ProbeClips(folder, clip, NONE, 0).augmented(0, 5).pixels
    frames = (
        torch.from_numpy(decode_frames(ShardFolder(folder).read(0).data, range(4))).permute(0, 3, 1, 2).float() / 255
    )
    torch.testing.assert_close(found[0, 0], interpolate(frames, 24, mode="bilinear").transpose(0, 1), atol=1e-5, rtol=0)
    flipped = ProbeClips(folder, clip, NONE.model_copy(update={"horizontal_flip": 1.0}), 0).augmented(0, 5).pixels
    torch.testing.assert_close(flipped, found.flip(-1), atol=0, rtol=0)


def test_images_are_cropped_antialiased_and_repeated(listed, built, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    folder = built(listed((EncodedFile(path.read_bytes()),)), tmp_path / "train")
    clip = EvaluationClipConfig(frames=3, sampling="segments", size=20, **RAW)
    clips = ProbeClips(folder, clip, NONE, 0)
    expected = np.asarray(Image.fromarray(pixels).resize((20, 20), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 255
    for found in (clips.augmented(0, 0).pixels, clips.views(0).pixels):
        assert found.shape == (1, 1, 3, 3, 20, 20)
        for frame in range(3):
            np.testing.assert_allclose(found[0, 0, :, frame], expected, atol=1e-5)
    coloured = ProbeClips(folder, clip, ProbeAugmentationConfig(policy="auto_augment", erase=1.0), 0)
    found = [coloured.augmented(0, epoch).pixels[0, 0] for epoch in range(4)]
    assert all(torch.equal(each[:, 0], each[:, 2]) for each in found)
    assert len({each.sum().item() for each in found}) == 4


def test_erasing_replaces_one_rectangle_of_all_frames_by_noise():
    random, areas = np.random.default_rng(0), []
    for _ in range(200):
        pixels = erase_rectangle(torch.full((3, 4, 32, 32), 50.0), random)
        erased = pixels != 50
        assert torch.equal(erased, erased[:1, :1].expand_as(erased))
        rows, columns = erased[0, 0].any(1), erased[0, 0].any(0)
        assert torch.equal(erased[0, 0], rows[:, None] & columns[None])
        areas.append(erased[0, 0].float().mean().item())
        noise = pixels[erased]
        assert noise.abs().max() < 7 and len(noise.unique()) > 0.9 * len(noise)
    assert min(areas) >= 0.01 and max(areas) <= 0.36 and 0.1 < np.mean(areas) < 0.22
