"""The training loop: fetch, schedules by index, forward, backward, step, average, record, save."""

import logging
from typing import Literal

import torch
from torch import Tensor

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.models.flops import step_flops
from hpc_jepa.training.assembly import Run, assembled
from hpc_jepa.training.engine import optimizer_step, set_rates
from hpc_jepa.training.health import health
from hpc_jepa.training.metrics import Observer
from hpc_jepa.training.processes import join_process_group
from hpc_jepa.training.profile import profiled
from hpc_jepa.training.run_state import write_state
from hpc_jepa.training.schedules import rates_at
from hpc_jepa.training.signals import StopRequest
from hpc_jepa.training.snapshot import facts, pieces
from hpc_jepa.training.walltime import WallTime

LOG = logging.getLogger(__name__)
Outcome = Literal["done", "interrupted"]


def train(config: RunConfig, observe: Observer, profile: bool = False) -> Outcome:
    """Pretrain until the last step or a signal; the same call continues where an earlier one stopped.

    ``observe`` is given every line of ``metrics.jsonl`` as it is written. With ``profile`` rank 0 also writes where the
    first steps spend their time.
    Raises InputError, DataError or CheckpointError where the run cannot start, HpcJepaError where the loss is not
    finite.
    """
    device = join_process_group()
    time_left = WallTime.of_job()
    with StopRequest() as stop, assembled(config, device, observe) as run, profiled(run, profile) as watched:
        report(run, "running", run.first)
        for step in range(run.first, config.schedule.steps):
            run.allowed()
            with watched(step), time_left.measured():
                train_step(run, step)
            run.watchdog.alive()
            done = step + 1
            late = not time_left.fits_another(then=run.saver.longest)
            stopping = stop.agreed(run.host, also=run.saver.failed or late)
            if stopping or done % config.checkpoint.every == 0 or done == config.schedule.steps:
                save(run, done)
                report(run, "running", done)
            if stopping and done < config.schedule.steps:
                run.saver.wait()
                report(run, "interrupted", done, by=stop.signal.name if stop.signal else "wall time")
                return "interrupted"
        if run.first == config.schedule.steps == 0:
            save(run, 0)
        run.saver.wait()
        report(run, "done", config.schedule.steps)
        return "done"


def train_step(run: Run, step: int) -> None:
    """One step. Nothing here asks the device a question; figures leave it when the recorder writes them.

    DeepSpeed itself asks, at the end of a step, whether the norm of the gradient is finite: at stage 3, and at stages 1
    and 2 to clip it.
    """
    config, recorder = run.config, run.recorder
    clips, masks = run.feed.take(step)
    rates = rates_at(step, config.schedule)
    coefficients = run.objectives.weights(step)
    set_rates(run.engine, rates)

    terms, target = run.engine(clips.pixels, masks, step)
    loss = weighted_sum(terms, coefficients)
    run.engine.backward(loss)
    broken = run.guard.broken(loss)
    norm = optimizer_step(run.engine, broken)
    run.guard.count(broken | ~norm.isfinite())
    if run.average is not None:
        run.average.update(rates.ema)

    recorder.count(step_flops(config.model, clips.pixels.shape, masks))
    if recorder.wants(step):
        looked_at = health(target, run.levels, config.monitor.health_tokens) if recorder.wants_health(step) else None
        figures = {"loss": loss, "gradient_norm": norm, **terms}
        recorder.record(step, figures, coefficients, rates, looked_at, run.guard.take(), run.feed.waited)
    if step == run.first:
        run.phases.done("first step")
        run.phases.tell()


def weighted_sum(terms: dict[str, Tensor], coefficients: dict[str, float]) -> Tensor:
    """The loss: every term with its coefficient of this step."""
    return torch.stack([coefficients[name] * term for name, term in terms.items()]).sum()


def save(run: Run, done: int) -> None:
    """Begin to commit everything that decides the rest of the run, after ``done`` steps.

    Not while steps are being skipped: what went wrong before them would take the place of the last good checkpoint.
    Raises HpcJepaError where that is how the run ends.
    """
    run.recorder.settle()
    if skipped := run.guard.in_a_row():
        trouble = f"step {done}: {skipped} skipped, loss or gradient is not finite; lower schedule.lr or use fp32"
        if done == run.config.schedule.steps:
            raise HpcJepaError(trouble)
        LOG.warning("%s; not saved this time", trouble)
        return
    state = facts(run.config, done, run.data_hashes, run.recorder.figures)
    run.saver.start(state, pieces(run.engine))


def report(run: Run, state: Literal["running", "interrupted", "done"], step: int, **more: object) -> None:
    """Let the state file say where the run stands."""
    if is_main():
        run.allowed()
        write_state(run.folder, state, step, run.config.schedule.steps, dropped=run.feed.dropped, **more)
