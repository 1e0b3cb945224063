"""How a whole study stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_jepa.errors import HpcJepaError
from hpc_jepa.study.grid import StudyCell
from hpc_jepa.study.job_log import JobLog, SubmittedJob
from hpc_jepa.study.slurm_cli import sacct_jobs, squeue_jobs
from hpc_jepa.study.status import UNFINISHED, CellStatus, cell_status
from hpc_jepa.study.submit import JobQueue


@dataclass(frozen=True)
class StudyStatus:
    """Every cell and its standing, and what is to be said about where that is known from."""

    cells: Sequence[StudyCell]
    statuses: Sequence[CellStatus]
    warning: str

    @property
    def unfinished(self) -> list[StudyCell]:
        """Cells that nothing will change by itself."""
        pairs = zip(self.cells, self.statuses, strict=True)
        return [cell for cell, status in pairs if status.state in UNFINISHED]


def study_status(cells: Sequence[StudyCell], study: Path) -> StudyStatus:
    """From the files of the runs, and from Slurm where jobs were submitted; where it does not answer, without it."""
    job_log = JobLog(study)
    warning = ""
    try:
        queue = fetch_job_queue(job_log)
    except HpcJepaError as error:
        queue, warning = JobQueue(job_log.latest(), {}), f"{error}; shown as the runs' own files say"
    refused = job_log.refused()
    statuses = [cell_status(cell, queue.jobs(cell), refused.get(str(cell.folder))) for cell in cells]
    return StudyStatus(cells, statuses, warning)


def fetch_job_queue(job_log: JobLog) -> JobQueue:
    """The newest jobs of a study and their states. Slurm is asked only where there are any.

    Raises HpcJepaError where it does not answer.
    """
    latest = job_log.latest()
    if not latest:
        return JobQueue({}, {})
    known = squeue_jobs()
    forgotten = [job for job in latest.values() if job.job not in known]
    return JobQueue(latest, {**sacct_jobs(dict.fromkeys(map(_array, forgotten))), **known})


def _array(job: SubmittedJob) -> str:
    return job.array
