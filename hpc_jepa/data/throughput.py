"""Throughput of the dataloader: clips per second by decoder, and the share of each stage."""

import time
from dataclasses import dataclass
from typing import Literal

import torch

from hpc_jepa.config.data import AugmentationConfig, ClipConfig, DataConfig, ReadingConfig, SourceConfig
from hpc_jepa.data.gpu_decoding import DALI_ON_CPU
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.data.shards.shard_folder import ShardFolder

DecoderName = Literal["PyAV", "DALI on the CPU", "DALI on the GPU"]

DALI_CPU_CODECS = {"vp8", "vp9", "jpeg"}
"""Codecs that DALI decodes without a GPU."""


@dataclass(frozen=True)
class DecoderThroughput:
    """Throughput of one decoder, and the shares of loader time: waiting for reads, decoding, augmenting.

    DALI decodes and augments in one pipeline: ``decode`` is None and ``augment`` includes it.
    """

    decoder: DecoderName
    clips_per_second: float
    clips_per_cpu_second: float
    read: float
    decode: float | None
    augment: float


def available_decoders(shards: ShardFolder) -> list[DecoderName]:
    """Decoders of this machine for the codec of the first sample."""
    names: list[DecoderName] = ["PyAV"]
    if shards.info(0).codec in DALI_CPU_CODECS:
        names.append("DALI on the CPU")
    if torch.cuda.is_available():
        names.append("DALI on the GPU")
    return names


def measure_throughput(
    decoder: DecoderName,
    shards: str,
    clip: ClipConfig,
    augmentation: AugmentationConfig,
    *,
    batch_size: int,
    batches: int,
    threads: int,
) -> DecoderThroughput:
    """Time the training dataloader on one shard folder, seed 0, after a warm-up batch.

    Raises RuntimeError if DALI cannot decode, DataError if too many samples do not decode.
    """
    config = DataConfig(
        sources={"shards": SourceConfig(shards=shards)},
        clip=clip,
        augmentation=augmentation,
        decode_threads=threads,
        reading=ReadingConfig(threads=threads),
    )
    loader = ClipLoader(
        config,
        seed=0,
        batch_size=batch_size,
        rank=0,
        world_size=1,
        device=torch.device("cuda" if decoder == "DALI on the GPU" else "cpu"),
        decoder=DALI_ON_CPU if decoder == "DALI on the CPU" else None,
    )
    try:
        loader.batch(0)
        loader.stage_seconds = dict.fromkeys(loader.stage_seconds, 0.0)
        started, cpu_started = time.perf_counter(), time.process_time()
        for step in range(1, batches + 1):
            loader.batch(step)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    finally:
        loader.close()
    clips, total = batch_size * batches, sum(loader.stage_seconds.values())
    read, decode, augment = (part / total for part in loader.stage_seconds.values())
    if decoder != "PyAV":
        return DecoderThroughput(decoder, clips / seconds, clips / cpu_seconds, read, None, decode + augment)
    return DecoderThroughput(decoder, clips / seconds, clips / cpu_seconds, read, decode, augment)
