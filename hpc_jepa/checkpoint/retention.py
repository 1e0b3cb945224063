"""Retention policy: which checkpoints are kept."""

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hpc_jepa.checkpoint import layout
from hpc_jepa.checkpoint.layout import Checkpoint, CheckpointManifest
from hpc_jepa.config.loading import nearest_or_all
from hpc_jepa.config.training import CheckpointConfig
from hpc_jepa.errors import CheckpointError, InputError
from hpc_jepa.io.atomic import exclusive_lock
from hpc_jepa.runs.lease import is_held
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.step_results import NONE, StepResults, kept_as_best, step_results

LOG = logging.getLogger(__name__)


def retained(
    manifests: Sequence[CheckpointManifest], policy: CheckpointConfig, results: StepResults = NONE
) -> set[int]:
    """Steps that the policy keeps of valid checkpoints, given oldest first. ``results``: of those evaluated so far."""
    steps = {manifest.step for manifest in manifests[-policy.keep :]}
    if policy.keep_every:
        steps |= {manifest.step for manifest in manifests if manifest.step % policy.keep_every == 0}
    if policy.keep_hours:
        steps |= _spaced(manifests, 3600 * policy.keep_hours)
    if best := policy.best_evaluated:
        steps |= kept_as_best([manifest.step for manifest in manifests], results, best)
    elif policy.keep_best:
        steps |= _best(manifests, policy)
    return steps


def prune_checkpoints(run: Path, policy: CheckpointConfig, known_valid: int | None = None) -> list[Path]:
    """Remove the expired checkpoints and return them; failures are logged and retried at the next save.

    The latest valid checkpoint is always kept: ``known_valid`` is its step if the caller has verified it. Damaged
    checkpoints are kept for inspection and do not count as newer ones.
    """
    return [path for path in expired(run, policy, known_valid) if _remove(path)]


def prune_after_evaluation(run: RunDir, benchmark: str, protocol: str) -> list[Path]:
    """Remove the checkpoints that a new record has shown not to be among the best; what was removed.

    Nothing if ``keep_best`` is not by this benchmark, and while the run is training, which does it at its next save.
    """
    policy = run.config.checkpoint
    best = policy.best_evaluated
    if best is None or (best.benchmark, best.protocol) != (benchmark, protocol) or is_held(run):
        return []
    try:
        with exclusive_lock(run.lock_file):
            return prune_checkpoints(run.path, policy)
    except InputError:  # another command has the lock
        return []


def best_marks(run: RunDir, manifests: Sequence[CheckpointManifest]) -> dict[int, str]:
    """Why ``keep_best`` of a run keeps checkpoints, by step: the best ones, and those still to be evaluated."""
    policy = run.config.checkpoint
    steps = [manifest.step for manifest in manifests]
    if (best := policy.best_evaluated) is None:
        ranked = _best(manifests, policy) if policy.keep_best else set()
        return {manifest.step: _metric_mark(manifest, policy) for manifest in manifests if manifest.step in ranked}
    results = step_results(run, best)
    return {
        step: f"best: {results.text(step)}" if step in results.by_step else "to be evaluated"
        for step in kept_as_best(steps, results, best)
    }


def _metric_mark(manifest: CheckpointManifest, policy: CheckpointConfig) -> str:
    return f"best: {policy.best_by} {manifest.metrics[policy.best_by]:.4g}"


def expired(run: Path, policy: CheckpointConfig, known_valid: int | None = None) -> list[Path]:
    """The checkpoints that ``prune_checkpoints`` would remove, oldest first."""
    checkpoints = [checkpoint for path in RunDir(run).checkpoint_dirs() if (checkpoint := _open(path))]
    if known_valid is None:
        valid = (checkpoint.step for checkpoint in reversed(checkpoints) if not layout.verify_files(checkpoint))
        known_valid = next(valid, -1)
    candidates = [checkpoint.manifest for checkpoint in checkpoints if checkpoint.step <= known_valid]
    results = step_results(RunDir(run), policy.best_evaluated) if policy.best_evaluated else NONE
    kept = retained(candidates, policy, results)
    return [RunDir(run).checkpoint_dir(manifest.step) for manifest in candidates if manifest.step not in kept]


def _spaced(manifests: Sequence[CheckpointManifest], seconds: float) -> set[int]:
    """The oldest, then each that was saved at least ``seconds`` after the previous one taken."""
    steps: set[int] = set()
    last = float("-inf")
    for manifest in manifests:
        if manifest.time - last >= seconds:
            steps.add(manifest.step)
            last = manifest.time
    return steps


def _best(manifests: Sequence[CheckpointManifest], policy: CheckpointConfig) -> set[int]:
    known = [manifest for manifest in manifests if policy.best_by in manifest.metrics]
    if manifests and not known:
        _warn_not_logged(policy.best_by, tuple(manifests[-1].metrics))
    ranked = sorted(known, key=lambda manifest: manifest.metrics[policy.best_by], reverse=policy.best_is == "highest")
    assert isinstance(policy.keep_best, int), "best_evaluated has the other form"
    return {manifest.step for manifest in ranked[: policy.keep_best]}


@cache
def _warn_not_logged(metric: str, logged: tuple[str, ...]) -> None:
    """Say once that no checkpoint has the metric."""
    LOG.warning(
        "checkpoint.best_by: '%s' is not logged%s; no best checkpoint is kept", metric, nearest_or_all(metric, logged)
    )


def _open(path: Path) -> Checkpoint | None:
    try:
        return layout.open_checkpoint(path)
    except CheckpointError:
        return None


def _remove(path: Path) -> bool:
    try:
        layout.remove_checkpoint(path)
    except OSError as error:
        LOG.warning("%s: cannot be removed (%s); retrying at the next save", path, error.strerror)
        return False
    return True
