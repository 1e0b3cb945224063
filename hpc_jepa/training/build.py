"""Build a run from its configuration: data, masks, networks, engine, metrics, checkpoint writer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from deepspeed.runtime.engine import DeepSpeedEngine

from hpc_jepa.checkpoint.writer import CheckpointWriter
from hpc_jepa.config.run import RunConfig
from hpc_jepa.data.decode_errors import truncate_decode_errors
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.distributed import GlooGroup, barrier, is_main, rank, world_size
from hpc_jepa.io.malloc import keep_freed_memory
from hpc_jepa.kernels.build_tools import require_build_tools
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.masking.modality import MasksByModality
from hpc_jepa.objectives import ObjectiveSet
from hpc_jepa.runs.acquire import LeaseCheck, acquire_run_dir, record_failure
from hpc_jepa.runs.restarts import record_start
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.trackers.processes import track
from hpc_jepa.training.batches import BatchPrefetcher
from hpc_jepa.training.checkpoint_state import resume_from_checkpoint
from hpc_jepa.training.divergence import DivergenceMonitor
from hpc_jepa.training.ema import TargetEMA
from hpc_jepa.training.engine import build_engine
from hpc_jepa.training.launch import collective_timeout, report_lost_peers
from hpc_jepa.training.loss_scale import require_fp16_device
from hpc_jepa.training.metrics import MetricsLogger, OnLog, StartupTimer
from hpc_jepa.training.nonfinite import NonFiniteGuard
from hpc_jepa.training.start import find_start
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.training.watchdog import Watchdog


@dataclass(frozen=True)
class TrainingRun:
    """Everything the loop uses.

    first_step: 0, or the step of the checkpoint that was loaded, its own or the one it branches from.
    check_lease: raises LeaseLostError if a newer process has taken over the run.
    """

    config: RunConfig
    run_dir: RunDir
    first_step: int
    engine: DeepSpeedEngine
    objectives: ObjectiveSet
    ema: TargetEMA | None
    batches: BatchPrefetcher
    guard: NonFiniteGuard
    metrics: MetricsLogger
    writer: CheckpointWriter
    watchdog: Watchdog
    startup_timer: StartupTimer
    gloo: GlooGroup
    data_hashes: dict[str, str]
    check_lease: LeaseCheck


@contextmanager
def build_run(config: RunConfig, device: torch.device, on_log: OnLog) -> Iterator[TrainingRun]:
    """Build or resume a run; leaving the context closes its files and threads.

    The run folder is created last, once a first batch exists: a run that cannot start leaves nothing behind.
    Raises InputError, DataError or CheckpointError if the configuration, the shards or the checkpoint do not match, and
    HpcJepaError if Triton cannot start kernels on this node.
    """
    startup_timer = StartupTimer()
    startup_timer.phase_done("imports")
    require_fp16_device(config.engine, device)
    if device.type == "cpu":
        keep_freed_memory()
    else:
        require_build_tools()
    train_module = build_train_module(config)
    start = find_start(config, train_module)
    startup_timer.phase_done("networks")
    guard = NonFiniteGuard(train_module.model.student.modality.video, device)
    engine = build_engine(train_module, config)
    startup_timer.phase_done("engine")
    loader = build_loader(config, device)
    # One process group per thread: collectives of two threads on one group would be mixed up.
    timeout = collective_timeout(config.guard.stall_seconds)
    gloo, mask_gloo = GlooGroup(timeout), GlooGroup(timeout)
    run = RunDir(config.folder)
    with (
        Watchdog(config.guard.stall_seconds) as watchdog,
        BatchPrefetcher(
            loader,
            build_masker(config, mask_gloo).micro_batches,
            config.schedule.steps,
            device,
            ahead=config.data.reading.prefetch_batches,
            clip_offset=start.clip_offset,
        ) as batches,
    ):
        batches.prepare(start.step)
        startup_timer.phase_done("first batch")
        with acquire_run_dir(config) as check_lease, record_failure(run, config.schedule.steps), report_lost_peers():
            first_step = resume_from_checkpoint(engine, config, loader.data_hashes, start)
            _start_logs(loader, run, first_step, start.clip_offset)
            startup_timer.phase_done("checkpoint")
            with _open_outputs(config, first_step, check_lease, on_log, gloo) as (writer, metrics):
                model = train_module.model
                yield TrainingRun(
                    config=config,
                    run_dir=run,
                    first_step=first_step,
                    engine=engine,
                    objectives=train_module.objectives,
                    ema=TargetEMA(model.student, model.target) if config.targets == "ema" else None,
                    batches=batches,
                    guard=guard,
                    metrics=metrics,
                    writer=writer,
                    watchdog=watchdog,
                    startup_timer=startup_timer,
                    gloo=gloo,
                    data_hashes=loader.data_hashes,
                    check_lease=check_lease,
                )


def build_loader(config: RunConfig, device: torch.device) -> ClipLoader:
    """Loader of this rank's clips."""
    return ClipLoader(
        config.data,
        seed=config.seed,
        batch_size=config.engine.batch_size,
        rank=rank(),
        world_size=world_size(),
        device=device,
        accumulation=config.engine.accumulation,
        same_randomness=config.semantics.process_randomness == "same",
        shared=True,
    )


def _start_logs(loader: ClipLoader, run: RunDir, first_step: int, clip_offset: int) -> None:
    """Record the start, and log decode errors per rank, without the records of steps that will be repeated."""
    if is_main():
        record_start(run, first_step)
        truncate_decode_errors(run, first_step + clip_offset)
    barrier()
    loader.log_decode_errors_to(run, rank())


@contextmanager
def _open_outputs(
    config: RunConfig, first_step: int, check_lease: LeaseCheck, on_log: OnLog, gloo: GlooGroup
) -> Iterator[tuple[CheckpointWriter, MetricsLogger]]:
    """Writer of checkpoints and logger of metrics, closed together."""
    run = RunDir(config.folder)
    with (
        CheckpointWriter(run.path, config.checkpoint, check_lease) as writer,
        track(run, config, first_step, start=is_main()) as trackers,
        MetricsLogger(
            run,
            config.monitor,
            divergence=DivergenceMonitor(config.guard),
            batch_size=config.engine.batch_size,
            first_step=first_step,
            on_log=trackers.observed(on_log),
            gather=gloo.gather,
        ) as metrics,
    ):
        yield writer, metrics


def build_masker(config: RunConfig, gloo: GlooGroup) -> MasksByModality:
    """Sampler of the masks of this rank's clips."""
    videos, images = (
        MaskSampler(
            config.masking,
            config.semantics,
            grid,
            seed=config.seed,
            batch_size=config.engine.batch_size,
            rank=rank(),
            world_size=world_size(),
            accumulation=config.engine.accumulation,
            gather=gloo.gather,
        )
        for grid in (config.grid, config.image_grid)
    )
    return MasksByModality(videos, images)
