"""Sequential studies: which cells a look needs, what it decides, and what is refused. Results are planted."""

import csv
import json

import pytest
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.report.write_report import write_report
from hpc_jepa.runs.run_dir import StudyDir
from hpc_jepa.study import local
from hpc_jepa.study.sequential import SequentialStudy
from hpc_jepa.study.status import cell_status
from hpc_jepa.study.submit import take_looks
from hpc_jepa.study.task import evaluation_task, training_task
from tests.study.planted import PlantedStudy

VARIANTS = ("baseline", "fwm", "hw", "ld", "delta")
GAINS = {"fwm": 0.2}
RULE = {"looks": [2, 3, 5], "margin": 5.0, "futility": 0}


@pytest.fixture
def planted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return PlantedStudy(tmp_path, VARIANTS, range(5), sequential=RULE)


def take(planted, failed=()):
    return take_looks(planted.config, StudyDir(planted.runs / "demo"), failed)


def names(step):
    return {(each.cell.config.variant, each.cell.config.seed) for each in step.cells}


def runs_of(planted):
    return {(each.config.variant, each.config.seed) for each in planted.cells if each.run.state is not None}


def finish(planted, **effects):
    """Run the study to its end with planted results; the last step."""
    for _ in range(20):
        step = take(planted)
        if not step.cells:
            return step
        planted.plant([each.cell for each in step.cells], GAINS, **effects)
    raise AssertionError("the study does not end")


def test_a_look_needs_its_seeds_of_all_open_variants(planted):
    step = take(planted)
    assert (step.look, names(step)) == (1, {(variant, seed) for variant in VARIANTS for seed in (0, 1)})
    planted.plant([each.cell for each in step.cells][:3], GAINS)
    assert names(take(planted)) == names(step) - {
        (each.cell.config.variant, each.cell.config.seed) for each in step.cells[:3]
    }


def test_decided_variants_stop_and_the_baseline_goes_on_with_the_last(planted):
    step = finish(planted, seed_spread=0.003)
    decisions = {name.split("/")[1].split()[0]: each.decision for name, each in step.last.decisions.items()}
    assert decisions == {"fwm": "gain", "hw": "equal", "ld": "equal", "delta": "equal"}
    runs = runs_of(planted)
    most = max(seed for _, seed in runs)
    assert ("baseline", most) in runs
    assert len(runs) < len(planted.cells)


def test_repeated_calls_change_nothing_and_a_killed_one_loses_nothing(planted):
    for _ in range(2):
        planted.plant([each.cell for each in take(planted).cells], GAINS, seed_spread=0.03)
    first = take(planted)
    assert len(first.looks.looks) == 2 and first.cells
    file = planted.runs / "demo/looks.json"
    content = file.read_bytes()
    assert names(take(planted)) == names(first)
    assert file.read_bytes() == content
    file.unlink()  # killed before it was written: the same looks come out again
    again = take(planted)
    assert [look.decisions for look in again.looks.looks] == [look.decisions for look in first.looks.looks]
    assert names(again) == names(first)


def test_next_writes_nothing(planted):
    planted.plant(gain=GAINS)
    before = set(planted.runs.rglob("*"))
    step = SequentialStudy(planted.config, planted.runs).next()
    assert step.taken and set(planted.runs.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"sequential": {**RULE, "error": 0.1}}, "error"),
        ({"sequential": {**RULE, "looks": [2, 3, 4, 5]}}, "looks"),
        ({"sequential": {**RULE, "margin": 1}}, "margin"),
        ({"seeds": [4, 3, 2, 1, 0]}, "seeds"),
        ({"variants": VARIANTS[:4]}, "comparisons"),
        ({"sequential": None}, "sequential"),
    ],
)
def test_a_changed_rule_is_refused_with_one_line(planted, changes, key):
    planted.plant([each.cell for each in take(planted).cells], GAINS)
    take(planted)
    before = (planted.runs / "demo/looks.json").read_bytes()
    planted.write(**changes)
    with pytest.raises(InputError) as error:
        take(planted)
    assert "looks.json" in str(error.value) and key in str(error.value) and "\n" not in str(error.value)
    assert (planted.runs / "demo/looks.json").read_bytes() == before


def test_a_recorded_limit_outlives_a_change_of_the_default(planted):
    rule = {key: value for key, value in RULE.items() if key != "futility"}
    planted.write(sequential={**rule, "futility": 0.15})
    take(planted)
    planted.write(sequential=rule)
    assert SequentialStudy(planted.config, planted.runs).rule.futility == 0.15
    assert take(planted).looks.rule.futility == 0.15
    planted.write(sequential={**rule, "futility": 0.05})
    with pytest.raises(InputError, match="futility"):
        take(planted)


def test_a_look_that_was_not_planned_is_refused(planted):
    planted.plant([each.cell for each in take(planted).cells], GAINS)
    take(planted)
    file = planted.runs / "demo/looks.json"
    content = json.loads(file.read_text())
    content["looks"][0]["seeds"] = 4
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="4 seeds"):
        take(planted)


def test_a_record_that_a_look_used_must_not_change(planted):
    planted.plant([each.cell for each in take(planted).cells], GAINS)
    take(planted)
    victim = planted.cells[0]
    planted.plant([victim], {"baseline": 0.1})
    with pytest.raises(DataError, match="seed-0"):
        take(planted)
    for file in (victim.folder / "eval").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="missing"):
        take(planted)


def test_a_failed_cell_is_left_out_counted_and_said(planted):
    step = take(planted)
    failed = next(each.cell for each in step.cells if (each.cell.config.variant, each.cell.config.seed) == ("hw", 1))
    planted.plant([each.cell for each in step.cells if each.cell is not failed], GAINS)
    assert names(take(planted)) == {("hw", 1)}
    step = take(planted, {failed.folder})
    (look,) = step.looks.looks
    assert look.missing == ("tiny/hw/seed-1",)
    assert look.decisions["tiny/hw on motion"].decision == "open"
    assert look.decisions["tiny/hw on motion"].seeds == 1
    assert ("hw", 2) in names(step) and ("hw", 1) not in names(step)
    assert ("hw", 1) in names(take(planted))  # repaired by hand, it takes part in the next look


def test_a_variant_stops_when_it_is_decided_on_all_deciding_benchmarks(tmp_path):
    rule = {**RULE, "decides": [str(tmp_path / f"{name}.yaml") for name in ("one", "two")]}
    planted = PlantedStudy(tmp_path, ("baseline", "fwm"), range(5), ("one", "two", "three"), sequential=rule)
    planted.plant(gain=GAINS, seed_spread=0.001)
    for cell in planted.cells:  # on the second benchmark the variant is undecidable: its gain changes its sign
        if cell.config.variant == "fwm":
            planted.plant([cell], {"fwm": (-1) ** cell.config.seed * 0.2})
            planted.record(cell, cell.evaluations[0], planted.labels < 6)
    step = take(planted)
    last = step.last.decisions
    assert set(last) == {"tiny/fwm on one", "tiny/fwm on two"}
    assert last["tiny/fwm on one"].decision == "gain" and last["tiny/fwm on two"].decision == "open"
    assert len(step.looks.looks) == 3


def test_confirmation_uses_fresh_seeds_alone(planted):
    planted.write(confirmation={"seeds": [10, 11, 12]})
    step = finish(planted, seed_spread=0.003)
    confirmed = step.looks.confirmation
    assert set(confirmed.decisions) == {"tiny/fwm on motion"}
    assert confirmed.decisions["tiny/fwm on motion"].decision == "gain"
    assert {name.split("seed-")[1].split("/")[0] for name in confirmed.records} == {"10", "11", "12"}
    trained = {
        (cell.config.variant, cell.config.seed) for cell in planted.cells if (cell.folder / "state.json").exists()
    }
    assert {variant for variant, seed in trained if seed >= 10} == {"baseline", "fwm"}


PREFIX = {"looks": [2, 3], "margin": 5.0, "futility": 0.15, "prefix": 1}


@pytest.fixture
def prefixed(planted):
    """Looks after one of two steps, confirmed on fresh seeds after both."""
    planted.write(sequential=PREFIX, confirmation={"seeds": [10, 11, 12]})
    return planted


def test_hopeless_variants_stop_after_a_prefix_and_fresh_seeds_decide(prefixed):
    step = take(prefixed)
    assert {each.cell.until for each in step.cells} == {1}
    step = finish(prefixed, seed_spread=0.003)
    last = step.looks.looks[-1]
    assert last.step == 1 and step.looks.rule.prefix == 1
    stopped = {n: each for n, each in last.decisions.items() if each.decision == "hopeless"}
    assert all(each.chance < 0.15 for each in stopped.values())
    assert last.decisions["tiny/fwm on motion"].decision == "gain"
    assert all("/eval/steps/00000001/" in name for look in step.looks.looks for name in look.records)
    assert not any("/eval/steps/" in name for name in step.looks.confirmation.records)
    trained = [cell for cell in prefixed.cells if cell.run.state is not None]
    lengths = {(cell.config.variant, cell.config.seed >= 10, cell.run.state.step) for cell in trained}
    selected = {name.split("/")[1].split()[0] for name in step.looks.confirmation.decisions}
    assert lengths == {(v, False, 1) for v in VARIANTS} | {(v, True, 2) for v in {"baseline", *selected}}
    assert step.looks.confirmation.decisions["tiny/fwm on motion"].decision == "gain"


def test_one_look_at_a_prefix_selects(prefixed):
    prefixed.write(sequential={**PREFIX, "looks": [2], "margin": 0.1})
    step = finish(prefixed, seed_spread=0.003)
    (look,) = step.looks.looks
    assert "hopeless" in {each.decision for each in look.decisions.values()}
    assert "tiny/fwm on motion" in step.looks.confirmation.decisions


def test_tasks_of_a_prefix_stop_there(prefixed):
    cell = take(prefixed).cells[0].cell
    assert training_task(cell).commands[0][:3] == ("train", "--until", "1")
    assert [command[-4:] for command in evaluation_task(cell).commands] == [("--weights", "target", "--step", "1")]
    kinds = [task.kind for task in local.cell_tasks(cell)]
    assert kinds == ["train", "evaluate"]
    prefixed.plant([cell])
    assert list(local.cell_tasks(cell)) == []
    assert cell_status(cell).state == "done"


def test_report_shows_the_fresh_seeds_alone_and_no_gap_for_a_prefix(prefixed):
    finish(prefixed, seed_spread=0.003)
    folder = write_report([prefixed.runs / "demo"]).folder
    assert "after 1 steps of each run" in json.loads((folder / "report.json").read_text())["findings"][0]
    page = (folder / "index.html").read_text()
    assert "never started" not in page and "interrupted" not in page


def test_report_before_the_confirmation_is_refused_with_one_line(prefixed):
    prefixed.plant([each.cell for each in take(prefixed).cells])
    with pytest.raises(InputError) as error:
        write_report([prefixed.runs / "demo"])
    assert "last step" in str(error.value) and "\n" not in str(error.value)


def test_a_changed_prefix_is_refused(prefixed):
    take(prefixed)
    prefixed.write(overrides=["schedule.steps=4"], sequential={**PREFIX, "prefix": 2})
    with pytest.raises(InputError, match=r"looks\.json.*prefix"):
        take(prefixed)


def submit(planted, *arguments):
    return CliRunner().invoke(app, ["study", "submit", str(planted.path), "--runs", str(planted.runs), *arguments])


def test_submit_runs_look_after_look_on_this_machine_and_continues_after_an_interruption(planted, monkeypatch):
    calls = []

    def run(cells, jobs, on_status):
        calls.append({(cell.config.variant, cell.config.seed) for cell in cells})
        if len(calls) == 2:
            raise KeyboardInterrupt
        planted.plant(cells, GAINS, seed_spread=0.03)
        return []

    monkeypatch.setattr(local, "run_locally", run)
    assert submit(planted).exit_code != 0
    result = submit(planted)
    assert result.exit_code == 0 and "finished" in result.stderr
    assert calls[0] == {(variant, seed) for variant in VARIANTS for seed in (0, 1)}
    assert calls[1] == calls[2] and len(set.union(*calls)) == sum(map(len, calls)) - len(calls[1])
    assert submit(planted).exit_code == 0 and len(calls) == len({frozenset(call) for call in calls}) + 1


def test_failed_cells_end_submit_unless_they_are_skipped(planted, monkeypatch):
    def run(cells, jobs, on_status):
        failed = [cell for cell in cells if (cell.config.variant, cell.config.seed) == ("hw", 1)]
        planted.plant([cell for cell in cells if cell not in failed], GAINS)
        return [local.FailedTask(cell, "diverged", cell.folder) for cell in failed]

    monkeypatch.setattr(local, "run_locally", run)
    result = submit(planted)
    assert result.exit_code != 0 and "diverged" in str(result.exception) + result.output
    assert not json.loads((planted.runs / "demo/looks.json").read_text())["looks"]
    result = submit(planted, "--skip-failed")
    assert result.exit_code == 0 and "without 1 failed cell" in result.stderr


def test_status_and_report_know_the_cells_that_are_not_needed(planted):
    finish(planted, seed_spread=0.003)
    arguments = ["study", "status", str(planted.path), "--runs", str(planted.runs), "--json"]
    found = json.loads(CliRunner().invoke(app, arguments).stdout)
    stopped = [cell for cell in found if cell["state"] == "not needed"]
    assert len(stopped) + len(runs_of(planted)) == len(found) == 25
    assert any("stopped at look 1: gain" in cell["note"] for cell in stopped)
    folder = write_report([planted.runs / "demo"]).folder
    assert "never started" not in (folder / "index.html").read_text()
    findings = json.loads((folder / "report.json").read_text())["findings"]
    assert "gains: tiny/fwm on motion (+20" in findings[0] and "look 1 of 3" in findings[0]


def grid_of(planted):
    """Lines of grid.csv by variant, after a report; and the page."""
    folder = write_report([planted.runs / "demo"]).folder
    with (folder / "grid.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["benchmark"].endswith("linear")]
    return {line["variant"].split(" ")[0]: line for line in lines}, (folder / "index.html").read_text()


def test_report_marks_what_the_rule_of_the_study_decided_and_nothing_else(planted):
    planted.write(sequential={**RULE, "margin": 0.5})
    cells = [each.cell for each in take(planted).cells]
    planted.plant(cells, {"fwm": 0.2, "hw": 0.015}, seed_spread=0.003)
    found, _ = grid_of(planted)
    assert {line["significant"] for line in found.values() if line["reference"]} == {"False"}  # before the first look
    step = take(planted)
    decisions = {name.split("/")[1].split()[0]: each for name, each in step.last.decisions.items()}
    assert decisions["hw"].decision == "open" and decisions["fwm"].decision == "gain"
    assert 4 * decisions["hw"].p_value < 0.01  # Holm's correction alone would call it significant
    found, page = grid_of(planted)
    for variant, recorded in decisions.items():
        line = found[variant]
        assert (line["decision"], line["significant"]) == (recorded.decision, str(recorded.decision == "gain"))
        assert float(line["difference"]) == pytest.approx(recorded.difference, abs=0.006)
        assert float(line["difference_low"]) == pytest.approx(recorded.low, abs=0.006)
        assert not line["p_holm"] and not line["simultaneous_low"]
    assert 'class="change up"' in page and "look 1 of 3" in page and "not adjusted" in page.replace("\n", " ")
    assert "after Holm's correction over" not in page.replace("&#39;", "'").replace("\n", " ")


def test_report_has_no_verdict_before_the_confirmation(planted):
    planted.write(confirmation={"seeds": [10, 11, 12]})
    while "confirmation" not in take(planted).stage:
        planted.plant([each.cell for each in take(planted).cells], GAINS, seed_spread=0.003)
    found, page = grid_of(planted)
    assert {line["significant"] for line in found.values() if line["reference"]} == {"False"}
    assert "before its confirmation" in page
    finish(planted, seed_spread=0.003)
    found, _ = grid_of(planted)
    assert (found["fwm"]["decision"], found["fwm"]["significant"], found["fwm"]["common_seeds"]) == (
        "gain",
        "True",
        "3",
    )
    assert not found["hw"]["decision"] and found["hw"]["significant"] == "False"


def test_a_damaged_record_of_looks_leaves_a_report_without_verdicts(planted):
    planted.plant([each.cell for each in take(planted).cells], GAINS, seed_spread=0.003)
    take(planted)
    (planted.runs / "demo/looks.json").write_text("{")
    found, _ = grid_of(planted)
    assert {line["significant"] for line in found.values() if line["reference"]} == {"False"}


def test_rules_written_after_results_are_said(planted):
    planted.plant(gain=GAINS)
    assert take(planted).looks.evaluated_before == len(planted.cells)
    result = CliRunner().invoke(app, ["study", "next", str(planted.path), "--runs", str(planted.runs)])
    assert result.exit_code == 0 and "25 runs were evaluated before" in result.stdout


def test_next_prints_a_table_and_json(planted, monkeypatch):
    planted.plant([each.cell for each in take(planted).cells], GAINS, seed_spread=0.03)
    arguments = ["study", "next", str(planted.path), "--runs", str(planted.runs)]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0
    assert "baseline of open variants" in shown.stdout and "tiny/hw seed 2" in shown.stdout
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert found["look"] == 2 and found["new_looks"] == [1]
    assert {cell["folder"] for cell in found["cells"]} == {str(each.cell.folder) for each in take(planted).cells}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"sequential": {**RULE, "looks": [3, 2]}}, "looks"),
        ({"sequential": {**RULE, "looks": [1, 2]}}, "looks"),
        ({"sequential": {**RULE, "looks": [2, 9]}}, "looks"),
        ({"sequential": {**RULE, "margin": 0}}, "margin"),
        ({"sequential": {**RULE, "typo": 1}}, "typo"),
        ({"sequential": {**RULE, "decides": ["elsewhere"]}}, "decides"),
        ({"evaluations": []}, "evaluations"),
        ({"variants": ["baseline", {"objective": "fwm", "seeds": [0]}]}, "seeds"),
        ({"confirmation": {"seeds": [0, 11]}}, "confirmation"),
        ({"sequential": None, "confirmation": {"seeds": [10, 11]}}, "confirmation"),
        ({"confirmation": {"seeds": [10, 10]}}, "confirmation.seeds"),
        ({"sequential": {**RULE, "prefix": 1}}, "prefix"),
        ({"sequential": {**RULE, "prefix": 0}, "confirmation": {"seeds": [10, 11]}}, "prefix"),
        ({"sequential": {**RULE, "prefix": 2}, "confirmation": {"seeds": [10, 11]}}, "prefix"),
        ({"variants": ["fwm", "hw"]}, "baseline"),
        ({"axes": {"schedule.lr": [1e-4, 2e-4]}}, "axes"),
        ({"phases": [{"name": "main"}]}, "phases"),
    ],
)
@pytest.mark.parametrize("command", ["next", "plan"])
def test_bad_rules_are_refused(planted, changes, key, command):
    planted.write(**changes)
    result = CliRunner().invoke(app, ["study", command, str(planted.path), "--runs", str(planted.runs)])
    assert isinstance(result.exception, InputError) or result.exit_code == 2
    assert key in str(result.exception) + result.output
