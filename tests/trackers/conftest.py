"""Runs with metrics that nobody had to train, and stand-ins for the packages of trackers."""

import json
import textwrap

import pytest

from hpc_jepa.config.loading import dump_config
from hpc_jepa.io.jsonl import append_jsonl
from hpc_jepa.runs.metrics_log import discard_metrics_from
from hpc_jepa.runs.restarts import record_start
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.runs.state import RunState, write_state
from hpc_jepa.trackers.processes import track


class Given:
    """What a stand-in was given."""

    def __init__(self, log):
        self.log = log

    @property
    def lines(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    @property
    def steps(self):
        return [line["step"] for line in self.lines if "step" in line]


@pytest.fixture
def tracked(configure, monkeypatch, tmp_path):
    """``tracked(*names, **monitor)``: a configuration with trackers and its run folder, with files in ``tmp_path``."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def make(*names, **monitor):
        settings = {"trackers": names, "tracker_wait": 600.0, "wandb": {"mode": "offline"}, "tensorboard": False}
        config = configure(monitor={"log_every": 1, "health_every": 4} | settings | monitor)
        run = RunDir(config.folder)
        run.path.mkdir(parents=True, exist_ok=True)
        run.config_file.write_text(dump_config(config))
        return config, run

    return make


@pytest.fixture
def session():
    """A start that logs the steps from ``first`` to before ``last``, as training does."""

    def start(config, run, first, last, state="done", until=lambda trackers: None):
        record_start(run, first)
        discard_metrics_from(run.metrics_file, first)
        with track(run, config, first, start=True) as trackers:
            for step in range(first, last):
                append_jsonl(run.metrics_file, {"step": step, "time": 1e9 + step, "loss": 1 / (step + 1), "ema": 0.9})
                trackers.check()
            until(trackers)
            write_state(run.state_file, RunState(state=state, step=last, steps=last))

    return start


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """``stand_in(body)``: a package ``trackio`` whose runs append what they are given to a file, which is returned.

    ``body`` is executed at the beginning of ``log``.
    """
    folder, log = tmp_path / "packages", tmp_path / "given.jsonl"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def write(body="pass"):
        folder.mkdir(exist_ok=True)
        (folder / "trackio.py").write_text(
            textwrap.dedent(f"""
            import json, os, time

            def write(**line):
                with open({str(log)!r}, "a") as file:
                    file.write(json.dumps(line) + "\\n")

            class Run:
                def log(self, metrics, step):
                    exec({textwrap.dedent(body)!r})
                    write(step=step, metrics=metrics)
                def finish(self):
                    write(finished=True)

            def init(project, **options):
                write(project=project, name=options["name"], environment=dict(os.environ), config=options["config"])
                return Run()
            """)
        )
        return Given(log)

    return write
