"""Saves in the background: the state is copied between two steps, and written while training goes on.

A thread is enough: it copies, hashes and writes without holding the interpreter, and unlike a process it needs neither
shared memory nor a second copy. Processes agree over a process group of their own, so nothing waits in the main one.
"""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor

from hpc_jepa.checkpoint import layout, rank_file, retention
from hpc_jepa.checkpoint.layout import WEIGHT_PREFIXES, CheckpointInfo
from hpc_jepa.checkpoint.rank_file import FileDigest, TensorShard
from hpc_jepa.config.training import CheckpointConfig
from hpc_jepa.distributed import GlooGroup, is_main, rank
from hpc_jepa.errors import HpcJepaError

DISK_HEADROOM = 1.05
"""Free space asked for, in sizes of the checkpoint: manifests and folders need some too."""

Result = TypeVar("Result")
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _RankFiles:
    """What one process wrote."""

    files: dict[str, FileDigest]
    shapes: dict[str, tuple[int, ...]]


def no_check() -> None:
    """Every process may change the folder."""


class CheckpointWriter:
    """Commits checkpoints of a run, one at a time; all processes must start the same ones in the same order.

    As a context it waits for the last save before it ends. ``allowed`` raises HpcJepaError on a process that must not
    change the folder any more; ``longest`` is the longest save so far, in seconds.
    """

    def __init__(self, run: Path, config: CheckpointConfig, check_lease: Callable[[], None] = no_check) -> None:
        self._run = run
        self._config = config
        self._check_lease = check_lease
        self.longest_save = 0.0
        self._host = GlooGroup()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._pending: Future[None] | None = None
        self._copies: dict[str, Tensor] = {}

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
        """Whether the last save has failed by now, and ``wait`` would raise."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def start(self, facts: CheckpointInfo, shards: Sequence[TensorShard]) -> None:
        """Copy the pieces as they are now, and write them in the background. Collective.

        Waits for the save before; raises its HpcJepaError where that failed, and then does not start.
        """
        self.wait()
        copies = self._copied(shards)
        arrived = torch.cuda.Event() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
        if arrived is not None:
            arrived.record()
        self._pending = self._worker.submit(self._save, facts, copies, arrived)

    def wait(self) -> None:
        """Until the last save is committed. Raises HpcJepaError, with the cause, where it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    @torch.no_grad()
    def _copied(self, shards: Sequence[TensorShard]) -> list[TensorShard]:
        """In memory of the host that is kept for the next time; pinned where a device copies into it."""
        for piece in shards:
            if piece.key not in self._copies:
                self._copies[piece.key] = torch.empty(
                    piece.values.shape, dtype=piece.values.dtype, pin_memory=torch.cuda.is_available()
                )
        copies = [self._copies[piece.key] for piece in shards]
        torch._foreach_copy_(copies, [piece.values for piece in shards], non_blocking=True)
        return [TensorShard(p.name, p.shape, p.start, copy) for p, copy in zip(shards, copies, strict=True)]

    def _save(self, facts: CheckpointInfo, shards: list[TensorShard], arrived: torch.cuda.Event | None) -> None:
        started = time.monotonic()
        if arrived is not None:
            arrived.synchronize()
        try:
            self._commit(facts, shards)
            self.longest_save = max(self.longest_save, time.monotonic() - started)
        except HpcJepaError as error:
            self._check_lease()
            if is_main():
                layout.discard_partial(self._run, facts.step)
            if self._config.failed_save == "stop":
                raise
            if is_main():
                LOG.warning("%s", error)

    def _commit(self, facts: CheckpointInfo, shards: list[TensorShard]) -> None:
        together = partial(self._together, facts.step)
        sizes = together(partial(_checked_size, shards))
        together(partial(self._prepare, facts.step, sum(sizes)))
        shares = together(partial(self._write, facts.step, shards))
        together(partial(self._finish, facts, shares))

    def _together(self, step: int, action: Callable[[], Result]) -> list[Result]:
        """What every process got from its action. Raises HpcJepaError, on all of them, where one failed."""
        result: Result | None = None
        fault = ""
        try:
            result = action()
        except (HpcJepaError, OSError) as error:
            fault = f"rank {rank()}: {error}"
        outcomes: list[tuple[Result, str]] = self._host.gather_objects((result, fault))
        faults = [fault for _, fault in outcomes if fault]
        if faults:
            raise HpcJepaError(
                f"{self._run}: the checkpoint of step {step} cannot be written ({'; '.join(faults)}); earlier ones "
                "are as they were: remove the cause, then give the same command again"
            )
        return [result for result, _ in outcomes]

    def _prepare(self, step: int, size: int) -> None:
        """On rank 0: is there room, and where to write."""
        self._check_lease()
        if not is_main():
            return
        free = shutil.disk_usage(self._run).free
        if free < DISK_HEADROOM * size:
            raise HpcJepaError(f"{size / 1e9:.3g} GB are needed and {free / 1e9:.3g} GB free; nothing was written")
        layout.create_partial(self._run, step)

    def _write(self, step: int, shards: list[TensorShard]) -> _RankFiles:
        """Every process its own files."""
        kinds: dict[str, list[TensorShard]] = {"weights": [], "training": []}
        for piece in shards:
            kinds["weights" if piece.name.startswith(WEIGHT_PREFIXES) else "training"].append(piece)
        folder = layout.partial_dir(self._run, step)
        files = {f"{kind}-{rank():04d}.safetensors": share for kind, share in kinds.items()}
        return _RankFiles(
            {name: rank_file.write_rank_file(folder / name, share) for name, share in files.items()},
            {piece.name: piece.shape for piece in shards},
        )

    def _finish(self, facts: CheckpointInfo, shares: list[_RankFiles]) -> None:
        """On rank 0: make it a checkpoint, and let older ones go."""
        self._check_lease()
        if not is_main():
            return
        files = dict(chain.from_iterable(share.files.items() for share in shares))
        shapes = dict(chain.from_iterable(share.shapes.items() for share in shares))
        layout.commit_checkpoint(self._run, facts, shapes, files)
        retention.prune_checkpoints(self._run, self._config, known_valid=facts.step)


def _checked_size(shards: Sequence[TensorShard]) -> int:
    """Bytes of the pieces. Raises HpcJepaError where a weight or its statistics are no numbers any more."""
    for piece in shards:
        if piece.values.is_floating_point() and not _is_finite(piece.values):
            raise HpcJepaError(f"{piece.name} is not finite; lower schedule.lr or use fp32")
    return sum(piece.values.nbytes for piece in shards)


def _is_finite(values: Tensor) -> bool:
    """A sum says so in one pass; only one that is too large for float32 has to be taken again."""
    return isfinite(values.sum()) or isfinite(values.sum(dtype=torch.float64))
