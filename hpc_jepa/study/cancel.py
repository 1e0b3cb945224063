"""Stop a study: its jobs leave the queue, its runs save and leave."""

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpc_jepa.study.grid import Cell
from hpc_jepa.study.ledger import Ledger, arrays
from hpc_jepa.study.overview import queue_of
from hpc_jepa.study.queue import scancel
from hpc_jepa.training.lease import holder


@dataclass(frozen=True)
class Stopped:
    """So many jobs of a cluster, and processes of this machine."""

    jobs: int
    processes: int

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.jobs} jobs cancelled, {self.processes} runs on this machine asked to stop"


def cancel(cells: Sequence[Cell], study: Path) -> Stopped:
    """Cancel every job of the study that waits or runs, and ask its runs on this machine to save and stop."""
    queue = queue_of(Ledger(study))
    alive = [job for job in queue.latest.values() if job.job in queue.known and queue.known[job.job].alive]
    scancel(arrays(alive))
    return Stopped(len(alive), sum(_asked_to_stop(cell) for cell in cells))


def _asked_to_stop(cell: Cell) -> bool:
    held = holder(cell.folder)
    if held is None or held.job is not None or held.host != socket.gethostname():
        return False
    with suppress(ProcessLookupError):
        os.kill(held.process, signal.SIGTERM)
        return True
    return False
