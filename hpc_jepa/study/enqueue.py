"""Submit a study to a cluster: check, refuse what cannot run, queue the rest once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_jepa.checkpoint.files import sole_writer
from hpc_jepa.config.cluster import Profile
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.study.check import faults, grouped
from hpc_jepa.study.grid import Cell, describe, expand
from hpc_jepa.study.ledger import Ledger, arrays
from hpc_jepa.study.overview import overview, queue_of
from hpc_jepa.study.queue import require
from hpc_jepa.study.slurm import Submission
from hpc_jepa.study.submit import Submitted, needs, submit


@dataclass(frozen=True)
class Outcome:
    """What a submission did, in lines, and what it refused: each reason with the run folders it concerns."""

    lines: Sequence[str]
    refused: Sequence[tuple[str, Sequence[Path]]]


def enqueue(study: StudyConfig, profile: Profile, runs: Path, *, only_unfinished: bool = False) -> Outcome:
    """Queue what the study still needs, or of that only what failed or stands still.

    Cells that cannot run are refused, and noted, while the others are queued. Raises InputError where none can run, or
    where sbatch refuses; HpcJepaError where Slurm does not answer.
    """
    require("sbatch", "srun", "squeue")
    cells = expand(study, runs)
    refused = faults(cells, profile.cluster)
    if len(refused) == len(cells):
        raise InputError(next(iter(refused.values())))
    folder = describe(study, runs).parent
    ledger = Ledger(folder)
    with sole_writer(folder / ".submission"):
        wanted: Sequence[Cell] = overview(cells, folder).unfinished if only_unfinished else cells
        sound = [cell for cell in wanted if cell.folder not in refused]
        ledger.refuse(refused)
        submission = Submission(profile, folder / "slurm", study.study)
        queued = submit(needs(sound, queue_of(ledger)), submission, ledger, folder)
    return Outcome(_in_words(queued), grouped(refused))


def _in_words(queued: Submitted) -> list[str]:
    kinds = {"pretraining": queued.train, "evaluation": queued.evaluate, "report": queued.report}
    lines = [
        f"{kind}: {len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}, {', '.join(arrays(jobs))}"
        for kind, jobs in kinds.items()
        if jobs
    ]
    return lines or ["nothing to queue: every cell is done or in the queue"]
