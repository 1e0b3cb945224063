"""The DALI pipeline against plain PyTorch."""

import numpy as np
import pytest
import torch

from hpc_jepa.config.data import AugmentationConfig, ClipConfig
from hpc_jepa.data.crop import View
from hpc_jepa.data.dali_pipeline import ClipPipeline
from hpc_jepa.data.decode import decode_frames

CLIP = ClipConfig(frames=4, stride=1, size=24)
AUGMENTATION = AugmentationConfig(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
VIEWS = [
    View(0, 0, 32, 48, False, False),
    View(3, 5, 20, 31, True, False),
    View(1, 9, 11, 8, False, True),
    View(7, 2, 25, 40, True, True),
]
FRAMES = [np.array(frames) for frames in ([0, 1, 2, 3], [5, 6, 8, 9], [2, 9, 9, 9], [1, 3, 5, 7])]


def reference(frames: np.ndarray, view: View) -> torch.Tensor:
    """[C, F, size, size]: crop, bilinear resize without antialiasing, flip, normalise; in double precision."""
    window = frames[:, view.top : view.top + view.height, view.left : view.left + view.width]
    pixels = torch.from_numpy(window).permute(0, 3, 1, 2).double()
    pixels = torch.nn.functional.interpolate(
        pixels, (CLIP.size, CLIP.size), mode="bilinear", align_corners=False, antialias=False
    )
    pixels = pixels.flip(3) if view.horizontal_flip else pixels
    pixels = pixels.flip(2) if view.vertical_flip else pixels
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (AUGMENTATION.mean, AUGMENTATION.std))
    return ((pixels - 255 * mean) / (255 * std)).transpose(0, 1)


def cut(videos: list[np.ndarray], views: list[View]) -> list[np.ndarray]:
    """The window of each view, frame by frame."""
    return [np.ascontiguousarray(video[(slice(None), *view.window)]) for video, view in zip(videos, views, strict=True)]


@pytest.fixture(scope="module")
def videos(noise):
    return [noise(4, 32, 48, seed=0), noise(4, 24, 40, seed=1), noise(4, 32, 48, seed=2), noise(4, 32, 48, seed=3)]


def test_pixels_equal_the_reference(videos):
    pixels = ClipPipeline(CLIP, AUGMENTATION, batch_size=4).run(cut(videos, VIEWS), VIEWS, FRAMES)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    expected = torch.stack([reference(video, view) for video, view in zip(videos, VIEWS, strict=True)])
    torch.testing.assert_close(pixels.double(), expected, atol=2e-5, rtol=0)


def test_a_batch_is_independent_of_earlier_batches_and_threads(videos):
    one, three = (ClipPipeline(CLIP, AUGMENTATION, 4, threads) for threads in (1, 3))
    windows = cut(videos, VIEWS)
    kept = one.run(windows, VIEWS, FRAMES).clone()
    one.run(windows[::-1], VIEWS, FRAMES)
    assert torch.equal(one.run(windows, VIEWS, FRAMES), kept)
    assert torch.equal(three.run(windows, VIEWS, FRAMES), kept)


def test_compressed_videos_give_the_same_clips_frame_for_frame(noise, encoded_with):
    # The graph of GPUs, with the one codec DALI decodes on a CPU as well; its colours differ a little at edges.
    files = [encoded_with(noise(10, seed=seed), "libvpx-vp9", "webm", {"g": "4", "crf": "10"}) for seed in range(4)]
    decoded = [decode_frames(file, frames) for file, frames in zip(files, FRAMES, strict=True)]
    compressed = ClipPipeline(CLIP, AUGMENTATION, 4, decoder="cpu").run(
        [np.frombuffer(file, np.uint8) for file in files], VIEWS, FRAMES
    )
    expected = ClipPipeline(CLIP, AUGMENTATION, 4).run(cut(decoded, VIEWS), VIEWS, FRAMES)
    difference = (compressed - expected).abs()
    assert difference.mean() < 0.15
    # A neighbouring frame would be far off: no two frames are alike.
    assert (expected - expected.roll(1, dims=2)).abs().mean() > 0.5
