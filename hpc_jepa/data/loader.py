"""The training dataloader: from the step number to this process's part of the global batch of clips."""

import time
from collections.abc import Iterable
from concurrent.futures import Future
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hpc_jepa.config.data import DataConfig
from hpc_jepa.data.augment import Augmenter
from hpc_jepa.data.clip import Clip, EncodedClip, decode_clip, plan_clip
from hpc_jepa.data.clip_sampler import ClipDraws, ClipSampler, MixtureSource
from hpc_jepa.data.colour import FULL_RANGE
from hpc_jepa.data.dali_pipeline import Decoder
from hpc_jepa.data.decode_errors import DecodeErrorLog, DecodeErrorRecord
from hpc_jepa.data.prefetch import Prefetcher
from hpc_jepa.data.shards.shard_folder import ShardFolder, StoredVideo
from hpc_jepa.data.storage import ScratchCache
from hpc_jepa.devices import thread_pool
from hpc_jepa.distributed import local_rows
from hpc_jepa.errors import DataError, UndecodableError
from hpc_jepa.types import ClipBatch

MAX_REPLACEMENTS = 10
"""Samples tried for one clip before the run stops."""

GIB = 1 << 30


class _Row(NamedTuple):
    """One row of the batch. static: its video has a single frame. errors: samples it replaces, which did not decode."""

    source: int
    sample: int
    clip: Clip
    static: bool
    read_seconds: float
    errors: tuple[DecodeErrorRecord, ...]


class ClipLoader:
    """Batches of augmented clips, each a function of (seed, step) alone.

    A process makes rows ``rank * B / world_size`` onwards of the global batch of B clips, so the clips are the same for
    any number of processes and threads. Samples are prefetched some steps ahead. Without a GPU, PyAV decodes in
    ``config.decode_threads`` threads; with one, DALI decodes on it; ``decoder`` "cpu" makes DALI decode without one. A
    sample that does not decode is logged, counted, and replaced by another one of its source.

    With ``same_randomness`` all processes crop and flip their clips alike, as the published code does (B17).

    A shard folder whose longest video has fewer frames than a clip raises DataError. A video shorter than the span of a
    clip is used whole and its last frame is repeated. An image is a video of one frame; with ``config.images``
    "batches", some batches hold images only, [B, C, 1, size, size].

    ``stage_seconds``: time spent in ``batch`` so far, waiting for reads, decoding, and augmenting.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        seed: int,
        batch_size: int,
        rank: int,
        world_size: int,
        device: torch.device,
        same_randomness: bool = False,
        decoder: Decoder | None = None,
    ) -> None:
        rows = local_rows(batch_size, rank, world_size)
        self._config = config
        self._device = device
        self.source_names = tuple(config.sources)
        self._scratch = _scratch(config)
        self._folders = [_open(source.shards, config, self._scratch) for source in config.sources.values()]
        self._sampler = ClipSampler(
            seed,
            [
                MixtureSource(source.weight, folder.shard_sizes, folder.manifest.longest == 1)
                for source, folder in zip(config.sources.values(), self._folders, strict=True)
            ],
            batch_size,
            world_size if same_randomness else 1,
            config.shard_order,
            config.images == "batches",
        )
        self._rows = range(rows.start, rows.stop)
        share = len(self._rows)
        self._error_log = DecodeErrorLog(self.source_names, config.undecodable_rate)
        self._draws = lru_cache(maxsize=config.reading.prefetch_steps + 2)(self._sampler.samples)
        ahead = config.reading.prefetch_steps * share
        self._videos = Prefetcher(self._read, ahead, config.reading.threads, name="read")
        self._threads = thread_pool(config.decode_threads, "decode")
        self._augment = Augmenter(config.clip, config.augmentation, share, config.decode_threads, device, decoder)
        self.stage_seconds = {"read": 0.0, "decode": 0.0, "augment": 0.0}

    @property
    def decode_errors(self) -> dict[str, int]:
        """Clips per source that did not decode and were replaced, on this process since it started."""
        return dict(self._error_log.counts)

    @property
    def data_hashes(self) -> dict[str, str]:
        """Hash of the manifest of each source."""
        return {name: folder.hash for name, folder in zip(self.source_names, self._folders, strict=True)}

    def log_decode_errors_to(self, path: Path) -> None:
        """Log replaced samples to ``path``, those of earlier batches included."""
        self._error_log.open(path)

    def batch(self, step: int) -> ClipBatch:
        """This process's clips of a step. Raises DataError when too many samples do not decode."""
        started = time.perf_counter()
        draws = self._draws(step)
        videos = self._videos.futures(step * len(self._rows), len(self._rows))
        rows = self._make_rows(step, draws, videos, check=False)
        decoded = time.perf_counter()
        try:
            pixels = self._pixels(draws, rows)
        except RuntimeError:
            if not self._augment.takes_encoded:
                raise
            # DALI fails for the whole batch, often without naming the sample: find bad samples, then decode the rest.
            rows = self._make_rows(step, draws, videos, check=True)
            pixels = self._pixels(draws, rows)
        self._error_log.record(len(rows), [error for row in rows for error in row.errors])
        self._add_stage_seconds(rows, decoded - started, time.perf_counter() - decoded)
        return ClipBatch(
            pixels=pixels,
            samples=torch.tensor([row.sample for row in rows], device=self._device),
            sources=torch.tensor([row.source for row in rows], device=self._device),
            static=torch.tensor([row.static for row in rows], device=self._device),
        )

    def close(self) -> None:
        """Stop the threads and close the shard folders."""
        self._videos.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for folder in self._folders:
            folder.close()
        if self._scratch:
            self._scratch.close()

    def _pixels(self, draws: ClipDraws, rows: list[_Row]) -> torch.Tensor:
        images_only = self._config.images == "batches" and self._sampler.sources[draws.sources[0]].images
        return self._augment([row.clip for row in rows], 1 if images_only else self._config.clip.frames)

    def _add_stage_seconds(self, rows: list[_Row], rows_seconds: float, augment_seconds: float) -> None:
        read_seconds = sum(row.read_seconds for row in rows) / self._config.decode_threads
        self.stage_seconds["read"] += read_seconds
        self.stage_seconds["decode"] += rows_seconds - read_seconds
        self.stage_seconds["augment"] += augment_seconds

    def _read(self, item: int) -> StoredVideo:
        """The sample drawn for one row of a step; items count this process's rows over all steps."""
        step, index = divmod(item, len(self._rows))
        draws, row = self._draws(step), self._rows[index]
        return self._folders[int(draws.sources[row])].read(int(draws.samples[row]))

    def _make_rows(self, step: int, draws: ClipDraws, videos: Iterable[Future[StoredVideo]], check: bool) -> list[_Row]:
        return list(self._threads.map(partial(self._make_row, step, draws, check), self._rows, videos))

    def _make_row(self, step: int, draws: ClipDraws, check: bool, row: int, prefetched: Future[StoredVideo]) -> _Row:
        """The sample drawn for a row, or the first of its replacements that decodes."""
        source, sample = int(draws.sources[row]), int(draws.samples[row])
        folder = self._folders[source]
        errors: list[DecodeErrorRecord] = []
        read_seconds = 0.0
        for attempt in range(MAX_REPLACEMENTS):
            started = time.perf_counter()
            try:
                video = folder.read(sample) if errors else prefetched.result()
                read_seconds += time.perf_counter() - started
                clip = self._make_clip(video, draws, row, check)
                return _Row(source, sample, clip, video.info.frames == 1, read_seconds, tuple(errors))
            except UndecodableError as error:
                where = {
                    "source": self.source_names[source],
                    "key": folder.key(sample),
                    "file": str(folder.tar(sample)),
                }
                errors.append(DecodeErrorRecord(step=step, position=row, **where, reason=str(error)))
                sample = int(self._sampler.replacements(step, attempt)[row])
        raise DataError(
            f"{folder.path}: {MAX_REPLACEMENTS} samples in a row do not decode ({errors[-1].reason}); "
            f"run: hpc-jepa shards verify --decode {folder.path}"
        )

    def _make_clip(self, video: StoredVideo, draws: ClipDraws, row: int, check: bool) -> Clip:
        """Encoded for DALI or decoded by PyAV; with ``check`` an encoded clip is decoded once to find errors.

        PyAV decodes full range too: DALI would clip it, or not, depending on where the range is stated.
        """
        plan = plan_clip(video, draws, row, self._config.clip, self._config.augmentation)
        if not self._augment.takes_encoded or video.info.colour == FULL_RANGE:
            return decode_clip(video, plan)
        if check:
            decode_clip(video, plan)
        return EncodedClip(plan, np.frombuffer(video.data, np.uint8), video.info.colour)


def _scratch(config: DataConfig) -> ScratchCache | None:
    """Old copies are evicted only if clips come from a few tars at a time; otherwise every tar is equally useful."""
    reading = config.reading
    if reading.scratch is None:
        return None
    return ScratchCache(reading.scratch, int(reading.scratch_limit * GIB), evict=config.shard_order is not None)


def _open(shards: str, config: DataConfig, scratch: ScratchCache | None) -> ShardFolder:
    folder = ShardFolder(shards, scratch)
    if 1 < folder.manifest.longest < config.clip.frames:
        raise DataError(
            f"{shards}: its longest video has {folder.manifest.longest} frames, a clip needs {config.clip.frames}; "
            f"lower data.clip.frames or build longer videos"
        )
    return folder
