"""Training batches: pure functions of seed and step, for any number of processes."""

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hpc_jepa.config.data import AugmentationConfig, ClipConfig, DataConfig, SourceConfig
from hpc_jepa.data import decode_errors
from hpc_jepa.data.clip_sampler import ClipSampler
from hpc_jepa.data.crop import View, random_view
from hpc_jepa.data.dali_pipeline import ClipPipeline
from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.gpu_decoding import DALI_ON_CPU
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.data.mixture import MixtureSource
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.sources.source import EncodedFile, RawFrames
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.runs.run_dir import RunDir

CPU = torch.device("cpu")


def config(*folders: Path, frames: int = 4, stride: int = 2, threads: int = 1, rate: float = 0.01) -> DataConfig:
    return DataConfig(
        sources={folder.name: SourceConfig(shards=folder, weight=1 + i) for i, folder in enumerate(folders)},
        clip=ClipConfig(frames=frames, stride=stride, size=16),
        augmentation=AugmentationConfig(vertical_flip=0.5),
        decode_threads=threads,
        undecodable_rate=rate,
    )


def loader(data: DataConfig, batch_size: int = 8, rank: int = 0, world_size: int = 1, **options) -> ClipLoader:
    options = {"seed": 3, "device": CPU, **options}
    return ClipLoader(data, batch_size=batch_size, rank=rank, world_size=world_size, **options)


@pytest.fixture
def mixture(shards) -> DataConfig:
    return config(shards / "train", shards / "unlabelled")


def fields(batch):
    return batch.pixels, batch.samples, batch.sources, batch.static


@pytest.mark.parametrize("world_size", [2, 4])
def test_all_ranks_together_equal_one_process(mixture, world_size):
    alone = loader(mixture)
    ranks = [loader(mixture, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in (0, 1, 41):
        parts = [fields(rank.batch(step)) for rank in ranks]
        for whole, *pieces in zip(fields(alone.batch(step)), *parts, strict=True):
            assert torch.equal(whole, torch.cat(pieces))


def test_micro_batches_share_their_crops_as_processes_do(mixture):
    alone = loader(mixture, 8, accumulation=4, same_randomness=True)
    ranks = [loader(mixture, 8, rank=rank, world_size=4, same_randomness=True) for rank in range(4)]
    parts = [fields(rank.batch(5)) for rank in ranks]
    for whole, *pieces in zip(fields(alone.batch(5)), *parts, strict=True):
        assert torch.equal(whole, torch.cat(pieces))
    with pytest.raises(InputError, match=r"engine\.accumulation"):
        loader(mixture, 8, accumulation=3)


def test_a_batch_depends_on_the_step_alone(mixture):
    first, second = loader(mixture), loader(mixture.model_copy(update={"decode_threads": 3}))
    forwards = [first.batch(step).pixels for step in range(4)]
    backwards = [second.batch(step).pixels for step in reversed(range(4))]
    assert all(torch.equal(*pair) for pair in zip(forwards, reversed(backwards), strict=True))
    assert not torch.equal(forwards[0], forwards[1])


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_passes_read_every_sample_once_for_any_number_of_processes(shards, world_size):
    data = config(shards / "train", frames=4).model_copy(update={"sampling": "passes"})
    ranks = [loader(data, 12, rank=rank, world_size=world_size) for rank in range(world_size)]
    samples = torch.cat([rank.batch(step).samples for step in range(6) for rank in ranks])
    passes = samples.view(3, 24)  # 24 videos; 6 steps of 12 clips
    assert torch.equal(passes.sort(1).values, torch.arange(24).expand(3, -1))
    assert not torch.equal(passes[0], passes[1])
    assert ranks[0].passes(6) == {"train": 3.0}


def test_clips_follow_the_draws_of_the_sampler(shards):
    data = config(shards / "train", shards / "unlabelled", frames=4, stride=3)
    batch = loader(data).batch(17)
    draws = ClipSampler(3, [MixtureSource(1.0, (24,)), MixtureSource(2.0, (16,))], 8).samples(17)
    assert batch.samples.tolist() == draws.samples.tolist()
    assert batch.sources.tolist() == draws.sources.tolist()
    assert batch.pixels.shape == (8, 3, 4, 16, 16)
    assert batch.pixels.dtype == torch.float32
    assert not batch.static.any()
    folders = [ShardFolder(source.shards) for source in data.sources.values()]
    for row in range(8):
        video = folders[draws.sources[row]].read(int(draws.samples[row])).data
        end = 12 + int(draws.starts[row] * (16 - 12))
        frames = [min(int(np.floor(end - 12 + i * 12 / 3)), end - 1) for i in range(4)]
        view = random_view(32, 32, data.augmentation, draws.crops[row], draws.flips[row])
        window = (slice(None), *view.window)
        alone = ClipPipeline(data.clip, data.augmentation, 1).run(
            [np.ascontiguousarray(decode_frames(video, frames)[window])], [view], []
        )
        assert isinstance(view, View)
        assert torch.equal(alone[0], batch.pixels[row])


def test_names_and_hashes_of_the_sources(mixture, shards):
    described = loader(mixture)
    assert described.source_names == ("train", "unlabelled")
    assert described.decode_errors == {"train": 0, "unlabelled": 0}
    assert described.data_hashes == {name: ShardFolder(shards / name).hash for name in ("train", "unlabelled")}


def test_processes_must_divide_the_batch(mixture):
    with pytest.raises(InputError, match=r"batch_size.* 8 .*3"):
        loader(mixture, world_size=3)


def test_videos_shorter_than_a_clip_are_an_error(shards):
    with pytest.raises(DataError, match=r"train: .*16 .*17"):
        loader(config(shards / "train", frames=17))


def test_videos_shorter_than_the_span_repeat_their_last_frame(listed, built, noise, tmp_path):
    folder = built(listed((RawFrames(noise(5), 10),)), tmp_path / "train")
    pixels = loader(config(folder, frames=4, stride=2)).batch(0).pixels
    assert torch.equal(pixels[:, :, 2], pixels[:, :, 3])
    assert not torch.equal(pixels[:, :, 0], pixels[:, :, 1])


def test_passes_go_on_as_they_were_after_a_sample_that_does_not_decode(spoilt):
    data = config(spoilt).model_copy(update={"sampling": "passes", "undecodable_rate": 1.0})
    drawn = np.concatenate(
        [ClipSampler(3, [MixtureSource(1.0, (20,))], 8, sampling="passes").samples(step).samples for step in range(5)]
    )
    one = loader(data)
    read = torch.cat([one.batch(step).samples for step in range(5)]).numpy()
    bad = np.isin(drawn, [4, 11])
    assert bad.sum() == 4  # two samples in two passes
    np.testing.assert_array_equal(read[~bad], drawn[~bad])
    assert not np.isin(read, [4, 11]).any()


@pytest.mark.parametrize(("stride", "real"), [(2, 4), (3, 3), (4, 2), (12, 1)])
def test_frames_beyond_the_end_are_marked_if_padding_is_ignored(listed, built, noise, tmp_path, stride, real):
    folder = built(listed((RawFrames(noise(9), 10),)), tmp_path / "train")
    data = config(folder, frames=4, stride=stride)
    marked, plain = loader(data.model_copy(update={"padding": "ignore"})).batch(0), loader(data).batch(0)
    assert plain.real_frames is None
    assert marked.real_frames.tolist() == [real] * 8
    assert torch.equal(marked.pixels, plain.pixels)
    for first in range(real, 4):  # frames of padding repeat the last one
        assert torch.equal(marked.pixels[:, :, first], marked.pixels[:, :, 3])


def spoil(folder: Path, samples: list[int]) -> None:
    """Overwrite videos by zeros, which no check of sizes sees."""
    shards = ShardFolder(folder)
    for index in samples:
        with tarfile.open(shards.tar(index)) as tar:
            member = tar.getmember(f"{shards.key(index)}.{shards.extension(index)}")
        with shards.tar(index).open("r+b") as file:
            file.seek(member.offset_data)
            file.write(bytes(member.size))


@pytest.fixture
def spoilt(listed, built, noise, tmp_path) -> Path:
    """20 videos, two of which do not decode."""
    folder = built(listed(tuple(RawFrames(noise(8, seed=seed), 10) for seed in range(20))), tmp_path / "train")
    spoil(folder, [4, 11])
    return folder


def test_undecodable_samples_are_replaced_counted_and_logged(spoilt, tmp_path):
    run = RunDir(tmp_path / "run")
    log = run.decode_errors_file(0)
    one = loader(config(spoilt))
    one.log_decode_errors_to(run, 0)
    batches = [one.batch(step) for step in range(8)]
    samples = torch.stack([batch.samples for batch in batches])
    drawn = np.stack([ClipSampler(3, [MixtureSource(1.0, (20,))], 8).samples(step).samples for step in range(8)])
    bad = np.isin(drawn, [4, 11])
    assert bad.any()
    assert not np.isin(samples.numpy(), [4, 11]).any()
    np.testing.assert_array_equal(samples.numpy()[~bad], drawn[~bad])

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    first_drops = {(line["step"], line["position"]) for line in lines}
    assert first_drops == set(map(tuple, np.argwhere(bad).tolist()))
    assert one.decode_errors == {"train": len(lines)}
    assert {line["key"] for line in lines} <= {"item-004", "item-011"}
    assert all(line["file"] == str(spoilt / "000000.tar") or "000001" in line["file"] for line in lines)

    again = [loader(config(spoilt), rank=rank, world_size=2) for rank in (0, 1)]
    for step, batch in enumerate(batches):
        assert torch.equal(batch.pixels, torch.cat([rank.batch(step).pixels for rank in again]))


def test_a_run_continues_below_the_allowed_rate(spoilt):
    tolerant = loader(config(spoilt, rate=0.5))
    for step in range(8):
        tolerant.batch(step)
    assert sum(tolerant.decode_errors.values()) > 0


def test_a_run_stops_above_the_allowed_rate(monkeypatch):
    monkeypatch.setattr(decode_errors, "MIN_CLIPS_FOR_RATE", 40)
    error = decode_errors.DecodeErrorRecord(step=0, position=0, source="a", key="k", file="f", reason="r")
    log = decode_errors.DecodeErrorLog(("a",), 0.1)
    log.record(8, 4 * [error])
    with pytest.raises(DataError, match=r"5 of 16 samples .* data\.undecodable_rate = 0\.1"):
        log.record(8, [error])
    with pytest.raises(DataError, match=r"1 of 8 samples .* data\.undecodable_rate = 0 "):
        decode_errors.DecodeErrorLog(("a",), 0.0).record(8, [error])


def test_a_source_without_decodable_samples_is_an_error(spoilt):
    spoil(spoilt, list(range(20)))
    with pytest.raises(DataError, match=f"{re.escape(str(spoilt))}: 10 "):
        loader(config(spoilt)).batch(0)


def test_close_stops_the_threads(mixture):
    closed = loader(mixture)
    closed.batch(0)
    closed.close()
    with pytest.raises(RuntimeError):
        closed.batch(1)


@pytest.fixture
def webms(listed, built, noise, encoded_with, tmp_path) -> Path:
    """20 VP9 videos, which DALI decodes without a GPU; two of them do not decode."""
    options = {"g": "4", "crf": "10", "deadline": "realtime", "cpu-used": "8"}
    files = [encoded_with(noise(8, seed=seed), "libvpx-vp9", "webm", options) for seed in range(20)]
    folder = built(listed(tuple(map(EncodedFile, files))), tmp_path / "train")
    spoil(folder, [4, 11])
    return folder


def test_dali_makes_the_clips_and_replacements_of_pyav(webms):
    pyav, dali = loader(config(webms)), loader(config(webms), decoder=DALI_ON_CPU)
    for step in range(8):
        ours, theirs = pyav.batch(step), dali.batch(step)
        assert torch.equal(ours.samples, theirs.samples)
        assert (ours.pixels - theirs.pixels).abs().mean() < 0.15
    assert pyav.decode_errors == dali.decode_errors != {"train": 0}


GPU_SIDE = 256
"""More than the smallest side that a GPU decodes."""


@pytest.fixture
def large(listed, built, noise, tmp_path) -> Path:
    """8 H.264 videos that GPUs decode; one is damaged."""
    folder = built(
        listed(tuple(RawFrames(noise(8, GPU_SIDE, GPU_SIDE, seed), 10) for seed in range(8))), tmp_path / "train"
    )
    spoil(folder, [5])
    return folder


@pytest.mark.gpu
def test_gpu_clips_and_replacements_equal_those_of_the_cpu(large):
    data = config(large, rate=1.0)
    gpu = loader(data.model_copy(update={"decoder": "gpu"}), device=torch.device("cuda", 0))
    cpu = loader(data)
    for step in range(8):
        on_cpu, on_gpu = cpu.batch(step), gpu.batch(step)
        assert on_gpu.pixels.is_cuda
        assert torch.equal(on_cpu.samples, on_gpu.samples.cpu())
        assert (on_gpu.pixels.cpu() - on_cpu.pixels).abs().mean() < 0.1
    assert cpu.decode_errors == gpu.decode_errors
    assert gpu.cpu_decoded == {"train": 0}


@pytest.mark.gpu
def test_clips_too_small_for_the_gpu_are_those_of_the_cpu(mixture):
    on_cpu, gpu = loader(mixture).batch(0), loader(mixture, device=torch.device("cuda", 0))
    assert torch.equal(gpu.batch(0).pixels.cpu(), on_cpu.pixels)
    assert sum(gpu.cpu_decoded.values()) == 8
