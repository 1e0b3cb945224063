"""The training loop: fetch, schedules by index, forward, backward, step, average, record, save."""

import logging
from typing import Literal

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.models.flops import step_flops
from hpc_jepa.objectives.composition import weighted_sum
from hpc_jepa.profiling.profile import profile_steps
from hpc_jepa.runs.state import RunState, write_state
from hpc_jepa.training.build import TrainingRun, build_run
from hpc_jepa.training.checkpoint_state import checkpoint_info, shards_to_save
from hpc_jepa.training.engine import optimizer_step, set_schedule_values
from hpc_jepa.training.health import target_health
from hpc_jepa.training.launch import join_process_group
from hpc_jepa.training.metrics import OnLog
from hpc_jepa.training.schedules import schedule_values_at
from hpc_jepa.training.shutdown import StopSignal
from hpc_jepa.training.walltime import WallTime

LOG = logging.getLogger(__name__)
TrainOutcome = Literal["done", "interrupted"]


def train(config: RunConfig, on_log: OnLog, profile: bool = False) -> TrainOutcome:
    """Pretrain until the last step or a signal; the same call continues where an earlier one stopped.

    ``observe`` is given every line of ``metrics.jsonl`` as it is written. With ``profile`` rank 0 also writes where the
    first steps spend their time.
    Raises InputError, DataError or CheckpointError where the run cannot start, HpcJepaError where the loss is not
    finite.
    """
    device = join_process_group()
    time_left = WallTime.from_environment()
    with StopSignal() as stop, build_run(config, device, on_log) as run, profile_steps(run, profile) as watched:
        write_run_state(run, "running", run.first)
        for step in range(run.first, config.schedule.steps):
            run.check_lease()
            with watched(step), time_left.timed():
                train_step(run, step)
            run.watchdog.alive()
            done = step + 1
            late = not time_left.fits_another(then=run.writer.longest_save)
            stopping = stop.on_any_rank(run.host, also=run.writer.failed or late)
            if stopping or done % config.checkpoint.every == 0 or done == config.schedule.steps:
                save_checkpoint(run, done)
                write_run_state(run, "running", done)
            if stopping and done < config.schedule.steps:
                run.writer.wait()
                write_run_state(run, "interrupted", done, stopped_by=stop.signal.name if stop.signal else "wall time")
                return "interrupted"
        if run.first == config.schedule.steps == 0:
            save_checkpoint(run, 0)
        run.writer.wait()
        write_run_state(run, "done", config.schedule.steps)
        return "done"


def train_step(run: TrainingRun, step: int) -> None:
    """One step. Nothing here asks the device a question; figures leave it when the recorder writes them.

    DeepSpeed itself asks, at the end of a step, whether the norm of the gradient is finite: at stage 3, and at stages 1
    and 2 to clip it.
    """
    config, metrics = run.config, run.metrics
    clips, masks = run.batches.take(step)
    schedule_values = schedule_values_at(step, config.schedule)
    coefficients = run.objectives.weights(step)
    set_schedule_values(run.engine, schedule_values)

    terms, target = run.engine(clips.pixels, masks, step)
    loss = weighted_sum(terms, coefficients)
    run.engine.backward(loss)
    nonfinite = run.guard.nonfinite(loss)
    norm = optimizer_step(run.engine, nonfinite)
    run.guard.count(nonfinite | ~norm.isfinite())
    if run.ema is not None:
        run.ema.update(schedule_values.ema)

    metrics.count(step_flops(config.model, clips.pixels.shape, masks))
    if metrics.should_log(step):
        looked_at = (
            target_health(target, run.levels, config.monitor.health_tokens) if metrics.should_log_health(step) else None
        )
        figures = {"loss": loss, "gradient_norm": norm, **terms}
        metrics.record(
            step, figures, coefficients, schedule_values, looked_at, run.guard.take(), run.batches.wait_seconds
        )
    if step == run.first:
        run.startup_timer.done("first step")
        run.startup_timer.log()


def save_checkpoint(run: TrainingRun, done: int) -> None:
    """Begin to commit everything that decides the rest of the run, after ``done`` steps.

    Not while steps are being skipped: what went wrong before them would take the place of the last good checkpoint.
    Raises HpcJepaError where that is how the run ends.
    """
    run.metrics.flush_to_disk()
    if skipped := run.guard.consecutive():
        trouble = f"step {done}: {skipped} skipped, loss or gradient is not finite; lower schedule.lr or use fp32"
        if done == run.config.schedule.steps:
            raise HpcJepaError(trouble)
        LOG.warning("%s; not saved this time", trouble)
        return
    state = checkpoint_info(run.config, done, run.data_hashes, run.metrics.figures)
    run.writer.start(state, shards_to_save(run.engine))


def write_run_state(
    run: TrainingRun, state: Literal["running", "interrupted", "done"], step: int, stopped_by: str | None = None
) -> None:
    """Let the state file say where the run stands."""
    if is_main():
        run.check_lease()
        steps, errors = run.config.schedule.steps, run.batches.dropped
        content = RunState(state=state, step=step, steps=steps, decode_errors=errors, stopped_by=stopped_by)
        write_state(run.run_dir.state_file, content)
