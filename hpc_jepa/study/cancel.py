"""Stop a study: its jobs leave the queue, its runs save and leave."""

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpc_jepa.runs.lease import read_holder
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.study.grid import StudyCell
from hpc_jepa.study.job_log import JobLog, array_ids
from hpc_jepa.study.overview import fetch_job_queue
from hpc_jepa.study.slurm_cli import scancel


@dataclass(frozen=True)
class CancelledWork:
    """So many jobs of a cluster, and processes of this machine."""

    jobs: int
    processes: int

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.jobs} jobs cancelled, {self.processes} runs on this machine asked to stop"


def cancel_study(cells: Sequence[StudyCell], study: Path) -> CancelledWork:
    """Cancel every job of the study that waits or runs, and ask its runs on this machine to save and stop."""
    queue = fetch_job_queue(JobLog(study))
    alive = [job for job in queue.latest.values() if job.job in queue.known and queue.known[job.job].is_active]
    scancel(array_ids(alive))
    return CancelledWork(len(alive), sum(_asked_to_stop(cell) for cell in cells))


def _asked_to_stop(cell: StudyCell) -> bool:
    held = read_holder(RunDir(cell.folder))
    if held is None or held.job is not None or held.host != socket.gethostname():
        return False
    with suppress(ProcessLookupError):
        os.kill(held.process, signal.SIGTERM)
        return True
    return False
