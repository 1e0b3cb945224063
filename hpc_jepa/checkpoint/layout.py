"""Checkpoints are committed, not written.

    RUN/checkpoints/
        .step-00000500.partial/         being written; never read, cleared away by the next save
        step-00000500/
            weights-0000.safetensors    rank 0's pieces of student.*, target.*, predictor.*, objectives.*
            training-0000.safetensors   rank 0's pieces of exp_avg.*, exp_avg_sq.*, updates, random.*
            weights-0001.safetensors    ... and a pair of every other process
            manifest.json               written last: what was saved, size and SHA-256 of every file and itself
        latest -> step-00000500
        damaged-00001000/               set aside when a run went on from the one before

A piece ``NAME@START`` holds the elements from START of the flattened tensor NAME, whose shape the manifest knows. Names
and not processes say what is what, so any number of processes at any ZeRO stage can read what any other wrote.

A folder without a valid manifest does not exist. The renames that make one appear and disappear are atomic, so a
process that dies at any instant leaves either the old checkpoints or the old ones and the new one: what is damaged was
damaged later, by something else, and is never passed over without a word.
"""

import hashlib
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from hpc_jepa.checkpoint.format_2 import upgrade_manifest
from hpc_jepa.checkpoint.rank_file import FileDigest
from hpc_jepa.errors import CheckpointError
from hpc_jepa.io.atomic import fsync, write_atomically
from hpc_jepa.runs.run_dir import RunDir

FORMAT = 3
MANIFEST = "manifest.json"
WEIGHT_PREFIXES = ("student", "target", "predictor", "objectives")
"""First words of the names that are weights; all others continue a training."""
CHECKSUM_PLACEHOLDER = "0" * 64
RESUME_HINT = "'hpc-jepa train' with the same configuration goes on from the checkpoint before"

LOG = logging.getLogger(__name__)


class CheckpointInfo(BaseModel):
    """What a checkpoint is of. ``config`` is the whole configuration, ``metrics`` the last logged ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    time: float
    world_size: int
    zero_stage: int
    fingerprint: str
    config: dict[str, Any]
    versions: dict[str, str]
    data_hashes: dict[str, str]
    metrics: dict[str, float]


class CheckpointManifest(CheckpointInfo):
    """Facts, shapes of the whole tensors, and what every file must be."""

    format: int
    shapes: dict[str, tuple[int, ...]]
    files: dict[str, FileDigest]
    checksum: str = CHECKSUM_PLACEHOLDER

    def to_bytes(self) -> bytes:
        """The text of the file, with the SHA-256 of itself as it is while the place of the checksum holds zeros."""
        text = json.dumps(self.model_dump(mode="json"), indent=1)
        return text.replace(CHECKSUM_PLACEHOLDER, _checksum(text)).encode()


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint."""

    path: Path
    manifest: CheckpointManifest

    @property
    def step(self) -> int:
        """Steps done when it was saved."""
        return self.manifest.step


def latest(run: Path) -> Checkpoint | None:
    """The newest checkpoint, None where there is none; its files are not looked at.

    Raises CheckpointError where its manifest is missing or damaged.
    """
    found = RunDir(run).checkpoint_dirs()
    return open_checkpoint(found[-1]) if found else None


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder. Raises CheckpointError where its manifest is missing or damaged."""
    checkpoint = _read(path)
    if checkpoint is None:
        raise CheckpointError(f"{path / MANIFEST}: missing or damaged; {RESUME_HINT}")
    return checkpoint


def latest_valid(run: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are what was saved, None where nothing was. For the one process that writes.

    Newer ones that are damaged are set aside and named in the log, so that the run can go on from the one before;
    ``latest`` is made to point at the one returned. Raises CheckpointError where all are damaged: to begin anew would
    lose the run without a word.
    """
    faults: dict[Path, str] = {}
    for path in reversed(RunDir(run).checkpoint_dirs()):
        found = verify_dir(path)
        if not found:
            _point_latest_at(path)
            _quarantine(faults)
            return open_checkpoint(path)
        faults[path] = found[0]
    if faults:
        raise CheckpointError(
            f"{next(iter(faults.values()))}; no other checkpoint to go on from; remove {run} to begin anew"
        )
    return None


def verify_dir(path: Path) -> list[str]:
    """What is wrong with the checkpoint in a folder, its manifest included, a line per file; empty if nothing is."""
    checkpoint = _read(path)
    return verify_files(checkpoint) if checkpoint else [f"{path / MANIFEST}: missing or damaged"]


def verify_files(checkpoint: Checkpoint, kind: str = "") -> list[str]:
    """What is wrong with the files of a checkpoint whose names begin with ``kind``, a line per file."""
    names = [name for name in checkpoint.manifest.files if name.startswith(kind)]
    with ThreadPoolExecutor() as pool:
        return [fault for fault in pool.map(partial(_file_error, checkpoint), names) if fault]


def partial_dir(run: Path, step: int) -> Path:
    """The temporary folder that the checkpoint of ``step`` is written into."""
    return _hidden(RunDir(run).checkpoint_dir(step), "partial")


def create_partial(run: Path, step: int) -> None:
    """Make the temporary folder, and clear away what earlier processes left. Raises OSError."""
    remove_partial(run)
    partial_dir(run, step).mkdir(parents=True)


def remove_partial(run: Path) -> None:
    """Remove what was being written or removed when an earlier process died."""
    for stale in RunDir(run).checkpoints_dir.glob(".step-*"):
        shutil.rmtree(stale)


def commit_checkpoint(
    run: Path, facts: CheckpointInfo, shapes: dict[str, tuple[int, ...]], files: dict[str, FileDigest]
) -> None:
    """Make a checkpoint of the temporary folder, whose ``files`` are on the disk. Raises HpcJepaError and OSError."""
    written, final = partial_dir(run, facts.step), RunDir(run).checkpoint_dir(facts.step)
    manifest = CheckpointManifest(**dict(facts), format=FORMAT, shapes=shapes, files=files)
    write_atomically(written / MANIFEST, manifest.to_bytes())
    fsync(written)
    if final.exists():
        remove_checkpoint(final)
    written.rename(final)
    fsync(final.parent)
    _point_latest_at(final)


def discard_partial(run: Path, step: int) -> None:
    """Leave no trace of a save that failed."""
    shutil.rmtree(partial_dir(run, step), ignore_errors=True)


def remove_checkpoint(path: Path) -> None:
    """First from sight, so that nobody takes half a checkpoint for a damaged one. Raises OSError."""
    shutil.rmtree(path.rename(_hidden(path, "removed")))


def _hidden(path: Path, why: str) -> Path:
    return path.with_name(f".{path.name}.{why}")


def _point_latest_at(final: Path) -> None:
    link = RunDir(final.parent.parent).latest_link
    if link.is_symlink() and link.readlink() == Path(final.name):
        return
    fresh = link.with_name(".latest")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(final.name)
    fresh.rename(link)
    fsync(final.parent)


def _quarantine(faults: dict[Path, str]) -> None:
    for path, fault in faults.items():
        aside = path.with_name(path.name.replace("step", "damaged"))
        if aside.exists():
            shutil.rmtree(aside)
        path.rename(aside)
        LOG.warning("%s; set aside as %s, going on from the checkpoint before", fault, aside.name)


def _read(path: Path) -> Checkpoint | None:
    """The checkpoint at ``path``, None where its manifest is missing or damaged."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        content = json.loads(text)
        sealed = content["checksum"] == _checksum(text.replace(content["checksum"], CHECKSUM_PLACEHOLDER))
        if not sealed or path.name != RunDir(path.parent.parent).checkpoint_dir(content["step"]).name:
            return None
        if content["format"] > FORMAT:
            raise CheckpointError(
                f"{path}: format {content['format']} is newer than this program reads ({FORMAT}); update it"
            )
        if content["format"] < FORMAT:
            content = upgrade_manifest(content)
        return Checkpoint(path, CheckpointManifest.model_validate(content))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # a damaged text can say anything
        return None


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _file_error(checkpoint: Checkpoint, name: str) -> str | None:
    recorded, path = checkpoint.manifest.files[name], checkpoint.path / name
    try:
        size = path.stat().st_size
        if size != recorded.size:
            return f"{path}: {size} bytes instead of {recorded.size}"
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return f"{path}: missing"
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror})"
    return f"{path}: checksum differs" if digest != recorded.sha256 else None
