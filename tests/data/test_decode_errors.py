"""The ledger of what did not decode says each thing once, however often a run is taken up again."""

import json

from hpc_jepa.data.decode_errors import DecodeErrorLog, DecodeErrorRecord, decode_error_log, truncate_decode_errors


def drop(step, position=0):
    return DecodeErrorRecord(step, position, "a", f"key-{step}", "000000.tar", "is damaged")


def steps_in(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_what_was_dropped_before_there_was_a_ledger_is_written_then(tmp_path):
    ledger = DecodeErrorLog(("a",), 1.0)
    ledger.record(8, [drop(0), drop(0, 3)])
    path = decode_error_log(tmp_path / "log", 0)
    assert not path.parent.exists()
    ledger.open(path)
    ledger.record(8, [])
    ledger.record(8, [drop(2)])
    assert steps_in(path) == [0, 0, 2]
    assert ledger.counts == {"a": 3}


def test_steps_that_will_be_run_again_are_taken_out_for_all_processes(tmp_path):
    for rank, steps in enumerate([(0, 3, 5, 6), (1, 4), (7, 9)]):
        ledger = DecodeErrorLog(("a",), 1.0)
        ledger.open(decode_error_log(tmp_path, rank))
        for step in steps:
            ledger.record(8, [drop(step)])
    with decode_error_log(tmp_path, 0).open("a") as file:
        file.write('{"step": 2, "posi')  # cut short by a kill
    truncate_decode_errors(tmp_path, 5)
    assert [steps_in(decode_error_log(tmp_path, rank)) for rank in range(3)] == [[0, 3], [1, 4], []]
    truncate_decode_errors(tmp_path, 5)
    assert steps_in(decode_error_log(tmp_path, 0)) == [0, 3]
    truncate_decode_errors(tmp_path / "nothing", 0)
