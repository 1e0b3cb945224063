"""Run one part in a process of its own: with a time limit, a log, and no process left behind."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from hpc_jepa.cli.gpu_check.check_report import PartResult
from hpc_jepa.cli.gpu_check.children import CPU_ONLY, last_line
from hpc_jepa.cli.gpu_check.part import Mode, Part, PartContext, Row, Verdict

OnRow = Callable[[str, Row], None]
"""Called with the caption and the values of each row as a part reports it."""

REMOVED_VARIABLES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS",
    "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID",
)  # fmt: skip
"""Not passed on to parts, nor those of a job step: parts start processes of their own."""

MARK = "HPC_JEPA_GPU_CHECK_PART"
"""Environment variable by which all processes of a part are found, those with a session of their own too."""
POLL_SECONDS = 0.2
OWN_ERROR = "hpc_jepa.errors.HpcJepaError: "
KILL_ROUNDS, KILL_SECONDS = 5, 5

REHEARSAL_ENVIRONMENT = {**CPU_ONLY, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
"""Hides GPUs: a rehearsal is the same on every machine."""


class StoppedError(Exception):
    """The user has stopped the check during a part; ``result`` has what the part had reported."""

    def __init__(self, result: PartResult) -> None:
        super().__init__(result.name)
        self.result = result


def run_part(part: Part, mode: Mode, limit: float, folder: Path, on_row: OnRow) -> PartResult:
    """Run a part and return its result, also if it crashes or does not end: the caller goes on with the next one.

    folder: an empty folder for the files of the part; ``log`` in it gets what its processes print.
    Raises StoppedError on KeyboardInterrupt, once the processes of the part are killed.
    """
    result = PartResult(part.name, part.title, limit)
    context, mark = PartContext(mode, folder, folder / "events.jsonl"), uuid.uuid4().hex
    context.events.touch()
    environment = {**_without_launcher(), **(REHEARSAL_ENVIRONMENT if mode.rehearse else {}), MARK: mark}
    arguments = [part.target, str(folder), str(context.events), json.dumps(asdict(mode))]
    started, stopped = time.monotonic(), False
    with (folder / "output.txt").open("wb") as log, context.events.open(encoding="utf-8") as events:
        process = subprocess.Popen(
            [sys.executable, "-m", "hpc_jepa.cli.gpu_check.worker", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process only, which then ends the others
        )
        try:
            while process.poll() is None and time.monotonic() - started < limit:
                _read_events(events, result, on_row)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
        except KeyboardInterrupt:
            stopped = True
        finally:
            timed_out = process.poll() is None
            kill_marked(mark)
            with suppress(subprocess.TimeoutExpired):  # a process in the driver may not be killable
                process.wait(KILL_SECONDS)
            _read_events(events, result, on_row)
            result.seconds = time.monotonic() - started
    if stopped:
        result.status, result.line = "skipped", f"stopped{_after(result)}"
        raise StoppedError(result)
    if result.line and timed_out:
        result.warnings.append(f"the process did not end after its verdict and was killed after {limit:.0f} s")
    if not result.line:
        result.status, result.line = _without_verdict(
            process.returncode, timed_out, limit, result, folder / "output.txt"
        )
    return result


def _without_launcher() -> dict[str, str]:
    """The environment without the variables of torchrun and of a Slurm step; that of a Slurm job stays."""
    own = {name: value for name, value in os.environ.items() if name not in REMOVED_VARIABLES}
    return {name: value for name, value in own.items() if not name.startswith("SLURM_STEP_")}


def kill_marked(mark: str) -> None:
    """Kill all processes of a part; repeatedly, since one may start another meanwhile."""
    for _ in range(KILL_ROUNDS):
        found = list(_marked(mark))
        if not found:
            return
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=KILL_SECONDS)


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                yield process


def _read_events(lines: Iterator[str], result: PartResult, on_row: OnRow) -> None:
    """Add the events that the part has reported since the last call."""
    for line in lines:
        event: dict[str, Any] = json.loads(line)
        if "row" in event:
            result.tables.setdefault(event["table"], []).append(event["row"])
            on_row(event["table"], event["row"])
        elif "warning" in event:
            result.warnings.append(event["warning"])
        else:
            result.status, result.line = event["status"], event["line"]


def _without_verdict(code: int, timed_out: bool, limit: float, result: PartResult, log: Path) -> Verdict:
    """The verdict of a part that reported none: it was killed, or it crashed."""
    last, after = last_line(log.read_text(errors="replace")), _after(result)
    if timed_out:
        return Verdict("failed", f"stopped at its limit of {limit:.0f} s{after}; last output: {last}")
    reason = signal.Signals(-code).name if code < 0 else last.removeprefix(OWN_ERROR)
    return Verdict("failed", f"crashed{after}: {reason}")


def _after(result: PartResult) -> str:
    """Number of rows that a part without a verdict has reported."""
    rows = sum(map(len, result.tables.values()))
    return f" after {rows} row{'s' if rows > 1 else ''}" if rows else ""
