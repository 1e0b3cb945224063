"""A profiled run: what it writes, and that it is the run it would have been."""

import gzip
import json
import os
import re
import signal

import pytest

from hpc_jepa.errors import InputError
from hpc_jepa.profiling import profile
from hpc_jepa.profiling.profile import STEPS_NEEDED, check_profile_steps
from hpc_jepa.profiling.trace import PHASES, Trace
from hpc_jepa.training.batches import BatchPrefetcher
from hpc_jepa.training.loop import train

TIMES = {"time", "clips_per_second", "tflops_per_second", "data_wait_share", "memory_bytes"}


def figures_of(config):
    lines = [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def silent(record):
    pass


def rows_of(page, heading):
    """Cells of the table below a heading."""
    table = page.partition(f"## {heading}")[2].strip().split("\n\n")[0]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_profiled_run_has_the_losses_of_any_other_and_says_where_its_time_went(stage, configure):
    engine = {"precision": "fp32", "batch_size": 4, "zero_stage": stage}
    plain, watched = configure(study="plain", engine=engine), configure(study="watched", engine=engine)
    train(plain, silent)
    assert train(watched, silent, profile=True) == "done"
    assert figures_of(watched) == figures_of(plain)
    assert not (plain.folder / "profile").exists()

    folder = watched.folder / "profile"
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    ranges = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert set(PHASES) <= set(ranges)
    assert (ranges.count("step"), ranges.count("student"), ranges.count("target")) == (5, 5, 5)

    page = (folder / "summary.md").read_text()
    *phases, total = rows_of(page, "Phases")
    assert [row[0] for row in phases] == [*PHASES, "everything else", "between steps"]
    shares = Trace(folder / "trace.json").host_shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) > 0
    assert total[1] == "100.0%"
    assert sum(float(row[1].rstrip("%")) for row in phases) == pytest.approx(100, abs=0.5)
    operators = rows_of(page, "The 10 dearest operators")
    assert len(operators) == 10
    assert any(row[0] in ("aten::mm", "aten::addmm") for row in operators)
    counts = dict(rows_of(page, "Counts of one step"))
    assert float(counts["operators called"].replace(",", "")) > 500
    assert float(counts["MB of memory asked for"].replace(",", "")) > 1
    assert float(counts["TFLOP/s"]) > 0
    assert (float(counts["values asked for"]) < 1) == (stage < 3)  # a save between steps asks for one


def test_the_page_names_who_asks_for_values(configure, monkeypatch):
    def profiled(study):
        config = configure(study=study, engine={"precision": "fp32", "batch_size": 4, "zero_stage": 0})
        train(config, silent, profile=True)
        page = (config.folder / "profile" / "summary.md").read_text()
        return page, float(dict(rows_of(page, "Counts of one step"))["values asked for"])

    _, calm = profiled("calm")
    take = BatchPrefetcher.take

    def curious(self, step):
        batch = take(self, step)
        assert batch.clips.pixels.sum().item() == batch.clips.pixels.sum().item()
        return batch

    monkeypatch.setattr(BatchPrefetcher, "take", curious)
    page, often = profiled("curious")
    assert often == calm + 2
    assert re.search(r"2 x `train_step` at hpc_jepa/training/loop.py:\d+", page)


def test_what_a_profile_put_around_methods_is_gone_afterwards(configure):
    def interrupt(record):
        if record.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    config = configure()
    assert train(config, interrupt, profile=True) == "interrupted"
    assert not (config.folder / "profile").exists()
    assert train(config, silent) == "done"


def test_a_run_that_ends_too_soon_is_refused():
    check_profile_steps(STEPS_NEEDED)
    with pytest.raises(InputError, match=rf"{STEPS_NEEDED - 1} steps to go and a profile takes {STEPS_NEEDED}"):
        check_profile_steps(STEPS_NEEDED - 1)


def test_a_large_trace_is_kept_compressed(tmp_path, monkeypatch):
    trace, place = tmp_path / "trace.json", tmp_path / "profile"
    trace.write_text('{"traceEvents": []}')
    place.mkdir()
    assert profile._keep(trace, place) == place / "trace.json"
    monkeypatch.setattr(profile, "LARGE", 5)
    assert profile._keep(trace, place) == place / "trace.json.gz"
    assert json.loads(gzip.decompress((place / "trace.json.gz").read_bytes())) == {"traceEvents": []}
    assert [path.name for path in place.iterdir()] == ["trace.json.gz"]
