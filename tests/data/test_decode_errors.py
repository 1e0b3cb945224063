"""The decode-error log has each error once, however often a run is resumed."""

import json

from hpc_jepa.data.decode_errors import DecodeErrorLog, DecodeErrorRecord, truncate_decode_errors
from hpc_jepa.runs.run_dir import RunDir


def error(step, position=0):
    return DecodeErrorRecord(
        step=step, position=position, source="a", key=f"key-{step}", file="000000.tar", reason="is damaged"
    )


def steps_in(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_errors_before_the_log_is_open_are_written_when_it_opens(tmp_path):
    log = DecodeErrorLog(("a",), 1.0)
    log.record(8, [error(0), error(0, 3)])
    path = RunDir(tmp_path).decode_errors_file(0)
    assert not path.parent.exists()
    log.open(path)
    log.record(8, [])
    log.record(8, [error(2)])
    assert steps_in(path) == [0, 0, 2]
    assert log.counts == {"a": 3}


def test_steps_that_will_run_again_are_removed_for_all_processes(tmp_path):
    for rank, steps in enumerate([(0, 3, 5, 6), (1, 4), (7, 9)]):
        log = DecodeErrorLog(("a",), 1.0)
        log.open(RunDir(tmp_path).decode_errors_file(rank))
        for step in steps:
            log.record(8, [error(step)])
    with RunDir(tmp_path).decode_errors_file(0).open("a") as file:
        file.write('{"step": 2, "posi')  # cut short by a kill
    truncate_decode_errors(RunDir(tmp_path), 5)
    assert [steps_in(RunDir(tmp_path).decode_errors_file(rank)) for rank in range(3)] == [[0, 3], [1, 4], []]
    truncate_decode_errors(RunDir(tmp_path), 5)
    assert steps_in(RunDir(tmp_path).decode_errors_file(0)) == [0, 3]
    truncate_decode_errors(RunDir(tmp_path / "nothing"), 0)
