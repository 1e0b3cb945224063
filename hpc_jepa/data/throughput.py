"""Throughput of the dataloader: clips per second by decoder, and the share of each stage."""

import time
from dataclasses import dataclass, replace
from typing import Literal

import torch

from hpc_jepa.config.data import (
    AugmentationConfig,
    ClipConfig,
    DataConfig,
    DecoderSetting,
    ReadingConfig,
    SourceConfig,
)
from hpc_jepa.data.gpu_decoding import DALI_ON_CPU, DaliDecoder, choose_decoder, gpu_problem
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.torchcodec_pipeline import TorchcodecPipeline, has_torchcodec

DecoderName = Literal["PyAV", "DALI on the CPU", "DALI on the GPU", "torchcodec on the GPU"]

SETTINGS: dict[DecoderName, DecoderSetting] = {"PyAV": "cpu", "DALI on the GPU": "gpu"}
"""The value of ``data.decoder`` for the decoders that a configuration can choose."""

DALI_CPU_CODECS = {"vp8", "vp9", "jpeg"}
"""Codecs that DALI decodes without a GPU."""


@dataclass(frozen=True)
class DecoderThroughput:
    """Throughput of one decoder, and the shares of loader time: waiting for reads, decoding, augmenting.

    DALI and torchcodec decode and augment in one go: ``decode`` is None and ``augment`` includes it. left_to_pyav:
    share of the clips that PyAV decoded because the decoder does not support them.
    """

    decoder: DecoderName
    clips_per_second: float
    clips_per_cpu_second: float
    read: float
    decode: float | None
    augment: float
    left_to_pyav: float = 0.0

    @property
    def setting(self) -> DecoderSetting | None:
        """Value of ``data.decoder`` that chooses this decoder, None if a configuration cannot."""
        return SETTINGS.get(self.decoder)


def bench_device() -> torch.device:
    """The GPU that clips are delivered to, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def available_decoders(shards: ShardFolder) -> list[DecoderName]:
    """Decoders of this machine for the codec of the first sample."""
    names: list[DecoderName] = ["PyAV"]
    if shards.info(0).codec in DALI_CPU_CODECS:
        names.append("DALI on the CPU")
    if gpu_problem(bench_device()) is None:
        names += ["DALI on the GPU", "torchcodec on the GPU"] if has_torchcodec() else ["DALI on the GPU"]
    return names


def _dali_decoder(decoder: DecoderName) -> tuple[torch.device, DaliDecoder | None]:
    """Where the loader delivers clips, and its decoder if not PyAV alone. DALI on the CPU delivers to the CPU."""
    if decoder == "DALI on the CPU":
        return torch.device("cpu"), DALI_ON_CPU
    device = bench_device()
    if decoder == "PyAV":
        return device, None
    found = choose_decoder("gpu", device)
    if found is not None and decoder == "torchcodec on the GPU":
        return device, replace(found, make_pipeline=TorchcodecPipeline)
    return device, found


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

    Raises DataError if too many samples do not decode, InputError if there is no GPU decoder.
    """
    config = DataConfig(
        sources={"shards": SourceConfig(shards=shards)},
        clip=clip,
        augmentation=augmentation,
        decoder="cpu",
        decode_threads=threads,
        reading=ReadingConfig(threads=threads),
    )
    device, dali = _dali_decoder(decoder)
    loader = ClipLoader(config, seed=0, batch_size=batch_size, rank=0, world_size=1, device=device, decoder=dali)
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
    return DecoderThroughput(
        decoder,
        clips / seconds,
        clips / cpu_seconds,
        read,
        None if dali else decode,
        augment + decode if dali else augment,
        sum(loader.cpu_decoded.values()) / (batch_size * (batches + 1)),
    )
