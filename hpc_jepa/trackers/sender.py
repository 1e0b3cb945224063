"""The process that feeds one tracker: ``python -m hpc_jepa.trackers.sender RUN TRACKER [once]``.

It reads the lines that training appends to ``metrics.jsonl`` and the evaluation records that appear beside it. It ends
when its standard input ends, which may first say how the run ended. With ``once`` it sends what there is, unless the
process of the run's training does so. What fails here ends this process alone.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import cast, get_args

from hpc_jepa.config.trackers import TrackerName
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.io.atomic import exclusive_lock
from hpc_jepa.io.validation import parse_json
from hpc_jepa.runs.evaluations import read_summary
from hpc_jepa.runs.metrics_log import MetricsRecord
from hpc_jepa.runs.run_dir import RunDir, open_run
from hpc_jepa.trackers.clients import EVALUATION, End, TrackerClient, open_client
from hpc_jepa.trackers.identity import read_sent, read_tracked_run, write_sent

POLL_SECONDS = 1.0
CALL_SECONDS = 300.0
"""Longest call of a tracker, its own retries included."""
LOCK_SECONDS = 60.0
"""How long the process of the previous start may take to end."""
PRIORITY = 10


def main() -> None:
    """Feed a tracker until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # of the whole job; the trainer says when to end
    os.nice(PRIORITY)
    run, name = open_run(sys.argv[1]), cast(TrackerName, sys.argv[2])
    patience = 0.0 if sys.argv[3:] == ["once"] else LOCK_SECONDS
    try:
        with ExitStack() as held:
            if _locked(held, run.trackers_dir / f".{name}.lock", patience):
                _feed(run, name)
    except HpcJepaError as error:
        sys.exit(str(error))


def _feed(run: RunDir, name: TrackerName) -> None:
    tracked = read_tracked_run(run)
    if tracked is None:
        raise HpcJepaError(f"{run.tracked_run_file}: missing")
    with limited(CALL_SECONDS, name):
        client = open_client(name, run, tracked)
        feed = TrackerFeed(run, name, client)
    ended, parent = None, os.getppid()
    while ended is None:
        with limited(CALL_SECONDS, name):
            feed.send_new()
        ended = _end(parent)
    with limited(CALL_SECONDS, name):
        feed.send_new()
        client.close(_how(run, ended))


class TrackerFeed:
    """Hands new metrics and evaluation results to a tracker, each once.

    What is about to be sent is noted first: a process that is killed may lose a record in the tracker and repeats none.
    """

    def __init__(self, run: RunDir, name: TrackerName, client: TrackerClient) -> None:
        self._run = run
        self._name = name
        self._client = client
        self._sent = read_sent(run, name)
        last = client.last_step()
        if last is not None:
            self._sent = self._sent.model_copy(update={"step": last})
        self._metrics: BufferedReader | None = None
        self._rest = b""

    def send_new(self) -> None:
        """Send what is new since the last call. Raises what the tracker raises, and DataError for a damaged line."""
        for record in self._new_records():
            if record.step > self._sent.step:
                self._note(step=record.step)
                self._client.log(record.scalars(), record.step, record.time or time.time())
        for path in self._evaluation_files():
            self._send_evaluation(path)

    def _new_records(self) -> Iterator[MetricsRecord]:
        """Whole lines that have been appended; the file stays open, so one that is replaced is not read twice."""
        if self._metrics is None:
            if not self._run.metrics_file.is_file():
                return
            self._metrics = self._run.metrics_file.open("rb")  # open until the process ends
        *lines, self._rest = (self._rest + self._metrics.read()).split(b"\n")
        for line in lines:
            yield parse_json(MetricsRecord, line, self._run.metrics_file, "delete the line")

    def _evaluation_files(self) -> list[Path]:
        return [*sorted(self._run.record_dir().glob("*.json")), *self._run.step_record_files()]

    def _send_evaluation(self, path: Path) -> None:
        name, changed = str(path.relative_to(self._run.path)), path.stat().st_mtime_ns
        if self._sent.evaluations.get(name) == changed:
            return
        summary = read_summary(path)
        self._note(evaluations={**self._sent.evaluations, name: changed})
        scalars = evaluation_scalars(list(summary.rows("probe")))
        if scalars:
            self._client.log_evaluation(scalars, summary.run.step, changed / 1e9)

    def _note(self, **changes: object) -> None:
        self._sent = self._sent.model_copy(update=changes)
        write_sent(self._run, self._name, self._sent)


def evaluation_scalars(rows: list[dict[str, object]]) -> dict[str, float]:
    """Values of a probe record: ``eval/<benchmark>/<protocol>/<weights>/<probe>``."""
    return {
        "/".join((EVALUATION, *(str(row[key]) for key in ("benchmark", "protocol", "weights", "probe")))): float(value)
        for row in rows
        if isinstance(value := row.get("value"), int | float) and "probe" in row
    }


@contextmanager
def limited(seconds: float, name: str) -> Iterator[None]:
    """End the process if the block takes longer, wherever it waits."""

    def give_up() -> None:
        print(f"{name}: no answer for {seconds:g} s", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(parent: int) -> bytes | None:
    """Wait a moment for the end of standard input, or of the trainer: what it said; None if it goes on."""
    ready, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
    if ready:
        return sys.stdin.buffer.read()
    return None if os.getppid() == parent else b""


def _how(run: RunDir, said: bytes) -> End:
    """How the run ended: what the trainer said, or its state; a trainer that was killed has been interrupted."""
    ends = {str(end).encode(): cast(End, end) for end in get_args(End)}
    if said in ends:
        return ends[said]
    state = run.state
    return cast(End, state.state) if state is not None and state.state in get_args(End) else "interrupted"


def _locked(held: ExitStack, lock: Path, patience: float) -> bool:
    """Take the lock, which the process of the previous start holds until it has ended, after its trainer.

    Without patience: whether it is free. Raises InputError if it stays taken.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            held.enter_context(exclusive_lock(lock))
            return True
        except InputError:
            if not patience:
                return False
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
