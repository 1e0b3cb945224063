"""The training loop: batch, forward, backward, optimizer step, EMA, metrics, checkpoint."""

import logging
from typing import Literal

import torch

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.models.flops import step_flops
from hpc_jepa.objectives.registry import validate_objectives
from hpc_jepa.profiling.profile import profile_steps
from hpc_jepa.runs.acquire import refuse_other_config
from hpc_jepa.runs.preview_file import write_preview
from hpc_jepa.runs.state import UNTIL, RunState, write_state
from hpc_jepa.trackers.clients import require_trackers
from hpc_jepa.training.build import TrainingRun, build_run
from hpc_jepa.training.checkpoint_state import checkpoint_info, shards_to_save
from hpc_jepa.training.clip_preview import clip_preview
from hpc_jepa.training.divergence import target_health
from hpc_jepa.training.engine import set_schedule_values
from hpc_jepa.training.launch import collective_timeout, join_process_group
from hpc_jepa.training.metrics import OnLog
from hpc_jepa.training.micro_batches import accumulate_gradients, health_sampler
from hpc_jepa.training.numerics import numerics
from hpc_jepa.training.schedules import schedule_values_at
from hpc_jepa.training.shutdown import StopSignal, WallTime
from hpc_jepa.training.update import guarded_update, scale_metrics
from hpc_jepa.training.zero_state import gather_after_updates

LOG = logging.getLogger(__name__)
TrainOutcome = Literal["done", "paused", "interrupted"]


def train(config: RunConfig, on_log: OnLog, profile: bool = False, until: int | None = None) -> TrainOutcome:
    """Pretrain until the last step, a stop signal or the end of the job; the same call resumes an interrupted run.

    ``until``: save after this many steps and stop there; a call without it goes on as if nothing had been.
    ``on_log`` is called with each record of ``metrics.jsonl``. With ``profile`` rank 0 profiles the first steps.
    Raises InputError, DataError or CheckpointError if the run cannot start, HpcJepaError if the loss is non-finite.
    """
    validate_objectives(config)
    require_trackers(config.monitor)
    refuse_other_config(config)
    timeout = collective_timeout(config.guard.stall_seconds)
    device = join_process_group(config.engine.device, timeout, config.folder)
    wall_time = WallTime.from_environment()
    with (
        numerics(config.engine),
        StopSignal() as stop,
        build_run(config, device, on_log) as run,
        profile_steps(run, profile) as profile_step,
    ):
        write_run_state(run, "running", run.first_step)
        last = config.schedule.steps if until is None else min(until, config.schedule.steps)
        for step in range(run.first_step, last):
            run.check_lease()
            with profile_step(step), wall_time.timed():
                train_step(run, step)
            run.watchdog.reset()
            done = step + 1
            out_of_time = not wall_time.fits_another(then=run.writer.longest_save)
            stopping = _on_any_rank(run, stop.signal is not None or run.writer.failed or out_of_time)
            if stopping or done % config.checkpoint.every == 0 or done == last:
                save_checkpoint(run, done, last)
                write_run_state(run, "running", done)
            if stopping and done < last:
                run.writer.wait()
                write_run_state(run, "interrupted", done, stopped_by=stop.signal.name if stop.signal else "wall time")
                return "interrupted"
        if run.first_step == config.schedule.steps == 0:
            save_checkpoint(run, 0, last)
        run.writer.wait()
        if (done := max(run.first_step, last)) < config.schedule.steps:
            write_run_state(run, "interrupted", done, stopped_by=UNTIL)
            return "paused"
        write_run_state(run, "done", config.schedule.steps)
        return "done"


def train_step(run: TrainingRun, step: int) -> None:
    """One training step, without a host-device sync: logged metrics are copied asynchronously and written later.

    At stage 3 DeepSpeed itself waits for the device, for the gradient norm and others (docs/decisions/deepspeed.md).
    """
    config, metrics = run.config, run.metrics
    batch = run.batches.get(step)
    schedule_values = schedule_values_at(step, config.schedule)
    coefficients = run.objectives.weights(step)
    set_schedule_values(run.engine, schedule_values)

    sampler = health_sampler(config) if metrics.should_log(step) and metrics.should_log_health(step) else None
    loss, terms, target_sample = accumulate_gradients(run.engine, batch, step, coefficients, sampler)
    norm = guarded_update(run.engine, run.guard, loss)
    if run.ema is not None:
        run.ema.update(schedule_values.ema)
    gather_after_updates(run.engine)

    metrics.count_step(sum(step_flops(config.model, pixels.shape, masks) for pixels, masks in batch.micro_batches()))
    if metrics.should_log(step):
        health = None if target_sample is None else target_health(target_sample)
        scalars = {"loss": loss, "gradient_norm": norm, **scale_metrics(run.engine), **terms}
        skipped, waited, counts = run.guard.pop_counts(), run.batches.wait_seconds, run.batches.counts(step + 1)
        metrics.log(step, scalars, coefficients, schedule_values, health, skipped, waited, counts)
    begins = step == run.first_step and not run.run_dir.preview_file.is_file()
    if (step == 0 or begins) and is_main():
        write_preview(run.run_dir.preview_file, clip_preview(config, batch.clips, batch.masks[0]))
    if step == run.first_step:
        run.startup_timer.phase_done("first step")
        run.startup_timer.log()


def save_checkpoint(run: TrainingRun, done: int, last: int) -> None:
    """Start writing a checkpoint after ``done`` steps of ``last``.

    Not while steps are skipped: it would replace the last good one. Raises HpcJepaError if the run ends that way.
    """
    run.metrics.flush_to_disk()
    if skipped := run.guard.consecutive():
        message = f"step {done}: last {skipped} skipped, non-finite loss or gradient; lower schedule.lr or use fp32"
        if done == last:
            raise HpcJepaError(message)
        LOG.warning("%s; no checkpoint written", message)
        return
    info = checkpoint_info(run.config, done, run.data_hashes, run.metrics.last)
    run.writer.save(info, shards_to_save(run.engine))


def write_run_state(
    run: TrainingRun, state: Literal["running", "interrupted", "done"], step: int, stopped_by: str | None = None
) -> None:
    """Write ``state.json`` on rank 0."""
    if is_main():
        run.check_lease()
        content = RunState(
            state=state,
            step=step,
            steps=run.config.schedule.steps,
            stopped_by=stopped_by,
            **run.batches.counts(step)._asdict(),
        )
        write_state(run.run_dir.state_file, content)


def _on_any_rank(run: TrainingRun, condition: bool) -> bool:
    """Whether the condition holds on any rank, so that all ranks stop after the same step. Collective."""
    return any(run.gloo.gather(torch.tensor([condition])).tolist())
