"""Checkpoints are committed, not written.

    RUN/checkpoints/
        .step-00000500.partial/      being written; never read, cleared away by the next save
        step-00000500/
            manifest.json            written last: size and SHA-256 of every other file, and what was saved
            weights.safetensors      student.*, target.*, predictor.*, objectives.* in float32, unsharded
            engine/                  DeepSpeed's own files: one set of shards per process
        latest -> step-00000500
        damaged-00001000/            set aside when a run went on from the one before

A folder without a valid manifest does not exist. The renames that make one appear and disappear are atomic, so a
process that dies at any instant leaves either the old checkpoints or the old ones and the new one: what is damaged was
damaged later, by something else, and is never passed over without a word.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hpc_jepa.checkpoint.files import sync, write_atomically
from hpc_jepa.distributed import barrier, is_main
from hpc_jepa.errors import CheckpointError

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
REMEDY = "'hpc-jepa train' with the same configuration goes on from the checkpoint before"

LOG = logging.getLogger(__name__)


class FileFacts(BaseModel):
    """Bytes and checksum of a file."""

    size: int
    sha256: str


class Manifest(BaseModel):
    """What every manifest holds; what a trainer adds is its own."""

    model_config = ConfigDict(extra="allow")

    format: int
    step: int
    files: dict[str, FileFacts]


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
        faults = damage(self, only=WEIGHTS)
        if faults:
            raise CheckpointError(f"{faults[0]}; {REMEDY}")
        try:
            with safe_open(path, framework="pt") as file:
                names = [name for name in list(file.keys()) if name.startswith(prefix)]
                tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); {REMEDY}") from error
        if not tensors:
            raise CheckpointError(f"{path}: holds no weights called '{part}'")
        return tensors


def folder(run: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` is committed."""
    return run / "checkpoints" / f"step-{step:08d}"


def last_step(run: Path) -> int:
    """The step of the newest checkpoint, sound or not; 0 where there is none."""
    return max((int(path.name.removeprefix("step-")) for path in _folders(run)), default=0)


def newest(run: Path) -> Checkpoint | None:
    """The newest checkpoint, None where there is none; its files are not looked at.

    Raises CheckpointError where its manifest is missing or damaged.
    """
    folders = _folders(run)
    return opened(folders[-1]) if folders else None


def opened(path: Path) -> Checkpoint:
    """The checkpoint in a folder. Raises CheckpointError where its manifest is missing or damaged."""
    checkpoint = _read(path)
    if checkpoint is None:
        raise CheckpointError(f"{path / MANIFEST}: missing or damaged; {REMEDY}")
    return checkpoint


def newest_sound(run: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are what was saved, None where nothing was. For the one process that writes.

    Newer ones that are damaged are set aside and named in the log, so that the run can go on from the one before.
    Raises CheckpointError where all are damaged: to begin anew would lose the run without a word.
    """
    faults: dict[Path, str] = {}
    for path in reversed(_folders(run)):
        checkpoint = _read(path)
        found = damage(checkpoint) if checkpoint else [f"{path / MANIFEST}: missing or damaged"]
        if not found:
            _set_aside(faults)
            return checkpoint
        faults[path] = found[0]
    if faults:
        raise CheckpointError(
            f"{next(iter(faults.values()))}; no other checkpoint to go on from; remove {run} to begin anew"
        )
    return None


def damage(checkpoint: Checkpoint, only: str | None = None) -> list[str]:
    """What is wrong with the files of a checkpoint, or with one of them, a line per file; empty if nothing is."""
    faults = []
    recorded_files = checkpoint.facts["files"]
    for name in [only] if only else recorded_files:
        recorded = recorded_files.get(name)
        path = checkpoint.path / name
        if recorded is None or not path.is_file():
            faults.append(f"{path}: missing")
        elif path.stat().st_size != recorded["size"]:
            faults.append(f"{path}: {path.stat().st_size} bytes instead of {recorded['size']}")
        elif _sha256(path) != recorded["sha256"]:
            faults.append(f"{path}: checksum differs")
    return faults


@contextmanager
def committing(run: Path, step: int, facts: dict[str, Any], keep: int) -> Iterator[Path]:
    """A temporary folder that all processes write into; becomes the checkpoint of ``step`` when the block succeeds.

    Keeps the ``keep`` newest checkpoints. An exception inside leaves earlier checkpoints as they were, and no trace.
    """
    final = folder(run, step)
    partial = _hidden(final, "partial")
    if is_main():
        for stale in final.parent.glob(".step-*"):
            shutil.rmtree(stale)
        partial.mkdir(parents=True)
    barrier()
    try:
        yield partial
        barrier()
        if is_main():
            _commit(partial, final, {"format": FORMAT, "step": step, **facts})
    except BaseException:
        if is_main():
            shutil.rmtree(partial, ignore_errors=True)
        raise
    if is_main():
        _point_latest_at(final)
        for old in _folders(run)[:-keep]:
            _remove(old)
    barrier()


def _folders(run: Path) -> list[Path]:
    """Folders of checkpoints, sound or not, oldest first."""
    return sorted((run / "checkpoints").glob("step-" + 8 * "[0-9]"))


def _hidden(path: Path, why: str) -> Path:
    return path.with_name(f".{path.name}.{why}")


def _commit(partial: Path, final: Path, facts: dict[str, Any]) -> None:
    written = sorted(partial.rglob("*"))
    for path in written:
        sync(path)
    files = {str(path.relative_to(partial)): _facts(path) for path in written if path.is_file()}
    write_atomically(partial / MANIFEST, json.dumps({**facts, "files": files}, indent=1).encode())
    sync(partial)
    if final.exists():
        _remove(final)
    partial.rename(final)
    sync(final.parent)


def _point_latest_at(final: Path) -> None:
    link = final.parent / "latest"
    fresh = link.with_name(".latest")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(final.name)
    fresh.rename(link)


def _remove(path: Path) -> None:
    """First from sight, so that nobody takes half a checkpoint for a damaged one."""
    shutil.rmtree(path.rename(_hidden(path, "removed")))


def _set_aside(faults: dict[Path, str]) -> None:
    for path, fault in faults.items():
        aside = path.with_name(path.name.replace("step", "damaged"))
        if aside.exists():
            shutil.rmtree(aside)
        path.rename(aside)
        LOG.warning("%s; set aside as %s, going on from the checkpoint before", fault, aside.name)


def _read(path: Path) -> Checkpoint | None:
    """The checkpoint at ``path``, None where its manifest is missing or damaged."""
    try:
        facts = Manifest.model_validate_json((path / MANIFEST).read_bytes()).model_dump()
    except (FileNotFoundError, ValidationError):
        return None
    if path.name != f"step-{facts['step']:08d}":
        return None
    if facts["format"] > FORMAT:
        raise CheckpointError(
            f"{path}: format {facts['format']} is newer than this program reads ({FORMAT}); update it"
        )
    return Checkpoint(path, facts["step"], facts)


def _facts(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
