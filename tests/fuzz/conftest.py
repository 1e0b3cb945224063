"""Every parser of files that people hand over: bounded, silent and without side effects, whatever the bytes are."""

import os
import resource
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from hpc_jepa.errors import HpcJepaError

sys.path.insert(0, str(Path(__file__).parent))  # mutations

CPU_SECONDS = 5
MEMORY = 2 << 30
LONGEST_MESSAGE = 3000
FORBIDDEN = (
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod", "os.utime"),
    *("os.kill", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.startfile", "shutil.rmtree"),
    *("subprocess.Popen", "socket.connect", "socket.bind", "socket.sendto", "pty.spawn", "ctypes.dlopen"),
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class SideEffect(BaseException):
    """Not an Exception, so that no parser turns it into an expected error."""


class TooLong(BaseException):
    """The parser used CPU_SECONDS."""


class _Watch:
    """Audit hook: raises SideEffect when this thread starts a program, opens a connection, or writes a file."""

    def __init__(self):
        self.thread = None
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.thread != threading.get_ident() or "__pycache__" in str(arguments[:1]):  # of a first import
            return
        if event in FORBIDDEN or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES):
            self.thread = None  # hypothesis writes while it reports
            raise SideEffect(event, arguments)


WATCH = _Watch()  # an audit hook cannot be removed


@contextmanager
def _cpu_limit():
    def stop(*_):
        raise TooLong(f"more than {CPU_SECONDS} s of CPU time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.fixture(scope="module", autouse=True)
def _memory_limit():
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="session")
def survives():
    """``survives(parse, name)`` accepts a result, or an expected error in one short line that contains ``name``."""

    def run(parse, name):
        try:
            with _cpu_limit():
                WATCH.thread = threading.get_ident()
                try:
                    return parse()
                finally:
                    WATCH.thread = None
        except HpcJepaError as error:
            assert 1 <= error.exit_code <= 4
            line = " ".join(str(error).split())
            assert name in line, line
            assert len(line) <= LONGEST_MESSAGE, line
            return None

    return run


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory) -> Path:
    """A folder for the files of one parser."""
    return tmp_path_factory.mktemp("sandbox")
