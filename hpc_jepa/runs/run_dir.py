"""Layout of a run on disk, and of the study it belongs to.

RUNS/<study>/
    study.yaml  jobs.jsonl  refused.json  slurm/      grid, submitted jobs, refused cells, batch scripts
    looks.json                                        rule and decisions of a sequential study (study/looks_file.py)
    report/                                           report on the study
    <regime>/<variant>/seed-<n>/
        config.yaml                                   configuration
        state.json                                    status and step (runs/state.py)
        metrics.jsonl  events/                        metrics of logged steps (runs/metrics_log.py), TensorBoard
        lease.json  .lock                             the process that may write (runs/lease.py)
        .rendezvous-*                                 while ranks join under srun (training/slurm_rendezvous.py)
        log/starts.jsonl                              one line per start (runs/restarts.py)
        log/dropped-<rank>.jsonl                      clips that could not be decoded (data/decode_errors.py)
        log/gpu-failures-<rank>.jsonl                 clips that only the CPU could decode
        log/<kind>.log                                output of the jobs of a study
        checkpoints/step-<step>/  latest              checkpoints (checkpoint/layout.py)
        eval/[<task>/]<benchmark>.<protocol>.json     evaluation records, predictions in .npz beside them
        eval/[<task>/]steps/<step>/                   the same of chosen steps
        profile/                                      where the first steps spent their time
        trackers/run.json                             name of the run in trackers (trackers/identity.py)
        trackers/<tracker>.json  <tracker>.log        what a tracker has, and its messages
        preview.json                                  first clip with its masks (runs/preview_file.py)
        origin.json                                   run or file that it began from, if any (runs/origin.py)
"""

import glob
import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from hpc_jepa.config.benchmark import Task
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import InputError
from hpc_jepa.io.retry import list_if_exists
from hpc_jepa.runs.evaluations import read_summary
from hpc_jepa.runs.metrics_log import MetricsRecord, read_metrics
from hpc_jepa.runs.origin import RunOrigin, read_origin
from hpc_jepa.runs.state import RunState, read_state

if TYPE_CHECKING:
    import pandas as pd

CONFIG = "config.yaml"
STATE = "state.json"
CHECKPOINTS = "checkpoints"
CHECKPOINT = re.compile(r"step-[0-9]{8}")
LOGS = "log"


class StudyDir:
    """Paths of a study folder. No file needs to exist."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_file = self.path / "study.yaml"
        self.jobs_file = self.path / "jobs.jsonl"
        self.refused_file = self.path / "refused.json"
        self.looks_file = self.path / "looks.json"
        self.lock_file = self.path / ".submission"
        self.slurm_dir = self.path / "slurm"
        self.report_dir = self.path / "report"

    def refuse_links_outside(self) -> None:
        """Raise InputError if a folder of the study is a symbolic link that leads outside it; see :class:`RunDir`."""
        _refuse_links_outside(self.path, self.slurm_dir, self.path / LOGS)


class RunDir:
    """Paths and contents of a run folder. No file needs to exist; ``open_run`` checks that it is a run."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_file = self.path / CONFIG
        self.state_file = self.path / STATE
        self.metrics_file = self.path / "metrics.jsonl"
        self.lease_file = self.path / "lease.json"
        self.lock_file = self.path / ".lock"
        self.log_dir = self.path / LOGS
        self.starts_file = self.log_dir / "starts.jsonl"
        self.events_dir = self.path / "events"
        self.profile_dir = self.path / "profile"
        self.preview_file = self.path / "preview.json"
        self.origin_file = self.path / "origin.json"
        self.trackers_dir = self.path / "trackers"
        self.tracked_run_file = self.trackers_dir / "run.json"
        self.checkpoints_dir = self.path / CHECKPOINTS
        self.latest_link = self.checkpoints_dir / "latest"

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def below(cls, folder: Path) -> list["RunDir"]:
        """All runs in a study or run folder, sorted by path. Raises InputError if a folder cannot be listed."""
        return [run for run in cls.possible_below(folder) if run.is_run]

    @classmethod
    def possible_below(cls, folder: Path) -> list["RunDir"]:
        """The folders below that hold a configuration or the state of a run, sorted by path; it may be without the
        other. Folders of a run are not searched: its training removes checkpoints meanwhile.

        Raises InputError if a folder cannot be listed.
        """
        found = []
        for name, folders, files in os.walk(folder, onerror=_raise_unless_removed):
            if {CONFIG, STATE} & {*files}:
                found.append(cls(Path(name)))
                folders.clear()
        return sorted(found, key=lambda run: run.path)

    @classmethod
    def of_checkpoint(cls, folder: Path) -> "RunDir | None":
        """The run that a checkpoint folder belongs to; None if ``folder`` is not inside ``checkpoints/``."""
        parent = folder.resolve().parent
        return cls(parent.parent) if parent.name == CHECKPOINTS else None

    @property
    def study(self) -> StudyDir:
        """The study above ``<regime>/<variant>/seed-<n>``."""
        return StudyDir(self.path.resolve().parents[2])

    @property
    def is_run(self) -> bool:
        """Whether the folder has a configuration."""
        return self.config_file.is_file()

    @cached_property
    def config(self) -> RunConfig:
        """The configuration. Raises InputError if the folder is not a run."""
        if not self.is_run:
            raise InputError(f"{self}: not a run folder (no {CONFIG}); name one that 'hpc-jepa train' wrote")
        return read_config(RunConfig, [self.config_file], warn_renamed=False)

    @property
    def state(self) -> RunState | None:
        """Content of ``state.json`` now, None before the first start. Raises DataError if it is damaged."""
        return read_state(self.state_file)

    @property
    def origin(self) -> RunOrigin | None:
        """Content of ``origin.json``, None if the run began from its seed. Raises DataError if it is damaged."""
        return read_origin(self.origin_file)

    def refuse_links_outside(self) -> None:
        """Raise InputError if a folder of the run is a symbolic link that leads outside the run.

        Call before anything is written or removed: such a run could be received from somebody else.
        """
        records = [folder for task in get_args(Task) for folder in (self.record_dir(task), self.steps_dir(task))]
        _refuse_links_outside(
            self.path,
            self.checkpoints_dir,
            self.log_dir,
            self.events_dir,
            self.profile_dir,
            self.trackers_dir,
            *records,
        )

    def checkpoint_dir(self, step: int) -> Path:
        """Folder of the checkpoint after ``step`` steps."""
        return self.checkpoints_dir / f"step-{step:08d}"

    def checkpoint_dirs(self) -> list[Path]:
        """Folders of all checkpoints, valid or not, oldest first. Raises DataError if they cannot be listed."""
        names = list_if_exists(self.checkpoints_dir)
        return sorted(self.checkpoints_dir / name for name in names if CHECKPOINT.fullmatch(name))

    def checkpoint_steps(self) -> list[int]:
        """Steps of all checkpoints, valid or not, ascending. Raises DataError if they cannot be listed."""
        return [int(path.name.removeprefix("step-")) for path in self.checkpoint_dirs()]

    def last_step(self) -> int:
        """Step of the newest checkpoint, valid or not; 0 if there is none."""
        return max(self.checkpoint_steps(), default=0)

    def decode_errors_file(self, rank: int | str) -> Path:
        """Decode errors of one rank, or with ``"*"`` the pattern of all."""
        return self.log_dir / f"dropped-{rank}.jsonl"

    def gpu_failures_file(self, rank: int | str) -> Path:
        """Clips of one rank that the GPU's decoder failed to decode, or with ``"*"`` the pattern of all."""
        return self.log_dir / f"gpu-failures-{rank}.jsonl"

    def record_dir(self, task: str = "probe") -> Path:
        """Folder of the evaluation records of a task."""
        return self.path / "eval" if task == "probe" else self.path / "eval" / task

    def steps_dir(self, task: str = "probe") -> Path:
        """Folder of the records of chosen steps: ``<step>/<benchmark>.<protocol>.json``."""
        return self.record_dir(task) / "steps"

    def step_record_files(self) -> list[Path]:
        """Probe records of chosen steps, by step."""
        return sorted(self.steps_dir().glob("*/*.json"))

    def evaluated_steps(self, benchmark: str, protocol: str) -> list[int]:
        """Chosen steps with a probe record of a benchmark, ascending."""
        found = self.steps_dir().glob(f"*/{glob.escape(f'{benchmark}.{protocol}')}.json")
        return sorted(int(path.parent.name) for path in found if path.parent.name.isdecimal())

    def record_file(self, benchmark: str, protocol: str, task: str = "probe", step: int | None = None) -> Path:
        """Evaluation record of the newest checkpoint, or of a chosen ``step``; its predictions have the suffix
        ``.npz``. Records of release 0.1 keep their old names.
        """
        if step is not None:
            return self.steps_dir(task) / f"{step:08d}" / f"{benchmark}.{protocol}.json"
        old = self.record_dir(task) / f"{benchmark}.careful.json"
        if protocol == "standard" and old.is_file():
            return old
        return self.record_dir(task) / f"{benchmark}.{protocol}.json"

    def logged_metrics(self) -> list[MetricsRecord]:
        """Typed records of ``metrics.jsonl``, by step."""
        return read_metrics(self.metrics_file)

    def metrics(self) -> "pd.DataFrame":
        """Metrics with one row per logged step, indexed by ``step``.

        Columns are named as in TensorBoard: ``loss``, ``gradient_norm``, ``terms/<name>``, ``health/target_std``, ...;
        a metric that a step did not log is NaN. Raises DataError naming a damaged line.
        """
        import pandas as pd

        logged = self.logged_metrics()
        steps = pd.Index([record.step for record in logged], name="step", dtype="int64")
        return pd.DataFrame([record.scalars() for record in logged], index=steps)

    def records(self) -> "pd.DataFrame":
        """Evaluation results, one row per result of every task.

        Columns: ``task`` (probe, few_shot, robustness, text), ``benchmark``, ``protocol``, ``study``, ``regime``,
        ``variant``, ``semantics``, ``seed``, ``step``, then the scalars of the results: ``weights``, ``value`` with its
        95 % interval ``low`` to ``high``, ``n``, ``probe``, ... Raises DataError naming a damaged record.
        """
        import pandas as pd

        probes = [("probe", path) for path in sorted(self.record_dir().glob("*.json"))]
        others = [(path.parent.name, path) for path in sorted(self.record_dir().glob("*/*.json"))]
        return pd.DataFrame([row for task, path in probes + others for row in read_summary(path).rows(task)])


def _raise_unless_removed(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise InputError(f"{error.filename}: cannot be listed ({error.strerror})") from error


def _refuse_links_outside(path: Path, *folders: Path) -> None:
    inside = path.resolve()
    for folder in folders:
        if not folder.resolve().is_relative_to(inside):
            raise InputError(
                f"{folder}: a symbolic link to {folder.resolve()}, outside {path}; move the folder there, or link the "
                "whole run folder"
            )


def task_log_file(folder: Path, kind: str, rank: int = 0) -> Path:
    """Output of a study's job in the folder of its run, or of the study; other ranks have files of their own."""
    return folder / LOGS / (f"{kind}-rank-{rank}.log" if rank else f"{kind}.log")


def open_run(path: Path | str) -> RunDir:
    """A run folder ``RUNS/<study>/<regime>/<variant>/seed-<n>``. Raises InputError if there is no run."""
    run = RunDir(path)
    _ = run.config
    return run
