"""Variants with single switches of semantics: their cells, folders, arguments and files."""

import json
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.cli.console import split_overrides
from hpc_jepa.config.loading import dump_config, find_config, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.semantics import PRESETS, SWITCHES
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.io.flatten import flatten
from hpc_jepa.study.grid import create_study_dir, expand_study

SWITCHED = {"objective": "fwm_hw_ld", "semantics": {"preset": "corrected", "ld_hw_gradient": False}}


def study(*variants, **settings):
    return StudyConfig.model_validate({"study": "s", "regimes": ["quickstart"], "variants": variants, **settings})


def cells(*variants, **settings):
    return expand_study(study(*variants, **settings), Path("runs"))


def test_a_switch_is_the_only_difference_to_the_plain_cell():
    plain, switched = cells("fwm_hw_ld", SWITCHED)
    assert switched.folder.parent.name == "fwm_hw_ld.ld_hw_gradient=false"
    assert switched.config.semantics_name == "corrected, ld_hw_gradient: false"
    as_plain = switched.config.model_copy(update={"semantics": plain.config.semantics, "switches": ()})
    assert as_plain == plain.config
    assert switched.config.semantics.model_dump() == plain.config.semantics.model_dump() | {"ld_hw_gradient": False}


def test_the_arguments_of_a_cell_give_its_configuration():
    for cell in cells("fwm_hw_ld", SWITCHED, overrides=["semantics.ld_hw_gradient=true", "schedule.steps=9"]):
        assert read_config(RunConfig, *split_overrides(cell.arguments)) == cell.config
    assert not cell.config.semantics.ld_hw_gradient


def test_presets_keep_their_folders_fingerprints_and_arguments():
    """As before single switches: the regime itself overrides one, and that is no part of a name."""
    for semantics in ("corrected", "published"):
        (cell,) = cells({"objective": "fwm_hw_ld", "semantics": semantics})
        suffix = "" if semantics == "corrected" else ".published"
        assert cell.folder == Path(f"runs/s/quickstart/fwm_hw_ld{suffix}/seed-239")
        assert cell.config.semantics.overridden() == {"mask_truncation": "tubes"}
        assert cell.arguments[2:] == ("study=s", "runs=runs", f"semantics={semantics}", "seed=239")
        assert cell.config.model_copy(update={"switches": ("motion_pool",)}).fingerprint() == cell.config.fingerprint()
    (written,) = yaml.safe_load(dump_config(study("hw")))["variants"]
    assert written["semantics"] == "corrected"


def test_a_study_file_with_switches_is_written_as_it_was_read(tmp_path):
    config = study(
        "baseline", SWITCHED, {"objective": "hw", "semantics": {"preset": "published", "motion_pool": "area"}}
    )
    written = create_study_dir(config, tmp_path).config_file
    assert yaml.safe_load(written.read_text())["variants"][1]["semantics"] == SWITCHED["semantics"]
    assert [cell.folder for cell in expand_study(read_config(StudyConfig, [written]), tmp_path)] == [
        cell.folder for cell in expand_study(config, tmp_path)
    ]


def test_the_order_of_switches_does_not_matter():
    both = {"motion_pool": "trilinear", "channel_partition": "last_level"}
    first, second = ({"objective": "hw", "semantics": dict(items)} for items in (both.items(), reversed(both.items())))
    assert cells(first)[0].folder == cells(second)[0].folder
    with pytest.raises(InputError, match=r"channel_partition=last_level.*/seed-239: "):
        cells(first, second)


def test_a_switch_that_changes_nothing_is_refused():
    """In this regime mask_truncation is tubes; so raster, the value of the preset, is another run."""
    for name, value in (("ld_hw_gradient", True), ("mask_truncation", "tubes")):
        with pytest.raises(InputError, match=name):
            cells({"objective": "fwm_hw_ld", "semantics": {name: value}})
    (raster,) = cells({"objective": "fwm_hw_ld", "semantics": {"mask_truncation": "raster"}})
    assert raster.folder.parent.name == "fwm_hw_ld.mask_truncation=raster"
    assert raster.config.semantics.overridden() == {}


@pytest.mark.parametrize("semantics", [{"ld_hw_gradiet": False}, {"ld_hw_gradient": "maybe"}, {"preset": ["x"]}, 3])
def test_an_invalid_switch_is_one_line_with_its_place(semantics, tmp_path):
    path = tmp_path / "study.yaml"
    variant = {"objective": "fwm_hw_ld", "semantics": semantics}
    path.write_text(yaml.safe_dump({"study": "s", "regimes": ["quickstart"], "variants": [variant]}))
    result = CliRunner().invoke(app, ["study", "plan", str(path)])
    assert result.exit_code == 2
    message = result.stderr.replace("\n", "")
    assert f"{path}:" in message and "variants.0.semantics" in message and "VariantSemantics" not in message


def test_the_plan_has_a_row_for_each(tmp_path):
    (tmp_path / "study.yaml").write_text(dump_config(study("fwm_hw_ld", SWITCHED)))
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["study", "plan", str(tmp_path / "study.yaml")]).stdout
    rows = [line.split() for line in shown.splitlines() if "fwm_hw_ld" in line]
    assert len(rows) == 2 and "ld_hw_gradient:" in rows[1] and "ld_hw_gradient:" not in rows[0]


@pytest.mark.parametrize("override", ["switches=[ld_hw_gradient]", "switches=[]"])
def test_a_study_cannot_rename_all_cells(override):
    with pytest.raises(ValueError, match="semantics"):
        study("hw", overrides=[override])


def test_an_unknown_name_in_switches_is_refused():
    with pytest.raises(InputError, match=r"switches.*ld_hw_gradient"):
        read_config(RunConfig, ["configs/regime/quickstart.yaml"], ["switches=[ld_hw_gradiet]"])


def test_a_name_of_all_switches_is_short_enough_for_a_folder():
    other = {name: values[0] if values[0] != values[1] else {"raster": "tokens", True: False}[values[0]]
             for name, values in SWITCHES.items()}  # fmt: skip
    (cell,) = cells({"objective": "fwm_hw_ld", "semantics": other})
    assert len(cell.folder.parent.name) <= 200
    del other["motion_norm"]
    assert cells({"objective": "fwm_hw_ld", "semantics": other})[0].folder != cell.folder


def test_the_folder_survives_a_shell_a_tar_and_a_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (cell,) = cells(SWITCHED)
    cell.folder.mkdir(parents=True)
    (cell.folder / "config.yaml").write_text(dump_config(cell.config))
    subprocess.run(f"tar cf runs.tar {cell.folder} && rm -r runs && tar xf runs.tar", shell=True, check=True)
    with tarfile.open("runs.tar") as archive:
        assert str(cell.folder / "config.yaml") in archive.getnames()
    layers, overrides = split_overrides([str(cell.folder / "config.yaml"), "seed=239", "runs=a/b=c.yaml"])
    assert overrides == ["seed=239", "runs=a/b=c.yaml"]
    assert read_config(RunConfig, layers) == cell.config


def test_the_status_has_a_row_for_each_cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(dump_config(study("fwm_hw_ld", SWITCHED)))
    rows = json.loads(CliRunner().invoke(app, ["study", "status", "study.yaml", "--json"]).stdout)
    assert [row["folder"] for row in rows] == [str(cell.folder) for cell in cells("fwm_hw_ld", SWITCHED)]
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["study", "status", "study.yaml"]).stdout
    assert "fwm_hw_ld.ld_hw_gradient=false" in shown


def test_the_quickstart_asks_about_the_gradient_by_one_switch():
    grid = expand_study(read_config(StudyConfig, [find_config("quickstart", "study")]), Path("runs"))
    assert [cell.folder.parent.name for cell in grid] == [
        *("baseline", "fwm_hw_ld", "fwm_hw_ld.ld_hw_gradient=false", "fwm_hw_ld.published")
    ]
    with_gradient, without = (flatten(cell.config.outcome_settings()) for cell in grid[1:3])
    differing = {key for key in with_gradient if with_gradient[key] != without[key]}
    assert differing == {"semantics.ld_hw_gradient"}
    presets = PRESETS["published"], PRESETS["corrected"]
    count = sum(presets[0][name] != presets[1][name] for name in SWITCHES)
    assert f"differ in {count} switches" in (Path(__file__).parents[2] / "docs/quickstart.md").read_text()
