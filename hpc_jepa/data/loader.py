"""Training clips: from the step number to this process's part of the global batch."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch

from hpc_jepa.config.data import DataConfig
from hpc_jepa.data.augment import Augmenter, Clip
from hpc_jepa.data.clip import compressed_clip, decoded_clip
from hpc_jepa.data.clip_sampler import ClipDraws, ClipSampler, MixtureSource
from hpc_jepa.data.decode_errors import DecodeErrorLog, DecodeErrorRecord
from hpc_jepa.data.prefetch import Prefetcher
from hpc_jepa.data.shards.shard_folder import ShardFolder, StoredVideo
from hpc_jepa.data.storage import ScratchCache
from hpc_jepa.errors import DataError, InputError, UndecodableError
from hpc_jepa.types import ClipBatch

MAX_REPLACEMENTS = 10
"""Undecodable samples in a row, all meant for one clip, before the run stops."""

GIB = 1 << 30


class _Row(NamedTuple):
    """One row of the batch. static: its video has a single frame. drops: what it stands in for."""

    source: int
    sample: int
    clip: Clip
    static: bool
    drops: tuple[DecodeErrorRecord, ...] = ()


class ClipLoader:
    """Batches of augmented clips, each a function of (seed, step) alone.

    A process makes the rows ``rank * B / world_size`` onwards of the global batch of B clips, so the clips are the
    same for any number of processes and threads. Samples are read some steps ahead. Without a GPU, PyAV decodes in
    ``config.decode_threads`` threads; with one, DALI decodes on it. A sample that does not decode is noted, counted,
    and replaced by another one of its source.

    With ``same_randomness`` all processes cut and turn their clips alike, as the published code does (B17).

    A folder of videos in which every one has fewer frames than a clip is refused. Single videos shorter than the span
    of a clip are used whole and their last frame is repeated. An image is a video of one frame; with ``config.images``
    "batches" the batches of some steps are images alone, [B, C, 1, size, size].
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
    ) -> None:
        if batch_size % world_size:
            raise InputError(f"engine.batch_size {batch_size} cannot be divided among {world_size} processes")
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
        share = batch_size // world_size
        self._rows = range(rank * share, (rank + 1) * share)
        self._drops = DecodeErrorLog(self.source_names, config.undecodable_rate)
        self._draws = lru_cache(maxsize=config.reading.ahead + 2)(self._sampler.samples)
        ahead = config.reading.ahead * share
        self._videos = Prefetcher(self._read, ahead, config.reading.threads, name="read")
        self._threads = ThreadPoolExecutor(config.decode_threads, thread_name_prefix="decode")
        self._augment = Augmenter(config.clip, config.augmentation, share, config.decode_threads, device)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Samples of each source."""
        return tuple(len(folder) for folder in self._folders)

    @property
    def dropped(self) -> dict[str, int]:
        """Clips per source that did not decode and were replaced, on this process since it started."""
        return dict(self._drops.counts)

    @property
    def data_hashes(self) -> dict[str, str]:
        """Hash of the manifest of each source."""
        return {name: folder.hash for name, folder in zip(self.source_names, self._folders, strict=True)}

    def log_decode_errors_to(self, ledger: Path) -> None:
        """Keep a ledger of the samples that are replaced, those of batches already made included."""
        self._drops.open(ledger)

    def batch(self, step: int) -> ClipBatch:
        """This process's clips of a step. Raises DataError when too many samples do not decode."""
        draws = self._draws(step)
        stored = self._videos.futures(step * len(self._rows), len(self._rows))
        rows = self._made(step, draws, stored, check=False)
        try:
            pixels = self._pixels(draws, rows)
        except RuntimeError:
            if not self._augment.decodes:
                raise
            # DALI fails for the whole batch and does not always say why: find the bad samples, then decode the rest.
            rows = self._made(step, draws, stored, check=True)
            pixels = self._pixels(draws, rows)
        self._drops.record(len(rows), [drop for row in rows for drop in row.drops])
        return ClipBatch(
            pixels=pixels,
            samples=torch.tensor([row.sample for row in rows], device=self._device),
            sources=torch.tensor([row.source for row in rows], device=self._device),
            static=torch.tensor([row.static for row in rows], device=self._device),
        )

    def close(self) -> None:
        """End the threads and close the shards."""
        self._videos.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for folder in self._folders:
            folder.close()
        if self._scratch:
            self._scratch.close()

    def _pixels(self, draws: ClipDraws, rows: list[_Row]) -> torch.Tensor:
        of_images = self._config.images == "batches" and self._sampler.sources[draws.sources[0]].images
        return self._augment([row.clip for row in rows], 1 if of_images else self._config.clip.frames)

    def _read(self, item: int) -> StoredVideo:
        """The sample drawn for one row of a step; items count this process's rows over all steps."""
        step, index = divmod(item, len(self._rows))
        draws, row = self._draws(step), self._rows[index]
        return self._folders[int(draws.sources[row])].read(int(draws.samples[row]))

    def _made(self, step: int, draws: ClipDraws, stored: Iterable[Future[StoredVideo]], check: bool) -> list[_Row]:
        return list(self._threads.map(partial(self._row, step, draws, check), self._rows, stored))

    def _row(self, step: int, draws: ClipDraws, check: bool, row: int, stored: Future[StoredVideo]) -> _Row:
        """The sample drawn for a row, or the first of its replacements that decodes."""
        source, sample = int(draws.sources[row]), int(draws.samples[row])
        folder = self._folders[source]
        drops: list[DecodeErrorRecord] = []
        for attempt in range(MAX_REPLACEMENTS):
            try:
                video = stored.result() if not drops else folder.read(sample)
                clip = self._clip(video, draws, row, check)
                return _Row(source, sample, clip, video.info.frames == 1, tuple(drops))
            except UndecodableError as error:
                place = folder.key(sample), str(folder.tar(sample))
                drops.append(DecodeErrorRecord(step, row, self.source_names[source], *place, str(error)))
                sample = int(self._sampler.replacements(step, attempt)[row])
        raise DataError(
            f"{folder.folder}: {MAX_REPLACEMENTS} samples in a row do not decode ({drops[-1].reason}); "
            f"run: hpc-jepa shards verify --decode {folder.folder}"
        )

    def _clip(self, video: StoredVideo, draws: ClipDraws, row: int, check: bool) -> Clip:
        """Decoded here without a GPU, and compressed, for DALI, with one (decoded anyway to ``check`` it)."""
        compressed = compressed_clip(video, draws, row, self._config.clip, self._config.augmentation)
        if self._augment.decodes and not check:
            return compressed
        decoded = decoded_clip(compressed, video)
        return compressed if self._augment.decodes else decoded


def _scratch(config: DataConfig) -> ScratchCache | None:
    """Copies give way to new ones where clips come from a few tars at a time; else the first to come stay."""
    reading = config.reading
    if reading.scratch is None:
        return None
    return ScratchCache(reading.scratch, int(reading.scratch_limit * GIB), replace=config.shard_order is not None)


def _open(shards: str, config: DataConfig, scratch: ScratchCache | None) -> ShardFolder:
    folder = ShardFolder(shards, scratch)
    if 1 < folder.manifest.longest < config.clip.frames:
        raise DataError(
            f"{shards}: its longest video has {folder.manifest.longest} frames, a clip needs {config.clip.frames}; "
            f"lower data.clip.frames or build longer videos"
        )
    return folder
