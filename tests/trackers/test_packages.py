"""The packages themselves, without a network: what they store is read back."""

import json
import logging
import sqlite3
import struct

import pytest

from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.trackers.identity import read_tracked_run
from hpc_jepa.trackers.processes import send_evaluations

pytestmark = pytest.mark.slow
REASON = "{0} is not installed: pip install 'hpc_jepa[{0}]'"
STEPS = list(range(8))


@pytest.fixture(autouse=True)
def no_warning(caplog):
    """A tracker that failed has said so."""
    yield
    said = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.WARNING]
    assert said == []


@pytest.fixture
def preempted(tracked, session, monkeypatch):
    """``preempted(name, **monitor)``: a run that was preempted, logged two steps again, and was evaluated."""
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nothing listens there: a connection would fail

    def run(name, **monitor):
        pytest.importorskip(name, reason=REASON.format(name))
        config, folder = tracked(name, **monitor)
        session(config, folder, 0, 5, "interrupted")
        session(config, folder, 3, 8)
        result = {"weights": "target", "probe": "linear", "value": 0.5}
        record = {"benchmark": "motion8", "protocol": "standard", "protocol_fingerprint": "x"}
        path = folder.record_file("motion8", "standard", step=4)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record | {"run": {"step": 4}, "results": [result]}))
        send_evaluations(RunDir(folder.path))
        return config, folder

    return run


EVALUATION = "eval/motion8/standard/target/linear"


def wandb_records(path):
    """Records of an offline file: blocks of 32 KiB, in them chunks with checksum, size and kind."""
    from wandb.proto import wandb_internal_pb2

    content, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        size, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, last
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def test_wandb(preempted):
    config, run = preempted("wandb")
    folders = sorted((run.trackers_dir / "wandb").glob("offline-run-*"))
    assert len(folders) == 3  # 'wandb sync' joins them: they have one id
    rows, kinds = [], set()
    for folder in folders:
        (file,) = folder.glob("*.wandb")
        for record in wandb_records(file):
            kinds.add(record.WhichOneof("record_type"))
            if record.HasField("run"):
                assert record.run.run_id == read_tracked_run(run).id and record.run.project == config.study
                stored = {item.key: json.loads(item.value_json) for item in record.run.config.update}
                assert stored["seed"] == 3 and stored["model"]["encoder"]["width"] == 32
                assert record.run.host == "-" and not record.run.git.remote_url
            if record.HasField("history"):
                rows.append(
                    {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                )
    losses = [(row["_step"], row["loss"]) for row in rows if "loss" in row]
    assert losses == [(step, 1 / (step + 1)) for step in STEPS]
    assert [row[EVALUATION] for row in rows if EVALUATION in row] == [0.5]
    assert [row["eval/step"] for row in rows if EVALUATION in row] == [4]
    assert kinds <= {"header", "run", "telemetry", "metric", "summary", "history", "exit", "footer", "preempting"}
    files = {path.name for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert all(name.endswith((".wandb", ".log")) for name in files), files


def test_mlflow(preempted):
    config, run = preempted("mlflow")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{config.runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(config.study)
    (stored,) = client.search_runs([experiment.experiment_id])
    assert stored.data.tags["hpc_jepa.id"] == read_tracked_run(run).id
    assert stored.info.run_name == "test/baseline/seed-3" and stored.info.status == "FINISHED"
    assert stored.data.params["model.encoder.width"] == "32"
    losses = client.get_metric_history(stored.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in losses] == [(step, 1 / (step + 1)) for step in STEPS]
    assert losses[0].timestamp == 1e12
    (result,) = client.get_metric_history(stored.info.run_id, EVALUATION)
    assert (result.step, result.value) == (4, 0.5)
    assert client.list_artifacts(stored.info.run_id) == []


def test_trackio(preempted, tmp_path):
    config, run = preempted("trackio")
    with sqlite3.connect(tmp_path / "trackio" / f"{config.study}.db") as database:
        rows = list(database.execute("select run_name, step, metrics from metrics order by id"))
        ((stored,),) = database.execute("select config from configs")
    assert {name for name, _, _ in rows} == {f"test.baseline.seed-3.{read_tracked_run(run).id[:8]}"}
    assert [(step, json.loads(metrics)["loss"]) for _, step, metrics in rows[:-1]] == [(n, 1 / (n + 1)) for n in STEPS]
    assert rows[-1][1] == 4 and json.loads(rows[-1][2])[EVALUATION] == 0.5
    assert json.loads(stored)["model"]["encoder"]["width"] == 32
