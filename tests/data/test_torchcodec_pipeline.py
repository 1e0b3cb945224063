"""The torchcodec pipeline gives the pixels of DALI's; PyAV stands in for torchcodec's decoder."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import torch

from hpc_jepa.config.data import AugmentationConfig, ClipConfig
from hpc_jepa.data.crop import View
from hpc_jepa.data.dali_pipeline import ClipPipeline
from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.encode import encode
from hpc_jepa.data.torchcodec_pipeline import TorchcodecPipeline, has_torchcodec


class VideoDecoder:
    """torchcodec's interface: frames [F, C, H, W]."""

    def __init__(self, source, device):
        assert isinstance(source, bytes) and device == "cpu"
        self.source = source

    def get_frames_at(self, indices):
        return SimpleNamespace(data=torch.from_numpy(decode_frames(self.source, indices)).permute(0, 3, 1, 2))


def test_pixels_equal_those_of_dali(noise, monkeypatch):
    package, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
    decoders.VideoDecoder = VideoDecoder
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    assert has_torchcodec()
    clip, augmentation = ClipConfig(frames=3, stride=1, size=24), AugmentationConfig()
    files = [encode(noise(6, seed=seed), 25) for seed in range(3)]
    views = [View(0, 0, 32, 48, False, False), View(3, 5, 20, 31, True, False), View(1, 9, 11, 8, True, True)]
    frames = [np.array([0, 2, 4]), np.array([5, 5, 1]), np.array([3, 4, 5])]
    found = TorchcodecPipeline(clip, augmentation, 3, 2, None, "cpu", "video", None).run(
        [np.frombuffer(file, np.uint8) for file in files], views, frames
    )
    windows = [
        np.ascontiguousarray(decode_frames(file, chosen)[(slice(None), *view.window)])
        for file, chosen, view in zip(files, frames, views, strict=True)
    ]
    expected = ClipPipeline(clip, augmentation, 3).run(windows, views, frames)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_package_that_does_not_load_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    assert not has_torchcodec()
