"""The process whose forks are the commands of a :class:`hpc_jepa.study.fork_server.ForkServer`."""

import atexit
import json
import os
import runpy
import selectors
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from hpc_jepa.io.imports import uncollected_imports

PROGRAM = "hpc_jepa"
"""Module that a command runs."""


@dataclass(frozen=True)
class Request:
    """Arguments of a command, its variables, the file of its output, and the socket of its client."""

    command: Sequence[str]
    environment: dict[str, str]
    output: int
    client: socket.socket


@dataclass(frozen=True)
class Child:
    """A running command: its process, a descriptor that is readable when it has ended, and the socket of its client."""

    pid: int
    ended: int
    client: socket.socket


def import_early() -> None:
    """Import what training and evaluation need. What cannot be imported is left to the command that needs it."""
    with uncollected_imports(), suppress(ImportError):
        from hpc_jepa.distributed import set_ds_accelerator

        set_ds_accelerator("cpu")
        import hpc_jepa.evaluation.evaluator
        import hpc_jepa.profiling.profile
        import hpc_jepa.training.loop  # noqa: F401


def serve(control: socket.socket) -> Request | None:
    """Fork for each request on ``control``. Returns the request in the fork, and None in the server when ``control``
    is closed.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data is not None:
                    _handle(selector, key)
                    continue
                request = _receive(control)
                if request is None or _fork(selector, request):
                    return request


def _fork(selector: selectors.BaseSelector, request: Request) -> bool:
    """Begin a command. True in the fork."""
    pid = os.fork()
    if pid == 0:
        _close_of_server(selector)
        return True
    os.close(request.output)
    child = Child(pid, os.pidfd_open(pid), request.client)
    for source in (child.ended, child.client):
        selector.register(source, selectors.EVENT_READ, child)
    return False


def _handle(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    """Send the exit code of a command that has ended, or pass a signal on to it."""
    if key.fd == key.data.ended:
        _send_exit_code(selector, key.data)
    elif key.fd in selector.get_map():  # else it has just ended
        _pass_signal(selector, key.data)


def _receive(control: socket.socket) -> Request | None:
    _, descriptors, _, _ = socket.recv_fds(control, 1, 2)
    if not descriptors:
        return None
    client, output = socket.socket(fileno=descriptors[0]), descriptors[1]
    with client.makefile("rb", buffering=0) as lines:
        command, environment = json.loads(lines.readline())
    return Request(command, environment, output, client)


def _send_exit_code(selector: selectors.BaseSelector, child: Child) -> None:
    """Send the exit code of a command that has ended."""
    _, status = os.waitpid(child.pid, 0)
    selector.unregister(child.ended)
    os.close(child.ended)
    if child.client.fileno() in selector.get_map():
        selector.unregister(child.client)
    with child.client, suppress(BrokenPipeError):  # the client has ended
        child.client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _pass_signal(selector: selectors.BaseSelector, child: Child) -> None:
    """Pass a signal on to a command."""
    number = child.client.recv(1)
    if number:
        os.kill(child.pid, number[0])
    else:  # the client has ended; the command goes on, as it would without a server
        selector.unregister(child.client)


def _close_of_server(selector: selectors.BaseSelector) -> None:
    """Close in a fork what belongs to the server: an end of file must reach the other side."""
    for key in list(selector.get_map().values()):
        if isinstance(key.fileobj, int):
            os.close(key.fileobj)
        else:
            key.fileobj.close()  # type: ignore[attr-defined]


@dataclass
class QuickExit:
    """Ends a fork after all other exit handlers, without the interpreter's own end, which frees a copy of every object.

    Register it first: handlers run in the reverse order.
    """

    code: int | None = None

    def __call__(self) -> None:
        """Write what is in buffers, and end."""
        if self.code is not None:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(self.code)


def run(request: Request, exit_handler: QuickExit) -> None:
    """Run ``python -m hpc_jepa`` with the arguments of the request, here; ``exit_handler`` gets the exit code."""
    os.setsid()
    request.client.close()
    for descriptor in (1, 2):
        os.dup2(request.output, descriptor)
    os.close(request.output)
    os.environ.clear()
    os.environ.update(request.environment)
    sys.argv[1:] = request.command
    exit_handler.code = 1  # of an unexpected error, whose traceback the interpreter prints
    try:
        runpy.run_module(PROGRAM, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, int):
            exit_handler.code = ended.code
        raise


def main() -> None:
    """Serve on the socket whose descriptor is the only argument; in a fork, run a command."""
    exit_handler = QuickExit()
    atexit.register(exit_handler)
    with socket.socket(fileno=int(sys.argv[1])) as control:
        import_early()
        request = serve(control)
    if request is not None:
        run(request, exit_handler)


if __name__ == "__main__":
    main()
