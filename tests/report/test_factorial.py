"""Main effects and interactions of composed objectives, from planted cell means."""

import csv
import json

import pytest

from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.report.factorial import factorial_designs
from hpc_jepa.report.write_report import write_report
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.grid import expand_study
from tests.report.simulated_study import SimulatedStudy
from tests.report.test_verdict import collect

EFFECTS = {"fwm": 0.10, "hw": 0.06, "ld": 0.0}
TOGETHER = -0.10
"""Planted beside the sums of EFFECTS where fwm and hw are together."""


def accuracy(config: RunConfig, benchmark: str, protocol: str) -> float:
    parts = {choice.name for choice in config.objectives}
    return 0.4 + sum(EFFECTS.get(name, 0) for name in parts) + TOGETHER * ({"fwm", "hw"} <= parts)


@pytest.fixture
def cube(tmp_path):
    """All eight compositions of three objectives with equal options, three seeds."""
    study = StudyConfig.model_validate(
        {
            "study": "cube",
            "regimes": ["mixed"],
            "variants": ["baseline", "fwm", "hw", "ld", "fwm_ld", "hw_ld", "fwm_hw_ld", "ac"],
            "seeds": [0, 1, 2],
            "evaluations": [{"benchmark": "ssv2", "protocols": ["published"]}],
        }
    )
    cells = expand_study(study, tmp_path)
    parts = {"hw": {"weight": 1.0, "temperature": 1.0}}
    cells = [with_objectives(cell, cell.config.variant, parts) for cell in cells]
    cells += [with_objectives(c, "fwm_hw", parts, add="hw") for c in cells if c.config.variant == "fwm"]
    return SimulatedStudy(tmp_path, accuracy, clips=2000).write(study, cells)


def with_objectives(cell: StudyCell, variant: str, options: dict[str, dict], add: str | None = None) -> StudyCell:
    """The cell with other options of some objectives, and one more."""
    facts = cell.config.model_dump(mode="json")
    chosen = facts["objectives"] + ([{"name": add, "options": {}}] if add else [])
    facts["objectives"] = [{**choice, "options": options.get(choice["name"], choice["options"])} for choice in chosen]
    config = RunConfig.model_validate({**facts, "variant": variant})
    return StudyCell(config, cell.arguments, cell.evaluations)


def test_effects_of_a_complete_design_are_the_planted_ones(cube):
    report = write_report([cube])
    (design,) = report.data.factorial
    assert design.factors == ("fwm", "hw", "ld") and design.given == () and len(design.cells) == 8
    found = {effect.name: effect.contrast for effect in design.effects}
    expected = {  # a main effect is a mean over the other factors, so half of TOGETHER belongs to fwm and to hw each
        "fwm": 100 * (EFFECTS["fwm"] + TOGETHER / 2),
        "hw": 100 * (EFFECTS["hw"] + TOGETHER / 2),
        "ld": 0,
        "fwm x hw": 100 * TOGETHER,
        "fwm x ld": 0,
        "hw x ld": 0,
        "fwm x hw x ld": 0,
    }
    assert {name: contrast.points for name, contrast in found.items()} == pytest.approx(expected, abs=3.5)
    for contrast in found.values():
        assert contrast.low < contrast.points < contrast.high and contrast.seeds == 3
        assert contrast.simultaneous_low < contrast.low
    assert found["fwm x hw"].significant and found["fwm x hw"].points < 0
    assert not found["fwm x hw x ld"].significant


def test_effects_are_on_the_page_in_the_tables_and_in_json(cube):
    folder = write_report([cube]).folder
    (design,) = json.loads((folder / "report.json").read_text())["factorial"]["designs"]
    effects = {effect["effect"]: effect["points"] for effect in design["effects"]}
    with (folder / "factorial.csv").open(newline="") as file:
        lines = {row["effect"]: float(row["points"]) for row in csv.DictReader(file)}
    assert lines == pytest.approx(effects, abs=0.01) and len(lines) == 7
    page = (folder / "index.html").read_text()
    assert "Composed objectives" in page and "without fwm" in page
    assert "fwm x hw x ld" in (folder / "tables.md").read_text()


def test_cells_with_other_options_are_no_part_of_a_design(tmp_path):
    """hw has another weight alone than beside ld, so it has no effect beside and without ld to compare."""
    study = read_config(StudyConfig, [find_config("extended", "study")]).model_copy(
        update={"regimes": ("mixed",), "seeds": (0, 1)}
    )
    data = collect(SimulatedStudy(tmp_path, accuracy, random_accuracy=None).write(study))
    designs = {(" x ".join(design.factors), design.given) for design in data.factorial}
    assert designs == {("fwm x ld", ()), ("ac x hw", ()), ("ac x fwm", ()), ("fwm x hw", ("ld",))}
    (line,) = [line for line in data.incomplete_factorial if line.startswith("fwm_hw_ld")]
    assert "fwm x hw x ld" in line and "fwm+hw" in line
    assert any(line.startswith("combo") for line in data.incomplete_factorial)


def test_an_interaction_of_one_seed_is_shown_but_never_judged(tmp_path):
    variants = ["baseline", "fwm", "ld", "fwm_ld"]
    evaluations = [{"benchmark": "ssv2", "protocols": ["published"]}]
    facts = {"study": "small", "regimes": ["mixed"], "variants": variants, "evaluations": evaluations}
    data = collect(SimulatedStudy(tmp_path, accuracy, clips=5000).write(StudyConfig.model_validate(facts)))
    (design,) = data.factorial
    assert all(effect.contrast.one_seed and not effect.contrast.significant for effect in design.effects)
    assert factorial_designs(data.scores[0]) == data.factorial
