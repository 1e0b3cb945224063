"""Evaluation clips: every sample once, in order, unaugmented."""

import numpy as np
import pytest
import torch

from hpc_jepa.config.benchmark import EvaluationClipConfig
from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.evaluation_clips import EvaluationClips
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.sources.source import EncodedFile, RawFrames
from hpc_jepa.errors import DataError

WHOLE = EvaluationClipConfig(frames=8, sampling="leading", size=None)


def test_whole_frames_are_only_normalised(shards):
    clips = EvaluationClips(shards / "test", WHOLE, batch_size=3)
    pixels, labels, indices = (torch.cat(parts) for parts in zip(*clips, strict=True))
    assert pixels.shape == (8, 3, 8, 32, 32)
    assert pixels.dtype == torch.float32
    assert indices.tolist() == list(range(8))
    assert labels.tolist() == clips.labels.tolist() == [(24 + index) % 8 for index in range(8)]
    assert (labels.dtype, indices.dtype) == (torch.int64, torch.int64)
    frames = decode_frames(ShardFolder(shards / "test").read(5).data, range(8)).astype(np.float64) / 255
    expected = ((frames - WHOLE.mean) / WHOLE.std).transpose(3, 0, 1, 2)
    np.testing.assert_allclose(pixels[5], expected, atol=1e-5)


def test_the_short_side_is_resized_and_the_centre_cropped(listed, built, noise, tmp_path):
    video = noise(6, 32, 56)
    folder = built(listed((RawFrames(video, 10),)), tmp_path / "train")
    clip = EvaluationClipConfig(frames=3, sampling="uniform", size=24, mean=(0, 0, 0), std=(1, 1, 1))
    ((pixels, _, _),) = EvaluationClips(folder, clip, batch_size=4)
    frames = decode_frames(ShardFolder(folder).read(0).data, [0, 2, 5])
    # 32 x 56 -> 24 x 42 -> columns 9 to 32; bilinear samples at pixel centres, written out.
    rows = (np.arange(24) + 0.5) * 32 / 24 - 0.5
    columns = (np.arange(9, 33) + 0.5) * 56 / 42 - 0.5
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, across = (rows - top)[:, None, None], (columns - left)[None, :, None]
    for moment, frame in enumerate(frames / 255.0):
        corner = [frame[np.clip(top + i, 0, 31)][:, np.clip(left + j, 0, 55)] for i in (0, 1) for j in (0, 1)]
        upper, lower = corner[0] * (1 - across) + corner[1] * across, corner[2] * (1 - across) + corner[3] * across
        expected = upper * (1 - down) + lower * down
        np.testing.assert_allclose(pixels[0, :, moment].permute(1, 2, 0), expected, atol=1e-5)


def test_ranks_split_the_samples(shards):
    alone = EvaluationClips(shards / "train", WHOLE, batch_size=5)
    parts = [EvaluationClips(shards / "train", WHOLE, 5, rank, 3, threads=2) for rank in range(3)]
    assert sum(len(part) for part in parts) == len(alone) == 24
    seen = {
        int(i): clip for part in parts for pixels, _, indices in part for i, clip in zip(indices, pixels, strict=True)
    }
    for pixels, _, indices in alone:
        assert all(torch.equal(seen[int(i)], clip) for i, clip in zip(indices, pixels, strict=True))


def test_unlabelled_samples_have_label_minus_one(shards):
    assert EvaluationClips(shards / "unlabelled", WHOLE, 4).labels.tolist() == [-1] * 16


def test_too_short_videos_are_an_error(shards):
    clip = EvaluationClipConfig(frames=8, sampling="leading", stride=3, size=None)
    with pytest.raises(DataError, match=r"test: .*16 .*22"):
        EvaluationClips(shards / "test", clip, 4)


def test_an_undecodable_sample_is_named(listed, built, noise, encoded_with, tmp_path):
    webm = encoded_with(noise(8), "libvpx-vp9", "webm", {"deadline": "realtime"})
    folder = built(listed((RawFrames(noise(8), 10), EncodedFile(webm))), tmp_path / "train")
    tar = folder / "000000.tar"
    tar.write_bytes(tar.read_bytes().replace(webm, bytes(len(webm))))
    with pytest.raises(DataError, match=r"000000\.tar: item-001 "):
        list(EvaluationClips(folder, WHOLE, 1))
