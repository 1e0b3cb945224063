"""Errors of the file system on every file of a run: the shim fails the system calls of real commands."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ALWAYS = 1_000_000


def rules(call, path, *names, skip=0, count=1):
    """A rule for each error: they follow one another."""
    return [(call, path, getattr(errno, name), skip if i == 0 else 0, count) for i, name in enumerate(names)]


@pytest.fixture
def undisturbed(regime, finish, metrics_of):
    """Metrics of a run without faults."""
    path, run = regime(study="undisturbed")
    assert finish("train", path)[0] == 0
    return metrics_of(run)


def test_heartbeats_go_on(regime, finish, state_of):
    path, run = regime(40)
    faults = rules("utimensat", "lease.json", "ESTALE", "EIO", "ENOSPC", "EDQUOT")
    code, text = finish("train", path, faults=faults, values={"hpc_jepa.runs.lease:HEARTBEAT_INTERVAL": 0.01})
    assert code == 0 and state_of(run) == "done", text
    assert finish.hits() == [1, 1, 1, 1]


def test_one_transient_error_on_each_file_changes_nothing(regime, finish, undisturbed, metrics_of):
    path, run = regime(study="transient")
    faults = [
        *rules("read", "unlabelled/manifest.json", "ESTALE", "EIO"),
        *rules("open", ".idx", "ESTALE"),
        *rules("read", ".tar", "ESTALE", "EIO"),
        *rules("write", "metrics.jsonl", "ESTALE", "EIO", skip=2),
        *rules("write", "weights-0000", "ESTALE"),
        *rules("fsync", "training-0000", "EIO"),
        *rules("write", ".manifest.json.partial", "ESTALE"),
        *rules("rename", ".state.json.partial", "EIO"),
        *rules("read", "lease.json", "ESTALE", "EIO"),
    ]
    code, text = finish("train", path, faults=faults)
    assert code == 0, text
    assert finish.hits() == [1] * len(faults)
    assert metrics_of(run) == undisturbed
    assert finish("checkpoint", "verify", run)[0] == 0


def test_a_full_disk_under_the_metrics_stops_the_run_which_then_resumes(
    regime, finish, undisturbed, metrics_of, state_of
):
    path, run = regime(study="full")
    for skip, name in ((2, "ENOSPC"), (1, "EDQUOT")):
        code, text = finish("train", path, faults=rules("write", "metrics.jsonl", name, skip=skip, count=ALWAYS))
        assert (code, state_of(run)) == (1, "failed") and "metrics.jsonl: " in text
    assert finish("train", path)[0] == 0
    assert metrics_of(run) == undisturbed


def test_a_failed_save_keeps_the_checkpoint_before(regime, finish, state_of):
    path, run = regime(12, study="saves", every=2, keep=1)
    written = ("weights-0000", "training-0000", ".manifest.json.partial", "weights-0000")
    for save, (file, name) in enumerate(zip(written, ("ENOSPC", "EDQUOT", "EIO", "ESTALE"), strict=True), start=1):
        folder = f".step-{2 * save + 2:08d}.partial"
        code, text = finish("train", path, faults=rules("write", f"{folder}/{file}", name, count=ALWAYS))
        assert (code, state_of(run)) == (1, "failed") and os.strerror(getattr(errno, name)) in text, text
        left = [path.name for path in (run / "checkpoints").iterdir() if not path.is_symlink()]
        assert left == [f"step-{2 * save:08d}"], text
    assert finish("checkpoint", "verify", run)[0] == 0
    assert finish("train", path)[0] == 0 and state_of(run) == "done"


def test_an_unreadable_checkpoint_is_not_damaged(regime, finish, state_of):
    path, run = regime(4, study="unreadable")
    assert finish("train", path, "schedule.steps=2")[0] == 0
    again = ("train", path, "checkpoint.accept=[schedule.steps]")
    for call, name in (("open", "manifest.json"), ("read", "weights-0000")):
        code, text = finish(*again, faults=rules(call, f"step-00000002/{name}", "EIO", count=ALWAYS))
        assert code == 1 and name in text and "sound" in text
        assert [folder.name for folder in (run / "checkpoints").glob("*-*")] == ["step-00000002"]
    faults = rules("open", "step-00000002/manifest.json", "ESTALE", "EIO") + rules("read", "weights-0000", "ESTALE")
    assert finish(*again, faults=faults)[0] == 0 and state_of(run) == "done"
    assert finish.hits() == [1, 1, 1]


def test_unreadable_shards_end_the_run_without_a_trace_in_the_results(regime, finish, state_of):
    path, run = regime(20, study="shards")
    code, text = finish("train", path, faults=rules("read", "unlabelled/manifest.json", "EIO", count=ALWAYS))
    assert code == 3 and "manifest.json" in text and not run.exists()
    code, text = finish("train", path, faults=rules("read", ".tar", "EIO", skip=40, count=ALWAYS))
    assert (code, state_of(run)) == (3, "failed") and ".tar" in text and "build it again" not in text
    assert not [log for log in (run / "log").glob("dropped-*") if log.stat().st_size]


def test_what_cannot_be_removed_or_linked_does_not_stop_the_run(regime, finish, state_of):
    path, run = regime(study="busy")
    faults = [
        *rules("rename", "checkpoints/step-00000002", "EBUSY", count=ALWAYS),
        *rules("rmdir", ".removed", "EBUSY", count=ALWAYS),
        *rules("symlink", ".latest", "EPERM", count=ALWAYS),
    ]
    code, text = finish("train", path, faults=faults)
    assert code == 0 and all(finish.hits()), text
    code, text = finish("train", path, "schedule.steps=8", "checkpoint.accept=[schedule.steps]", faults=faults)
    assert code == 0 and state_of(run) == "done", text
    assert finish("checkpoint", "verify", run)[0] == 0


def test_tensorboard_events_are_optional(regime, start, state_of):
    path, run = regime(study="events", monitor={"tensorboard": True})
    for skip in (0, 3):
        again = ("train", path, f"schedule.steps={6 + skip}", "checkpoint.accept=[schedule.steps]")
        command = start(*again, faults=rules("write", "events.out", "ENOSPC", skip=skip, count=ALWAYS))
        assert command.wait() == 0 and state_of(run) == "done", command.text
        assert "metrics.jsonl goes on" in command.text


def test_a_report_cut_by_a_full_disk_leaves_the_old_one(regime, benchmark, finish, tmp_path):
    path, run = regime(2, study="reported")
    assert finish("train", path)[0] == 0
    assert finish("evaluate", run, "--benchmark", benchmark)[0] == 0
    out = tmp_path / "report"
    code, text = finish("report", run, "--out", out)
    assert code == 0, text
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    code, text = finish("report", run, "--out", out, faults=rules("write", str(out), "ENOSPC", count=ALWAYS))
    assert code == 1 and str(out) in text, text
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_a_small_dev_shm_suffices(regime, finish, state_of):
    path, run = regime(2, study="shm")
    code, text = finish("train", path, disks={"/dev/shm": "4k"})
    assert code == 0 and state_of(run) == "done", text


def test_files_that_may_not_be_read_are_named(regime, benchmark, finish, tmp_path):
    path, evaluated = regime(2, study="open")
    assert finish("train", path)[0] == 0
    assert finish("evaluate", evaluated, "--benchmark", benchmark)[0] == 0
    path, run = regime(2, study="closed")
    assert finish("train", path)[0] == 0
    report = ("report", evaluated, run, "--out", tmp_path / "report")
    for name, command, expected in (
        ("state.json", report, 0),
        ("config.yaml", report, 0),
        ("config.yaml", ("train", path), 2),
        ("checkpoints", ("train", path), 3),
        ("checkpoints", ("checkpoint", "verify", run), 3),
    ):
        mode = (run / name).stat().st_mode
        (run / name).chmod(0)
        code, text = finish(*command, without_privileges=True)
        assert code == expected and name in text, (name, command, text)
        (run / name).chmod(mode)
    assert finish("checkpoint", "verify", run)[0] == 0


def test_injected_errors_of_a_fresh_process(tmp_path):
    worker = Path(__file__).parent / "workers" / "hold_lease.py"
    trace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", "trace=utimensat"]
    injected = [*trace, "-e", "inject=utimensat:error=ESTALE:when=1..3"]
    if shutil.which("strace") is None or subprocess.run([*trace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs strace, and permission to trace")
    command = [*injected, sys.executable, str(worker), str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count(os.strerror(errno.ESTALE)) == 3
