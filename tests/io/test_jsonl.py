"""JSON Lines: torn last lines, damaged lines, and a full disk."""

import pytest
from pydantic import BaseModel

from hpc_jepa.errors import DataError, HpcJepaError
from hpc_jepa.io.jsonl import JsonlWriter, append_jsonl, keep_records, read_jsonl, read_last, whole_lines, write_jsonl


class Step(BaseModel):
    step: int


def steps(path):
    return [record.step for record in read_jsonl(path, Step, "fix it")]


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b"\0\0\0\0", b"{", b'{"step": 3}'])
def test_torn_last_line_is_skipped_by_readers_and_removed_by_the_next_append(tmp_path, torn):
    path = tmp_path / "log.jsonl"
    write_jsonl(path, [Step(step=1), {"step": 2}])
    with path.open("ab") as file:
        file.write(torn)
    assert steps(path) == [1, 2]
    assert read_last(path, Step, "fix it").step == 2
    append_jsonl(path, Step(step=4), fsync=True)
    assert steps(path) == [1, 2, 4]


def test_file_of_one_torn_line_is_empty(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\0\0\0\0")
    assert steps(path) == []
    assert read_last(path, Step, "fix it") is None
    append_jsonl(path, Step(step=0))
    assert steps(path) == [0]


def test_missing_file_has_no_records(tmp_path):
    path = tmp_path / "none.jsonl"
    assert whole_lines(path) == []
    assert read_last(path, Step, "fix it") is None
    keep_records(path, Step, lambda record: False, "fix it")
    assert not path.exists()


@pytest.mark.parametrize("line", [b"{x}", b"{}", b'{"step": "many"}', b'{"step":3,"lo{"step":4}', b"\0\0", b""])
def test_damaged_line_is_reported_with_file_number_and_remedy(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(DataError, match=r"log\.jsonl:2: .*fix it"):
        steps(path)
    with pytest.raises(DataError, match=r"log\.jsonl.*fix it"):
        read_last(path, Step, "fix it")


def test_last_record_of_a_long_file(tmp_path):
    path = tmp_path / "log.jsonl"
    write_jsonl(path, [{"step": step, "padding": "x" * 1000} for step in range(200)])
    assert read_last(path, Step, "fix it").step == 199


def test_removing_records_keeps_the_bytes_of_the_others(tmp_path):
    path = tmp_path / "log.jsonl"
    kept = b'{"step":  1, "loss": NaN}\n'
    path.write_bytes(kept + b'{"step": 7}\n{"step": 2')
    keep_records(path, Step, lambda record: record.step < 5, "fix it")
    assert path.read_bytes() == kept
    before = path.stat().st_mtime_ns, path.stat().st_ino
    keep_records(path, Step, lambda record: record.step < 5, "fix it")
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_full_disk_raises(tmp_path):
    path = tmp_path / "full"
    path.symlink_to("/dev/full")
    with pytest.raises(HpcJepaError, match="full"), JsonlWriter(path) as writer:
        writer.write(Step(step=1))
