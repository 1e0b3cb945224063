"""The plan of a study: cells, preflight errors, and its estimated cost."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.config.cluster import find_profile
from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.study.forecast import LAUNCH_SECONDS, forecast_study, step_time
from hpc_jepa.study.gpu_memory import checkpoint_bytes, memory_plan, poolers_bytes
from hpc_jepa.study.grid import expand_study
from hpc_jepa.study.preflight import preflight_errors
from hpc_jepa.study.sizes import model_size

COUNTS = json.loads((Path(__file__).parents[1] / "golden" / "model_counts.json").read_text())


def run(regime, *overrides):
    return read_config(RunConfig, [find_config(regime, "regime"), find_config("baseline", "objective")], overrides)


def study(name, runs):
    return expand_study(read_config(StudyConfig, [find_config(name, "study")]), runs)


def call(*arguments):
    return CliRunner().invoke(app, ["study", *map(str, arguments)])


@pytest.mark.parametrize("regime", ["mixed", "ucf101"])
def test_parameters_match_the_published_model(regime):
    counted = model_size(run(regime))
    assert counted.student == counted.target == COUNTS["by_regime"][regime]["encoder"]
    assert counted.predictor == COUNTS["by_regime"][regime]["predictor"]


def test_without_ema_there_is_no_target_encoder():
    assert model_size(run("ucf101", "ema=never")).target == 0


def test_zero_stages_divide_only_the_parts_that_they_shard():
    plans = {stage: memory_plan(run("ucf101", f"engine.zero_stage={stage}"), processes=4) for stage in range(4)}
    parameters = model_size(run("ucf101")).trainable * 4
    assert [plans[stage].parameters / parameters for stage in range(4)] == [1, 1, 1, 0.25]
    assert [plans[stage].gradients / parameters for stage in range(4)] == [1, 1, 0.25, 0.25]
    assert [plans[stage].optimizer / parameters for stage in range(4)] == [2, 0.75, 0.75, 0.75]
    assert plans[3].ema == plans[0].ema / 4


def test_activation_checkpointing_and_more_gpus_take_less_memory():
    plain = memory_plan(run("ucf101"), processes=4).activations
    assert memory_plan(run("ucf101"), processes=8).activations == plain / 2
    assert memory_plan(run("ucf101", "engine.accumulation=2"), processes=4).activations == plain / 2
    assert memory_plan(run("ucf101", "model.activation_checkpointing=true"), processes=4).activations < plain / 2


def test_the_paper_is_18_objectives_and_three_baselines_in_two_regimes(tmp_path):
    cells = study("paper", tmp_path)
    assert len(cells) == 2 * (18 + 3)
    assert sum(cell.config.variant != "baseline" for cell in cells) == 36
    assert {cell.config.seed for cell in cells if cell.config.variant == "baseline"} == {239, 42, 1337}


def test_the_extended_study_is_all_27_objectives_with_seeds(tmp_path):
    cells = study("extended", tmp_path)
    assert len({cell.config.variant for cell in cells} - {"baseline"}) == 27
    assert len(cells) == 2 * 28 * 3


def test_hours_and_disk_follow_from_the_step_time(tmp_path):
    cells, site = study("paper", tmp_path), find_profile("small").cluster
    needed = forecast_study(cells, site, step_seconds=0.6)
    assert needed.gpu_hours == pytest.approx(42 * 30_000 * 0.6 * 4 / 3600)
    assert needed.days == pytest.approx(11 * 30_000 * 0.6 / 86_400)  # 42 runs, four at a time
    assert needed.disk == pytest.approx(sum(3 * checkpoint_bytes(cell.config) for cell in cells))


def test_a_measured_step_time_is_preferred_to_an_estimate(tmp_path):
    cells, site = study("paper", tmp_path), find_profile("small").cluster
    source = step_time(cells, site).source
    assert "30%" in source and "312" in source
    folder = cells[0].folder
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 9, "loss": 1.0, "clips_per_second": 64.0}) + "\n")
    assert step_time(cells, site) == step_time(cells[:1], site)
    assert step_time(cells, site).seconds == 0.5
    assert step_time(cells, site).source.startswith("measured")


def test_few_clips_per_gpu_take_as_long_as_their_launches(tmp_path):
    """2 clips of ViT-B take 6 ms at 30 % of an H100, and launch 1,250 kernels."""
    site = find_profile("large").cluster
    few, many = study("paper", tmp_path)[:1], study("paper", tmp_path)[:1]
    few[0] = replace(few[0], config=run("ucf101", f"engine.batch_size={2 * site.train.gpus}"))
    many[0] = replace(many[0], config=run("ucf101", f"engine.batch_size={64 * site.train.gpus}"))
    floor, arithmetic = step_time(few, site), step_time(many, site)
    assert floor.launch_bound and not arithmetic.launch_bound
    assert arithmetic.seconds / 32 < floor.seconds == model_size(few[0].config).kernels * LAUNCH_SECONDS
    assert 1_200 < model_size(few[0].config).kernels < 1_300
    compiled = replace(few[0], config=run("ucf101", f"engine.batch_size={2 * site.train.gpus}", "engine.compile=true"))
    assert step_time([compiled], site).seconds == pytest.approx(arithmetic.seconds / 32)


def test_a_plan_warns_where_launches_decide(tmp_path):
    changed = {"study": "s", "regimes": ["ucf101"], "variants": ["baseline"], "overrides": ["engine.batch_size=32"]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(changed))
    assert "kernel launches" in call("plan", tmp_path / "study.yaml", "--cluster", "large").stdout
    assert "kernel launches" not in call("plan", tmp_path / "study.yaml", "--cluster", "small").stdout


@pytest.mark.parametrize(
    ("size", "clips", "shape"), [("large", 63, (16, 224)), ("large", 21, (16, 384)), ("large", 12, (64, 256))]
)
def test_the_clips_that_fit_without_checkpointing_are_those_of_the_configuration(size, clips, shape):
    frames, side = shape
    model = yaml.safe_load((Path(__file__).parents[2] / "configs" / "model" / f"{size}.yaml").read_text())["model"]
    assert not model.get("activation_checkpointing", False)
    settings = [f"data.clip.frames={frames}", f"data.clip.size={side}"]
    layers = [
        find_config(name, kind) for name, kind in (("ucf101", "regime"), ("baseline", "objective"), (size, "model"))
    ]
    for number, fits in ((clips, True), (clips + 1, False)):
        config = read_config(RunConfig, layers, [*settings, f"engine.batch_size={number}"])
        assert (memory_plan(config, processes=1).total <= 72 * 2**30) == fits


def test_missing_shards_are_found_by_the_preflight_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = study("paper", tmp_path)
    reasons = set(preflight_errors(cells, find_profile("small").cluster).values())
    assert len(reasons) == 1
    assert "shards/ucf101/train" in reasons.pop()


@pytest.mark.parametrize(
    ("site", "key"),
    [
        ({"gpu_memory_gib": 2}, "train.gpus_per_node"),
        ({"train": {"gpus_per_node": 3, "cpus_per_node": 3, "time": 5}}, "engine.batch_size"),
    ],
)
def test_a_cell_that_does_not_fit_the_cluster_is_refused(site, key, tmp_path):
    profile = tmp_path / "site.yaml"
    needs = {"train": {"gpus_per_node": 4, "cpus_per_node": 4, "time": 5}, "evaluate": {"cpus_per_node": 1, "time": 5}}
    profile.write_text(yaml.safe_dump(needs | site))
    reasons = preflight_errors(study("paper", tmp_path)[:1], find_profile(str(profile)).cluster)
    assert key in next(iter(reasons.values()))


def test_the_memory_of_poolers_is_planned_and_refused(tmp_path, monkeypatch):
    """ViT-B, 20 settings: 3 (12 w^2 + 13 w) + 11 w^2 + 12 w + w parameters and a head of 174 classes, 16 bytes each."""
    monkeypatch.chdir(tmp_path)
    evaluations = [{"benchmark": "ssv2", "protocols": ["vjepa"]}]
    changed = {"study": "s", "regimes": ["ucf101"], "variants": ["baseline"], "evaluations": evaluations}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(changed))
    width = run("ucf101").model.encoder.width
    parameters = 3 * (12 * width**2 + 13 * width) + 11 * width**2 + 13 * width + (width + 1) * 174
    cells = expand_study(read_config(StudyConfig, [tmp_path / "study.yaml"]), tmp_path)
    assert poolers_bytes(cells[0]) == {"ssv2, vjepa, attentive probe": 20 * 16 * parameters}
    assert f"{20 * 16 * parameters / 2**30:.2f} GiB" in call("plan", tmp_path / "study.yaml").stdout
    site = find_profile("small").cluster
    enough, short = (site.model_copy(update={"gpu_memory_gib": 20 * 16 * parameters / 2**30 + by}) for by in (1, -1))
    assert "weight_decay" not in preflight_errors(cells, enough)[cells[0].folder]
    assert "weight_decay" in preflight_errors(cells, short)[cells[0].folder]


def test_a_plan_prints_the_cost_and_fails_if_a_cell_cannot_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("plan", "paper", "--cluster", "small", "--step-seconds", "0.6")
    assert result.exit_code == 2
    assert "840 GPU-hours, 2.3 days" in result.stdout
    assert "shards/ucf101/train" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_an_unknown_variant_is_refused_with_the_nearest_name(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"study": "s", "regimes": ["ucf101"], "variants": ["fwm_hw_dl"]}))
    result = call("plan", path)
    assert result.exit_code == 2
    assert "'fwm_hw_ld'" in result.stderr


def test_without_sbatch_nothing_is_submitted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    result = call("submit", "paper", "--cluster", "small")
    assert result.exit_code == 2
    assert "--cluster local" in result.stderr
    assert not (tmp_path / "runs").exists()
