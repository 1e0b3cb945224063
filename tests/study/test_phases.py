"""Phases of a study: each is a run of its own that begins where the one before ended, here and on Slurm."""

import json
import re
from pathlib import Path

import pytest
import yaml

from hpc_jepa.config.cluster import local_cluster
from hpc_jepa.config.loading import dump_config, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.runs.state import RunState, write_state
from hpc_jepa.study import local, task
from hpc_jepa.study.forecast import forecast_study
from hpc_jepa.study.grid import expand_study
from hpc_jepa.study.job_log import JobLog, JobQueue, SubmittedJob
from hpc_jepa.study.local import LocalJobs
from hpc_jepa.study.preflight import preflight_errors
from hpc_jepa.study.status import cell_status
from hpc_jepa.study.submit import _Batch, missing_work
from hpc_jepa.trackers import clients

ARMS = [{"objective": "baseline", "name": "scratch"}, {"objective": "baseline", "name": "slow"}]
PHASES = [
    {"name": "main", "overrides": ["schedule.steps=3"]},
    {"name": "cooldown", "after": "main", "overrides": ["schedule.steps=2", "schedule.phases.lr=1e-4"]},
]


@pytest.fixture
def expand(tiny_regime, tmp_path, monkeypatch):
    """``expand(**changes)``: cells of a study of two arms, two phases and two seeds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "regime.yaml").write_text(yaml.safe_dump(tiny_regime(3)))

    def make(**changes):
        settings = {"study": "pilot", "regimes": ["regime.yaml"], "variants": ARMS, "phases": PHASES, "seeds": [0, 1]}
        (tmp_path / "pilot.yaml").write_text(yaml.safe_dump({**settings, **changes}))
        return expand_study(read_config(StudyConfig, [tmp_path / "pilot.yaml"]), Path("runs"))

    return make


def by_name(cells):
    return {f"{cell.folder.parent.name} {cell.config.seed}": cell for cell in cells}


def test_every_arm_and_seed_is_a_chain_of_runs(expand):
    variants = [ARMS[0], {**ARMS[1], "overrides": [f"init={{file: a.pt, sha256: {64 * 'a'}, parts: [encoder]}}"]}]
    cells = by_name(expand(variants=variants))
    assert len(cells) == 2 * 2 * 2
    for seed in (0, 1):
        for arm in ("scratch", "slow"):
            first, second = cells[f"{arm}.main {seed}"], cells[f"{arm}.cooldown {seed}"]
            assert first.after is None and second.after == first.folder
            assert (second.config.init.run, second.config.init.step) == (first.folder, 3)
            assert second.config.init.file is None and second.config.schedule.steps == 2
            files = [word for word in second.arguments if word.endswith(".yaml")]
            overrides = [word for word in second.arguments if word not in files]
            assert read_config(RunConfig, files, overrides) == second.config
    assert cells["slow.main 0"].config.init.parts == ("encoder",)
    assert cells["scratch.main 0"].config.init is None


def test_phases_run_one_after_the_other_on_this_machine(expand):
    cells = expand(variants=ARMS[:1], seeds=[0])
    assert preflight_errors(cells) == {}
    assert cell_status(cells[1]).note == "after scratch.main"
    assert local.run_locally(cells, LocalJobs(2), lambda cell, status: None) == []
    origin = cells[1].run.origin
    assert (origin.path, origin.step, origin.clip_offset) == (str(cells[0].folder), 3, 3)
    assert [cell.run.state.state for cell in cells] == ["done", "done"]
    rates = [json.loads(line)["learning_rate"] for line in cells[1].run.metrics_file.open()]
    assert rates == [1e-4, 1e-4]


def test_a_phase_after_one_that_failed_is_not_started(expand, monkeypatch):
    cells = expand(seeds=[0])
    ran = []

    def run(self, task):
        ran.append(task.folder)
        return 1 if task.folder == by_name(cells)["slow.main 0"].folder else 0

    monkeypatch.setattr(task.TaskRunner, "run", run)
    failures = local.run_locally(cells, LocalJobs(1), lambda cell, status: None)
    assert [failure.cell.folder.parent.name for failure in failures] == ["slow.main", "slow.cooldown"]
    assert by_name(cells)["slow.cooldown 0"].folder not in ran and len(ran) == 3


class Submitter:
    """Numbers jobs as Slurm does, and remembers tasks and dependencies."""

    def __init__(self):
        self.arrays = []
        self.profile = type("P", (), {"cluster": type("C", (), {"array_limit": 100})})

    def submit_array(self, tasks, dependency=None):
        number = str(100 + len(self.arrays))
        self.arrays.append(([task.folder.parent.name for task in tasks], tasks[0].kind, dependency))
        ids = [number] if len(tasks) == 1 else [f"{number}_{index}" for index in range(len(tasks))]
        return [
            SubmittedJob(job=job, kind=task.kind, folder=task.folder, cluster="c", time=0)
            for job, task in zip(ids, tasks, strict=True)
        ]


def submit(cells, tmp_path, queue=None):
    study = type("S", (), {"jobs_file": tmp_path / "jobs.jsonl", "refused_file": tmp_path / "refused.json"})
    batch = _Batch(Submitter(), JobLog(study))
    batch.submit(missing_work(cells, queue or JobQueue({}, {})))
    return batch._submitter.arrays


def test_on_slurm_a_phase_waits_for_the_one_before_cell_by_cell(expand, tmp_path):
    cells = expand(phases=[*PHASES, {"name": "again", "after": "cooldown", "overrides": ["schedule.steps=1"]}])
    arrays = submit(cells, tmp_path)
    assert [(len(names), dependency) for names, _, dependency in arrays] == [
        (4, None),
        (4, "aftercorr:100"),
        (4, "aftercorr:101"),
    ]
    order = [[name.split(".")[0] for name in names] for names, _, _ in arrays]
    assert order[0] == order[1] == order[2]


def test_on_slurm_a_phase_of_a_finished_run_waits_for_nothing(expand, tmp_path):
    cells = expand()
    done = by_name(cells)["scratch.main 0"]
    done.folder.mkdir(parents=True)
    write_state(done.run.state_file, RunState(state="done", step=3, steps=3))
    first, *waiting = submit(cells, tmp_path)
    assert first == (["scratch.main", "scratch.cooldown", "slow.main", "slow.main"], "train", None)
    assert waiting == [
        (["scratch.cooldown"], "train", "afterok:100_0"),
        (["slow.cooldown"], "train", "afterok:100_2"),
        (["slow.cooldown"], "train", "afterok:100_3"),
    ]


def test_a_tracker_without_its_package_is_refused_in_the_plan(expand, monkeypatch):
    monkeypatch.setattr(clients, "find_spec", lambda name: None)
    refused = preflight_errors(expand(phases=[{**PHASES[0], "overrides": ["monitor.trackers=[mlflow]"]}]))
    assert refused and all("hpc_jepa[mlflow]" in reason for reason in refused.values())


def test_a_phase_that_cannot_begin_is_refused_in_the_plan(expand):
    refused = preflight_errors(expand(phases=[PHASES[0], {**PHASES[1], "overrides": ["model.encoder.heads=4"]}]))
    assert len(refused) == 4 and all("model.encoder.heads 2 -> 4" in reason for reason in refused.values())
    refused = preflight_errors(expand(overrides=["data.sources={motion8: {shards: nowhere}}"]))
    assert len(refused) == 8


def test_a_phase_whose_first_checkpoint_is_gone_is_refused_in_one_short_line(expand):
    (main, cooldown) = expand(variants=ARMS[:1], seeds=[0])
    main.folder.mkdir(parents=True)
    main.run.config_file.write_text(dump_config(main.config))
    write_state(main.run.state_file, RunState(state="done", step=3, steps=3))
    reason = preflight_errors([main, cooldown])[cooldown.folder]
    assert str(main.folder) in reason and "override" not in reason and "sha256" not in reason


def test_the_plan_counts_phases_by_their_length(expand):
    regimes = forecast_study(expand(), local_cluster(), step_seconds=1.0).regimes
    assert {regime.seconds: regime.cells for regime in regimes} == {3.0: 4, 2.0: 4}


@pytest.mark.parametrize(
    ("phases", "key"),
    [
        ([{"name": "a", "after": "b"}], "phases.0.after"),
        ([{"name": "a"}, {"name": "a"}], "phases.1.name"),
        ([{"name": "a"}, {"name": "b", "after": "a", "overrides": ["init.step=3"]}], "phases.1"),
        ([{"name": "a", "what": "weights"}], "phases.0"),
        ([{"name": "a.b"}], "phases.0.name"),
        ([{"name": "a", "overrides": ["seed=1"]}], "phases.0.overrides"),
    ],
    ids=str,
)
def test_impossible_chains_are_refused(expand, phases, key):
    with pytest.raises(InputError, match=rf"pilot\.yaml:\d+: {key}: "):
        expand(phases=phases)


def test_the_page_about_sweeps_and_phases_is_a_study(expand):
    page = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()
    first, second = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    settings = {**yaml.safe_load(first.replace("3d1f...", 64 * "a")), **yaml.safe_load(second)}
    cells = expand(
        **{
            **settings,
            "regimes": ["regime.yaml"],
        }
    )
    names = {cell.folder.parent.name for cell in cells}
    assert "continued.ema_start-0.99.lr-0.0001.cooldown" in names and len(cells) == 3 * 4 * 2 * 3
