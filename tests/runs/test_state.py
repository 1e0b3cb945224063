"""``state.json`` of this release and of 0.1, and damaged ones."""

import json

import pytest
from pydantic import ValidationError

from hpc_jepa.errors import DataError
from hpc_jepa.runs.acquire import record_failure
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState, write_state


def test_written_state_is_read_back_with_time_and_process(tmp_path):
    run = RunDir(tmp_path)
    assert run.state is None
    write_state(run.state_file, RunState(state="interrupted", step=4, steps=9, stopped_by="SIGUSR1"))
    state = run.state
    assert (state.state, state.step, state.steps, state.stopped_by) == ("interrupted", 4, 9, "SIGUSR1")
    assert state.time is not None and state.pid is not None
    assert json.loads(run.state_file.read_bytes())["step"] == 4


def test_state_of_release_0_1_is_read(tmp_path):
    run = RunDir(tmp_path)
    old = {"state": "failed", "step": -1, "steps": 12, "time": 1.5, "process": 7, "dropped": {"s": 2}, "error": "full"}
    run.state_file.write_text(json.dumps(old))
    expected = {"state": "failed", "step": None, "steps": 12, "time": 1.5, "pid": 7, "decode_errors": {"s": 2}}
    assert run.state == RunState(**expected, error="full")
    run.state_file.write_text(json.dumps({"state": "interrupted", "step": 3, "steps": 12, "by": "wall time"}))
    assert run.state.stopped_by == "wall time"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "\0\0\0\0",
        '{"state": "running", "step": 1',
        '{"state": "stands still", "step": 1, "steps": 2}',
        '{"state": "running", "step": -2, "steps": 2}',
        '{"state": "running", "steps": 2}',
        '{"state": "running", "step": 1.5, "steps": 2}',
    ],
)
def test_damaged_state_is_named(tmp_path, content):
    run = RunDir(tmp_path)
    run.state_file.write_text(content)
    with pytest.raises(DataError, match=r"state\.json: "):
        _ = run.state


def test_wrong_values_are_refused_on_writing():
    with pytest.raises(ValidationError):
        RunState(state="running", step=0, steps=-1)


@pytest.mark.parametrize(("error", "state"), [(KeyboardInterrupt(), "interrupted"), (OSError("no disk"), "failed")])
def test_failure_is_recorded_with_an_unknown_step(tmp_path, error, state):
    run = RunDir(tmp_path)
    with pytest.raises(type(error)), record_failure(run, 9):
        raise error
    assert (run.state.state, run.state.step, run.state.steps) == (state, None, 9)
