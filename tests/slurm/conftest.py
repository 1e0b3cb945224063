"""A real Slurm cluster on this machine whose parts tests may kill, and studies of tiny runs."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from tests import waiting

SCRIPT = Path(__file__).parents[2] / "slurm" / "trial_cluster.sh"
NODES = [f"127.0.0.{number}" for number in (1, 2, 3, 4)]
DETERMINISTIC = ("loss", "gradient_norm", "terms", "coefficients", "learning_rate", "weight_decay", "ema")
LOCAL_INSTEAD = "tests/study tests the same commands on the local executor"


class Cluster:
    """The trial cluster; ``control`` takes the arguments of its script."""

    def __init__(self, folder, port):
        self.configuration = folder / "etc" / "slurm.conf"
        more = {"TRIAL_CLUSTER": folder, "TRIAL_PORT": port, "SLURM_CONF": self.configuration}
        self.environment = {**os.environ, **{name: str(value) for name, value in more.items()}}

    def control(self, *words):
        """Output of the script, which must succeed."""
        done = self.attempt(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def attempt(self, *words):
        return subprocess.run([SCRIPT, *words], env=self.environment, capture_output=True, text=True, check=False)

    def slurm(self, *command):
        """Output lines of a Slurm command, which must succeed."""
        done = waiting.run(command, self.progress, env=self.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def has_saved_jobs(self, submissions):
        """Whether the controller has saved its jobs to disk since ``submissions``, a file, was written last.

        It saves changed jobs every five seconds, and has lost the later ones if it is killed.
        """
        saved = self.configuration.parents[1] / "state" / "job_state"
        return saved.stat().st_mtime > submissions.stat().st_mtime + 1

    def node_of(self, job, restarts=0):
        """The node that a job runs on after ``restarts`` restarts."""

        def where():
            shown = dict(
                word.split("=", 1)
                for word in self.slurm("scontrol", "-o", "show", "job", job)[0].split()
                if "=" in word
            )
            again = shown["JobState"] == "RUNNING" and int(shown["Restarts"]) >= restarts
            return again and shown["NodeList"]

        return self.wait_until(where)

    def processes_on(self, node):
        """Process ids of all jobs on a node, orphans included."""
        mark = f"SLURM_CONF={self.configuration.parents[1] / node}/slurm.conf".encode()
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if mark in environment_of(path)]

    def progress(self):
        """What changes while the cluster works: its queue, and the CPU time of its jobs."""
        command = ["squeue", "--noheader", "--array", "--format=%i %T"]
        queue = subprocess.run(command, env=self.environment, capture_output=True, check=False)
        return queue.stdout, waiting.cpu_seconds([pid for node in NODES for pid in self.processes_on(node)])

    def wait_until(self, condition):
        """Wait until ``condition()`` is true and return its value."""
        return waiting.wait_until(condition, self.progress, poll=0.2)

    def restore(self):
        """Start what a test killed, and empty the queue."""
        pids = self.configuration.parents[1] / "pid"
        if not (pids / "controller").exists():
            self.control("start-controller")
        for node in NODES:
            if not (pids / node).exists():
                self.control("start-node", node)
        self.slurm("scancel", "--user=root")
        self.wait_until(self.is_idle)

    def is_idle(self):
        return len(self.slurm("sinfo", "-h", "--Node", "--partition=main", "--states=idle")) == len(NODES)


def environment_of(process):
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:  # the process has just ended
        return []


def free_ports():
    """The first of five consecutive free ports."""
    for first in range(17000 + os.getpid() % 1000 * 10, 60000, 10):
        with ExitStack() as stack:
            try:
                for port in range(first, first + 5):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no five consecutive free ports")


def missing():
    """Reason why no cluster can start here, or None. Installs the Debian packages if possible."""
    if os.geteuid() != 0:
        return "only root can start a trial cluster"
    if shutil.which("slurmctld") and shutil.which("munged"):
        return None
    if shutil.which("apt-get") is None:
        return "slurm-wlm and munge are not installed, and there is no apt-get"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(["apt-get", "update"], timeout=120, **quiet)
    packages = ["apt-get", "install", "--yes", "--no-install-recommends", "slurm-wlm", "munge"]
    installed = subprocess.run(packages, timeout=300, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, **quiet)
    return None if installed.returncode == 0 else "slurm-wlm and munge could not be installed"


@contextmanager
def started():
    """A cluster that is always taken down. Not in tmp_path: paths of sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="trial-") as folder:
        cluster = Cluster(Path(folder) / "c", free_ports())
        cluster.control("up")
        try:
            yield cluster
        finally:
            cluster.control("down")


@pytest.fixture(scope="session")
def running_cluster():
    if reason := missing():
        pytest.skip(f"no Slurm: {reason}; {LOCAL_INSTEAD}")
    with started() as cluster, pytest.MonkeyPatch.context() as environment:
        environment.setenv("SLURM_CONF", str(cluster.configuration))
        environment.setenv("OMP_NUM_THREADS", "1")
        yield cluster


@pytest.fixture
def cluster(running_cluster):
    yield running_cluster
    running_cluster.restore()


@pytest.fixture
def eventually(cluster):
    """``eventually(condition)`` waits as long as jobs make progress."""
    return cluster.wait_until


@pytest.fixture
def another_cluster(running_cluster):
    with started() as cluster:
        yield cluster


class Run:
    """Files of a run."""

    def __init__(self, folder):
        self.folder = folder

    def lines(self):
        """Complete lines of ``metrics.jsonl``."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def steps(self):
        """Number of logged steps."""
        return len(self.lines())

    def metrics(self):
        """Metrics that depend on configuration and step alone, in order of writing."""
        return [(line["step"], *(line[name] for name in DETERMINISTIC)) for line in self.lines()]

    def speed(self):
        """Steps per second."""
        first, last = self.lines()[0], self.lines()[-1]
        return (last["step"] - first["step"]) / (last["time"] - first["time"])

    def weights(self):
        """Tensor files of the newest checkpoint."""
        return {path.name: path.read_bytes() for path in (self.folder / "checkpoints/latest").glob("*.safetensors")}

    def checkpoint(self):
        """Step of the newest checkpoint."""
        return int((self.folder / "checkpoints/latest").readlink().name.removeprefix("step-"))

    def started_at(self):
        """The step of each start."""
        path = self.folder / "log" / "starts.jsonl"
        return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []

    def holder(self):
        """Holder of the lease."""
        return json.loads((self.folder / "lease.json").read_text())

    def is_done(self):
        path = self.folder / "state.json"
        return path.exists() and json.loads(path.read_text())["state"] == "done"

    def equals(self, other):
        """Whether metrics and weights are equal bit by bit."""
        return self.metrics() == other.metrics() and self.weights() == other.weights()


class Grid:
    """A study of tiny runs in the working directory."""

    def __init__(self, folder):
        self.folder = folder

    def attempt(self, command, *arguments):
        """``hpc-jepa study COMMAND`` on the trial cluster."""
        where = ("--cluster", "profile.yaml") if command in ("submit", "resume") else ()
        return CliRunner().invoke(app, ["study", command, "study.yaml", *where, *arguments])

    def call(self, command, *arguments):
        """Output of the command, which must succeed."""
        result = self.attempt(command, *arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def status(self):
        """JSON status of each cell by ``regime/variant/seed-N``."""
        cells = json.loads(self.call("status", "--json"))
        return {"/".join(Path(cell["folder"]).parts[-3:]): cell for cell in cells}

    def cell(self, name="tiny/baseline", seed=0):
        return self.status()[f"{name}/seed-{seed}"]

    def states(self):
        return {cell["state"] for cell in self.status().values()}

    def done(self):
        """Whether all cells are done. A failed cell fails the test at once."""
        assert "failed" not in self.states(), self.status()
        return self.states() == {"done"}

    def run(self, name="tiny/baseline", seed=0, runs="runs"):
        return Run(self.folder / runs / "demo" / name / f"seed-{seed}")

    def job(self, name="tiny/baseline", seed=0, kind="train"):
        """The newest job of a cell."""
        lines = (self.folder / "runs/demo/jobs.jsonl").read_text().splitlines()
        jobs = [json.loads(line) for line in lines]
        return [job["job"] for job in jobs if job["kind"] == kind and job["folder"].endswith(f"{name}/seed-{seed}")][-1]


@pytest.fixture
def grid(cluster, tiny_regime, tmp_path, monkeypatch):
    """``grid(*variants, steps=..., regimes=..., **profile)`` writes a study of tiny runs, and its profile."""
    monkeypatch.chdir(tmp_path)

    def make(
        *variants,
        steps=4,
        every=2,
        seeds=(0,),
        evaluations=(),
        regimes=("tiny",),
        sequential=None,
        confirmation=None,
        phases=(),
        **profile,
    ):
        for regime in regimes:
            write(tmp_path / f"{regime}.yaml", tiny_regime(steps, every, name=regime))
        study = {
            "study": "demo",
            "regimes": [f"{regime}.yaml" for regime in regimes],
            "variants": list(variants),
            "seeds": list(seeds),
            "evaluations": list(evaluations),
            "sequential": sequential,
            "confirmation": confirmation,
            "phases": list(phases),
        }
        write(tmp_path / "study.yaml", study)
        write(tmp_path / "profile.yaml", {**PROFILE, **profile})
        return Grid(tmp_path)

    return make


def write(path, content):
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="session")
def uninterrupted(tiny_regime, tmp_path_factory):
    """``uninterrupted(steps, seed=0)``: the baseline of a grid, trained outside Slurm without interruption."""

    @cache
    def train(steps, seed=0):
        folder = tmp_path_factory.mktemp("uninterrupted")
        regime = write(folder / "tiny.yaml", tiny_regime(steps, every=steps))
        command = ["train", regime, f"seed={seed}", f"runs={folder}"]
        finished = subprocess.run([sys.executable, "-m", "hpc_jepa", *command], capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        return Run(folder / f"adhoc/tiny/baseline/seed-{seed}")

    return train


PROFILE = {
    "partition": "main",
    "train": {"cpus_per_node": 1, "time": 10},
    "evaluate": {"cpus_per_node": 1, "time": 10},
    "report": {"cpus_per_node": 1, "time": 5},
    "python": sys.executable,
    "signal_seconds": 20,
}
