"""Put a run together from its configuration: data, masks, networks, engine, monitors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from deepspeed.runtime.engine import DeepSpeedEngine

from hpc_jepa.checkpoint.saver import Saver
from hpc_jepa.checkpoint.store import last_step
from hpc_jepa.config.run import RunConfig
from hpc_jepa.data.drops import forget_drops, ledger_path
from hpc_jepa.data.heap import keep_freed_memory
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.distributed import HostGroup, barrier, from_main, is_main, rank, world_size
from hpc_jepa.latents import TokenGrid
from hpc_jepa.masking.modality import Masker, MasksByModality
from hpc_jepa.masking.sampler import MaskSampler
from hpc_jepa.objectives import ObjectiveSet
from hpc_jepa.training.alarms import Alarms
from hpc_jepa.training.average import TargetAverage
from hpc_jepa.training.engine import build_engine
from hpc_jepa.training.feed import Feed
from hpc_jepa.training.guards import FiniteGuard
from hpc_jepa.training.metrics import Observer, Recorder
from hpc_jepa.training.phases import Phases
from hpc_jepa.training.processes import lost_peers_named
from hpc_jepa.training.run_folder import Allowed, claimed, failure_noted, refuse_another
from hpc_jepa.training.run_state import note_start
from hpc_jepa.training.snapshot import resume
from hpc_jepa.training.trainee import build_trainee
from hpc_jepa.training.watchdog import Watchdog


@dataclass(frozen=True)
class Run:
    """Everything the loop touches. ``first`` is the step to begin with: 0, or the step of the checkpoint.

    ``allowed`` raises when a newer copy of the run has taken its place.
    """

    config: RunConfig
    folder: Path
    first: int
    engine: DeepSpeedEngine
    objectives: ObjectiveSet
    levels: int
    average: TargetAverage | None
    feed: Feed
    guard: FiniteGuard
    recorder: Recorder
    saver: Saver
    watchdog: Watchdog
    phases: Phases
    host: HostGroup
    data_hashes: dict[str, str]
    allowed: Allowed


@contextmanager
def assembled(config: RunConfig, device: torch.device, observe: Observer) -> Iterator[Run]:
    """Build the run, or continue it, and close its files and threads at the end.

    The folder is made only when everything else stands and a first batch is there, so that a refused run leaves nothing
    behind. Raises InputError, DataError or CheckpointError where the configuration, the shards or the checkpoint do not
    fit.
    """
    phases = Phases()
    phases.done("imports")
    refuse_another(config)
    if device.type == "cpu":
        keep_freed_memory()
    trainee = build_trainee(config)
    phases.done("networks")
    guard = FiniteGuard(trainee.model.student.modality.video, device)
    engine = build_engine(trainee, config)
    phases.done("engine")
    loader = build_loader(config, device)
    # Threads have process groups of their own: two threads on one group would mix up their exchanges.
    host, feed_host = HostGroup(), HostGroup()
    with (
        Watchdog(config.guard.stall_seconds) as watchdog,
        Feed(loader, build_masker(config, feed_host), config.schedule.steps, device) as feed,
    ):
        feed.prepare(from_main(last_step(config.folder)))
        phases.done("first batch")
        folder = config.folder
        with claimed(config) as allowed, failure_noted(folder, config.schedule.steps), lost_peers_named():
            first = resume(engine, config, loader.data_hashes)
            if is_main():
                note_start(folder, first)
            _continue_drops(loader, folder / "log", first)
            phases.done("checkpoint")
            ema = config.targets == "ema"
            with (
                Saver(folder, config.checkpoint, allowed) as saver,
                Recorder(
                    folder,
                    config.monitor,
                    alarms=Alarms(config.guard),
                    batch_size=config.engine.batch_size,
                    first=first,
                    observe=observe,
                ) as recorder,
            ):
                yield Run(
                    config=config,
                    folder=folder,
                    first=first,
                    engine=engine,
                    objectives=trainee.objectives,
                    levels=len(config.model.encoder.levels),
                    average=TargetAverage(trainee.model.student, trainee.model.target) if ema else None,
                    feed=feed,
                    guard=guard,
                    recorder=recorder,
                    saver=saver,
                    watchdog=watchdog,
                    phases=phases,
                    host=host,
                    data_hashes=loader.data_hashes,
                    allowed=allowed,
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


def _continue_drops(loader: ClipLoader, log: Path, first: int) -> None:
    """Let undecodable clips go to ``log/dropped-<rank>.jsonl``, which steps that are run again do not fill twice."""
    if is_main():
        forget_drops(log, first)
    barrier()
    loader.write_drops_to(ledger_path(log, rank()))


def build_masker(config: RunConfig, host: HostGroup) -> Masker:
    """The masks of this process's clips."""
    encoder, clip = config.model.encoder, config.data.clip
    side = clip.size // encoder.patch
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
        for grid in (TokenGrid(clip.frames // encoder.tubelet, side, side), TokenGrid(1, side, side))
    )
    return MasksByModality(videos, images)
