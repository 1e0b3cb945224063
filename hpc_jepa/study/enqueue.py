"""Submit a study to a cluster: check, refuse what cannot run, queue the rest once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_jepa.config.cluster import Profile
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.io.atomic import exclusive_lock
from hpc_jepa.study.grid import StudyCell, expand_study, write_study_file
from hpc_jepa.study.job_log import JobLog, array_ids
from hpc_jepa.study.overview import fetch_job_queue, study_status
from hpc_jepa.study.preflight import group_by_reason, preflight_errors
from hpc_jepa.study.slurm_cli import require_commands
from hpc_jepa.study.slurm_submitter import SlurmSubmitter
from hpc_jepa.study.submit import SubmittedJobs, missing_work, submit_missing


@dataclass(frozen=True)
class SubmissionResult:
    """What a submission did, in lines, and what it refused: each reason with the run folders it concerns."""

    lines: Sequence[str]
    refused: Sequence[tuple[str, Sequence[Path]]]


def submit_study(
    study: StudyConfig, profile: Profile, runs: Path, *, only_unfinished: bool = False
) -> SubmissionResult:
    """Queue what the study still needs, or of that only what failed or stalled.

    Cells that cannot run are refused, and noted, while the others are queued. Raises InputError where none can run, or
    where sbatch refuses; HpcJepaError where Slurm does not answer.
    """
    require_commands("sbatch", "srun", "squeue")
    cells = expand_study(study, runs)
    refused = preflight_errors(cells, profile.cluster)
    if len(refused) == len(cells):
        raise InputError(next(iter(refused.values())))
    folder = write_study_file(study, runs).parent
    job_log = JobLog(folder)
    with exclusive_lock(folder / ".submission"):
        wanted: Sequence[StudyCell] = study_status(cells, folder).unfinished if only_unfinished else cells
        sound = [cell for cell in wanted if cell.folder not in refused]
        job_log.refuse(refused)
        submission = SlurmSubmitter(profile, folder / "slurm", study.study)
        queued = submit_missing(missing_work(sound, fetch_job_queue(job_log)), submission, job_log, folder)
    return SubmissionResult(_in_words(queued), group_by_reason(refused))


def _in_words(queued: SubmittedJobs) -> list[str]:
    kinds = {"pretraining": queued.train, "evaluation": queued.evaluate, "report": queued.report}
    lines = [
        f"{kind}: {len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}, {', '.join(array_ids(jobs))}"
        for kind, jobs in kinds.items()
        if jobs
    ]
    return lines or ["nothing to queue: every cell is done or in the queue"]
