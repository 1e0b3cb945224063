"""Asynchronous checkpoint saves: the state is copied between two steps and written in a background thread.

A thread suffices: copying, hashing and writing release the GIL, and unlike a process it needs neither shared memory nor
a second copy. Ranks coordinate over their own gloo group, so a save never blocks the main process group.
"""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor

from hpc_jepa.checkpoint import layout, retention
from hpc_jepa.checkpoint.layout import WEIGHT_PREFIXES, CheckpointInfo
from hpc_jepa.checkpoint.rank_file import FileDigest, TensorShard, write_rank_file
from hpc_jepa.config.training import CheckpointConfig
from hpc_jepa.devices import thread_pool
from hpc_jepa.distributed import GlooGroup, is_main, rank
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.io.retry import retry

DISK_HEADROOM = 1.05
"""Free space required, as a multiple of the size of the tensors: manifest and folders need some too."""

Result = TypeVar("Result")
Files = dict[str, FileDigest]
Shapes = dict[str, tuple[int, ...]]
LOG = logging.getLogger(__name__)


class CheckpointWriter:
    """Saves checkpoints of a run, one at a time. All ranks must save the same steps in the same order.

    As a context manager it waits for the last save on exit. ``check_lease`` raises HpcJepaError on a process that may
    no longer write in the folder; ``longest_save`` is the duration of the longest save so far, in seconds.
    """

    def __init__(self, run: Path, config: CheckpointConfig, check_lease: Callable[[], None] = lambda: None) -> None:
        self._run = run
        self._config = config
        self._check_lease = check_lease
        self.longest_save = 0.0
        self._gloo = GlooGroup()
        self._worker = thread_pool(1, "checkpoint-writer")
        self._pending: Future[None] | None = None
        self._buffers: dict[str, Tensor] = {}

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown(wait=True)
        if error is None:
            self.wait()

    @property
    def failed(self) -> bool:
        """Whether the last save has failed; ``wait`` then raises."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def save(self, info: CheckpointInfo, shards: Sequence[TensorShard]) -> None:
        """Copy the shards and write the copies in the background. Collective.

        Waits for the previous save first; raises its HpcJepaError if that failed, without starting this one.
        """
        self.wait()
        copies = self._copy(shards)
        copied = torch.cuda.Event() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
        if copied is not None:
            copied.record()
        self._pending = self._worker.submit(self._save, info, copies, copied)

    def wait(self) -> None:
        """Wait until the last save is committed. Raises HpcJepaError with the cause if it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    @torch.no_grad()
    def _copy(self, shards: Sequence[TensorShard]) -> list[TensorShard]:
        """Copy into host buffers that are kept for the next save; pinned if the shards are on a GPU."""
        for shard in shards:
            if shard.key not in self._buffers:
                self._buffers[shard.key] = torch.empty(
                    shard.values.shape, dtype=shard.values.dtype, pin_memory=torch.cuda.is_available()
                )
        copies = [self._buffers[shard.key] for shard in shards]
        torch._foreach_copy_(copies, [shard.values for shard in shards], non_blocking=True)
        return [TensorShard(x.name, x.shape, x.start, copy) for x, copy in zip(shards, copies, strict=True)]

    def _save(self, info: CheckpointInfo, shards: list[TensorShard], copied: torch.cuda.Event | None) -> None:
        started = time.monotonic()
        if copied is not None:
            copied.synchronize()
        try:
            self._write_and_commit(info, shards)
            self.longest_save = max(self.longest_save, time.monotonic() - started)
        except HpcJepaError as error:
            self._check_lease()
            if is_main():
                layout.remove_partial(self._run)
            if self._config.failed_save == "stop":
                raise
            if is_main():
                LOG.warning("%s", error)

    def _write_and_commit(self, info: CheckpointInfo, shards: list[TensorShard]) -> None:
        on_all_ranks = partial(self._on_all_ranks, info.step)
        sizes = on_all_ranks(partial(_finite_size, shards))
        folder = on_all_ranks(partial(self._prepare, info.step, sum(sizes)))[0]
        written = on_all_ranks(partial(self._write, folder, shards))
        on_all_ranks(partial(self._commit, folder, info, written))

    def _on_all_ranks(self, step: int, action: Callable[[], Result]) -> list[Result]:
        """Results of the action by rank. Raises HpcJepaError on all ranks if the action failed on any."""
        result: Result | None = None
        message = ""
        try:
            result = action()
        except (HpcJepaError, OSError) as error:
            message = f"rank {rank()}: {error}"
        outcomes: list[tuple[Result, str]] = self._gloo.gather_objects((result, message))
        errors = [error for _, error in outcomes if error]
        if errors:
            raise HpcJepaError(
                f"{self._run}: the checkpoint of step {step} cannot be written ({'; '.join(errors)}); earlier "
                "checkpoints are intact: remove the cause, then repeat the command"
            )
        return [result for result, _ in outcomes]

    def _prepare(self, step: int, size: int) -> Path:
        """On rank 0: check the free space and create the temporary folder."""
        self._check_lease()
        if not is_main():
            return self._run
        free = shutil.disk_usage(self._run).free
        if free < DISK_HEADROOM * size:
            raise HpcJepaError(f"{size / 1e9:.3g} GB needed, {free / 1e9:.3g} GB free; nothing was written")
        return layout.create_partial(self._run, step)

    def _write(self, folder: Path, shards: list[TensorShard]) -> tuple[Files, Shapes]:
        """Write this rank's two files; each is written again after a transient error."""
        kinds: dict[str, list[TensorShard]] = {"weights": [], "training": []}
        for shard in shards:
            kinds["weights" if shard.name.startswith(WEIGHT_PREFIXES) else "training"].append(shard)
        files = {f"{kind}-{rank():04d}.safetensors": own for kind, own in kinds.items()}
        digests = {name: retry(partial(write_rank_file, folder / name, own)) for name, own in files.items()}
        return digests, {shard.name: shard.shape for shard in shards}

    def _commit(self, folder: Path, info: CheckpointInfo, written: list[tuple[Files, Shapes]]) -> None:
        """On rank 0: commit the checkpoint and remove the ones that the retention policy does not keep."""
        self._check_lease()
        if not is_main():
            return
        files = {name: digest for of_rank, _ in written for name, digest in of_rank.items()}
        shapes = {name: shape for _, of_rank in written for name, shape in of_rank.items()}
        layout.commit_checkpoint(self._run, folder, info, shapes, files)
        retention.prune_checkpoints(self._run, self._config, known_valid=info.step)


def _finite_size(shards: Sequence[TensorShard]) -> int:
    """Bytes of the shards. Raises HpcJepaError if a floating-point shard has a non-finite element."""
    for shard in shards:
        if shard.values.is_floating_point() and not _is_finite(shard.values):
            raise HpcJepaError(f"{shard.name} is not finite; lower schedule.lr or use fp32")
    return sum(shard.values.nbytes for shard in shards)


def _is_finite(values: Tensor) -> bool:
    """One pass: a sum is finite if all elements are, unless it overflows float32; then sum in float64."""
    return isfinite(values.sum()) or isfinite(values.sum(dtype=torch.float64))
