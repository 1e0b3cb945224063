"""Shipped files are found from any folder, and the user's own files win."""

from pathlib import Path

import pytest
import yaml

from hpc_jepa.config.loading import find_config, merge_files
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import InputError
from hpc_jepa.io.resources import find_resource, list_resources, resource_name, shipped_dir


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The working directory: an empty folder, with ``configs/objective/``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "objective").mkdir(parents=True)
    return tmp_path


def test_shipped_files_are_found_without_a_checkout(own):
    assert find_resource("configs/regime/quickstart.yaml") == shipped_dir("configs") / "regime" / "quickstart.yaml"
    assert find_config("baseline", "objective") == shipped_dir("configs") / "objective" / "baseline.yaml"


def test_the_users_own_file_wins(own):
    path = own / "configs" / "objective" / "ld.yaml"
    path.write_text(yaml.safe_dump({"variant": "mine", "objectives": ["ld"]}))
    assert merge_files([find_config("ld", "objective")]).values["variant"] == "mine"
    assert merge_files(["configs/objective/ld.yaml"]).values["variant"] == "mine"
    assert (
        list_resources("configs/objective").keys() == list_resources(str(shipped_dir("configs") / "objective")).keys()
    )


def test_the_users_own_file_may_extend_a_shipped_one(own):
    path = own / "configs" / "objective" / "mine.yaml"
    path.write_text(yaml.safe_dump({"extends": "ld.yaml", "variant": "mine"}))
    assert merge_files([path]).values["variant"] == "mine"
    assert "objectives" in merge_files([path]).values


@pytest.mark.parametrize("path", ["configs/objective/nothing.yaml", "elsewhere/configs/objective/ld.yaml", "/ld.yaml"])
def test_files_that_nobody_ships_are_not_found(own, path):
    assert find_resource(path) is None
    with pytest.raises(InputError):
        merge_files([path])


def test_shipped_configurations_are_valid_from_anywhere(own):
    layers = merge_files(["configs/regime/quickstart.yaml", "configs/objective/fwm_hw_ld.yaml"])
    assert RunConfig.model_validate(layers.values).variant == "fwm_hw_ld"


def test_a_shipped_file_has_a_name_that_other_installations_find(own):
    shipped = find_resource("configs/objective/baseline.yaml")
    assert shipped.is_absolute()
    assert resource_name(shipped) == Path("configs/objective/baseline.yaml")
    for path in (Path("configs/objective/mine.yaml"), Path("/elsewhere/baseline.yaml")):
        assert resource_name(path) == path
