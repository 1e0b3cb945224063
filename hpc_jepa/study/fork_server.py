"""Start ``hpc-jepa`` commands as forks of one process that has imported what they need: most of the time of short ones.

For commands without a GPU only: what torch has found out about GPUs may not be shared by a fork, and a run on a GPU is
not short.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock
from types import TracebackType
from typing import BinaryIO

from hpc_jepa.errors import HpcJepaError

SERVER = "hpc_jepa.study.fork_server_main"
SERVER_ENDED = (
    "the process that starts the commands of the study has ended, by the kernel if memory ran out; running ones go on: "
    "repeat study submit when study status says that they have ended"
)


class ForkedCommand:
    """A command of the server. Its socket takes signals, a byte each, and gives one line at the end: the exit code."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def wait(self) -> int:
        """The exit code when it has ended. Raises HpcJepaError if the server has ended before."""
        with self._connection, self._connection.makefile("rb") as answer:
            code = answer.readline()
        if not code:
            raise HpcJepaError(SERVER_ENDED)
        return int(code)

    def send_signal(self, number: int) -> None:
        """Send a signal to the command, unless it has ended."""
        with suppress(OSError):
            self._connection.sendall(bytes([number]))


class ForkServer:
    """The server, which starts with the first command. A context: it ends with it; all commands must have ended."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()

    def start(self, command: tuple[str, ...], environment: Mapping[str, str], output: BinaryIO) -> ForkedCommand:
        """Start a command in a new session. Variables that are read by an import must be those of the first command.

        What the server itself has to say goes to the ``output`` of the first one. Raises HpcJepaError if the server
        has ended.
        """
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            control = self._control or self._serve(environment, output)
            try:
                socket.send_fds(control, [b"\n"], [theirs.fileno(), output.fileno()])
                ours.sendall(json.dumps([command, dict(environment)]).encode() + b"\n")
            except OSError as error:
                raise HpcJepaError(SERVER_ENDED) from error
        return ForkedCommand(ours)

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._control is not None and self._process is not None:
            self._control.close()
            self._process.wait()

    def _serve(self, environment: Mapping[str, str], output: BinaryIO) -> socket.socket:
        """Start the server; the socket for commands."""
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", SERVER, str(theirs.fileno())],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return self._control


def can_fork() -> bool:
    """Whether this system can tell the server which of its commands has ended: Linux 5.3 and later."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True
