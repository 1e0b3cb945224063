"""``trackers/run.json``: under which name trackers know a run; ``trackers/<tracker>.json``: what each of them has."""

import hashlib
import json
from pathlib import Path

from pydantic import Field

from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.strict import Strict
from hpc_jepa.config.training import MonitorConfig
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.io.retry import read_if_exists
from hpc_jepa.io.validation import parse_json
from hpc_jepa.runs.restarts import read_starts
from hpc_jepa.runs.run_dir import RunDir


class TrackedRun(Strict):
    """Identity of a run in all trackers, the same for every start of it, and where they write."""

    id: str
    fingerprint: str
    monitor: MonitorConfig

    def project(self, chosen: str | None, config: RunConfig) -> str:
        """The chosen project or experiment, or the name of the study."""
        return config.study if chosen is None else chosen


class SentMetrics(Strict):
    """What has been handed to a tracker: metrics up to ``step``, and evaluation records by path with their times."""

    step: int = -1
    evaluations: dict[str, int] = Field({})


def run_name(config: RunConfig) -> str:
    """Name of a run that people see: ``<regime>/<variant>/seed-<n>``."""
    return "/".join(config.folder.parts[-3:])


def identify(run: RunDir, config: RunConfig, first_step: int) -> TrackedRun:
    """Write the identity of a run that starts at ``first_step``, or take over that of its earlier starts.

    The identity is derived from the folder, the configuration and the time of the first start. A start from step 0
    with another configuration is another run. Raises HpcJepaError if it cannot be written or read.
    """
    known, fingerprint = read_tracked_run(run), config.fingerprint()
    if known is not None and (first_step > 0 or known.fingerprint == fingerprint):
        tracked = known.model_copy(update={"monitor": config.monitor})
    else:
        begun = min((start.time for start in read_starts(run)), default=0.0)
        name = json.dumps([config.study, run_name(config), fingerprint, begun])
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        tracked = TrackedRun(id=digest, fingerprint=fingerprint, monitor=config.monitor)
        for tracker in config.monitor.trackers:
            sent_file(run, tracker).unlink(missing_ok=True)
    run.trackers_dir.mkdir(exist_ok=True)
    write_atomically(run.tracked_run_file, tracked.model_dump_json(indent=1).encode())
    return tracked


def read_tracked_run(run: RunDir) -> TrackedRun | None:
    """The identity of a run, None if it has never been tracked. Raises DataError if the file is damaged."""
    content = read_if_exists(run.tracked_run_file)
    return None if content is None else parse_json(TrackedRun, content, run.tracked_run_file, "delete it")


def sent_file(run: RunDir, tracker: str) -> Path:
    """File of :class:`SentMetrics`."""
    return run.trackers_dir / f"{tracker}.json"


def log_file(run: RunDir, tracker: str) -> Path:
    """Messages of the process that feeds a tracker."""
    return run.trackers_dir / f"{tracker}.log"


def read_sent(run: RunDir, tracker: str) -> SentMetrics:
    """What a tracker has; nothing if there is no file. Raises DataError if the file is damaged."""
    content, path = read_if_exists(sent_file(run, tracker)), sent_file(run, tracker)
    return SentMetrics() if content is None else parse_json(SentMetrics, content, path, "delete it")


def write_sent(run: RunDir, tracker: str, sent: SentMetrics) -> None:
    """Replace the file. Raises HpcJepaError if it cannot be written."""
    write_atomically(sent_file(run, tracker), sent.model_dump_json().encode())
