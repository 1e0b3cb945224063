#!/usr/bin/env python3
"""Kill and stop test of runs that share their clips: at every moment of sharing, none changes or delays another.

Each round trains three runs that need the same clips at once: one of one process, one of two, and a victim. The victim
gets a signal, or has no room in shared memory, at a chosen moment: with a claim, in the middle of a clip, while it
leaves. A killed victim is started again; a stopped one goes on after some seconds, or when the others are done. Then
weights and metrics of all runs must equal those of runs that share nothing, bit for bit, and no shared memory may be
left. Exits with 1 at the first difference.
"""

import errno
import itertools
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import psutil
import typer
from torture import Job, Loss, compare, import_before_forking, read_metrics, scratch_dir, tiny_run

Moment = Literal["announced", "claimed", "cleared", "half written", "unsigned", "written", "leaving"]
"""A process has announced its step, claimed a clip, emptied a header, written half of a clip, all, its header; ends."""
Attack = Literal["kill", "stop", "full"]
BATCH = 4
PROCESSES = {"one": 1, "two": 2}


class Round(NamedTuple):
    """What happens to rank ``rank`` of a victim of ``processes``, the ``nth`` time that it reaches the moment."""

    attack: Attack
    moment: Moment
    nth: int
    processes: int
    rank: int

    def __str__(self) -> str:
        return f"{self.attack}, {self.moment} {self.nth}, rank {self.rank} of {self.processes}"


def attack_ring(chosen: Round, reached: Path) -> None:
    """Change the ring of this process so that the attack happens; ``reached``: a file that is made then."""
    from hpc_jepa.data.clip_ring import HEADER_BYTES, PAGE, ClipRing

    counter = itertools.count(1)

    def at(moment: Moment) -> None:
        if moment == chosen.moment and next(counter) == chosen.nth:
            reached.touch()
            if chosen.attack == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.kill(os.getpid(), signal.SIGKILL if chosen.attack == "kill" else signal.SIGSTOP)

    def after(method: Callable[..., Any], moment: Moment) -> Callable[..., Any]:
        def changed(self: ClipRing, *arguments: Any) -> Any:
            result = method(self, *arguments)
            if result is not False:
                at(moment)
            return result

        return changed

    write, close = ClipRing._write, ClipRing.close

    def torn_write(self: ClipRing, content: bytes | memoryview, offset: int) -> None:
        whole = len(content) > PAGE
        half = len(content) // 2 if whole else 0
        write(self, content[:half], offset)
        if whole:
            at("half written")
        write(self, content[half:], offset + half)
        at("unsigned" if whole else "cleared" if len(content) == HEADER_BYTES else "written")

    def leave(self: ClipRing) -> None:
        at("leaving")
        close(self)

    ClipRing.claim = after(ClipRing.claim, "claimed")  # type: ignore[method-assign]
    ClipRing.announce = after(ClipRing.announce, "announced")  # type: ignore[method-assign]
    ClipRing._write = torn_write  # type: ignore[method-assign]
    ClipRing.close = leave  # type: ignore[method-assign]


@dataclass
class SharingTrial:
    """Rounds of three runs; ``stop``: seconds that a stopped process stands still at least."""

    shards: Path
    work: Path
    steps: int
    stop: float
    rng: random.Random
    counts: Counter[str] = field(default_factory=Counter)

    def torture(self, rounds: int) -> None:
        """Attack victims. Raises Loss."""
        for name, processes in PROCESSES.items():
            self._finish(self._start("alone", name, processes, share="off"))
        for number in range(rounds):
            chosen = self._choose(number)
            reached = self._round(f"round-{number}", chosen)
            if not reached and chosen.nth > 1:  # others made the clips
                chosen = chosen._replace(nth=1)
                reached = self._round(f"round-{number}-again", chosen)
            self.counts["rounds"] += 1
            self.counts["attacks"] += reached
            typer.echo(f"round {number + 1} of {rounds}: {chosen}{'' if reached else ': not reached'}", err=True)

    def _choose(self, number: int) -> Round:
        moments: tuple[Moment, ...] = get_args(Moment)
        attacks: tuple[Attack, ...] = ("kill", "stop")
        cases: list[tuple[Attack, Moment]]
        cases = [*itertools.product(attacks, moments), ("full", "half written"), ("full", "cleared")]
        attack, moment = cases[number * 5 % len(cases)]  # 5 and 16 have no common factor: all cases come up
        nth = 1 if moment == "leaving" else self.rng.randint(1, self.steps // 3)
        processes = self.rng.choice([1, 2])
        return Round(attack, moment, nth, processes, self.rng.randrange(processes))

    def _round(self, study: str, chosen: Round) -> bool:
        """Whether the moment was reached. Raises Loss."""
        reached = self.work / f"{study}-reached"
        jobs = {name: self._start(study, name, processes) for name, processes in PROCESSES.items()}

        def prepare(rank: int) -> None:
            if rank == chosen.rank:
                attack_ring(chosen, reached)

        victim = self._start(study, "victim", chosen.processes, prepare)
        child = psutil.Process(victim.children[chosen.rank])
        until_all_are_done = self.rng.random() < 0.5
        while victim.running() and child.status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        if not victim.statuses:
            self._stand_still(list(jobs.values()) if until_all_are_done else [])
            child.send_signal(signal.SIGCONT)
            self._finish(victim)
        elif chosen.attack == "kill" and reached.exists():
            victim.kill(list(range(chosen.processes)))  # a launcher would end the other rank
            victim.join()
            self._finish(self._start(study, "victim", chosen.processes))
        else:
            self._finish(victim)
        for job in jobs.values():
            self._finish(job)
        self._check(study, chosen)
        return reached.exists()

    def _stand_still(self, others: list[Job]) -> None:
        stopped = time.monotonic()
        while any(job.running() for job in others) or time.monotonic() < stopped + self.stop:
            time.sleep(0.05)

    def _check(self, study: str, chosen: Round) -> None:
        from hpc_jepa.data.clip_ring import FOLDER, remove_dead_rings

        alone = {processes: self._config("alone", name) for name, processes in PROCESSES.items()}
        for name, processes in [*PROCESSES.items(), ("victim", chosen.processes)]:
            run = self._config(study, name)
            compare(alone[processes], run)
            self.counts["clips taken"] += max(record.get("shared_clips") or 0 for record in read_metrics(run))
        remove_dead_rings()
        if left := list(FOLDER.iterdir()):
            raise Loss(f"{left[0]} is left over")

    def _start(
        self,
        study: str,
        name: str,
        processes: int,
        prepare: Callable[[int], None] = lambda rank: None,
        share: str = "auto",
    ) -> Job:
        job = Job(self._config(study, name, share), processes, self.work / f"{study}-{name}.txt", prepare)
        job.start()
        return job

    def _finish(self, job: Job) -> None:
        if not job.join():
            raise Loss(f"a run failed without being killed:\n{job.log.read_text()[-3000:]}")

    def _config(self, study: str, name: str, share: str = "auto") -> Any:
        return tiny_run(self.shards, self.work / "runs", study, name, self.steps, BATCH, share=share, share_limit=0.02)


def main(
    rounds: Annotated[int, typer.Option(help="Rounds; 16 aim at every moment once.", min=1)] = 16,
    steps: Annotated[int, typer.Option(help="Steps of each run.", min=6)] = 24,
    stop: Annotated[float, typer.Option(help="Seconds that a stopped process stands still.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Seed of the attacks.")] = 0,
    shards: Annotated[Path | None, typer.Option(help="Shard folder; built if not given.")] = None,
) -> None:
    """Kill and stop runs that share their clips, and check that the others do not notice."""
    import_before_forking()
    from hpc_jepa.data import clip_ring, shared_clips

    started = time.monotonic()
    with scratch_dir(shards) as (work, source), tempfile.TemporaryDirectory(dir=clip_ring.FOLDER) as memory:
        for module in (clip_ring, shared_clips):
            module.__dict__["FOLDER"] = Path(memory)  # apart from other runs of this machine
        trial = SharingTrial(source, work, steps, stop, random.Random(seed))
        try:
            trial.torture(rounds)
        except Loss as loss:
            typer.echo(f"LOST, seed {seed}, round {trial.counts['rounds'] + 1}: {loss}", err=True)
            raise typer.Exit(1) from loss
    counts = trial.counts
    typer.echo(
        f"{counts['attacks']} attacks in {counts['rounds']} rounds: all runs equal bit for bit to those that share "
        f"nothing, {counts['clips taken']} clips taken, {time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    typer.run(main)
