"""How a whole study stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_jepa.errors import HpcJepaError
from hpc_jepa.study.grid import Cell
from hpc_jepa.study.ledger import Job, Ledger
from hpc_jepa.study.progress import UNFINISHED, Standing, standing
from hpc_jepa.study.queue import accounted, my_jobs
from hpc_jepa.study.submit import Queue


@dataclass(frozen=True)
class Overview:
    """Every cell and its standing, and what is to be said about where that is known from."""

    cells: Sequence[Cell]
    standings: Sequence[Standing]
    caveat: str

    @property
    def unfinished(self) -> list[Cell]:
        """Cells that nothing will change by itself."""
        pairs = zip(self.cells, self.standings, strict=True)
        return [cell for cell, how in pairs if how.state in UNFINISHED]


def overview(cells: Sequence[Cell], study: Path) -> Overview:
    """From the files of the runs, and from Slurm where jobs were submitted; where it does not answer, without it."""
    ledger = Ledger(study)
    caveat = ""
    try:
        queue = queue_of(ledger)
    except HpcJepaError as error:
        queue, caveat = Queue(ledger.latest(), {}), f"{error}; shown as the runs' own files say"
    refused = ledger.refused()
    standings = [standing(cell, queue.jobs(cell), refused.get(str(cell.folder))) for cell in cells]
    return Overview(cells, standings, caveat)


def queue_of(ledger: Ledger) -> Queue:
    """The newest jobs of a study and their states. Slurm is asked only where there are any.

    Raises HpcJepaError where it does not answer.
    """
    latest = ledger.latest()
    if not latest:
        return Queue({}, {})
    known = my_jobs()
    forgotten = [job for job in latest.values() if job.job not in known]
    return Queue(latest, {**accounted(dict.fromkeys(map(_array, forgotten))), **known})


def _array(job: Job) -> str:
    return job.array
