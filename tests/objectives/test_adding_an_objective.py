"""The worked example of the guide does what the guide says."""

import re
from pathlib import Path

import pytest
import yaml

import hpc_jepa.objectives as package
from hpc_jepa.errors import InputError
from hpc_jepa.objectives import build_objective, registry

GUIDE = Path(__file__).parents[2] / "docs" / "adding_an_objective.md"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The file of the guide, where the registry looks; the listing of the guide."""
    code, listing = (re.search(rf"```{kind}\n(.*?)```", GUIDE.read_text(), re.S)[1] for kind in ("python", "yaml"))
    (tmp_path / "variance.py").write_text(code)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    registry.primitives.cache_clear()
    yield yaml.safe_load(listing)["objectives"]
    registry.primitives.cache_clear()


def test_the_example_is_found_composed_and_trained(example, recorded):
    latents, leaves = recorded
    choices = registry.parse_choices(example)
    objective = build_objective(choices, width=8, levels=4, grid=latents.grid)
    terms = objective(latents)
    spread = [student.flatten(0, 1).std(0) for student in latents.student]
    expected = sum((0.5 - group).clamp(min=0).mean() for group in spread) / 2
    assert terms["variance"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert objective.weights(0)["variance"] == 0.1 and "ld" in terms
    (terms["variance"] + terms["ld"]).backward()
    assert leaves["S1"].grad.abs().max() > 0


def test_its_options_are_checked_like_all_others(example):
    with pytest.raises(InputError, match=r"objectives\.variance\.flor: unknown option \(did you mean 'floor'\?\)"):
        registry.parse_options(registry.parse_choices([{"variance": {"flor": 1}}]))
