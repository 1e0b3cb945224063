"""A process waits for the threads of its process group before its interpreter ends."""

import threading
import time

from hpc_jepa.training import launch


def test_it_waits_for_a_thread_that_runs_and_not_for_one_that_sleeps(monkeypatch):
    monkeypatch.setattr(launch.dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(launch, "EXIT_PATIENCE", 600.0)
    stop = threading.Event()
    sleeper = threading.Thread(target=stop.wait)
    ended = []

    def work():
        until = time.thread_time() + 0.3
        while time.thread_time() < until:
            pass
        ended.append(True)

    worker = threading.Thread(target=work)
    sleeper.start()
    worker.start()
    launch._leave_process_group()
    assert ended and sleeper.is_alive()
    stop.set()
    worker.join()
    sleeper.join()
