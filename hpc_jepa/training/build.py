"""Put a run together from its configuration: data, masks, networks, engine, monitors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from deepspeed.runtime.engine import DeepSpeedEngine

from hpc_jepa.checkpoint.writer import CheckpointWriter
from hpc_jepa.config.run import RunConfig
from hpc_jepa.data.decode_errors import truncate_decode_errors
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.distributed import GlooGroup, barrier, broadcast_int, is_main, rank, world_size
from hpc_jepa.io.malloc import keep_freed_memory
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.masking.modality import Masker, MasksByModality
from hpc_jepa.objectives import ObjectiveSet
from hpc_jepa.runs.acquire import LeaseCheck, acquire_run_dir, record_failure, refuse_other_config
from hpc_jepa.runs.restarts import record_start
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.training.batches import BatchPrefetcher
from hpc_jepa.training.checkpoint_state import resume_from_checkpoint
from hpc_jepa.training.divergence import DivergenceMonitor
from hpc_jepa.training.ema import TargetEMA
from hpc_jepa.training.engine import build_engine
from hpc_jepa.training.launch import report_lost_peers
from hpc_jepa.training.metrics import MetricsLogger, OnLog
from hpc_jepa.training.nonfinite import NonFiniteGuard
from hpc_jepa.training.startup_timer import StartupTimer
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.training.watchdog import Watchdog


@dataclass(frozen=True)
class TrainingRun:
    """Everything the loop touches. ``first`` is the step to begin with: 0, or the step of the checkpoint.

    ``allowed`` raises when a newer copy of the run has taken its place.
    """

    config: RunConfig
    run_dir: RunDir
    first: int
    engine: DeepSpeedEngine
    objectives: ObjectiveSet
    levels: int
    ema: TargetEMA | None
    batches: BatchPrefetcher
    guard: NonFiniteGuard
    metrics: MetricsLogger
    writer: CheckpointWriter
    watchdog: Watchdog
    startup_timer: StartupTimer
    host: GlooGroup
    data_hashes: dict[str, str]
    check_lease: LeaseCheck


@contextmanager
def build_run(config: RunConfig, device: torch.device, on_log: OnLog) -> Iterator[TrainingRun]:
    """Build the run, or continue it, and close its files and threads at the end.

    The folder is made only when everything else stands and a first batch is there, so that a refused run leaves nothing
    behind. Raises InputError, DataError or CheckpointError where the configuration, the shards or the checkpoint do not
    fit.
    """
    startup_timer = StartupTimer()
    startup_timer.done("imports")
    refuse_other_config(config)
    if device.type == "cpu":
        keep_freed_memory()
    train_module = build_train_module(config)
    startup_timer.done("networks")
    guard = NonFiniteGuard(train_module.model.student.modality.video, device)
    engine = build_engine(train_module, config)
    startup_timer.done("engine")
    loader = build_loader(config, device)
    # Threads have process groups of their own: two threads on one group would mix up their exchanges.
    host, feed_host = GlooGroup(), GlooGroup()
    with (
        Watchdog(config.guard.stall_seconds) as watchdog,
        BatchPrefetcher(loader, build_masker(config, feed_host), config.schedule.steps, device) as batches,
    ):
        batches.prepare(broadcast_int(RunDir(config.folder).last_step()))
        startup_timer.done("first batch")
        run = RunDir(config.folder)
        with acquire_run_dir(config) as check_lease, record_failure(run, config.schedule.steps), report_lost_peers():
            first = resume_from_checkpoint(engine, config, loader.data_hashes)
            if is_main():
                record_start(run, first)
            _open_decode_error_log(loader, run, first)
            startup_timer.done("checkpoint")
            ema = config.targets == "ema"
            with (
                CheckpointWriter(run.path, config.checkpoint, check_lease) as saver,
                MetricsLogger(
                    run,
                    config.monitor,
                    divergence=DivergenceMonitor(config.guard),
                    batch_size=config.engine.batch_size,
                    first=first,
                    on_log=on_log,
                ) as metrics,
            ):
                yield TrainingRun(
                    config=config,
                    run_dir=run,
                    first=first,
                    engine=engine,
                    objectives=train_module.objectives,
                    levels=len(config.model.encoder.levels),
                    ema=TargetEMA(train_module.model.student, train_module.model.target) if ema else None,
                    batches=batches,
                    guard=guard,
                    metrics=metrics,
                    writer=saver,
                    watchdog=watchdog,
                    startup_timer=startup_timer,
                    host=host,
                    data_hashes=loader.data_hashes,
                    check_lease=check_lease,
                )


def build_loader(config: RunConfig, device: torch.device) -> ClipLoader:
    """The clips of this process."""
    return ClipLoader(
        config.data,
        seed=config.seed,
        batch_size=config.engine.batch_size,
        rank=rank(),
        world_size=world_size(),
        device=device,
        same_randomness=config.semantics.process_randomness == "same",
    )


def _open_decode_error_log(loader: ClipLoader, run: RunDir, first: int) -> None:
    """Let undecodable clips go to ``log/dropped-<rank>.jsonl``, which steps that are run again do not fill twice."""
    if is_main():
        truncate_decode_errors(run, first)
    barrier()
    loader.log_decode_errors_to(run.decode_errors_file(rank()))


def build_masker(config: RunConfig, host: GlooGroup) -> Masker:
    """The masks of this process's clips."""
    videos, images = (
        MaskSampler(
            config.masking,
            config.semantics,
            grid,
            seed=config.seed,
            batch_size=config.engine.batch_size,
            rank=rank(),
            world_size=world_size(),
            gather=host.gather,
        )
        for grid in (config.grid, config.image_grid)
    )
    return MasksByModality(videos, images)
