"""Start, watch and end the processes that feed the trackers of a run. None of them can stop or delay training."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.trackers import TrackerName
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.runs.metrics_log import MetricsRecord
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.trackers.clients import environment
from hpc_jepa.trackers.identity import identify, log_file, read_tracked_run

LOG = logging.getLogger(__name__)
PACKAGES = Path(__file__).parents[2]


class TrackerProcesses:
    """One process per tracker. A tracker whose process ends is disabled, with one warning."""

    def __init__(self, run: RunDir, trackers: tuple[TrackerName, ...], wait: float, *, follow: bool = True) -> None:
        """follow: until :meth:`close`, else until all that is there has been sent."""
        self._run = run
        self._wait = wait
        self._running: dict[TrackerName, subprocess.Popen[bytes]] = {}
        for name in trackers:
            try:
                self._running[name] = _start(run, name, follow)
            except OSError as error:
                self._warn(name, error.strerror or str(error))

    def __enter__(self) -> "TrackerProcesses":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("" if error is None else "failed")

    def check(self) -> None:
        """Warn of the trackers whose process has ended. Does not wait."""
        for name, process in list(self._running.items()):
            if process.poll() is not None:
                del self._running[name]
                if process.returncode:
                    self._warn(name, _last_line(log_file(self._run, name)))

    def observed(self, on_log: Callable[[MetricsRecord], None]) -> Callable[[MetricsRecord], None]:
        """``on_log``, called after :meth:`check`."""

        def checked(record: MetricsRecord) -> None:
            self.check()
            on_log(record)

        return checked

    def close(self, end: str = "") -> None:
        """Let all trackers finish, for at most ``wait`` seconds; ``end``: how the run ended."""
        for process in self._running.values():
            if process.stdin is not None:
                with suppress(OSError):  # it has ended
                    process.stdin.write(end.encode())
                    process.stdin.close()
        deadline = time.monotonic() + self._wait
        for name, process in list(self._running.items()):
            try:
                process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                self._warn(name, f"not finished after {self._wait:g} s (monitor.tracker_wait)")
        self.check()

    def _warn(self, name: TrackerName, reason: str) -> None:
        self._running.pop(name, None)
        LOG.warning("%s ends here (%s; see %s); metrics.jsonl has everything", name, reason, log_file(self._run, name))


def track(run: RunDir, config: RunConfig, first_step: int, *, start: bool) -> TrackerProcesses:
    """The trackers of a run that starts at ``first_step``; none if its identity cannot be written.

    start: whether this process starts them; the other ranks have none.
    """
    trackers = config.monitor.trackers if start else ()
    if trackers:
        try:
            identify(run, config, first_step)
        except (HpcJepaError, OSError) as error:
            LOG.warning("no trackers (%s); metrics.jsonl has everything", error)
            trackers = ()
    return TrackerProcesses(run, trackers, config.monitor.tracker_wait)


def send_evaluations(run: RunDir) -> None:
    """Send new evaluation results to the trackers of a run; leaves that to its training if it is running."""
    try:
        tracked = read_tracked_run(run)
    except HpcJepaError as error:
        LOG.warning("results are not sent to trackers (%s)", error)
        return
    if tracked is not None:
        TrackerProcesses(run, tracked.monitor.trackers, tracked.monitor.tracker_wait, follow=False).close()


def _start(run: RunDir, name: TrackerName, follow: bool) -> subprocess.Popen[bytes]:
    with _open_log(log_file(run, name)) as log:
        return subprocess.Popen(
            [sys.executable, "-m", "hpc_jepa.trackers.sender", str(run.path), name, *([] if follow else ["once"])],
            stdin=subprocess.PIPE if follow else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment({**os.environ, "PYTHONPATH": _search_path()}),
            start_new_session=True,  # Ctrl-C is for the trainer
        )


def _search_path() -> str:
    """Where this process finds packages, for one that runs in the same folder."""
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(PACKAGES), *([before] if before else [])])


def _open_log(path: Path) -> IO[bytes]:
    path.unlink(missing_ok=True)
    return path.open("xb")


def _last_line(log: Path) -> str:
    """The last message of a process that failed."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError as error:
        return error.strerror or str(error)
    return lines[-1][:300] if lines else "its process was killed"
