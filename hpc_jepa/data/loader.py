"""Training clips: from the step number to this process's part of the global batch."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hpc_jepa.config.data import ClipConfig, DataConfig
from hpc_jepa.data.clips import training_frames
from hpc_jepa.data.crop import View, augmented_view
from hpc_jepa.data.decode import UndecodableError, decode_frames
from hpc_jepa.data.drops import Drop, DropLedger
from hpc_jepa.data.pipeline import ClipPipeline
from hpc_jepa.data.sampler import Draws, Sampler
from hpc_jepa.data.shards.folder import ShardFolder
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.latents import ClipBatch

REPLACEMENTS = 10
"""Undecodable samples in a row, all meant for one clip, before the run stops."""


class _Clip(NamedTuple):
    """One row of the batch. video: frames [F, H, W, 3] or compressed bytes [n], uint8; frames: their indices [F]."""

    source: int
    sample: int
    video: NDArray[np.uint8]
    view: View
    frames: NDArray[np.int64]
    drops: tuple[Drop, ...]


class ClipLoader:
    """Batches of augmented clips, each a function of (seed, step) alone.

    A process makes the rows ``rank * B / world_size`` onwards of the global batch of B clips, so the clips are the
    same for any number of processes. Without a GPU, PyAV decodes in ``config.decode_threads`` threads; with one, DALI
    decodes on it. A sample that does not decode is written to ``ledger``, counted, and replaced by another one of its
    source.

    With ``same_randomness`` all processes cut and turn their clips alike, as the published code does (B17).

    A folder in which every video has fewer frames than a clip is refused. Single videos shorter than the span of a clip
    are used whole and their last frame is repeated.
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
        ledger: Path | None = None,
        same_randomness: bool = False,
    ) -> None:
        if batch_size % world_size:
            raise InputError(f"engine.batch_size {batch_size} cannot be divided among {world_size} processes")
        self._config = config
        self._device = device
        self.source_names = tuple(config.sources)
        self._folders = [_open(source.shards, config.clip) for source in config.sources.values()]
        weights = [source.weight for source in config.sources.values()]
        self._sampler = Sampler(seed, self.sizes, weights, batch_size, world_size if same_randomness else 1)
        share = batch_size // world_size
        self._rows = range(rank * share, (rank + 1) * share)
        self._drops = DropLedger(ledger, self.source_names, config.undecodable_rate)
        self._threads = ThreadPoolExecutor(config.decode_threads, thread_name_prefix="decode")
        self._pipeline = self._new_pipeline()

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

    def batch(self, step: int) -> ClipBatch:
        """This process's clips of a step. Raises DataError when too many samples do not decode."""
        draws = self._sampler.samples(step)
        clips = self._clips(step, draws, check=False)
        try:
            pixels = self._pixels(clips)
        except RuntimeError:
            if not self._on_gpu:
                raise
            # DALI fails for the whole batch and does not always say why: find the bad samples, then decode the rest.
            clips = self._clips(step, draws, check=True)
            self._pipeline = self._new_pipeline()
            pixels = self._pixels(clips)
        self._drops.record(len(clips), [drop for clip in clips for drop in clip.drops])
        return ClipBatch(
            pixels=pixels,
            samples=torch.tensor([clip.sample for clip in clips], device=self._device),
            sources=torch.tensor([clip.source for clip in clips], device=self._device),
            static=torch.zeros(len(clips), dtype=torch.bool, device=self._device),
        )

    def close(self) -> None:
        """End the threads and close the shards."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for folder in self._folders:
            folder.close()

    @property
    def _on_gpu(self) -> bool:
        return self._device.type == "cuda"

    def _new_pipeline(self) -> ClipPipeline:
        return ClipPipeline(
            self._config.clip,
            self._config.augmentation,
            len(self._rows),
            self._config.decode_threads,
            (self._device.index or 0) if self._on_gpu else None,
            "mixed" if self._on_gpu else None,
        )

    def _pixels(self, clips: Sequence[_Clip]) -> torch.Tensor:
        return self._pipeline.run(
            [clip.video for clip in clips], [clip.view for clip in clips], [clip.frames for clip in clips]
        )

    def _clips(self, step: int, draws: Draws, check: bool) -> list[_Clip]:
        return list(self._threads.map(partial(self._clip, step, draws, check), self._rows))

    def _clip(self, step: int, draws: Draws, check: bool, row: int) -> _Clip:
        """The sample drawn for a row, or the first of its replacements that decodes."""
        source, sample = int(draws.sources[row]), int(draws.samples[row])
        folder = self._folders[source]
        drops: list[Drop] = []
        for attempt in range(REPLACEMENTS):
            try:
                return self._read(source, sample, draws, row, check)._replace(drops=tuple(drops))
            except UndecodableError as error:
                place = folder.key(sample), str(folder.tar(sample))
                drops.append(Drop(step, row, self.source_names[source], *place, str(error)))
                sample = int(self._sampler.replacements(step, attempt)[row])
        raise DataError(
            f"{folder.folder}: {REPLACEMENTS} samples in a row do not decode ({drops[-1].reason}); "
            f"run: hpc-jepa shards verify --decode {folder.folder}"
        )

    def _read(self, source: int, sample: int, draws: Draws, row: int, check: bool) -> _Clip:
        """One clip: decoded here without a GPU, and compressed, for DALI, with one (decoded anyway to ``check`` it)."""
        data, info = self._folders[source].read(sample)
        frames = training_frames(info.frames, self._config.clip, draws.starts[row])
        view = augmented_view(info.height, info.width, self._config.augmentation, draws.crops[row], draws.flips[row])
        decoded = decode_frames(data, frames) if check or not self._on_gpu else None
        if decoded is not None and decoded.shape[1:3] != (info.height, info.width):
            raise UndecodableError(f"is not {info.width}x{info.height}, as its description says")
        video = np.frombuffer(data, np.uint8) if self._on_gpu or decoded is None else decoded
        return _Clip(source, sample, video, view, frames, ())


def _open(shards: Path, clip: ClipConfig) -> ShardFolder:
    folder = ShardFolder(shards)
    if folder.manifest.longest < clip.frames:
        raise DataError(
            f"{shards}: its longest video has {folder.manifest.longest} frames, a clip needs {clip.frames}; "
            f"lower data.clip.frames or build longer videos"
        )
    return folder
