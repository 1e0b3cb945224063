"""Overrides of variants and axes of a study: which cells there are, and that their names are unique and stable."""

import itertools

import pytest
import yaml
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.config.loading import dump_config, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.config.sweep import override_text, settings_name, value_name
from hpc_jepa.config.yaml_reader import parse_value
from hpc_jepa.errors import InputError
from hpc_jepa.study.grid import expand_study

AXES = {"schedule.lr": [1e-4, "3e-4"], "schedule.ema_start": [0.99, 0.996]}


@pytest.fixture
def expand(tmp_path):
    """``expand(**changes)``: cells of a study of the quickstart regime, read from a file."""

    def make(**changes):
        settings = {"study": "sweep", "regimes": ["quickstart"], "variants": ["baseline"], "seeds": [0], **changes}
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        return expand_study(read_config(StudyConfig, [tmp_path / "sweep.yaml"]), tmp_path / "runs")

    return make


def names(cells):
    return [cell.folder.parent.name for cell in cells]


def test_axes_train_every_variant_with_every_combination(expand):
    cells = expand(axes=AXES, variants=["baseline", "fwm"], seeds=[0, 1])
    found = {(cell.config.schedule.lr, cell.config.schedule.ema_start, cell.config.seed) for cell in cells}
    assert found == set(itertools.product([1e-4, 3e-4], [0.99, 0.996], [0, 1]))
    assert len(cells) == 2 * 4 * 2 == len({cell.folder for cell in cells})
    assert names(cells)[0] == cells[0].config.variant == "baseline.ema_start-0.99.lr-0.0001"


def test_a_cell_is_what_its_arguments_train(expand):
    variants = [{"objective": "fwm", "overrides": ["schedule.steps=7", "data.clip={frames: 8, size: 64}"]}]
    for cell in expand(axes=AXES, variants=variants):
        files = [word for word in cell.arguments if word.endswith(".yaml")]
        read = read_config(RunConfig, files, [word for word in cell.arguments if word not in files])
        assert read == cell.config and read.schedule.steps == 7


def test_folders_stay_when_values_variants_or_the_order_of_axes_change(expand):
    before = {cell.folder for cell in expand(axes=AXES)}
    more = {**dict(reversed(AXES.items())), "schedule.lr": [7e-4, *AXES["schedule.lr"]]}
    after = {cell.folder for cell in expand(axes=more, variants=["fwm", "baseline"])}
    assert before < after
    assert {cell.folder for cell in expand(axes={**AXES, "schedule.lr": [0.0001, 0.0003]})} == before


def test_a_variant_is_named_by_its_overrides_or_by_itself(expand):
    wide = "model.encoder={width: 256, depth: 4, heads: 4, patch: 8, levels: [1, 4]}"
    variants = [
        "baseline",
        {"objective": "baseline", "overrides": ["schedule.lr=1e-3"]},
        {"objective": "baseline", "overrides": ["schedule.lr=0.002"], "semantics": "published"},
        {"objective": "baseline", "overrides": [wide], "name": "wide"},
        {"objective": "baseline", "overrides": [wide]},
    ]
    found = names(expand(variants=variants))
    assert found[:4] == ["baseline", "baseline.lr-0.001", "baseline.lr-0.002.published", "wide"]
    assert found[4].startswith("baseline.encoder-") and len(set(found)) == 5
    (cell,) = expand(variants=[{"objective": "baseline", "name": "wide"}], axes={"schedule.steps": [5]})
    assert cell.config.variant == "wide.steps-5"


def test_equal_last_parts_are_told_apart():
    assert settings_name("a", {"model.encoder.width": 8, "model.predictor.width": 4}) == (
        "a.encoder_width-8.predictor_width-4"
    )


@pytest.mark.parametrize(
    "values",
    [
        [1, 1.5, -1, True, False, None, "a", "a b", "a_b", "a/b", "a" * 30, "a" * 31, [1, 2], [2, 1], {"x": 1}, "../x"],
        [{"initial": 0, "final": 1e-5, "end": "10%"}, {"initial": 0, "final": 1e-5, "end": "11%"}, "é", ""],
    ],
)
def test_names_of_values_are_distinct_parts_of_a_folder_name(values):
    named = [value_name(value) for value in values]
    assert len(set(named)) == len(named)
    for name, value in zip(named, values, strict=True):
        RunConfig.model_validate({"regime": "a", "variant": f"x.{name}", "data": {"sources": {}}} | _sources())
        assert parse_value(override_text("k", value).partition("=")[2]) == value


def _sources():
    return {"data": {"sources": {"none": {"shards": "none"}}}}


def test_equal_numbers_have_one_name():
    assert {value_name(value) for value in (1e-4, "1e-4", 0.0001, "0.0001")} == {"0.0001"}
    assert value_name(8) == value_name(8.0) == "8"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"axes": {"seed": [1, 2]}}, "axes"),
        ({"axes": {"semantics.ld_hw_gradient": [True]}}, "axes"),
        ({"axes": {"schedule.lr": []}}, "axes.schedule.lr"),
        ({"axes": {"schedule.lr": [1e-4, "1e-4"]}}, "axes.schedule.lr"),
        ({"axes": {"schedule lr": [1]}}, "axes.schedule lr"),
        ({"axes": {"schedule.lr": [1]}, "overrides": ["schedule.lr=2"]}, "axes.schedule.lr"),
        ({"axes": {"schedule.lr": [1]}, "overrides": ["schedule={lr: 2}"]}, "axes.schedule.lr"),
        ({"axes": {"schedule.lr": [1]}, "phases": [{"name": "a", "overrides": ["schedule={lr: 2}"]}]}, "axes"),
        ({"axes": {"schedule": [{"lr": 2}], "schedule.lr": [1]}}, "axes.schedule.lr"),
        ({"seeds": [1, 2, 1]}, "seeds"),
        ({"variants": [{"objective": "baseline", "overrides": ["variant=x"]}]}, "variants.0.overrides"),
        ({"variants": [{"objective": "baseline", "overrides": ["switches=[]"]}]}, "variants.0.overrides"),
        ({"variants": [{"objective": "baseline", "overrides": ["a.b=1", "a.b=2"]}]}, "variants.0.overrides"),
        ({"variants": [{"objective": "baseline", "name": "a/b"}]}, "variants.0.name"),
        ({"axes": {"schedule.lr": list(range(10_001))}}, "configuration"),
    ],
    ids=str,
)
def test_what_would_not_keep_cells_apart_is_refused(expand, changes, key):
    with pytest.raises(InputError, match=rf"sweep\.yaml.*: {key}\b.*: "):
        expand(**changes)


def test_a_mapping_beside_an_axis_may_set_other_keys(expand):
    (cell,) = expand(axes={"schedule.lr": [1e-3]}, overrides=["schedule={steps: 5}", "data.clip={size: 64}"])
    assert cell.config.schedule.lr == 1e-3 and cell.config.schedule.steps == 5


def test_wrong_values_and_equal_names_are_refused(expand):
    with pytest.raises(InputError, match=r"override schedule\.lr=-1"):
        expand(axes={"schedule.lr": [1, -1]})
    with pytest.raises(InputError, match=r"schedule\.lrr.*schedule\.lr"):
        expand(axes={"schedule.lrr": [1]})
    with pytest.raises(InputError, match="same/seed-0"):
        expand(variants=[{"objective": name, "name": "same"} for name in ("baseline", "fwm")])


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"axes": {"schedule.lr": [0.1, -1]}}, r"axes\.schedule\.lr: override schedule\.lr=-1: "),
        ({"variants": ["baseline", {"objective": "ld", "overrides": ["schedule.lr=x"]}]}, r"variants\.1\.overrides: "),
        ({"phases": [{"name": "main", "overrides": ["schedule.lrr=1"]}]}, r"phases\.0\.overrides: "),
        ({"overrides": ["schedule.lr=x"]}, r"overrides: override schedule\.lr=x: "),
    ],
)
def test_a_wrong_value_is_named_with_its_place_in_the_study(expand, changes, place):
    with pytest.raises(InputError, match=rf"sweep\.yaml:\d+: {place}.*schedule\.lr"):
        expand(**{"axes": {}, **changes})


def test_a_written_study_reads_back(expand, tmp_path):
    variants = [{"objective": "fwm", "overrides": ["schedule.lr=1e-3"]}]
    expand(axes={"schedule.ema_start": AXES["schedule.ema_start"]}, variants=variants)
    study = read_config(StudyConfig, [tmp_path / "sweep.yaml"])
    (tmp_path / "again.yaml").write_text(dump_config(study))
    assert read_config(StudyConfig, [tmp_path / "again.yaml"]) == study


def test_status_labels_every_cell(expand, tmp_path):
    expand(axes=AXES)
    shown = CliRunner().invoke(app, ["study", "status", str(tmp_path / "sweep.yaml"), "--runs", str(tmp_path / "runs")])
    for name in ("baseline.ema_start-0.99.lr-0.0001", "baseline.ema_start-0.996.lr-0.0003"):
        assert name in shown.output
