"""Runs that a study uses of other studies: which run is chosen, what is refused, and who trains it."""

import csv
import json
import time

import pytest
import yaml
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.config.cluster import local_cluster
from hpc_jepa.config.loading import dump_config, find_config, read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.runs.lease import LeaseHolder
from hpc_jepa.runs.run_dir import StudyDir
from hpc_jepa.runs.state import RunState, write_state
from hpc_jepa.study import local, submit, task
from hpc_jepa.study.cell_pool import CellPool
from hpc_jepa.study.forecast import forecast_study
from hpc_jepa.study.grid import create_study_dir, expand_study
from hpc_jepa.study.job_log import JobLog, JobQueue, SubmittedJob, newest, packed_states
from hpc_jepa.study.packing import pooled_trainings
from hpc_jepa.study.preflight import preflight_errors
from hpc_jepa.study.slurm_cli import JobState
from hpc_jepa.study.submit import cancel_study, missing_work

RUNNING = JobState("RUNNING", "None", "n1")
STEPS = {"benchmark": "benchmark.yaml", "weights": ["target"], "every": 2}


@pytest.fixture
def write(tiny_regime, tiny_benchmark, tmp_path, monkeypatch):
    """``write(name, **changes)``: the configuration of a study of tiny runs in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "regime.yaml").write_text(yaml.safe_dump(tiny_regime(4)))
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(tiny_benchmark))

    def study(name, **changes):
        content = {
            "study": name,
            "regimes": ["regime.yaml"],
            "variants": ["baseline", "fwm"],
            "seeds": [0, 1],
            "evaluations": [{"benchmark": "benchmark.yaml", "weights": ["target"]}],
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return read_config(StudyConfig, [path])

    return study


@pytest.fixture
def cells_of(tmp_path):
    """``cells_of(study)``: its cells by variant and seed."""

    def expand(study):
        cells = expand_study(study, tmp_path / "runs")
        return {(cell.folder.parent.name, cell.config.seed): cell for cell in cells}

    return expand


@pytest.fixture
def submitted(write, tmp_path):
    """``submitted(name, **changes)``: the same of a study whose ``study.yaml`` is below the runs."""

    def create(name, **changes):
        study = write(name, **changes)
        create_study_dir(study, tmp_path / "runs")
        return study

    return create


def begin(cell):
    """Write the configuration of a run, as a training does first."""
    cell.folder.mkdir(parents=True)
    cell.run.config_file.write_text(dump_config(cell.config))
    return cell


def finish(cell):
    """Write what says that a run is trained."""
    begin(cell)
    write_state(cell.run.state_file, RunState(state="done", step=4, steps=4))
    return cell


def owners(cells):
    return {key: cell.reused_from for key, cell in cells.items()}


def training(cell, job, **changes):
    return SubmittedJob(job=job, kind="train", folder=cell.folder, cluster="c", time=time.time(), **changes)


def test_a_run_that_another_study_lists_is_its_run_whether_it_is_trained_or_not(submitted, write, cells_of, tmp_path):
    first = submitted("first", variants=["baseline"], seeds=[0])
    second = write("second", reuse=["first"])
    found = cells_of(second)
    assert owners(found) == {("baseline", 0): "first", ("baseline", 1): None, ("fwm", 0): None, ("fwm", 1): None}
    (run,), shared = cells_of(first).values(), found["baseline", 0]
    assert shared.folder == run.folder == tmp_path / "runs/first/tiny/baseline/seed-0"
    assert (shared.config, shared.arguments) == (run.config, run.arguments)
    assert [str(each) for each in shared.evaluations] == ["motion8.standard"]
    finish(run)
    assert owners(cells_of(second)) == owners(found)


def test_a_run_that_has_begun_is_preferred_and_stays_where_it_is(submitted, write, cells_of):
    submitted("first")
    extended = submitted("extended")
    own = cells_of(write("second"))
    second = write("second", reuse=["first", "extended"])
    begin(own["baseline", 0])
    begin(cells_of(extended)["baseline", 1])
    folder = StudyDir(own["fwm", 0].config.runs / "second")
    JobLog(folder).append([training(own["fwm", 0], "7")])
    assert owners(cells_of(second)) == {
        ("baseline", 0): None,
        ("baseline", 1): "extended",
        ("fwm", 0): None,
        ("fwm", 1): "first",
    }


def test_chains_and_circles_lead_all_studies_to_one_run(submitted, cells_of):
    first = submitted("first")
    middle = submitted("middle", reuse=["first"])
    last = submitted("last", reuse=["middle"])
    assert {*owners(cells_of(middle)).values(), *owners(cells_of(last)).values()} == {"first"}
    folders = [[cell.folder for cell in cells_of(study).values()] for study in (first, middle, last)]
    assert folders[0] == folders[1] == folders[2]
    one, two = submitted("one", reuse=["two"]), submitted("two", reuse=["one"])
    for cell in list(cells_of(one).values()):
        begin(cell)
    assert {*owners(cells_of(one)).values()} == {"two"} and {*owners(cells_of(two)).values()} == {None}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"overrides": ["schedule.lr=3.0e-4"]}, "schedule.lr"),
        ({"variants": [{"objective": "fwm_ld", "name": "baseline"}]}, "objectives"),
        ({"evaluations": [STEPS], "overrides": ["checkpoint.keep_every=2"]}, "checkpoint.keep_every"),
    ],
)
def test_a_run_of_other_settings_is_refused_with_line_key_and_remedy(submitted, write, cells_of, changes, key):
    submitted("first", variants=["baseline"])
    with pytest.raises(InputError, match=rf"second\.yaml:\d+: reuse\.0: .*seed-0 .*{key}.*remove first"):
        cells_of(write("second", reuse=["first"], **changes))


def test_what_a_run_was_trained_with_counts_beside_what_its_study_says(submitted, write, cells_of):
    trained = cells_of(submitted("first", overrides=["schedule.lr=3.0e-4"]))["fwm", 1]
    finish(trained)
    trained.run.checkpoint_dir(4).mkdir(parents=True)
    submitted("first")
    with pytest.raises(InputError, match=r"reuse\.0: .*fwm/seed-1 .*schedule\.lr is 0\.0003 there"):
        cells_of(write("second", reuse=["first"]))


def test_settings_that_do_not_decide_the_outcome_may_differ(submitted, write, cells_of):
    submitted("first", overrides=["monitor.log_every=2", "engine.device=cpu", "checkpoint.keep=2"])
    cells = cells_of(write("second", reuse=["first"]))
    assert {*owners(cells).values()} == {"first"}
    assert {cell.config.monitor.log_every for cell in cells.values()} == {2}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"reuse": ["frist"]}, r"reuse\.0: .*first"),
        ({"reuse": ["first", "second"]}, r"reuse\.1"),
        ({"reuse": ["first", "first"]}, r"reuse\.1"),
        ({"reuse": ["../first"]}, r"reuse\.0"),
        ({"reuse": ["first"], "phases": [{"name": "main"}]}, r"reuse: .*phases"),
        ({"reuse": ["first"], "sequential": {"looks": [2]}}, r"reuse: .*sequential"),
        ({"reuse": ["prefixed"]}, r"reuse\.0: .*prefix"),
        ({"reuse": ["renamed"]}, r"reuse\.0: .*other"),
        ({"reuse": ["damaged"]}, r"reuse\.0: .*runs/damaged/study\.yaml"),
        (
            {
                "reuse": ["first"],
                "evaluations": [{"benchmark": "benchmark.yaml", "overrides": ["probe_seeds=[0, 1]"]}],
            },
            r"evaluations\.0\.overrides: first ",
        ),
    ],
)
def test_what_cannot_be_reused_is_refused_with_line_and_key(submitted, write, cells_of, tmp_path, changes, where):
    submitted("first")
    looks = {"looks": [2], "prefix": 2}
    submitted("prefixed", sequential=looks, confirmation={"seeds": [5, 6]})
    submitted("other")
    (tmp_path / "runs/other").rename(tmp_path / "runs/renamed")
    submitted("damaged")
    (tmp_path / "runs/damaged/study.yaml").write_text("study: [")
    with pytest.raises(InputError, match=rf"second\.yaml:\d+: {where}"):
        cells_of(write("second", **changes))
    assert CliRunner().invoke(app, ["study", "status", "second.yaml"]).exit_code == 2


def test_a_shipped_study_that_was_not_submitted_has_nothing_to_reuse_yet(write, cells_of, tmp_path):
    study = write("second", reuse=["paper"])
    assert {*owners(cells_of(study)).values()} == {None}
    planned = CliRunner().invoke(app, ["study", "plan", "second.yaml", "--runs", "runs"])
    assert planned.exit_code == 0 and "paper" in planned.output


def test_a_record_of_other_settings_in_a_run_of_another_study_is_not_replaced(submitted, write, cells_of):
    submitted("first", evaluations=[])
    cells = cells_of(write("second", reuse=["first"]))
    shared = finish(cells["fwm", 0])
    (evaluation,) = shared.evaluations
    record = evaluation.record_file(shared.run)
    record.parent.mkdir()
    content = {"results": [{"weights": "target"}], "run": {"step": 4}, "protocol_fingerprint": "2-0000000000000000"}
    record.write_text(json.dumps(content))
    refused = preflight_errors(cells.values())
    assert [*refused] == [shared.folder] and str(record) in refused[shared.folder]
    record.write_text(json.dumps(content | {"protocol_fingerprint": max(evaluation.fingerprints)}))
    assert not preflight_errors(cells.values())


def test_a_trained_run_costs_nothing_and_needs_no_training_clips(submitted, write, cells_of, tiny_regime, tmp_path):
    submitted("first", seeds=[0], evaluations=[])
    second = write("second", reuse=["first"])
    cells = cells_of(second)
    whole = forecast_study([*cells.values()], local_cluster(), 2.0)
    for name in ("baseline", "fwm"):
        finish(cells[name, 0])
    part = forecast_study([*cells.values()], local_cluster(), 2.0)
    assert (part.days, part.disk) == pytest.approx((whole.days / 2, whole.disk / 2))
    assert [regime.cells for regime in part.regimes] == [2]
    (tmp_path / "regime.yaml").write_text(yaml.safe_dump(gone(tiny_regime(4))))
    submitted("first", seeds=[0], evaluations=[])
    assert {*preflight_errors(cells_of(second).values())} == {cells[name, 1].folder for name in ("baseline", "fwm")}


def gone(regime):
    regime["data"]["sources"] = {"motion8": {"shards": "nowhere"}}
    return regime


def test_a_training_is_known_to_the_study_of_the_run_and_to_all_that_reuse_it(submitted, cells_of, tmp_path):
    first = submitted("first", seeds=[0])
    studies = [first, submitted("second", seeds=[0], reuse=["first"]), submitted("third", reuse=["second"])]
    cells = {study.study: [*cells_of(study).values()] for study in studies}
    logs = {name: JobLog(StudyDir(tmp_path / "runs" / name), own) for name, own in cells.items()}
    baseline, fwm = cells["second"]
    logs["second"].append([training(baseline, "8_0")])
    evaluation = SubmittedJob(job="9_0", kind="evaluate", folder=baseline.folder, cluster="c", time=time.time())
    logs["second"].append([evaluation])
    logs["first"].append([training(fwm, "7")])
    for name, log in logs.items():
        queue = JobQueue(newest(log.jobs()), {"7": RUNNING, "8_0": RUNNING, "9_0": RUNNING})
        work = {each.cell.key: each for each in missing_work(cells[name], queue)}
        assert not any(each.train for key, each in work.items() if key[2] == 0)
        assert work["tiny", "fwm", 0].training_job == "7"
        others = {"first", "third"}  # these have no evaluation of the baseline in the queue
        assert (("tiny", "baseline", 0) in work) == (name in others)
        assert name not in others or work["tiny", "baseline", 0].training_job == "8_0"


def test_all_packed_jobs_that_may_train_a_run_are_known_to_its_study(submitted, cells_of, tmp_path):
    first, second = submitted("first", seeds=[0]), submitted("second", reuse=["first"])
    cells = [*cells_of(second).values()]
    pool = CellPool.create(tmp_path / "runs/second/slurm", pooled_trainings(cells)).path
    log = JobLog(StudyDir(tmp_path / "runs/second"), cells)
    shared = [cell for cell in cells if cell.reused]
    for number, cell in enumerate(sorted(cells, key=lambda each: each.reused)):  # one piece after the other
        log.append([training(cell, f"8_{number}", pool=pool)])
    jobs = JobLog(StudyDir(tmp_path / "runs/first")).jobs()
    assert [(job.job, job.study) for job in jobs] == [(f"8_{number}", "second") for number in range(4)]
    states = {"8_0": RUNNING}
    queue = JobQueue(newest(jobs), states, packed_states(jobs, newest(jobs), states))
    assert len(shared) == 2 and missing_work(cells_of(first).values(), queue)[0].training_job == "8_0"


def test_a_run_of_another_study_in_training_is_not_started_again(submitted, write, cells_of, monkeypatch):
    submitted("first", seeds=[0], variants=["baseline"])
    cells = [*cells_of(write("second", seeds=[0], reuse=["first"])).values()]
    shared, own = cells
    write_state(begin(shared).run.state_file, RunState(state="running", step=1, steps=4))
    shared.run.lease_file.write_text(LeaseHolder.current().model_dump_json())
    ran = []
    monkeypatch.setattr(task.TaskRunner, "run", lambda self, task: ran.append((task.kind, task.folder)) or 0)
    failures = local.run_locally(cells, local.LocalJobs(1), lambda cell, status: None)
    assert [failure.cell for failure in failures] == [shared] and "first" in failures[0].message
    assert {folder for _, folder in ran} == {own.folder}


def test_cancel_leaves_the_jobs_and_the_runs_of_other_studies_alone(submitted, cells_of, tmp_path, monkeypatch):
    first, second = submitted("first", seeds=[0]), submitted("second", seeds=[0, 1], reuse=["first"])
    cells = {study.study: [*cells_of(study).values()] for study in (first, second)}
    folders = {name: StudyDir(tmp_path / "runs" / name) for name in cells}
    shared = cells_of(second)["baseline", 0]
    JobLog(folders["first"]).append([training(cells["first"][1], "5")])
    JobLog(folders["second"], cells["second"]).append([training(shared, "8_0")])
    monkeypatch.setattr(
        submit, "fetch_job_queue", lambda jobs: JobQueue(newest(jobs), dict.fromkeys(("5", "8_0"), RUNNING))
    )
    cancelled = []
    monkeypatch.setattr(submit, "scancel", cancelled.append)
    begin(shared).run.lease_file.write_text(LeaseHolder.current().model_dump_json())  # this process: it must live on
    assert cancel_study(cells["first"][1:], folders["first"]).jobs == 1
    outcome = cancel_study(cells["second"], folders["second"])
    assert cancelled == [["5"], ["8"]]
    assert (outcome.jobs, outcome.processes, outcome.left) == (1, 0, 1)


QUESTIONS = ("transfer", "alignment", "few_shot", "cross_domain", "robustness")


@pytest.mark.parametrize("grids", [(), ("paper",), ("paper", "extended")])
@pytest.mark.parametrize("order", [QUESTIONS, QUESTIONS[::-1]])
def test_the_shipped_questions_train_no_run_twice(order, grids, tmp_path, monkeypatch):
    """Whichever is submitted first; with the grids only what these have not is trained."""
    monkeypatch.chdir(tmp_path)
    begun, wanted = [], {}
    for name in (*grids, *order):
        study = read_config(StudyConfig, [find_config(name, "study")])
        wanted[name] = {
            (regime, variant.stem, seed)
            for regime in study.regimes
            for variant in study.variants
            for seed in variant.seeds or study.seeds
        }
        create_study_dir(study, tmp_path / "runs")
        new = [begin(cell) for cell in expand_study(study, tmp_path / "runs") if not cell.reused]
        if name not in grids:
            begun += [(*cell.folder.relative_to(tmp_path / "runs" / name).parts[:2], cell.config.seed) for cell in new]
    there = set().union(*(wanted.pop(name) for name in grids))
    assert sorted(begun) == sorted(set().union(*wanted.values()) - there)
    if "extended" in grids:
        assert len(begun) == 6 + 11  # as docs/questions.md says


@pytest.mark.slow
def test_two_studies_share_a_trained_run(write, tmp_path, monkeypatch):
    """With real runs: the second study trains only what the first has not, and reports all under its own name."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    weights = ["target", "student"]
    probes = {"benchmark": "benchmark.yaml", "weights": weights}
    write("first", seeds=[0], variants=["baseline"], evaluations=[probes])
    reversal = ["robustness.corruptions=[reversal]"]
    robust = {"benchmark": "benchmark.yaml", "task": "robustness", "weights": ["target"], "overrides": reversal}
    probes = {"benchmark": "benchmark.yaml", "weights": ["target", "random_init"], "decides": "mean_class_accuracy"}
    write("second", seeds=[0], reuse=["first"], evaluations=[probes, robust])
    call("submit", "first.yaml")
    shared = tmp_path / "runs/first/tiny/baseline/seed-0"
    before, probed = trained(shared), evaluated(shared)

    cells = json.loads(call("plan", "second.yaml", "--json"))["cells"]
    assert [cell["reused_from"] for cell in cells] == ["first", None]
    assert "1 trained" in call("plan", "second.yaml")
    states = json.loads(call("status", "second.yaml", "--json"))
    assert [(each["state"], each["reused_from"]) for each in states] == [("trained", "first"), ("not started", None)]
    call("submit", "second.yaml")
    assert trained(shared) == before
    assert {path.name for path in (tmp_path / "runs/second/tiny").iterdir()} == {"fwm"}
    assert [each["state"] for each in json.loads(call("status", "second.yaml", "--json"))] == ["done"] * 2
    assert [each["state"] for each in json.loads(call("status", "first.yaml", "--json"))] == ["done"]

    after = evaluated(shared)
    assert {key: after[key] for key in probed} == probed
    assert {name for name, _ in after} == {*weights, "random_init"}
    assert (shared / "eval/robustness/motion8.standard.json").is_file()
    assert "decides" not in json.loads((shared / "eval/motion8.standard.json").read_text())

    rows = {name: report(tmp_path / "runs" / name) for name in ("first", "second")}
    probed = [("baseline", "target"), ("baseline", "student"), ("random_init", "random_init")]
    assert rows["first"] == {("first", *each, "probe") for each in probed}  # not the task of the other study
    own = [("baseline", "target"), ("fwm", "target"), ("random_init", "random_init")]
    tested = {("second", *each, "robustness") for each in own[:2]}
    assert rows["second"] == {("second", *each, "probe") for each in own} | tested
    assert not json.loads((tmp_path / "runs/second/report/report.json").read_text())["missing"]
    assert report(tmp_path / "runs/first", tmp_path / "runs/second") == rows["first"] | rows["second"]
    call("submit", "first.yaml")
    assert trained(shared) == before


def call(*arguments):
    """Output of a study command, which must succeed."""
    done = CliRunner().invoke(app, ["study", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def trained(run):
    """What another training would change: the metrics, the list of starts, and the newest checkpoint."""
    checkpoint = [(path.name, path.stat().st_mtime_ns) for path in sorted((run / "checkpoints").iterdir())]
    return (run / "metrics.jsonl").read_bytes(), (run / "log/starts.jsonl").read_bytes(), checkpoint


def evaluated(run):
    """Values of the record of the probes by weights and probe."""
    found = json.loads((run / "eval/motion8.standard.json").read_text())
    assert found["run"]["study"] == "first"
    return {(each["weights"], each["probe"]): each["value"] for each in found["results"]}


def report(*studies):
    """Study, variant, weights and task of the results in a report."""
    out = studies[0] / "report"
    done = CliRunner().invoke(app, ["report", *map(str, studies), "--out", str(out)])
    assert done.exit_code == 0, done.output
    with (out / "results.csv").open(newline="") as file:  # a report on probes alone has no column of tasks
        rows = [{"task": "probe", **row} for row in csv.DictReader(file)]
    return {tuple(row[name] for name in ("study", "variant", "weights", "task")) for row in rows}
