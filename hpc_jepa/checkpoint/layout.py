"""Checkpoints on disk and the commit protocol.

    RUN/checkpoints/
        .step-00000500.partial/         being written; never read, removed by the next save
        step-00000500/
            weights-0000.safetensors    rank 0's shards of student.*, target.*, predictor.*, objectives.*
            training-0000.safetensors   rank 0's shards of exp_avg.*, exp_avg_sq.*, updates, loss_scale, random.*
            weights-0001.safetensors    ... and two files of every other rank
            manifest.json               written last: metadata, size and SHA-256 of every file, SHA-256 of itself
        latest -> step-00000500
        damaged-00001000/               quarantined when the run resumed from the checkpoint before it

A shard ``NAME@START`` holds the elements from START of the flattened tensor NAME; the manifest has its shape. Shards
are found by name, not by rank, so any world size at any ZeRO stage can read a checkpoint of any other.

A folder without a valid manifest is not a checkpoint. Checkpoints appear and disappear by atomic renames, so a process
that is killed at any time leaves either the old checkpoints or these and the new one. A damaged checkpoint was damaged
later, by something else, and is always reported.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import prod
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from hpc_jepa.checkpoint.format_2 import upgrade_manifest
from hpc_jepa.checkpoint.integrity import MISSING, file_errors, read_errors
from hpc_jepa.checkpoint.rank_file import FileDigest
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import CheckpointError, InputError
from hpc_jepa.io.atomic import fsync, write_atomically
from hpc_jepa.io.regular import read_regular
from hpc_jepa.io.retry import retry
from hpc_jepa.io.validation import LARGEST_INTEGER, first_error
from hpc_jepa.runs.run_dir import RunDir

FORMAT = 3
MANIFEST = "manifest.json"
WEIGHT_PREFIXES = ("student", "target", "predictor", "objectives")
"""First parts of the names of weights; all other tensors are optimizer and random state."""
CHECKSUM_PLACEHOLDER = "0" * 64
LATEST_TIME = 1e11
"""Unix time in the year 5138: larger numbers are no times."""
RESUME_HINT = "'hpc-jepa train' with the same configuration resumes from the checkpoint before"

READ_ATTEMPTS = 5
"""Checkpoints that a command opens one after the other while the training run removes them."""

LOG = logging.getLogger(__name__)
Result = TypeVar("Result")


class RemovedCheckpointError(CheckpointError):
    """The training run has removed a checkpoint while it was read. It has saved a newer one before."""


def _check_elements(shape: tuple[int, ...]) -> tuple[int, ...]:
    if prod(max(size, 1) for size in shape) > LARGEST_INTEGER:
        raise ValueError("more elements than any tensor has")
    return shape


FileName = Annotated[str, Field(pattern=r"^[^/\x00]*[^/\x00.]$")]
"""Name of a file in the folder of the checkpoint, not a path that leads out of it."""


class CheckpointInfo(BaseModel):
    """Metadata: ``config`` is the whole configuration, ``metrics`` the last logged ones, ``data_hashes`` by source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int = Field(ge=0)
    time: float = Field(ge=0, le=LATEST_TIME)
    world_size: int = Field(gt=0)
    zero_stage: int = Field(ge=0, le=3)
    fingerprint: str
    config: dict[str, Any]
    versions: dict[str, str]
    data_hashes: dict[str, str]
    metrics: dict[str, float]


class CheckpointManifest(CheckpointInfo):
    """Metadata, shapes of the full tensors, and size and checksum of every file."""

    format: int
    shapes: dict[str, Annotated[tuple[NonNegativeInt, ...], AfterValidator(_check_elements)]]
    files: dict[FileName, FileDigest]
    checksum: str = CHECKSUM_PLACEHOLDER

    def to_bytes(self) -> bytes:
        """Content of the file, with its own SHA-256, which is computed with zeros in place of the checksum."""
        text = json.dumps(self.model_dump(mode="json"), indent=1)
        return text.replace(CHECKSUM_PLACEHOLDER, _checksum(text)).encode()


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint."""

    path: Path
    manifest: CheckpointManifest

    @property
    def step(self) -> int:
        """Training steps completed."""
        return self.manifest.step

    @property
    def config(self) -> RunConfig:
        """Configuration of the run. Raises CheckpointError if this version cannot read it."""
        try:
            return RunConfig.model_validate(self.manifest.config)
        except ValidationError as error:
            raise config_error(self, error) from error


def config_error(checkpoint: Checkpoint, error: ValidationError) -> CheckpointError:
    """The error for a saved configuration that fails validation; it names the first invalid key."""
    return CheckpointError(f"{checkpoint.path}: this version cannot read its configuration ({first_error(error)})")


def is_checkpoint_dir(path: Path) -> bool:
    """Whether ``path`` is the folder of one checkpoint, or ``latest``, rather than a run."""
    return (path / MANIFEST).is_file() or RunDir.of_checkpoint(path) is not None


def resolve_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder, or the latest of a run.

    Raises InputError if the path is neither, CheckpointError if the manifest is missing or damaged.
    """
    if path.is_dir() and is_checkpoint_dir(path):
        return open_checkpoint(path.resolve())
    checkpoint = latest(resolve_run_dir(path).path)
    if checkpoint is None:
        raise CheckpointError(f"{path}/checkpoints: no checkpoint yet; train the run first")
    return checkpoint


def read_checkpoint(path: Path, read: Callable[[Checkpoint], Result]) -> Result:
    """``read(checkpoint)`` of the checkpoint in a folder, or of the latest of a run.

    If a training run removes that one meanwhile, the next one is read. Raises like ``read`` and ``resolve_checkpoint``.
    """
    for _ in range(READ_ATTEMPTS - 1):
        try:
            return read(resolve_checkpoint(path))
        except RemovedCheckpointError:
            if is_checkpoint_dir(path):
                raise
    return read(resolve_checkpoint(path))


def removed_meanwhile(checkpoint: Path) -> RemovedCheckpointError:
    """The error for a checkpoint whose folder has disappeared."""
    return RemovedCheckpointError(f"{checkpoint}: the training run has removed it meanwhile; repeat the command")


def resolve_run_dir(path: Path) -> RunDir:
    """The run at ``path``, or of the checkpoint at ``path``. Raises InputError if it is neither."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder")
    run = RunDir.of_checkpoint(path) or RunDir(path)
    if not run.checkpoints_dir.is_dir():
        raise InputError(
            f"{path}: neither a run nor a checkpoint; name RUNS/<study>/<regime>/<variant>/seed-<n>, or one of its "
            "checkpoints/step-*"
        )
    return run


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder. Raises CheckpointError if its manifest is missing or damaged."""
    checkpoint = _read(path)
    if checkpoint is None:
        raise CheckpointError(f"{path / MANIFEST}: missing or damaged; {RESUME_HINT}")
    return checkpoint


def latest(run: Path) -> Checkpoint | None:
    """The latest checkpoint without checking its files; None if there is none.

    Raises CheckpointError if its manifest is missing or damaged.
    """
    while paths := RunDir(run).checkpoint_dirs():
        checkpoint = _read(paths[-1])
        if checkpoint is not None or paths[-1].exists():
            return checkpoint or open_checkpoint(paths[-1])
        # the training run has removed it meanwhile, and saved a newer one before
    return None


def latest_valid(run: Path) -> Checkpoint | None:
    """The latest checkpoint whose files have the recorded checksums; None if there is no checkpoint at all.

    Call on one process: newer, damaged checkpoints are quarantined with a warning, and ``latest`` points to the result.
    Raises CheckpointError if all are damaged (starting over would silently lose the run), HpcJepaError if a file cannot
    be read: it may be sound.
    """
    damaged: dict[Path, str] = {}
    for path in reversed(RunDir(run).checkpoint_dirs()):
        errors = verify_dir(path)
        if not errors:
            _point_latest_at(path)
            _quarantine(damaged)
            return open_checkpoint(path)
        damaged[path] = errors[0]
    if damaged:
        raise CheckpointError(
            f"{next(iter(damaged.values()))}; no other checkpoint to resume from: restore it from a copy, or choose "
            "another study= to start over"
        )
    return None


def verify_dir(path: Path) -> list[str]:
    """Errors of the checkpoint in a folder, one line per file including the manifest; empty if it is valid.

    Raises HpcJepaError if a file cannot be read: it may be sound.
    """
    checkpoint = _read(path)
    return verify_files(checkpoint) if checkpoint else [f"{path / MANIFEST}: missing or damaged"]


def verify_files(checkpoint: Checkpoint, prefix: str = "") -> list[str]:
    """Errors of the files whose names start with ``prefix``, one line per file: missing, other size or checksum.

    Raises HpcJepaError if a file cannot be read.
    """
    recorded = {name: digest for name, digest in checkpoint.manifest.files.items() if name.startswith(prefix)}
    return file_errors(checkpoint.path, recorded)


def create_partial(run: Path, step: int) -> Path:
    """Create the temporary folder for a checkpoint and remove those of earlier processes. Raises OSError."""
    remove_partial(run)
    folder = _hidden(RunDir(run).checkpoint_dir(step), "partial")
    folder.mkdir(parents=True)
    return folder


def remove_partial(run: Path) -> None:
    """Remove folders that killed processes were writing or removing. Some may stay: they are never read."""
    for stale in RunDir(run).checkpoints_dir.glob(".step-*"):
        _remove_leftover(stale)


def commit_checkpoint(
    run: Path, written: Path, info: CheckpointInfo, shapes: dict[str, tuple[int, ...]], files: dict[str, FileDigest]
) -> None:
    """Turn the temporary folder ``written``, with its ``files``, into a checkpoint. Raises HpcJepaError and OSError."""
    final = RunDir(run).checkpoint_dir(info.step)
    manifest = CheckpointManifest(**dict(info), format=FORMAT, shapes=shapes, files=files)
    write_atomically(written / MANIFEST, manifest.to_bytes())
    fsync(written)
    if final.exists():
        remove_checkpoint(final)
    written.rename(final)
    fsync(final.parent)
    _point_latest_at(final)


def remove_checkpoint(path: Path) -> None:
    """Rename it to a hidden name first, so that a half-removed checkpoint is not seen as damaged.

    Raises OSError if it cannot be renamed. Files that cannot be removed stay under the hidden name.
    """
    _remove_leftover(path.rename(_hidden(path, "removed")))


def _hidden(path: Path, suffix: str) -> Path:
    """A hidden name beside ``path`` that is free: a leftover that could not be removed may have the first one."""
    names = (f".{path.name}.{suffix}{f'-{number}' if number else ''}" for number in count())
    return next(hidden for name in names if not os.path.lexists(hidden := path.with_name(name)))


def _remove_leftover(path: Path) -> None:
    """Remove a folder, or the link to an archived one. Never fatal: the folder may be immutable or in use."""
    try:
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)
    except OSError as error:
        LOG.warning("%s: cannot be removed (%s); it is not used any more", path, error.strerror or error)


def _point_latest_at(final: Path) -> None:
    link = RunDir(final.parent.parent).latest_link
    if link.is_symlink() and link.readlink() == Path(final.name):
        return
    new = link.with_name(".latest")
    try:
        new.unlink(missing_ok=True)
        new.symlink_to(final.name)
        new.rename(link)
        fsync(final.parent)
    except OSError as error:  # only users follow it: the newest checkpoint is found by its name
        LOG.debug("%s: cannot be set (%s)", link, error.strerror)


def _quarantine(damaged: dict[Path, str]) -> None:
    for path, error in damaged.items():
        quarantined = path.with_name(path.name.replace("step", "damaged"))
        if os.path.lexists(quarantined):
            _remove_leftover(quarantined)
        try:
            path.rename(quarantined)
        except OSError as failure:
            LOG.warning("%s; cannot be quarantined (%s), resuming from the checkpoint before", error, failure.strerror)
        else:
            LOG.warning("%s; quarantined as %s, resuming from the checkpoint before", error, quarantined.name)


def _read(path: Path) -> Checkpoint | None:
    """The checkpoint at ``path``, None if its manifest is missing or damaged.

    Raises HpcJepaError if the manifest cannot be read.
    """
    try:
        with read_errors(path / MANIFEST):
            text = retry(partial(read_regular, path / MANIFEST)).decode()
        content = json.loads(text)
        intact = content["checksum"] == _checksum(text.replace(content["checksum"], CHECKSUM_PLACEHOLDER))
        if not intact or path.name != RunDir(path).checkpoint_dir(content["step"]).name:
            return None
        if content["format"] > FORMAT:
            raise CheckpointError(f"{path}: format {content['format']} is newer than {FORMAT}; update hpc_jepa")
        if content["format"] < FORMAT:
            content = upgrade_manifest(content)
        return Checkpoint(path, CheckpointManifest.model_validate(content))
    except (
        *MISSING,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ):  # damaged JSON can contain anything
        return None


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
