"""The ledger of what did not decode says each thing once, however often a run is taken up again."""

import json

from hpc_jepa.data.drops import Drop, DropLedger, forget_drops, ledger_path


def drop(step, position=0):
    return Drop(step, position, "a", f"key-{step}", "000000.tar", "is damaged")


def steps_in(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_what_was_dropped_before_there_was_a_ledger_is_written_then(tmp_path):
    ledger = DropLedger(("a",), 1.0)
    ledger.record(8, [drop(0), drop(0, 3)])
    path = ledger_path(tmp_path / "log", 0)
    assert not path.parent.exists()
    ledger.open(path)
    ledger.record(8, [])
    ledger.record(8, [drop(2)])
    assert steps_in(path) == [0, 0, 2]
    assert ledger.counts == {"a": 3}


def test_steps_that_will_be_run_again_are_taken_out_for_all_processes(tmp_path):
    for rank, steps in enumerate([(0, 3, 5, 6), (1, 4), (7, 9)]):
        ledger = DropLedger(("a",), 1.0)
        ledger.open(ledger_path(tmp_path, rank))
        for step in steps:
            ledger.record(8, [drop(step)])
    with ledger_path(tmp_path, 0).open("a") as file:
        file.write('{"step": 2, "posi')  # cut short by a kill
    forget_drops(tmp_path, 5)
    assert [steps_in(ledger_path(tmp_path, rank)) for rank in range(3)] == [[0, 3], [1, 4], []]
    forget_drops(tmp_path, 5)
    assert steps_in(ledger_path(tmp_path, 0)) == [0, 3]
    forget_drops(tmp_path / "nothing", 0)
