"""Put a run together from its configuration: data, masks, networks, engine, monitors."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from deepspeed.runtime.engine import DeepSpeedEngine

from hpc_jepa.checkpoint.store import last_step
from hpc_jepa.config.run import RunConfig
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.distributed import HostGroup, from_main, rank, world_size
from hpc_jepa.latents import TokenGrid
from hpc_jepa.masking.sampler import MaskSampler
from hpc_jepa.objectives import ObjectiveSet
from hpc_jepa.training.average import TargetAverage
from hpc_jepa.training.engine import build_engine
from hpc_jepa.training.feed import Feed
from hpc_jepa.training.metrics import Observer, Recorder
from hpc_jepa.training.processes import lost_peers_named
from hpc_jepa.training.run_folder import claimed, failure_noted, refuse_another
from hpc_jepa.training.snapshot import resume
from hpc_jepa.training.trainee import build_trainee


@dataclass(frozen=True)
class Run:
    """Everything the loop touches. ``first`` is the step to begin with: 0, or the step of the checkpoint."""

    config: RunConfig
    folder: Path
    first: int
    engine: DeepSpeedEngine
    objectives: ObjectiveSet
    levels: int
    average: TargetAverage | None
    feed: Feed
    recorder: Recorder
    host: HostGroup
    data_hashes: dict[str, str]


@contextmanager
def assembled(config: RunConfig, device: torch.device, observe: Observer) -> Iterator[Run]:
    """Build the run, or continue it, and close its files and threads at the end.

    The folder is made only when everything else stands and a first batch is there, so that a refused run leaves nothing
    behind. Raises InputError, DataError or CheckpointError where the configuration, the shards or the checkpoint do not
    fit.
    """
    refuse_another(config)
    engine = build_engine(build_trainee(config), config)
    trainee = engine.module
    loader = build_loader(config, device)
    # The feed's thread has a process group of its own: two threads on one group would mix up their exchanges.
    host, feed_host = HostGroup(), HostGroup()
    with Feed(loader, build_masker(config, feed_host), config.schedule.steps) as feed:
        feed.prepare(from_main(last_step(config.folder)))
        with claimed(config) as folder, failure_noted(folder, config.schedule.steps), lost_peers_named():
            first = resume(engine, config, loader.data_hashes)
            ema = config.targets == "ema"
            with Recorder(
                folder, config.monitor, batch_size=config.engine.batch_size, first=first, observe=observe
            ) as recorder:
                yield Run(
                    config=config,
                    folder=folder,
                    first=first,
                    engine=engine,
                    objectives=trainee.objectives,
                    levels=len(config.model.encoder.levels),
                    average=TargetAverage(trainee.model.student, trainee.model.target) if ema else None,
                    feed=feed,
                    recorder=recorder,
                    host=host,
                    data_hashes=loader.data_hashes,
                )


def build_loader(config: RunConfig, device: torch.device) -> ClipLoader:
    """The clips of this process; undecodable ones go to ``log/dropped-<rank>.jsonl`` of the run."""
    return ClipLoader(
        config.data,
        seed=config.seed,
        batch_size=config.engine.batch_size,
        rank=rank(),
        world_size=world_size(),
        device=device,
        ledger=config.folder / "log" / f"dropped-{rank()}.jsonl",
        same_randomness=config.semantics.process_randomness == "same",
    )


def build_masker(config: RunConfig, host: HostGroup) -> MaskSampler:
    """The masks of this process's clips."""
    encoder, clip = config.model.encoder, config.data.clip
    side = clip.size // encoder.patch
    return MaskSampler(
        config.masking,
        config.semantics,
        TokenGrid(clip.frames // encoder.tubelet, side, side),
        seed=config.seed,
        batch_size=config.engine.batch_size,
        rank=rank(),
        world_size=world_size(),
        gather=host.gather,
    )
