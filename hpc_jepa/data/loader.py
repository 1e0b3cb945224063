"""The training dataloader: from the step number to this process's part of the global batch of clips."""

import time
from collections.abc import Iterable
from concurrent.futures import Future
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hpc_jepa.config.data import DataConfig
from hpc_jepa.data.augment import Augmenter
from hpc_jepa.data.clip import Clip, EncodedClip, decode_clip, plan_clip
from hpc_jepa.data.clip_ring import ClipFacts
from hpc_jepa.data.clip_sampler import ClipDraws
from hpc_jepa.data.decode_errors import CpuDecodeLog, DecodeErrorLog, DecodeErrorRecord
from hpc_jepa.data.gpu_decoding import DaliDecoder, DecoderChoice, choose_decoder
from hpc_jepa.data.prefetch import Prefetcher
from hpc_jepa.data.shards.shard_folder import ShardFolder, StoredVideo
from hpc_jepa.data.shared_clips import SharedClips, shared_clips
from hpc_jepa.data.storage import ScratchCache
from hpc_jepa.data.tar_order import TarOrder, mixture_sampler
from hpc_jepa.devices import thread_pool
from hpc_jepa.distributed import local_rows
from hpc_jepa.errors import DataError, UndecodableError
from hpc_jepa.io.escape import shell_command
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.types import ClipBatch

MAX_REPLACEMENTS = 10
"""Samples tried for one clip before the run stops."""

GIB = 1 << 30


class _Row(NamedTuple):
    """One row of the batch.

    clip: None if another process made its pixels. errors: samples it replaces, which did not decode; refusal: why PyAV
    decoded it and DALI did not, if DALI decodes others.
    """

    source: int
    sample: int
    clip: Clip | None
    facts: ClipFacts
    read_seconds: float = 0.0
    errors: tuple[DecodeErrorRecord, ...] = ()
    refusal: str | None = None


class _Step(NamedTuple):
    """One step of this process: its draws, and the videos of its rows as they are read."""

    number: int
    draws: ClipDraws
    videos: list[Future[StoredVideo]]


class ClipLoader:
    """Batches of augmented clips, each a function of (seed, step) alone.

    A process makes rows ``rank * B / world_size`` onwards of the global batch of B clips, so the clips are the same for
    any number of processes and threads. Samples are prefetched some steps ahead. PyAV decodes in
    ``config.decode_threads`` threads; on a GPU, DALI decodes what the GPU's decoder supports (``config.decoder``). A
    clip that DALI fails to decode is decoded by PyAV; one that neither decodes is logged, counted, and replaced by
    another one of its source. ``decoder``: used instead of the one that the configuration chooses. ``shared``: with
    ``config.reading.share`` clips may come from other runs of this node, unless a GPU decodes.

    With ``same_randomness`` all processes, and all ``accumulation`` micro-batches of one, crop and flip their clips
    alike, as the published code does (B17).

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
        accumulation: int = 1,
        device: torch.device,
        same_randomness: bool = False,
        decoder: DaliDecoder | None = None,
        shared: bool = False,
    ) -> None:
        decoder = decoder or choose_decoder(config.decoder, device)
        rows = local_rows(batch_size, rank, world_size, accumulation)
        self._config = config
        self._device = device
        self.source_names = tuple(config.sources)
        self._step = 0
        self._scratch = self._open_scratch()
        self._folders = [_open(source.shards, config, self._scratch) for source in config.sources.values()]
        repeats = world_size * accumulation if same_randomness else 1
        self._sampler = mixture_sampler(config, self._folders, seed, batch_size, repeats)
        self._tar_order = TarOrder(self._sampler, self._folders)
        self._rows = range(rows.start, rows.stop)
        share = len(self._rows)
        self._error_log = DecodeErrorLog(self.source_names, config.undecodable_rate)
        self._cpu_log = CpuDecodeLog(self.source_names)
        self._choice = DecoderChoice(decoder, [len(folder) for folder in self._folders]) if decoder else None
        self._draws = lru_cache(maxsize=config.reading.prefetch_steps + 2)(self._sampler.samples)
        ahead = config.reading.prefetch_steps * share
        self._videos = Prefetcher(self._read, ahead, config.reading.threads, name="read")
        self._threads = thread_pool(config.decode_threads, "decode")
        self._augment = Augmenter(config.clip, config.augmentation, share, config.decode_threads, device, decoder)
        self._shared = self._open_shared(decoder) if shared else None
        self.stage_seconds = {"read": 0.0, "decode": 0.0, "augment": 0.0}

    @property
    def decode_errors(self) -> dict[str, int]:
        """Clips per source that did not decode and were replaced, on this process since it started."""
        return dict(self._error_log.counts)

    @property
    def cpu_decoded(self) -> dict[str, int]:
        """Clips per source that PyAV decoded because the GPU does not, on this process since it started."""
        return dict(self._cpu_log.counts)

    @property
    def shared_clips(self) -> int | None:
        """Clips of this process that other runs of this node made, since it started; None if none were shared."""
        return self._shared.taken if self._shared else None

    @property
    def data_hashes(self) -> dict[str, str]:
        """Hash of the manifest of each source."""
        return {name: folder.hash for name, folder in zip(self.source_names, self._folders, strict=True)}

    def passes(self, steps: int) -> dict[str, float]:
        """How often the first ``steps`` steps read each source: clips of all processes over the size of the source."""
        return dict(zip(self.source_names, self._sampler.passes(steps), strict=True))

    def log_decode_errors_to(self, run: RunDir, rank: int) -> None:
        """Log replaced samples, and those that DALI could not decode, of earlier batches too, to files of the run."""
        self._error_log.open(run.decode_errors_file(rank))
        self._cpu_log.open(run.gpu_failures_file(rank))

    def batch(self, step: int) -> ClipBatch:
        """This process's clips of a step. Raises DataError when too many samples do not decode."""
        self._step = step
        draws = self._draws(step)
        this = _Step(step, draws, self._videos.futures(step * len(self._rows), len(self._rows)))
        shares = self._shared is not None and self._shared.begin(step)
        pixels = self._augment.empty(len(self._rows), self._frames(draws), on_host=shares)
        indices = list(range(len(self._rows)))
        made = self._take_or_make(this, pixels) if shares else self._make(this, indices, pixels)
        rows = [made[index] for index in indices]
        self._log(rows)
        return ClipBatch(
            pixels=pixels.to(self._device, non_blocking=True),
            samples=torch.tensor([row.sample for row in rows], device=self._device),
            sources=torch.tensor([row.source for row in rows], device=self._device),
            static=torch.tensor([row.facts.static for row in rows], device=self._device),
            real_frames=self._real_frames(rows),
        )

    def close(self) -> None:
        """Stop the threads and close the shard folders."""
        self._videos.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._shared:
            self._shared.close()
        for folder in self._folders:
            folder.close()
        if self._scratch:
            self._scratch.close()

    def _open_scratch(self) -> ScratchCache | None:
        """Copies are evicted only if clips come from a few tars at a time; otherwise every tar is equally useful."""
        reading = self._config.reading
        if reading.scratch is None:
            return None
        limit, ordered = int(reading.scratch_limit * GIB), self._config.shard_order is not None
        next_uses = (lambda: self._tar_order.next_uses(self._step)) if ordered else None
        return ScratchCache(reading.scratch, limit, evict=ordered, next_uses=next_uses)

    def _frames(self, draws: ClipDraws) -> int:
        """Frames of the clips of a step."""
        images_only = self._config.images == "batches" and self._sampler.sources[draws.sources[0]].images
        return 1 if images_only else self._config.clip.frames

    def _real_frames(self, rows: list[_Row]) -> Tensor | None:
        if self._config.padding == "repeat":
            return None
        return torch.tensor([row.facts.real for row in rows])

    def _open_shared(self, decoder: DaliDecoder | None) -> SharedClips | None:
        if decoder is not None and decoder.device == "mixed":
            return None
        identity = {
            "seed": self._sampler.seed,
            "repeats": self._sampler.repeats,
            "data": [folder.hash for folder in self._folders],
            "decoder": decoder.device if decoder else "PyAV",
        }
        return shared_clips(
            self._config,
            identity,
            batch_size=self._sampler.batch_size,
            rows=self._rows,
            chunk=self._config.decode_threads,
        )

    def _take_or_make(self, step: _Step, pixels: Tensor) -> dict[int, _Row]:
        """All rows of a step: those that other processes made, and the rest, which they may take."""
        assert self._shared is not None
        rows: dict[int, _Row] = {}

        def make(indices: list[int]) -> dict[int, ClipFacts | None]:
            made = self._make(step, indices, pixels)
            rows.update(made)
            return {index: None if row.errors else row.facts for index, row in made.items()}

        clips = [clip.numpy().reshape(-1).view(np.uint8) for clip in pixels]
        for index, facts in self._shared.fill(step.number, clips, make).items():
            source, sample = (int(drawn[self._rows[index]]) for drawn in (step.draws.sources, step.draws.samples))
            rows[index] = _Row(source, sample, None, facts)
        return rows

    def _make(self, step: _Step, indices: list[int], pixels: Tensor) -> dict[int, _Row]:
        """Make some rows and write their pixels."""
        started = time.perf_counter()
        rows = self._decode(step, indices)
        decoded = time.perf_counter()
        failures = self._fill(pixels, rows)
        while failures:  # DALI could not decode these: PyAV does, or the sample is replaced
            self._refuse(step.number, rows, failures)
            remade = self._decode(step, list(failures))
            rows |= remade
            failures = self._fill(pixels, remade)
        self._add_stage_seconds(rows.values(), decoded - started, time.perf_counter() - decoded)
        return rows

    def _fill(self, pixels: Tensor, rows: dict[int, _Row]) -> dict[int, str]:
        """Write the clips of some rows; those that DALI could not decode, and why."""
        clips = {index: row.clip for index, row in rows.items() if row.clip is not None}
        failures = self._augment.fill(pixels, clips)
        if self._choice is not None:  # before any is refused: clips decoded beside them show that DALI works
            self._choice.count_decoded(sum(row.refusal is None for row in rows.values()) - len(failures))
        return failures

    def _refuse(self, step: int, rows: dict[int, _Row], failures: dict[int, str]) -> None:
        """Leave the samples of some rows to PyAV from now on."""
        assert self._choice is not None
        for index, reason in failures.items():
            self._choice.refuse(rows[index].source, rows[index].sample, reason)
        self._cpu_log.record_failures(
            [self._record(step, index, rows[index].source, rows[index].sample, why) for index, why in failures.items()]
        )

    def _log(self, rows: list[_Row]) -> None:
        self._error_log.record(len(rows), [error for row in rows for error in row.errors])
        if self._choice is None:
            return
        for row in rows:
            if row.refusal is not None:
                folder = self._folders[row.source]
                name, key, tar = self.source_names[row.source], folder.key(row.sample), str(folder.tar(row.sample))
                self._cpu_log.count(name, key, tar, row.refusal)

    def _record(self, step: int, index: int, source: int, sample: int, reason: str) -> DecodeErrorRecord:
        folder = self._folders[source]
        return DecodeErrorRecord(
            step=step,
            position=self._rows[index],
            source=self.source_names[source],
            key=folder.key(sample),
            file=str(folder.tar(sample)),
            reason=reason,
        )

    def _add_stage_seconds(self, rows: Iterable[_Row], rows_seconds: float, augment_seconds: float) -> None:
        read_seconds = sum(row.read_seconds for row in rows) / self._config.decode_threads
        self.stage_seconds["read"] += read_seconds
        self.stage_seconds["decode"] += rows_seconds - read_seconds
        self.stage_seconds["augment"] += augment_seconds

    def _read(self, item: int) -> StoredVideo:
        """The sample drawn for one row of a step; items count this process's rows over all steps."""
        step, index = divmod(item, len(self._rows))
        draws, row = self._draws(step), self._rows[index]
        return self._folders[int(draws.sources[row])].read(int(draws.samples[row]))

    def _decode(self, step: _Step, indices: list[int]) -> dict[int, _Row]:
        return dict(zip(indices, self._threads.map(partial(self._decode_row, step), indices), strict=True))

    def _decode_row(self, step: _Step, index: int) -> _Row:
        """The sample drawn for a row of this process, or the first of its replacements that decodes."""
        draws = step.draws
        row = self._rows[index]
        source, sample = int(draws.sources[row]), int(draws.samples[row])
        folder = self._folders[source]
        errors: list[DecodeErrorRecord] = []
        read_seconds = 0.0
        for attempt in range(MAX_REPLACEMENTS):
            started = time.perf_counter()
            try:
                video = folder.read(sample) if errors else step.videos[index].result()
                read_seconds += time.perf_counter() - started
                clip, refusal = self._make_clip(video, draws, row, source, sample)
                facts = ClipFacts(video.info.frames == 1, clip.plan.real)
                return _Row(source, sample, clip, facts, read_seconds, tuple(errors), refusal)
            except UndecodableError as error:
                errors.append(self._record(step.number, index, source, sample, str(error)))
                sample = int(self._sampler.replacements(step.number, attempt)[row])
        raise DataError(
            f"{folder.path}: {MAX_REPLACEMENTS} samples in a row do not decode ({errors[-1].reason}); "
            f"run: {shell_command('hpc-jepa', 'shards', 'verify', '--decode', folder.path)}"
        )

    def _make_clip(
        self, video: StoredVideo, draws: ClipDraws, row: int, source: int, sample: int
    ) -> tuple[Clip, str | None]:
        """Encoded for DALI, or decoded by PyAV and why DALI does not decode it."""
        plan = plan_clip(video, draws, row, self._config.clip, self._config.augmentation)
        if self._choice is None:
            return decode_clip(video, plan), None
        refusal = self._choice.decide(source, sample, video)
        if refusal is not None:
            return decode_clip(video, plan), refusal
        return EncodedClip(plan, video.data), None


def _open(shards: str, config: DataConfig, scratch: ScratchCache | None) -> ShardFolder:
    folder = ShardFolder(shards, scratch)
    if 1 < folder.manifest.longest < config.clip.frames:
        raise DataError(
            f"{shards}: its longest video has {folder.manifest.longest} frames, a clip needs {config.clip.frames}; "
            f"lower data.clip.frames or build longer videos"
        )
    return folder
