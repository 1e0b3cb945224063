#!/usr/bin/env python3
"""Kill test: SIGKILL a training job at random times and check that nothing is lost.

A tiny run of several processes is killed and restarted until it is done; then the next run. After every kill,
``latest`` must point to a valid checkpoint, every committed checkpoint must exist, and at most the steps since the last
due save may be lost. After every run, weights, optimizer moments and metrics must equal those of an undisturbed run bit
for bit. Exits with 1 at the first loss.

Processes are forked from this one, which has imported everything and never trains, so a start takes one second.
"""

import faulthandler
import gc
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

TIMES = ("time", "clips_per_second", "tflops_per_second", "data_wait_share", "memory_bytes", "shared_clips")
TIMEOUT = 600.0
"""Seconds after which a process counts as hanging."""


class Loss(Exception):
    """Something was lost."""


@dataclass
class Job:
    """Processes of one start of a run; their output goes to ``log``."""

    config: Any
    processes: int
    log: Path
    prepare: Callable[[int], None] = lambda rank: None
    """Called in each process before it trains."""
    children: list[int] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    def start(self) -> None:
        """Fork the processes."""
        port = _free_port()
        for rank in range(self.processes):
            child = os.fork()
            if not child:
                _become(rank, self, port)
            self.children.append(child)

    def running(self) -> bool:
        """Whether all processes are still running."""
        for child in self.children:
            if child not in self.statuses:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    self.statuses[child] = os.waitstatus_to_exitcode(status)
        return not self.statuses

    def kill(self, victims: list[int]) -> None:
        """SIGKILL some ranks; the others have to notice by themselves."""
        for rank in victims:
            if self.children[rank] not in self.statuses:
                os.kill(self.children[rank], signal.SIGKILL)

    def join(self) -> bool:
        """Wait for all processes; True if all exited with 0."""
        deadline = time.monotonic() + TIMEOUT
        while len(self.statuses) < self.processes:
            self.running()
            if time.monotonic() > deadline:
                self.kill(list(range(self.processes)))
                raise Loss(f"a process hangs, see {self.log}")
            time.sleep(0.01)
        return not any(self.statuses.values())


@dataclass
class Trial:
    """Runs of one ZeRO stage, killed until ``kills`` are spent."""

    shards: Path
    work: Path
    stage: int
    processes: int
    steps: int
    rng: random.Random
    counts: Counter[str] = field(default_factory=Counter)

    def torture(self, kills: int) -> None:
        """Kill runs until ``kills`` are spent. Raises Loss."""
        started = time.monotonic()
        reference = self._config("reference")
        self._finish(reference)
        span = time.monotonic() - started
        while self.counts["kills"] < kills:
            config = self._config(f"killed-{self.counts['runs']}")
            while self.counts["kills"] < kills and self._killed(config, span):
                pass
            self._finish(config)
            compare(reference, config)
            self.counts["runs"] += 1
            typer.echo(f"stage {self.stage}: {self.counts['kills']} of {kills} kills", err=True)

    def _killed(self, config: Any, span: float) -> bool:
        """Start the run and kill it at a random time; False if it finished before."""
        before, logged = _committed(config), _logged(config)
        job = Job(config, self.processes, self.work / "log.txt")
        job.start()
        # Half of the kills are aimed just after a step, when saves happen.
        aimed = self.rng.random() < 0.5
        line = _logged(config) + self.rng.randint(1, self.steps // 4) if aimed else self.steps + 1
        moment = time.monotonic() + (1.0 if aimed else self.rng.random()) * span
        while job.running() and time.monotonic() < moment and _logged(config) < line:
            time.sleep(0.002)
        time.sleep(self.rng.uniform(0, 0.03))
        if not job.running():
            if job.join():
                return False
            raise Loss(f"a run failed without being killed, see {job.log}")
        everyone = list(range(self.processes))
        job.kill(everyone if self.rng.random() < 0.7 else [self.rng.choice(everyone)])
        if _logged(config) == logged:
            job.kill(everyone)  # ranks waiting for a dead one at the rendezvous; a launcher would end them
        job.join()
        self.counts["kills"] += 1
        self._check(config, before)
        return True

    def _check(self, config: Any, before: int) -> None:
        """Check what a kill has left behind. Raises Loss."""
        from hpc_jepa.checkpoint import layout
        from hpc_jepa.runs.run_dir import RunDir

        run = RunDir(config.folder)
        home, latest = run.checkpoints_dir, run.latest_link
        if latest.is_symlink():
            faults = layout.verify_dir(latest.resolve())
            if faults:
                raise Loss(f"latest is damaged: {faults[0]}")
        step = _committed(config)
        if step < before:
            raise Loss(f"{config.folder}: step {before} was committed, now {step} is the newest")
        # A save is started after its step is logged, and first waits for the one before: after the step that follows,
        # all checkpoints but the last due one are committed.
        due = (_logged(config) - 1) // config.checkpoint.every - 1
        if step < due * config.checkpoint.every:
            raise Loss(f"{config.folder}: {_logged(config)} steps done, but only {step} committed")
        self.counts["in a save"] += bool(list(home.glob(".step-*.partial")))
        self.counts["before latest"] += latest.is_symlink() and latest.resolve() != run.checkpoint_dir(step)

    def _finish(self, config: Any) -> None:
        job = Job(config, self.processes, self.work / "log.txt")
        job.start()
        if not job.join():
            raise Loss(f"a run failed without being killed, see {job.log}")

    def _config(self, study: str) -> Any:
        batch_size = 2 * self.processes
        variant = f"stage-{self.stage}"
        config = tiny_run(self.shards, self.work / "runs", study, variant, self.steps, batch_size)
        return config.model_copy(update={"engine": config.engine.model_copy(update={"zero_stage": self.stage})})


def tiny_run(shards: Path, runs: Path, study: str, variant: str, steps: int, batch_size: int, **reading: Any) -> Any:
    """Configuration of a run of seconds that saves every second step."""
    from hpc_jepa.config.run import RunConfig

    return RunConfig.model_validate(
        {
            "regime": "torture",
            "study": study,
            "variant": variant,
            "runs": runs,
            "model": {
                "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
                "predictor": {"width": 16, "depth": 1, "heads": 2},
            },
            "data": {
                "sources": {"motion8": {"shards": shards}},
                "clip": {"frames": 8, "stride": 2, "size": 32},
                "reading": reading,
            },
            "objectives": ["ld"],
            "schedule": {"steps": steps},
            "engine": {"precision": "fp32", "batch_size": batch_size},
            "checkpoint": {"every": 2, "keep": 2},
            "monitor": {"log_every": 1, "health_every": 1, "tensorboard": False},
            "guard": {"stall_seconds": TIMEOUT / 2},
        }
    )


def _become(rank: int, job: Job, port: int) -> None:
    """Turn a forked child into a process of the run; never returns."""
    with job.log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(job.processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    faulthandler.dump_traceback_later(TIMEOUT / 2, repeat=True)
    from hpc_jepa.errors import HpcJepaError
    from hpc_jepa.training.loop import train

    status = 1
    try:
        job.prepare(rank)
        status = 0 if train(job.config, _ignore) == "done" else 1
    except HpcJepaError as error:
        sys.stderr.write(f"rank {rank}: {error}\n")
    finally:
        sys.stderr.flush()
        os._exit(status)


def _ignore(record: object) -> None:
    """No progress bar."""


def _committed(config: Any) -> int:
    from hpc_jepa.runs.run_dir import RunDir

    return RunDir(config.folder).last_step()


def _logged(config: Any) -> int:
    from hpc_jepa.io.jsonl import whole_lines
    from hpc_jepa.runs.run_dir import RunDir

    return len(whole_lines(RunDir(config.folder).metrics_file))


def compare(reference: Any, killed: Any) -> None:
    """Raise Loss unless both runs ended bit for bit equal."""
    import torch

    from hpc_jepa.checkpoint import reader
    from hpc_jepa.runs.run_dir import RunDir

    folders = [RunDir(config.folder).checkpoint_dir(config.schedule.steps) for config in (reference, killed)]
    one, other = map(reader.open_tensors, folders)
    differing = [name for name in one if name not in other or not torch.equal(one[name], other[name])]
    if differing or len(one) != len(other):
        raise Loss(f"{killed.folder}: {len(differing)} tensors differ from the undisturbed run, first {differing[:1]}")
    if _metrics(reference) != _metrics(killed):
        raise Loss(f"{killed.folder}: metrics differ from the undisturbed run")


def read_metrics(config: Any) -> list[dict[str, Any]]:
    """Records of ``metrics.jsonl``."""
    from hpc_jepa.io.jsonl import whole_lines
    from hpc_jepa.runs.run_dir import RunDir

    return [json.loads(line) for line in whole_lines(RunDir(config.folder).metrics_file)]


def _metrics(config: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in TIMES} for line in read_metrics(config)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def scratch_dir(shards: Path | None) -> Iterator[tuple[Path, Path]]:
    """Temporary folder for the runs, and the shards to train on."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        work = Path(folder)
        if shards is None:
            sizes = ["--size", "32", "--frames", "16", "--unlabelled", "64", "--train", "8", "--test", "8"]
            command = [sys.executable, "-m", "hpc_jepa", "shards", "build", "motion8", *sizes, "--out", str(work / "s")]
            subprocess.run(command, check=True)
            shards = work / "s" / "unlabelled"
        yield work, shards


def import_before_forking() -> None:
    """Import all that training needs, and start no threads."""
    os.environ["OMP_NUM_THREADS"] = "1"  # thread pools do not survive a fork
    from hpc_jepa.distributed import set_ds_accelerator

    set_ds_accelerator()
    import hpc_jepa.training.loop  # noqa: F401 - imported before forking
    from hpc_jepa.data.dali_pipeline import import_dali
    from hpc_jepa.training.uncompiled import import_muon

    import_dali()
    import_muon()
    gc.freeze()  # what is imported before forking is not copied by the garbage collector of each process


def main(
    kills: Annotated[int, typer.Option(help="Total number of kills, divided among the stages.")] = 200,
    stages: Annotated[str, typer.Option(help="ZeRO stages.")] = "0,1,2,3",
    processes: Annotated[int, typer.Option(help="Processes per job.")] = 2,
    steps: Annotated[int, typer.Option(help="Steps of each run.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the kill times.")] = 0,
    shards: Annotated[Path | None, typer.Option(help="Shard folder; built if not given.")] = None,
) -> None:
    """Kill training jobs at random times and check that nothing is lost."""
    import_before_forking()
    counts: Counter[str] = Counter()
    chosen = [int(stage) for stage in stages.split(",")]
    started = time.monotonic()
    with scratch_dir(shards) as (work, source):
        for number, stage in enumerate(chosen):
            share = kills * (number + 1) // len(chosen) - kills * number // len(chosen)
            trial = Trial(source, work / str(stage), stage, processes, steps, random.Random(f"{seed}/{stage}"))
            trial.work.mkdir()
            try:
                trial.torture(share)
            except Loss as loss:
                log = trial.work / "log.txt"
                typer.echo(f"{log.read_text()[-4000:]}\nLOST at stage {stage}, seed {seed}: {loss}", err=True)
                raise typer.Exit(1) from loss
            counts += trial.counts
    typer.echo(
        f"{counts['kills']} kills ({counts['in a save']} in a save, {counts['before latest']} before latest was moved) "
        f"of {processes} processes, ZeRO {stages}: nothing lost, {counts['runs']} runs equal bit for bit, "
        f"{time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    typer.run(main)
