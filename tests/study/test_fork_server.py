"""Commands as forks of one process: each ends as a process of its own would, and none is left to itself."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from hpc_jepa.errors import EXIT_INTERRUPTED, HpcJepaError
from hpc_jepa.study import fork_server
from hpc_jepa.study.task import StudyTask, TaskRunner
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not fork_server.can_fork(), reason="needs pidfd_open")


@pytest.fixture
def server(monkeypatch):
    """A server of tests/study/workers."""
    monkeypatch.setattr(fork_server, "SERVER", "tests.study.workers.fork_server")
    with fork_server.ForkServer() as started:
        yield started


def run(server, folder, *commands, **variables):
    """Run a task; its exit code and the lines of its log."""
    task = StudyTask("train", folder, commands)
    code = TaskRunner(start=server.start, environment=variables).run(task)
    return code, task.log.read_text().splitlines()


def test_commands_are_forks_of_one_process_with_their_own_session_and_variables(server, tmp_path):
    code, first = run(server, tmp_path / "one", ("0", "a b", "ü"), OWN="1")
    assert code == 0 and first[0] == "imported" and first[2:] == ["thread", "handler"]
    code, second = run(server, tmp_path / "two", ("0",), ("3",), ("0",), OWN=None)
    assert code == 3 and second[1::3] == ["thread"] * 2 and second[2::3] == ["handler"] * 2
    seen = [json.loads(line) for line in (first[1], second[0], second[3])]
    assert len({pid for pid, *_ in seen}) == 3 and all(pid == session for pid, _, session, *_ in seen)
    assert len({parent for _, parent, *_ in seen} | {os.getpid()}) == 2
    assert [each[3:] for each in seen] == [[["a b", "ü"], "1"], [[], None], [[], None]]


def test_an_unexpected_error_is_in_the_log_with_its_code(server, tmp_path):
    code, lines = run(server, tmp_path, ("raise",))
    assert code == 1 and "RuntimeError: planted" in lines and lines[-1] == "handler"


def test_a_signal_ends_the_command_and_the_task(server, tmp_path):
    runner, task = TaskRunner(start=server.start), StudyTask("train", tmp_path, (("sleep",), ("0",)))
    with ThreadPoolExecutor(1) as pool:
        code = pool.submit(runner.run, task)
        wait_until(lambda: task.log.exists() and "[]" in task.log.read_text())
        runner.send_signal(signal.SIGTERM)
        assert code.result() == EXIT_INTERRUPTED and task.log.read_text().count("[]") == 1


def test_a_signal_before_the_command_has_begun_is_not_lost(server, tmp_path):
    with (tmp_path / "log").open("wb") as log:
        command = server.start(("sleep",), os.environ, log)
        command.send_signal(signal.SIGTERM)
        assert command.wait() == -signal.SIGTERM


def test_a_server_that_has_ended_is_named(server, tmp_path):
    for _ in range(2):  # while a command runs, and before the next one
        with pytest.raises(HpcJepaError, match="study status"):
            run(server, tmp_path, ("kill server",))
