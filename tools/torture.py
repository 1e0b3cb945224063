#!/usr/bin/env python3
"""Kill a training job again and again, and see whether it loses anything.

A tiny run of several processes is started, killed (SIGKILL) at a random instant, and started again until it is done;
then the next. After every kill: is what ``latest`` points at undamaged, is all there that was committed, is no more
lost than the steps since? After every run: are weights, moments and figures those of the undisturbed run, to the bit?
Exits with 1 at the first loss, and ends with a line that says what was done.

Processes are forked from this one, which has imported everything and never trains: so a start takes a second.
"""

import faulthandler
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

TIMES = ("time", "clips_per_second", "tflops_per_second", "data_wait_share", "memory_bytes")
PATIENCE = 600.0
"""Seconds after which a process that should have ended is taken to hang."""


class Loss(Exception):
    """What should never be."""


@dataclass
class Job:
    """Processes of one start of a run; they write what they have to say into ``log``."""

    config: Any
    processes: int
    log: Path
    children: list[int] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    def start(self) -> None:
        """Fork them."""
        port = _free_port()
        for rank in range(self.processes):
            child = os.fork()
            if not child:
                _become(rank, self.processes, port, self.config, self.log)
            self.children.append(child)

    def running(self) -> bool:
        """Whether none has ended yet."""
        for child in self.children:
            if child not in self.statuses:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    self.statuses[child] = os.waitstatus_to_exitcode(status)
        return not self.statuses

    def kill(self, victims: list[int]) -> None:
        """Kill some; the others have to notice by themselves."""
        for rank in victims:
            if self.children[rank] not in self.statuses:
                os.kill(self.children[rank], signal.SIGKILL)

    def join(self) -> bool:
        """Wait until all have ended; whether all ended well."""
        deadline = time.monotonic() + PATIENCE
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
    moments: random.Random
    seen: Counter[str] = field(default_factory=Counter)

    def torture(self, kills: int) -> None:
        """Spend the kills on as many runs as it takes. Raises Loss."""
        started = time.monotonic()
        whole = self._config("whole")
        self._finish(whole)
        span = time.monotonic() - started
        while self.seen["kills"] < kills:
            config = self._config(f"killed-{self.seen['runs']}")
            while self.seen["kills"] < kills and self._killed(config, span):
                pass
            self._finish(config)
            _compare(whole, config)
            self.seen["runs"] += 1
            typer.echo(f"stage {self.stage}: {self.seen['kills']} of {kills} kills", err=True)

    def _killed(self, config: Any, span: float) -> bool:
        """Start the run and kill it at a random instant; False when it was faster."""
        before, logged = _committed(config), _logged(config)
        job = Job(config, self.processes, self.work / "log.txt")
        job.start()
        # Every other kill is aimed at the time just after a step, where the saves are.
        aimed = self.moments.random() < 0.5
        line = _logged(config) + self.moments.randint(1, self.steps // 4) if aimed else self.steps + 1
        moment = time.monotonic() + (1.0 if aimed else self.moments.random()) * span
        while job.running() and time.monotonic() < moment and _logged(config) < line:
            time.sleep(0.002)
        time.sleep(self.moments.uniform(0, 0.03))
        if not job.running():
            if job.join():
                return False
            raise Loss(f"a run that nobody killed ended badly, see {job.log}")
        everyone = list(range(self.processes))
        job.kill(everyone if self.moments.random() < 0.7 else [self.moments.choice(everyone)])
        if _logged(config) == logged:
            job.kill(everyone)  # those that wait for a dead one at the meeting point wait long; a launcher ends them
        job.join()
        self.seen["kills"] += 1
        self._look(config, before)
        return True

    def _look(self, config: Any, before: int) -> None:
        """What a kill has left. Raises Loss."""
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
        # A save waits for the one before: when a step is done, all checkpoints but the last due one are committed.
        due = _logged(config) // config.checkpoint.every - 1
        if step < due * config.checkpoint.every:
            raise Loss(f"{config.folder}: {_logged(config)} steps done, but only {step} committed")
        self.seen["in a save"] += bool(list(home.glob(".step-*.partial")))
        self.seen["before latest"] += latest.is_symlink() and latest.resolve() != run.checkpoint_dir(step)

    def _finish(self, config: Any) -> None:
        job = Job(config, self.processes, self.work / "log.txt")
        job.start()
        if not job.join():
            raise Loss(f"a run that nobody killed ended badly, see {job.log}")

    def _config(self, study: str) -> Any:
        from hpc_jepa.config.run import RunConfig

        return RunConfig.model_validate(
            {
                "regime": "torture",
                "study": study,
                "variant": f"stage-{self.stage}",
                "runs": self.work / "runs",
                "model": {
                    "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
                    "predictor": {"width": 16, "depth": 1, "heads": 2},
                },
                "data": {
                    "sources": {"motion8": {"shards": self.shards}},
                    "clip": {"frames": 8, "stride": 2, "size": 32},
                },
                "objectives": ["ld"],
                "schedule": {"steps": self.steps},
                "engine": {"zero_stage": self.stage, "precision": "fp32", "batch_size": 2 * self.processes},
                "checkpoint": {"every": 2, "keep": 2},
                "monitor": {"log_every": 1, "health_every": 1, "tensorboard": False},
                "guard": {"stall_seconds": PATIENCE / 2},
            }
        )


def _become(rank: int, processes: int, port: int, config: Any, log: Path) -> None:
    """Turn a forked child into a process of the run; never returns."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    faulthandler.dump_traceback_later(PATIENCE / 2, repeat=True)
    from hpc_jepa.errors import HpcJepaError
    from hpc_jepa.training.loop import train

    status = 1
    try:
        status = 0 if train(config, _ignore) == "done" else 1
    except HpcJepaError as error:
        sys.stderr.write(f"rank {rank}: {error}\n")
    finally:
        sys.stderr.flush()
        os._exit(status)


def _ignore(record: object) -> None:
    """Nobody watches."""


def _committed(config: Any) -> int:
    from hpc_jepa.runs.run_dir import RunDir

    return RunDir(config.folder).last_step()


def _logged(config: Any) -> int:
    from hpc_jepa.io.jsonl import whole_lines
    from hpc_jepa.runs.run_dir import RunDir

    return len(whole_lines(RunDir(config.folder).metrics_file))


def _compare(whole: Any, killed: Any) -> None:
    """Raises Loss unless both runs ended alike, to the bit."""
    import torch

    from hpc_jepa.checkpoint import reader
    from hpc_jepa.runs.run_dir import RunDir

    one, other = (
        reader.open_tensors(RunDir(config.folder).checkpoint_dir(config.schedule.steps)) for config in (whole, killed)
    )
    differing = [name for name in one if name not in other or not torch.equal(one[name], other[name])]
    if differing or len(one) != len(other):
        raise Loss(f"{killed.folder}: {len(differing)} tensors differ from the undisturbed run, first {differing[:1]}")
    if _figures(whole) != _figures(killed):
        raise Loss(f"{killed.folder}: other figures than the undisturbed run")


def _figures(config: Any) -> list[dict[str, Any]]:
    from hpc_jepa.io.jsonl import whole_lines
    from hpc_jepa.runs.run_dir import RunDir

    lines = map(json.loads, whole_lines(RunDir(config.folder).metrics_file))
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _workplace(shards: Path | None) -> Iterator[tuple[Path, Path]]:
    """A folder for the runs that is removed at the end, and the shards to train on."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        work = Path(folder)
        if shards is None:
            sizes = ["--size", "32", "--frames", "16", "--unlabelled", "64", "--train", "8", "--test", "8"]
            command = [sys.executable, "-m", "hpc_jepa", "shards", "build", "motion8", *sizes, "--out", str(work / "s")]
            subprocess.run(command, check=True)
            shards = work / "s" / "unlabelled"
        yield work, shards


def main(
    kills: Annotated[int, typer.Option(help="Kills in all, shared by the stages.")] = 200,
    stages: Annotated[str, typer.Option(help="ZeRO stages.")] = "0,1,2,3",
    processes: Annotated[int, typer.Option(help="Processes of the job.")] = 2,
    steps: Annotated[int, typer.Option(help="Steps of each run.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the instants.")] = 0,
    shards: Annotated[Path | None, typer.Option(help="What to train on; built when not given.")] = None,
) -> None:
    """Kill a training job again and again, and see whether it loses anything."""
    os.environ["OMP_NUM_THREADS"] = "1"  # a pool of threads would not survive the fork
    from hpc_jepa.distributed import set_ds_accelerator

    set_ds_accelerator()
    import hpc_jepa.training.loop  # noqa: F401 - so that the forked processes need not

    seen: Counter[str] = Counter()
    chosen = [int(stage) for stage in stages.split(",")]
    started = time.monotonic()
    with _workplace(shards) as (work, source):
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
            seen += trial.seen
    typer.echo(
        f"{seen['kills']} kills ({seen['in a save']} in a save, {seen['before latest']} between the rename and latest) "
        f"of {processes} processes, ZeRO {stages}: nothing lost, {seen['runs']} runs equal to the undisturbed ones "
        f"to the bit, {time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    typer.run(main)
