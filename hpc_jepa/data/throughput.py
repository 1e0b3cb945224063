"""How many clips a second a machine reads, decodes and augments, and where the time goes."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch

from hpc_jepa.config.data import AugmentationConfig, ClipConfig
from hpc_jepa.data.augment import Augmenter
from hpc_jepa.data.clip import compressed_clip, decoded_clip
from hpc_jepa.data.clip_sampler import ClipSampler, MixtureSource
from hpc_jepa.data.shards.shard_folder import ShardFolder

DecoderName = Literal["PyAV", "DALI on the CPU", "DALI on the GPU"]

DALI_ON_CPU = {"vp8", "vp9", "mjpeg", "jpeg"}
"""Codecs that DALI decodes without a GPU."""


@dataclass(frozen=True)
class DecoderThroughput:
    """What a decoder manages, and shares of its time. DALI decodes and augments in one graph: ``decode`` is None."""

    decoder: DecoderName
    clips_per_second: float
    clips_per_cpu_second: float
    read: float
    decode: float | None
    augment: float


def available_decoders(shards: ShardFolder) -> list[DecoderName]:
    """What this machine can decode a folder with, judged by its first sample."""
    names: list[DecoderName] = ["PyAV"]
    if shards.info(0).codec in DALI_ON_CPU:
        names.append("DALI on the CPU")
    if torch.cuda.is_available():
        names.append("DALI on the GPU")
    return names


def measure_throughput(
    decoder: DecoderName,
    shards: ShardFolder,
    clip: ClipConfig,
    augmentation: AugmentationConfig,
    *,
    batch_size: int,
    batches: int,
    threads: int,
) -> DecoderThroughput:
    """Make the batches of training on these shards alone, seed 0, after an uncounted one; stages one after the other.

    Raises UndecodableError where a sample is damaged, RuntimeError where DALI cannot decode one.
    """
    device = torch.device("cuda" if decoder == "DALI on the GPU" else "cpu")
    augment = Augmenter(
        clip, augmentation, batch_size, threads, device, decoder="cpu" if decoder == "DALI on the CPU" else None
    )
    sampler = ClipSampler(0, [MixtureSource(1.0, shards.shard_sizes)], batch_size)
    read = decode = rest = cpu = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for step in range(batches + 1):
            draws = sampler.samples(step)
            times, busy = [time.perf_counter()], time.process_time()
            videos = list(pool.map(shards.read, draws.samples.tolist()))
            times.append(time.perf_counter())
            clips = [compressed_clip(video, draws, row, clip, augmentation) for row, video in enumerate(videos)]
            if not augment.decodes:
                clips = list(pool.map(decoded_clip, clips, videos))
            times.append(time.perf_counter())
            augment(clips, clip.frames).cpu()
            times.append(time.perf_counter())
            if step:
                cpu += time.process_time() - busy
                read, decode, rest = (
                    total + times[stage + 1] - times[stage] for stage, total in enumerate((read, decode, rest))
                )
    made, spent = batch_size * batches, read + decode + rest
    return DecoderThroughput(
        decoder,
        made / spent,
        made / cpu,
        read / spent,
        None if augment.decodes else decode / spent,
        rest / spent,
    )
