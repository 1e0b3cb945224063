"""Real faults: a preloaded shim that fails system calls and shifts clocks, strace, namespaces, other users."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
FAST = {"hpc_jepa.io.retry:RETRY_DELAYS": (0.01, 0.02), "hpc_jepa.runs.lease:HEARTBEAT_INTERVAL": 0.05}


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    """The compiled shim; see shim.c."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "shim.c", "-ldl"], check=True)
    return library


@pytest.fixture(scope="session")
def server(shim):
    """A process that forks commands; hpc_jepa is imported once."""
    environment = {**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "server.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        for line in process.stdout:
            if line == "ready\n":
                break
        yield process
        process.stdin.close()


class Command:
    """A running command of hpc-jepa."""

    def __init__(self, server, request):
        self._server = server
        self.output = Path(request["output"])
        self.pid = int(self._ask(request))
        self._code = None

    def wait(self):
        """Its exit code; negative: the signal that ended it."""
        if self._code is None:
            self._code = int(self._ask({"wait": self.pid}))
        return self._code

    @property
    def text(self):
        """All its output, on one line."""
        return " ".join(self.output.read_text(errors="replace").split())

    @property
    def alive(self):
        """Whether it still runs."""
        state = Path(f"/proc/{self.pid}/stat")
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"

    def wait_for(self, condition):
        """Wait until a condition holds; fails if the command ends first."""
        while not condition():
            assert self.alive, f"the command ended too early: {self.text}"
            time.sleep(0.005)

    def send_signal(self, number):
        """Signal the command, which this test has started."""
        assert self.pid > 1 and self._code is None
        os.kill(self.pid, number)

    def _ask(self, request):
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return self._server.stdout.readline()


@pytest.fixture
def start(server, tmp_path):
    """``start(*arguments, faults=(), ...)`` starts hpc-jepa; a fault is (call, part of the path, errno, skip, count).

    ``clock``: seconds ahead; ``host``: a name, in namespaces of its own; ``disks``: sizes of small disks by
    mount point; ``without_privileges``: file modes count, for root too; ``values``: module:name -> value, for
    delays; ``raises``: (module:function, calls before it raises).
    """
    started = []

    def run(*arguments, faults=(), clock=0, host="", disks=None, without_privileges=False, values=None, raises=()):
        if (host or disks) and os.geteuid():
            pytest.skip("namespaces need root")
        request = {
            "arguments": [*map(str, arguments)],
            "output": str(tmp_path / f"output-{len(started)}.txt"),
            "faults": faults,
            "clock": clock,
            "host": host,
            "disks": disks or {},
            "without_privileges": without_privileges,
            "values": FAST | (values or {}),
            "raises": raises,
        }
        command = Command(server, request)
        started.append(command)
        return command

    yield run
    for command in started:
        if command.alive and command._code is None:
            command.send_signal(9)
        command.wait()


@pytest.fixture
def finish(start):
    """``finish(*arguments, ...)`` runs hpc-jepa to its end; returns exit code and output, without a traceback.

    ``finish.hits()``: how often each fault of the last command has happened.
    """

    commands = []

    def run(*arguments, **faults):
        commands.append(start(*arguments, **faults))
        code = commands[-1].wait()
        assert "Traceback" not in commands[-1].text, commands[-1].text
        return code, commands[-1].text

    run.hits = lambda: json.loads(commands[-1].output.with_suffix(".hits").read_text())
    return run


@pytest.fixture
def regime(tiny_regime, tmp_path):
    """``regime(steps, **sections)`` writes a configuration; returns its path and the run folder."""

    def write(steps=6, study="faults", every=2, keep=1, **sections):
        settings = tiny_regime(steps) | {"study": study, "runs": str(tmp_path / "runs")}
        settings["checkpoint"] = {"every": every, "keep": keep}
        settings["monitor"] = {"log_every": 1, "tensorboard": False}
        for section, changes in sections.items():
            settings[section] = settings.get(section, {}) | changes
        path = tmp_path / f"{study}.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path, tmp_path / "runs" / study / "tiny" / "baseline" / "seed-239"

    return write


@pytest.fixture
def benchmark(tiny_benchmark, tmp_path):
    """A benchmark file."""
    path = tmp_path / "motion8.yaml"
    path.write_text(yaml.safe_dump(tiny_benchmark))
    return path


def state_of(run):
    return json.loads((run / "state.json").read_text())["state"]


@pytest.fixture(name="state_of")
def state_fixture():
    """``state_of(run)``: the state in its state.json."""
    return state_of
