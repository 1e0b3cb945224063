"""Which checkpoint a path means."""

from pathlib import Path

from hpc_jepa.checkpoint import layout
from hpc_jepa.checkpoint.layout import MANIFEST, Checkpoint
from hpc_jepa.errors import CheckpointError, InputError
from hpc_jepa.runs.run_dir import RunDir


def is_checkpoint_dir(path: Path) -> bool:
    """Whether ``path`` is the folder of one checkpoint, or ``latest``, rather than that of a run."""
    return (path / MANIFEST).is_file() or RunDir.of_checkpoint(path) is not None


def resolve_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder, or the newest of a run.

    Raises InputError where there is neither, CheckpointError where its manifest is missing or damaged.
    """
    if is_checkpoint_dir(path):
        return layout.open_checkpoint(_existing(path).resolve())
    newest = layout.latest(resolve_run_dir(path))
    if newest is None:
        raise CheckpointError(f"{path}: no checkpoint yet; train the run first")
    return newest


def resolve_run_dir(path: Path) -> Path:
    """The run that ``path`` is the folder of, or that has the checkpoint there. Raises InputError where it is none."""
    run = _existing(path).resolve().parent.parent if is_checkpoint_dir(path) else path
    if not RunDir(run).checkpoints_dir.is_dir():
        raise InputError(
            f"{_existing(path)}: neither a run nor a checkpoint; name RUNS/<study>/<regime>/<variant>/seed-<n>, or one "
            "of its checkpoints/step-*"
        )
    return run


def _existing(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder")
    return path
