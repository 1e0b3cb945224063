"""Checkpoints are committed, not written.

    RUN/checkpoints/
        .step-00000500.partial/      being written; never read, removed by the next save
        step-00000500/
            manifest.json            written last: size and SHA-256 of every other file, and what was saved
            weights.safetensors      student.*, target.*, predictor.*, objectives.* in float32, unsharded
            engine/                  DeepSpeed's own files: one set of shards per process
        latest -> step-00000500

A folder without a valid manifest does not exist. The rename that makes one appear is atomic, so a process that dies at
any instant leaves either the old checkpoints or the old ones and the new one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from hpc_jepa.distributed import barrier, is_main
from hpc_jepa.errors import CheckpointError

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
CHUNK = 1 << 22


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint and the facts of its manifest."""

    path: Path
    step: int
    facts: dict[str, Any]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """Weights of one part (``student``, ``target``, ``predictor``, ``objectives``), names without the part.

        Raises CheckpointError when the file is damaged or holds no such part.
        """
        path = self.path / WEIGHTS
        prefix = f"{part}."
        try:
            with safe_open(path, framework="pt") as file:
                names = [name for name in list(file.keys()) if name.startswith(prefix)]
                tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); delete the folder to fall back") from error
        if not tensors:
            raise CheckpointError(f"{path}: holds no weights called '{part}'")
        return tensors


def folder(run: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` is committed."""
    return run / "checkpoints" / f"step-{step:08d}"


def committed(run: Path) -> list[Checkpoint]:
    """Checkpoints with a readable manifest, oldest first."""
    found = (_read(path) for path in sorted((run / "checkpoints").glob("step-*")))
    return [checkpoint for checkpoint in found if checkpoint is not None]


def newest(run: Path) -> Checkpoint | None:
    """The newest checkpoint whose files have the sizes of its manifest; damaged ones are passed over."""
    return next((checkpoint for checkpoint in reversed(committed(run)) if not damage(checkpoint, deep=False)), None)


def damage(checkpoint: Checkpoint, *, deep: bool = True) -> list[str]:
    """What is wrong with a checkpoint, a line per file; empty if nothing is. ``deep`` compares checksums too."""
    faults = []
    for name, recorded in checkpoint.facts["files"].items():
        path = checkpoint.path / name
        if not path.is_file():
            faults.append(f"{path}: missing")
        elif path.stat().st_size != recorded["size"]:
            faults.append(f"{path}: {path.stat().st_size} bytes instead of {recorded['size']}")
        elif deep and _sha256(path) != recorded["sha256"]:
            faults.append(f"{path}: checksum differs")
    return faults


@contextmanager
def committing(run: Path, step: int, facts: dict[str, Any], keep: int) -> Iterator[Path]:
    """A temporary folder that all processes write into; becomes the checkpoint of ``step`` when the block succeeds.

    Keeps the ``keep`` newest checkpoints. An exception inside leaves earlier checkpoints as they were.
    """
    final = folder(run, step)
    partial = final.with_name(f".{final.name}.partial")
    if is_main():
        for stale in final.parent.glob(".step-*.partial"):
            shutil.rmtree(stale)
        partial.mkdir(parents=True)
    barrier()
    yield partial
    barrier()
    if is_main():
        _commit(partial, final, {"format": FORMAT, "step": step, **facts})
        _point_latest_at(final)
        for old in committed(run)[:-keep]:
            shutil.rmtree(old.path)
    barrier()


def _commit(partial: Path, final: Path, facts: dict[str, Any]) -> None:
    paths = sorted(path for path in partial.rglob("*") if path.is_file())
    files = {}
    for path in paths:
        _sync(path)
        files[str(path.relative_to(partial))] = {"size": path.stat().st_size, "sha256": _sha256(path)}
    manifest = partial / MANIFEST
    manifest.write_text(json.dumps({**facts, "files": files}, indent=1), encoding="utf-8")
    _sync(manifest)
    _sync(partial)
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    _sync(final.parent)


def _point_latest_at(final: Path) -> None:
    link = final.parent / "latest"
    fresh = link.with_name(".latest")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(final.name)
    fresh.rename(link)


def _read(path: Path) -> Checkpoint | None:
    try:
        facts = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # never committed, or damaged: it does not exist
    if not isinstance(facts, dict) or "files" not in facts:
        return None
    if facts["format"] > FORMAT:
        raise CheckpointError(
            f"{path}: format {facts['format']} is newer than this program reads ({FORMAT}); update it"
        )
    return Checkpoint(path, facts["step"], facts)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
