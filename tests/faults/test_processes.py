"""Several processes on one run folder: other clocks, other machines, reused ids, readers, kills."""

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_jepa.evaluation.context import FEATURES_PREFIX

NO_LOCKS = [("flock", ".lock", errno.ENOLCK, 0, 1_000_000)]
"""As on a file system that passes no locks between nodes."""
LEASE_TIMEOUT = {"hpc_jepa.runs.lease:LEASE_TIMEOUT": 6.0, "hpc_jepa.runs.lease:HEARTBEAT_INTERVAL": 0.2}
HOUR = 3600


@pytest.mark.parametrize("skew", [-HOUR, HOUR])
def test_a_live_run_of_a_node_with_another_clock_is_respected_and_a_dead_one_taken_over(skew, regime, start, state_of):
    path, run = regime(100_000, every=50_000)
    first = start("train", path, host="node-1", faults=NO_LOCKS, values=LEASE_TIMEOUT)
    first.wait_for(lambda: (run / "metrics.jsonl").exists())
    second = start("train", path, host="node-2", clock=skew, faults=NO_LOCKS, values=LEASE_TIMEOUT)
    assert second.wait() == 2 and "node-1" in second.text, second.text
    assert first.alive
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (run / "lease.json").exists()
    third = start("train", path, host="node-2", clock=skew, faults=NO_LOCKS, values=LEASE_TIMEOUT)
    third.wait_for(lambda: json.loads((run / "lease.json").read_text())["host"] == "node-2")
    third.wait_for(lambda: state_of(run) == "running")


def test_a_reused_process_id_is_neither_waited_for_nor_signalled(tmp_path):
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable]
    worker = Path(__file__).parent / "workers" / "reused_pid.py"
    finished = subprocess.run([*command, str(worker), str(tmp_path)], capture_output=True, text=True, check=False)
    if "not permitted" in finished.stderr or "Read-only" in finished.stderr:
        pytest.skip("the kernel gives no PID namespace in which ids can be chosen")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == {"same id": True, "recognised": False, "taken over": True, "alive": True}


def test_features_of_a_killed_evaluation_are_removed_by_the_next(regime, benchmark, start, finish):
    path, run = regime(2)
    assert finish("train", path)[0] == 0
    command = ("evaluate", run, "--benchmark", benchmark)
    killed = start(*command)
    killed.wait_for(lambda: [*run.glob(f"{FEATURES_PREFIX}*/*")])
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert [*run.glob(f"{FEATURES_PREFIX}*")]
    code, text = finish(*command)
    assert code == 0, text
    assert not [*run.glob(f"{FEATURES_PREFIX}*")] and [*run.glob("eval/*.json")]


def test_readers_beside_a_training_run_see_no_damage(regime, benchmark, start, finish, tmp_path, state_of):
    path, run = regime(2, every=1)
    assert finish("train", path)[0] == 0
    assert finish("evaluate", run, "--benchmark", benchmark)[0] == 0
    path, run = regime(100_000, every=1)
    training = start("train", path, "checkpoint.accept=[schedule.steps]")
    training.wait_for(lambda: [*run.glob("checkpoints/step-*[3-9]")])
    study = tmp_path / "study.yaml"
    study.write_text(f"study: faults\nregimes: [{path}]\nvariants: [baseline]\nseeds: [239]\nevaluations: []\n")
    commands = (
        ("checkpoint", "verify", run),
        ("study", "status", study, "--runs", tmp_path / "runs"),
        ("evaluate", run, "--benchmark", benchmark, "--force"),
        ("report", run, "--out", tmp_path / "report"),
        ("checkpoint", "list", run),
    )
    for command in (*commands, *commands, *2 * commands[:2]):
        reader = start(*command)
        code = reader.wait()
        assert code == 0 or (command[0] == "evaluate" and "removed it meanwhile" in reader.text), (command, reader.text)
        assert "Traceback" not in reader.text and "damaged" not in reader.text, (command, reader.text)
    assert training.alive
    training.send_signal(signal.SIGTERM)
    assert training.wait() == 130 and state_of(run) == "interrupted", training.text
