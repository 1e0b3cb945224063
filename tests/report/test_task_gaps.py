"""Few-shot, robustness and text records that runs lack, in the report and in the status of the study."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from simulated_records import write_few_shot, write_robustness, write_run, write_text
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.evaluation.record import RunIdentity
from hpc_jepa.report.report_data import collect_run_data
from hpc_jepa.report.run_report import find_runs
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.grid import create_study_dir, expand_study

TASKS = ("few_shot", "robustness", "text")
OVERRIDES = {"few_shot": "few_shot.draws=2", "robustness": "robustness.corruptions=[noise]", "text": "text.width=8"}
RIGHT = np.arange(40) % 2 == 0


def write_task(config, task, weights=("target",), **facts):
    """A record of a task; ``facts``: fields of it."""
    write = {"few_shot": write_few_shot, "robustness": write_robustness, "text": write_text}[task]
    conditions = {
        "few_shot": {(1,): np.tile(RIGHT, (2, 1))},
        "robustness": {("linear", "clean", 0): RIGHT, ("linear", "noise", 1): RIGHT},
        "text": {("class_names", 0.0): RIGHT},
    }[task]
    answers = {(name, *condition): right for name in weights for condition, right in conditions.items()}
    return write(config, "motion8", "standard", answers, **facts)


def gaps_of(study):
    return collect_run_data(find_runs([study]), [study]).gaps


@dataclass(frozen=True)
class Planned:
    """A study of two trained runs, and its file."""

    file: Path
    cells: list[StudyCell]

    def write(self, cell, task, **facts):
        """Its record of a task, as its evaluation writes it; ``facts``: other fields."""
        (evaluation,) = (each for each in cell.evaluations if each.task == task)
        known = min(evaluation.fingerprints)
        return write_task(cell.config, task, **{"protocol_fingerprint": known, **facts})

    def absent(self):
        """By variant and task: the line of the report on what is missing."""
        gaps = gaps_of(self.file.parent / "runs/demo")
        named = [(cell.config.variant, task) for cell in self.cells for task in TASKS]
        return {(v, t): line for v, t in named for line in gaps if line.startswith(f"{v} (") and f", {t}" in line}

    def status(self):
        """By variant: state, and which tasks are done and which are named as lacking."""
        shown = CliRunner().invoke(app, ["study", "status", str(self.file), "--json"])
        assert shown.exit_code == 0, shown.output
        found = {}
        for cell in json.loads(shown.stdout):
            done = {each["task"] for each in cell["evaluations"] if each["done"]}
            lacking = cell["note"].partition("not on ")[2]
            found[Path(cell["folder"]).parent.name] = cell["state"], done, {t for t in TASKS if t in lacking}
        return found


@pytest.fixture
def planned(tiny_regime, tiny_benchmark, tmp_path, monkeypatch):
    """``planned(*tasks)``: a study of two variants that lists tasks, whose runs are trained."""
    monkeypatch.chdir(tmp_path)

    def make(*tasks, weights=("target",)):
        entry = {"benchmark": "benchmark.yaml", "weights": list(weights)}
        study = {"study": "demo", "regimes": ["tiny.yaml"], "variants": ["baseline", "fwm"], "seeds": [0]}
        study["evaluations"] = [{**entry, "task": task, "overrides": [OVERRIDES[task]]} for task in tasks]
        for name, content in (("tiny", tiny_regime(4)), ("benchmark", tiny_benchmark), ("study", study)):
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        config = read_config(StudyConfig, [tmp_path / "study.yaml"])
        create_study_dir(config, tmp_path / "runs")
        cells = expand_study(config, Path("runs"))
        for cell in cells:
            write_run(cell.config)
        return Planned(tmp_path / "study.yaml", cells)

    return make


def test_a_listed_task_is_missing_until_its_record_is_there(planned):
    study = planned(*TASKS)
    baseline, fwm = study.cells
    study.write(baseline, "few_shot")
    study.write(fwm, "text")
    assert set(study.absent()) == {
        ("baseline", "robustness"), ("baseline", "text"), ("fwm", "few_shot"), ("fwm", "robustness"),
    }  # fmt: skip
    assert study.status() == {
        "baseline": ("trained", {"few_shot"}, {"robustness", "text"}),
        "fwm": ("trained", {"text"}, {"few_shot", "robustness"}),
    }
    for cell in study.cells:
        study.write(cell, "robustness")
    assert set(study.absent()) == {("baseline", "text"), ("fwm", "few_shot")}
    study.write(baseline, "text")
    study.write(fwm, "few_shot")
    assert study.absent() == {}
    assert study.status() == {name: ("done", {*TASKS}, set()) for name in ("baseline", "fwm")}


@pytest.mark.parametrize("task", TASKS)
def test_records_of_other_settings_another_step_or_without_weights_are_missing_and_say_why(planned, task):
    both = ("target", "student")
    study = planned(task, weights=both)

    def reason(weights=both, step=4, state="trained", **facts):
        """Why the record that each of the runs has does not count."""
        for cell in study.cells:
            study.write(cell, task, weights=weights, run=RunIdentity.of(cell.config, step), **facts)
        absent = study.absent()
        assert absent.keys() == {(cell.config.variant, task) for cell in study.cells if state == "trained"}
        assert {found[0] for found in study.status().values()} == {state}
        return {line.partition(f", {task}")[2] for line in absent.values()}

    (other,) = reason(protocol_fingerprint="0" * 16)
    (without,) = reason(weights=("target",))
    (early,) = reason(step=3)
    assert "student" in without and "target" not in without
    assert "3" in early and "4" in early
    assert len({other, without, early, ""}) == 4
    assert reason(state="done") == set()


@pytest.mark.parametrize("task", TASKS)
def test_a_task_that_other_runs_of_the_regime_have_is_missing_without_a_study_file(write, task):
    def run(variant, regime="quickstart", state="done"):
        return read_config(RunConfig, [write.run(variant, regime=regime, state=state) / "config.yaml"])

    write_task(run("baseline"), task)
    run("fwm", state="running")
    run("ld", regime="other")
    late = run("ld")

    def lines():
        return [line for line in gaps_of(write.root / "demo") if f", {task}" in line]

    (line,) = lines()
    assert line.startswith("ld (") and "motion8" in line and "standard" in line
    write_task(late, task)
    assert lines() == []
