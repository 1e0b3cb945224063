"""Acquire a run folder for training: refuse another configuration, take the lease, record failures."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from hpc_jepa.config.loading import dump_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.io.flatten import flatten
from hpc_jepa.runs.lease import LeaseLostError, hold_lease
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState, write_state

LeaseCheck = Callable[[], None]
"""Raises LeaseLostError when this process may no longer write to the run folder."""


def refuse_other_config(config: RunConfig) -> None:
    """Raise InputError, naming the settings that differ, if the folder holds a run with another configuration.

    A run without a checkpoint is not refused: nothing is lost when its settings change.
    """
    run = RunDir(config.folder)
    if not run.is_run or not run.checkpoint_dirs():
        return
    if config.init is not None and run.config.init is None:
        where = config.locations.prefix(("init",))
        raise InputError(
            f"{where}init: {run} has a checkpoint of its own, after step {run.last_step()}, and continues from it; "
            "init can only begin a run: remove it, or choose another study= or variant="
        )
    changes = unaccepted_changes(run.config, config)
    if changes:
        raise InputError(
            f"{run}: holds a run with another configuration ({changes}); choose another study= or variant=, or "
            "accept the changes with checkpoint.accept=[...]"
        )


def unaccepted_changes(old: RunConfig, new: RunConfig) -> str:
    """The first settings that differ and that ``checkpoint.accept`` does not name, as text; empty if there are none."""
    before, after = flatten(old.outcome_settings()), flatten(new.outcome_settings())
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    refused = [key for key in changed if not new.checkpoint.accepts(key)]
    shown = [f"{key} {before.get(key)} -> {after.get(key)}" for key in refused[:3]]
    return ", ".join(shown) + (f" and {len(refused) - 3} more" if len(refused) > 3 else "")


@contextmanager
def acquire_run_dir(config: RunConfig) -> Iterator[LeaseCheck]:
    """Create the run folder with its configuration and hold its lease; yields the check to call before each write.

    Raises InputError if another process trains there or if the folder cannot be created. Call ``refuse_other_config``
    first. On ranks other than 0 it does nothing.
    """
    if not is_main():
        yield _no_check
        return
    run = RunDir(config.folder)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{run}: cannot be created ({error.strerror}); choose another runs=") from error
    run.refuse_links_outside()
    with hold_lease(run) as lease:
        # Accepted changes are accepted for this start only.
        stored = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"accept": ()})})
        if not run.checkpoint_dirs() or config.checkpoint.accept:
            write_atomically(run.config_file, dump_config(stored).encode())
        yield lease.check


@contextmanager
def record_failure(run: RunDir, steps: int) -> Iterator[None]:
    """Write ``failed`` or ``interrupted`` with the error to ``state.json`` if the block raises."""
    try:
        yield
    except BaseException as error:
        if is_main() and not isinstance(error, LeaseLostError):
            state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(HpcJepaError):  # the disk may be full: keep the first error
                write_state(run.state_file, RunState(state=state, step=None, steps=steps, error=_message(error)))
        raise


def _no_check() -> None:
    """Ranks other than 0 write no shared files."""


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, HpcJepaError) else f"{type(error).__name__}: {error}"
