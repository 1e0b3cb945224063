"""The checkpoint of another run that ``init`` names, and whether a run with this configuration can begin there."""

from hpc_jepa.checkpoint.layout import Checkpoint, open_checkpoint
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import InputError
from hpc_jepa.io.flatten import flatten
from hpc_jepa.runs.run_dir import RunDir

FREE_SETTINGS = {"model.size", "model.activation_checkpointing"}
"""Settings of the model that change no weight."""


def refuse_other_architecture(config: RunConfig, origin: RunConfig, name: str) -> None:
    """Raise InputError naming the settings of the networks in which the run ``name`` differs from this one."""
    before, after = (flatten({"model": x.model.model_dump(mode="json")}) for x in (origin, config))
    changed = [key for key in after if before.get(key) != after[key] and key not in FREE_SETTINGS]
    if changed:
        where = config.locations.prefix(("init", "run"))
        shown = ", ".join(f"{key} {before.get(key)} -> {after[key]}" for key in changed[:3])
        raise InputError(f"{where}init.run: {name} has another architecture ({shown}); use its model settings")


def origin_run(config: RunConfig) -> RunDir:
    """The run that ``init.run`` names. Raises InputError if it is none, this run, or one with other networks."""
    assert config.init is not None and config.init.run is not None
    source, where = RunDir(config.init.run), config.locations.prefix(("init", "run"))
    if source.path.resolve() == config.folder.resolve():
        raise InputError(f"{where}init.run: {source} is this run itself; give the branch another study= or variant=")
    if not source.is_run:
        raise InputError(f"{where}init.run: {source} is not a run folder (no config.yaml)")
    refuse_other_architecture(config, source.config, str(source))
    return source


def origin_checkpoint(config: RunConfig, source: RunDir) -> Checkpoint:
    """The checkpoint that ``init.step`` names. Raises InputError if it was not kept, CheckpointError if damaged."""
    assert config.init is not None
    last, where = source.config.schedule.steps, config.locations.prefix(("init", "step"))
    step = last if config.init.step is None else config.init.step
    folder = source.checkpoint_dir(step)
    if not folder.is_dir():
        kept = ", ".join(str(int(path.name.removeprefix("step-"))) for path in source.checkpoint_dirs()) or "none"
        cause = f"has not reached its last step ({last})" if config.init.step is None else f"has kept no step {step}"
        raise InputError(
            f"{where}init.step: {source} {cause}; kept: {kept}; checkpoint.keep_every of that run keeps more"
        )
    return open_checkpoint(folder)
