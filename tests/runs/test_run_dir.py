"""``open_run``: configuration, state, metrics and records of a run folder."""

import ast
import json
import math
import re
from pathlib import Path

import pytest

from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.runs import RunDir, open_run
from hpc_jepa.runs.state import RunState, write_state


def record(**results):
    return {
        "run": {"study": "demo", "regime": "tiny", "variant": "ld", "seed": 3, "semantics": "corrected", "step": 20},
        "benchmark": "motion8",
        "protocol": "standard",
        "protocol_fingerprint": "f",
        "results": [
            {"weights": "target", "value": 0.5, "low": 0.4, "high": 0.6, "n": 100, "per_seed": [0.5], **results}
        ],
    }


def test_open_run_reads_the_configuration_and_refuses_other_folders(run, tmp_path):
    assert isinstance(open_run(str(run.path)).config, RunConfig)
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"config\.yaml"):
            open_run(path)


def test_paths_of_study_and_checkpoints(run, tmp_path):
    assert run.study.path == (tmp_path / "runs/demo").resolve()
    assert (run.checkpoint_dirs(), run.last_step()) == ([], 0)
    for name in ("step-00000020", "step-00000004", ".step-00000030.partial", "damaged-00000010"):
        (run.checkpoints_dir / name).mkdir(parents=True)
    assert run.checkpoint_dirs() == [run.checkpoint_dir(4), run.checkpoint_dir(20)]
    assert run.last_step() == 20
    assert RunDir.of_checkpoint(run.checkpoint_dir(4)).path == run.path.resolve()
    assert RunDir.of_checkpoint(run.path) is None
    assert [found.path for found in RunDir.below(tmp_path / "runs")] == [run.path]


def test_example_of_the_documentation_runs(logged, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/run_directory.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    write_state(logged.state_file, RunState(state="done", step=11, steps=11))
    path = logged.record_file("motion8", "standard")
    path.parent.mkdir()
    path.write_text(json.dumps(record(probe="linear")))
    found = {}
    exec(re.sub(r'"runs/.*?"', repr(str(logged.path)), example), found)
    assert list(found["loss"]) == [1.5, 1.0]
    assert list(found["target"]["probe"]) == ["linear"]


def test_metrics_frame_has_a_row_per_step_and_the_names_of_tensorboard(logged):
    frame = open_run(logged.path).metrics()
    assert frame.index.name == "step"
    assert list(frame.index) == [0, 10]
    assert frame["loss"].tolist() == [1.5, 1.0]
    assert frame["terms/ld"].tolist() == pytest.approx([0.3, 0.2])
    assert math.isnan(frame.loc[0, "health/target_std"])
    assert frame.loc[10, "health/effective_rank"] == 8.0


def test_run_without_metrics_or_records_has_empty_frames(run):
    assert run.metrics().empty
    assert run.metrics().index.name == "step"
    assert run.records().empty
    assert run.state is None


def test_metrics_of_steps_with_non_finite_values_and_of_other_releases_are_read(run):
    lines = [
        '{"step": 1, "loss": NaN, "gradient_norm": Infinity, "terms": {"ld": NaN}, "skipped_steps": 1, "later": 5}'
    ]
    run.metrics_file.write_text("".join(f"{line}\n" for line in lines))
    frame = run.metrics()
    assert math.isnan(frame.loc[1, "loss"])
    assert frame.loc[1, "gradient_norm"] == math.inf
    assert frame.loc[1, "later"] == 5


@pytest.mark.parametrize("line", ["{x}", "{}", '{"step": 3}', '{"step": 3, "loss": "low"}', '{"step":3,"lo{"step":4}'])
def test_damaged_metrics_are_named(logged, line):
    with logged.metrics_file.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl:4: "):
        logged.metrics()


def test_records_frame_has_a_row_per_result_of_every_task(run):
    for task, results in (("probe", {"probe": "linear"}), ("few_shot", {"shots": 5, "ways": 8})):
        path = run.record_file("motion8", "standard", task)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record(**results)))
    frame = open_run(run.path).records()
    assert frame["task"].tolist() == ["probe", "few_shot"]
    assert frame["variant"].tolist() == ["ld", "ld"]
    assert frame["value"].tolist() == [0.5, 0.5]
    assert frame.loc[0, "probe"] == "linear"
    assert frame.loc[1, "shots"] == 5
    assert "per_seed" not in frame


@pytest.mark.parametrize("content", ["{}", "{x}", "\0\0", '{"run": {}, "results": []}'])
def test_damaged_record_is_named(run, content):
    run.record_dir().mkdir()
    run.record_file("motion8", "standard").write_text(content)
    with pytest.raises(DataError, match=r"motion8\.standard\.json: "):
        run.records()


def _spelled(tree):
    """Path parts, and string constants that name a file of a run; docstrings aside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            yield node.right.value
        if isinstance(node, ast.Constant) and node.value in FILES:
            yield node.value


FILES = {"config.yaml", "state.json", "metrics.jsonl", "lease.json", "starts.jsonl", "study.yaml", "jobs.jsonl"}
FOLDERS = {"checkpoints", "eval", "events", "log", "profile", "latest", ".submission", "refused.json"}


@pytest.mark.parametrize("root", ["hpc_jepa", "tools"])
def test_only_the_run_directory_spells_its_file_names(root):
    paths = [path for path in (Path(__file__).parents[2] / root).rglob("*.py") if path.parent.name != "runs"]
    assert len(paths) > 10
    offenders = {
        (path.name, name) for path in paths for name in _spelled(ast.parse(path.read_text())) if name in FILES | FOLDERS
    }
    assert offenders == set()
