"""No thread dies in silence: an error in any of them is raised where its result is needed, or stops the run."""

import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hpc_jepa.checkpoint import integrity
from hpc_jepa.data import storage
from hpc_jepa.data.prefetch import Prefetcher
from hpc_jepa.data.shards import verify
from hpc_jepa.data.storage import LocalStorage, ScratchCache
from hpc_jepa.devices import thread_pool
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.evaluation.probes.pooler_trainer import PoolerSource
from hpc_jepa.runs import lease as leases
from hpc_jepa.runs.lease import Lease, hold_lease
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.study import cell_pool, local, slots
from hpc_jepa.training import metrics

PACKAGE = Path(leases.__file__).parents[1]
STARTS_THREADS = re.compile(r"\b(thread_pool|ThreadPoolExecutor|threading\.Thread|Prefetcher)\(")
TESTED_BY = {
    "checkpoint/integrity.py": "test_an_error_while_files_are_verified",
    "checkpoint/writer.py": "test_an_error_in_a_thread_of_a_run",
    "cli/gpu_check/processes.py": "test_a_pool_raises_what_its_tasks_raise",
    "data/evaluation_clips.py": "test_an_error_in_a_decoding_thread_of_an_evaluation",
    "data/loader.py": "test_an_error_in_a_thread_of_a_run",
    "data/prefetch.py": "test_a_prefetcher_raises_what_its_thread_raises",
    "data/shards/verify.py": "test_an_error_while_shards_are_verified",
    "data/shards/worker_pool.py": "test_the_thread_that_watches_the_parent_ends_the_worker_whatever_happens",
    "data/storage.py": "test_an_error_of_the_copier_is_raised_by_the_next_read",
    "data/torchcodec_pipeline.py": "test_a_pool_raises_what_its_tasks_raise",
    "devices.py": "test_a_pool_raises_what_its_tasks_raise",
    "evaluation/probes/pooler_trainer.py": "test_an_error_in_a_decoding_thread_of_a_pooler",
    "runs/lease.py": "test_heartbeats_that_end_stop_the_run",
    "study/cell_pool.py": "test_heartbeats_of_claims_that_end_stop_the_job",
    "study/slots.py": "test_an_error_in_a_thread_of_a_study",
    "training/batches.py": "test_an_error_in_a_thread_of_a_run",
    "training/metrics.py": "test_an_error_of_the_effective_rank",
}


def planted(*arguments, **keywords):
    raise RuntimeError("planted")


def test_every_module_with_threads_has_a_test():
    sources = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}
    assert {path for path, text in sources.items() if STARTS_THREADS.search(text)} == TESTED_BY.keys()
    assert set(TESTED_BY.values()) <= globals().keys()


@pytest.mark.parametrize(
    ("place", "calls"),
    [
        ("hpc_jepa.runs.lease:Lease.heartbeat", 1),
        ("hpc_jepa.checkpoint.layout:commit_checkpoint", 0),
        ("hpc_jepa.data.shards.shard_folder:ShardFolder.read", 20),
        ("hpc_jepa.data.loader:ClipLoader._decode_row", 20),
        ("hpc_jepa.training.batches:TrainBatch", 4),
    ],
)
def test_an_error_in_a_thread_of_a_run(place, calls, regime, start, state_of):
    path, run = regime(100_000, every=2)
    stopped = start("train", path, raises=(place, calls))
    assert stopped.wait() != 0 and state_of(run) == "failed", stopped.text
    assert "planted" in json.loads((run / "state.json").read_text())["error"]


def test_an_error_in_a_decoding_thread_of_a_pooler():
    source = PoolerSource(clips=None, encode=None, limit=2, threads=2)
    with source.groups(planted, [np.arange(3)]) as group, pytest.raises(RuntimeError, match="planted"):
        group(0)


def test_an_error_in_a_decoding_thread_of_an_evaluation(regime, benchmark, start, finish):
    path, run = regime(2)
    assert finish("train", path)[0] == 0
    command = ("evaluate", run, "--benchmark", benchmark)
    stopped = start(*command, raises=("hpc_jepa.data.evaluation_clips:decode_frames", 5))
    assert stopped.wait() != 0 and "planted" in stopped.text
    assert not [*run.glob("eval/*.json")]


def test_heartbeats_that_end_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_INTERVAL", 0.001)
    monkeypatch.setattr("threading.excepthook", lambda details: None)
    with monkeypatch.context() as patch, hold_lease(RunDir(tmp_path)) as lease:
        patch.setattr(Lease, "heartbeat", planted)
        with pytest.raises(HpcJepaError, match="planted"):
            while True:
                lease.check()


def test_an_error_while_files_are_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(integrity, "_file_error", planted)
    with pytest.raises(RuntimeError, match="planted"):
        integrity.file_errors(tmp_path, {"a": None, "b": None})


def test_an_error_while_shards_are_verified(motion_shards, monkeypatch):
    monkeypatch.setattr(verify, "_shard_errors", planted)
    with pytest.raises(RuntimeError, match="planted"):
        verify.find_shard_errors(motion_shards / "test", 2, lambda: None)
    monkeypatch.setattr(verify, "_sample_errors", planted)
    with pytest.raises(RuntimeError, match="planted"):
        verify.find_decode_errors(motion_shards / "test", [0, 1], 2, lambda: None)


def test_a_prefetcher_raises_what_its_thread_raises():
    prefetcher = Prefetcher(planted, ahead=2)
    with pytest.raises(RuntimeError, match="planted"):
        prefetcher.get(0)
    prefetcher.close()


def test_a_pool_raises_what_its_tasks_raise():
    with thread_pool(2, "pool") as pool:
        with pytest.raises(RuntimeError, match="planted"):
            pool.submit(planted).result()
        with pytest.raises(RuntimeError, match="planted"):
            list(pool.map(planted, [1, 2]))


def test_an_error_of_the_copier_is_raised_by_the_next_read(tmp_path, monkeypatch):
    first_read = threading.Event()

    def copy(*arguments):
        first_read.wait()
        planted()

    monkeypatch.setattr(storage, "_copy_file", copy)
    tar = tmp_path / "a.tar"
    tar.write_bytes(b"content")
    cache = ScratchCache(tmp_path / "scratch", 1000, evict=False)
    assert cache.read(tar, "0" * 64, 0, 7, LocalStorage()) == b"content"
    first_read.set()
    cache.close()
    with pytest.raises(RuntimeError, match="planted"):
        cache.read(tar, "0" * 64, 0, 7, LocalStorage())


def test_an_error_of_the_effective_rank(monkeypatch):
    monkeypatch.setattr(metrics, "effective_rank", planted)
    logger = metrics.MetricsLogger.__new__(metrics.MetricsLogger)
    logger._gather = lambda rows: rows
    with thread_pool(1, "effective-rank") as logger._rank_thread, pytest.raises(RuntimeError, match="planted"):
        logger._effective_ranks(torch.eye(2))()


def test_the_thread_that_watches_the_parent_ends_the_worker_whatever_happens(monkeypatch):
    from hpc_jepa.data.shards import worker_pool

    ended = []
    monkeypatch.setattr(worker_pool.os, "_exit", ended.append)
    monkeypatch.setattr(worker_pool.multiprocessing, "parent_process", lambda: type("Parent", (), {"join": planted})())
    with pytest.raises(RuntimeError, match="planted"):
        worker_pool._exit_with_parent()
    assert ended == [1]


def test_heartbeats_of_claims_that_end_stop_the_job(tmp_path, monkeypatch):
    monkeypatch.setattr(cell_pool, "HEARTBEAT_INTERVAL", 0.001)
    monkeypatch.setattr("threading.excepthook", lambda details: None)
    pool = cell_pool.CellPool.create(tmp_path, [])
    monkeypatch.setattr(pool, "_renew", planted)
    with pool.heartbeats(), pytest.raises(HpcJepaError, match="planted"):
        while True:
            pool.take([])


def test_an_error_in_a_thread_of_a_study(monkeypatch):
    monkeypatch.setattr(slots, "TaskRunner", planted)
    monkeypatch.setattr(local, "cell_tasks", lambda cell: iter([SimpleNamespace(kind="train")]))
    monkeypatch.setattr(local, "status_or_damaged", lambda cell: None)
    monkeypatch.setattr(local, "_running_status", lambda task, status: status)
    with pytest.raises(RuntimeError, match="planted"):
        local.run_locally([SimpleNamespace(folder="run", after=None)], local.LocalJobs(1), lambda cell, status: None)
