"""Which checkpoints stay."""

import logging
from collections.abc import Sequence
from pathlib import Path

from hpc_jepa.checkpoint import layout
from hpc_jepa.checkpoint.layout import CheckpointManifest
from hpc_jepa.config.training import CheckpointConfig
from hpc_jepa.errors import CheckpointError
from hpc_jepa.runs.run_dir import RunDir

LOG = logging.getLogger(__name__)


def retained(manifests: Sequence[CheckpointManifest], policy: CheckpointConfig) -> set[int]:
    """Steps of the checkpoints that stay, of sound ones given from the oldest to the newest."""
    steps = {manifest.step for manifest in manifests[-policy.keep :]}
    if policy.keep_every:
        steps |= {manifest.step for manifest in manifests if manifest.step % policy.keep_every == 0}
    if policy.keep_hours:
        steps |= _spaced(manifests, 3600 * policy.keep_hours)
    if policy.keep_best:
        steps |= _best(manifests, policy)
    return steps


def prune_checkpoints(run: Path, policy: CheckpointConfig, known_valid: int | None = None) -> list[Path]:
    """Remove what the policy does not keep, and return it; what cannot be removed is said and left to the next time.

    The newest checkpoint whose files are undamaged always stays: ``assured`` is its step where that is known already.
    Damaged checkpoints are no reason to remove others; they stay too, for people to look at.
    """
    return [path for path in expired(run, policy, known_valid) if _removed(path)]


def expired(run: Path, policy: CheckpointConfig, known_valid: int | None = None) -> list[Path]:
    """What ``prune`` would remove, oldest first."""
    readable = [checkpoint for path in RunDir(run).checkpoint_dirs() if (checkpoint := _opened(path))]
    if known_valid is None:
        sound = (checkpoint for checkpoint in reversed(readable) if not layout.verify_files(checkpoint))
        known_valid = next((checkpoint.step for checkpoint in sound), None)
    trusted = [
        checkpoint.manifest for checkpoint in readable if known_valid is not None and checkpoint.step <= known_valid
    ]
    staying = retained(trusted, policy)
    return [RunDir(run).checkpoint_dir(manifest.step) for manifest in trusted if manifest.step not in staying]


def _spaced(manifests: Sequence[CheckpointManifest], seconds: float) -> set[int]:
    """The oldest, and of the others each that was saved so long after the one taken before."""
    steps: set[int] = set()
    last = float("-inf")
    for manifest in manifests:
        if manifest.time - last >= seconds:
            steps.add(manifest.step)
            last = manifest.time
    return steps


def _best(manifests: Sequence[CheckpointManifest], policy: CheckpointConfig) -> set[int]:
    known = [manifest for manifest in manifests if policy.best_by in manifest.metrics]
    ranked = sorted(known, key=lambda manifest: manifest.metrics[policy.best_by], reverse=policy.best_is == "highest")
    return {manifest.step for manifest in ranked[: policy.keep_best]}


def _opened(path: Path) -> layout.Checkpoint | None:
    try:
        return layout.open_checkpoint(path)
    except CheckpointError:
        return None


def _removed(path: Path) -> bool:
    try:
        layout.remove_checkpoint(path)
    except OSError as error:
        LOG.warning("%s: cannot be removed (%s); it stays until the next save", path, error.strerror)
        return False
    return True
