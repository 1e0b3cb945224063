"""A profiled run writes a trace and a summary, and computes the same bits as any other run."""

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


def silent(record):
    pass


def phase_rows(page):
    """Cells of the table of phases."""
    table = page.partition("## Phases")[2].strip().split("\n\n")[0]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]


def host_syncs(page):
    return float(re.search(r"Host syncs per step: ([\d.]+)", page)[1])


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_profiled_run_has_the_metrics_of_any_other_and_a_summary(stage, configure, metrics_of):
    engine = {"precision": "fp32", "batch_size": 4, "zero_stage": stage}
    plain, profiled = configure(study="plain", engine=engine), configure(study="profiled", engine=engine)
    train(plain, silent)
    assert train(profiled, silent, profile=True) == "done"
    assert metrics_of(profiled.folder) == metrics_of(plain.folder)
    assert not (plain.folder / "profile").exists()

    folder = profiled.folder / "profile"
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    ranges = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert set(PHASES) <= set(ranges)
    assert (ranges.count("step"), ranges.count("student"), ranges.count("target")) == (5, 5, 5)
    shares = Trace(folder / "trace.json").host_shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) > 0

    page = (folder / "summary.md").read_text()
    rows = phase_rows(page)
    assert [row[0] for row in rows] == [*PHASES, "other", "between steps"]
    assert sum(float(row[1].rstrip("%")) for row in rows) == pytest.approx(100, abs=0.5)
    assert re.search(r"aten::(add)?mm\b", page.partition("## Operators")[2])
    assert (host_syncs(page) < 1) == (stage < 3)  # a save between steps has one


def test_the_summary_locates_host_syncs(configure, monkeypatch):
    def page_of(study):
        config = configure(study=study, engine={"precision": "fp32", "batch_size": 4, "zero_stage": 0})
        train(config, silent, profile=True)
        return (config.folder / "profile" / "summary.md").read_text()

    before = host_syncs(page_of("without"))
    get = BatchPrefetcher.get

    def get_with_two_syncs(self, step):
        batch = get(self, step)
        assert batch.clips.pixels.sum().item() == batch.clips.pixels.sum().item()
        return batch

    monkeypatch.setattr(BatchPrefetcher, "get", get_with_two_syncs)
    page = page_of("with")
    assert host_syncs(page) == before + 2
    assert re.search(r"2 x `train_step` at hpc_jepa/training/loop.py:\d+", page)


def test_an_interrupted_profile_leaves_no_wrappers_and_no_files(configure):
    def interrupt(record):
        if record.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    config = configure()
    assert train(config, interrupt, profile=True) == "interrupted"
    assert not (config.folder / "profile").exists()
    assert train(config, silent) == "done"


def test_a_run_with_too_few_steps_is_refused():
    check_profile_steps(STEPS_NEEDED)
    with pytest.raises(InputError, match=str(STEPS_NEEDED)):
        check_profile_steps(STEPS_NEEDED - 1)


def test_a_large_trace_is_compressed(tmp_path, monkeypatch):
    trace, folder = tmp_path / "trace.json", tmp_path / "profile"
    trace.write_text('{"traceEvents": []}')
    folder.mkdir()
    assert profile._keep_trace(trace, folder) == folder / "trace.json"
    monkeypatch.setattr(profile, "COMPRESS_ABOVE_BYTES", 5)
    assert profile._keep_trace(trace, folder) == folder / "trace.json.gz"
    assert json.loads(gzip.decompress((folder / "trace.json.gz").read_bytes())) == {"traceEvents": []}
    assert [path.name for path in folder.iterdir()] == ["trace.json.gz"]
