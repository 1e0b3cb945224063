"""The folder of a run: its configuration, its state, and who may continue in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hpc_jepa.checkpoint.layout import checkpoint_dirs
from hpc_jepa.config.loading import dump_config, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.runs.lease import LeaseLostError, hold_lease
from hpc_jepa.runs.state import write_state

LeaseCheck = Callable[[], None]
"""Raises LeaseLostError when this process must not write in the run folder any more."""


def refuse_other_config(config: RunConfig) -> None:
    """Raise InputError, naming the settings that differ, when the folder holds a run of another configuration.

    One that ended before its first checkpoint has nothing to lose: its settings may be repaired.
    """
    path = config.folder / "config.yaml"
    if not path.exists() or not checkpoint_dirs(config.folder):
        return
    changed = unaccepted_changes(read_config(RunConfig, [path]), config)
    if changed:
        raise InputError(
            f"{config.folder}: holds a run of another configuration ({changed}); "
            "choose another study= or variant=, remove the folder, or name what is meant in checkpoint.accept=[...]"
        )


def unaccepted_changes(earlier: RunConfig, later: RunConfig) -> str:
    """The settings that differ though ``checkpoint.accept`` does not name them, in words; empty if none does."""
    before, after = _flatten(earlier.outcome_settings()), _flatten(later.outcome_settings())
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    refused = [key for key in changed if not later.checkpoint.accepts(key)]
    shown = [f"{key} {before.get(key)} -> {after.get(key)}" for key in refused[:3]]
    return ", ".join(shown) + (f" and {len(refused) - 3} more" if len(refused) > 3 else "")


@contextmanager
def acquire_run_dir(config: RunConfig) -> Iterator[LeaseCheck]:
    """Make the folder of the run, with its configuration in it, and write there as long as what is yielded allows it.

    Raises InputError when another process trains there, another configuration was there first, or it cannot be made.
    """
    if not is_main():
        yield _no_check
        return
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{config.folder}: cannot be made ({error.strerror}); choose another runs=") from error
    with hold_lease(config.folder) as lease:
        refuse_other_config(config)
        path = config.folder / "config.yaml"
        # What was accepted once is not accepted for ever.
        settled = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"accept": ()})})
        if not checkpoint_dirs(config.folder) or config.checkpoint.accept:
            write_atomically(path, dump_config(settled).encode())
        yield lease.check


@contextmanager
def record_failure(run: Path, steps: int) -> Iterator[None]:
    """Whatever ends the block, the state file says that it did not end well."""
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        if is_main() and not isinstance(error, LeaseLostError):
            with suppress(HpcJepaError):  # on a full disk the first failure says more than this one
                write_state(run, "interrupted" if stopped else "failed", -1, steps, error=_message(error))
        raise


def _no_check() -> None:
    """Processes beside the first one write nothing that exists once."""


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, HpcJepaError) else f"{type(error).__name__}: {error}"


def _flatten(settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    stack: list[tuple[str, Any]] = [("", settings)]
    while stack:
        prefix, value = stack.pop()
        if isinstance(value, dict):
            stack += [(f"{prefix}.{key}" if prefix else key, inner) for key, inner in value.items()]
        else:
            flat[prefix] = value
    return flat
