"""Power of a study: what counts as a comparison, and the spread of a pilot."""

import pytest

from hpc_jepa.errors import InputError
from hpc_jepa.study.comparisons import StudyComparisons
from hpc_jepa.study.power import family_size, pilot_spread
from tests.study.planted import PlantedStudy

RATES = {"schedule.lr": [1e-4, 2e-4]}
PHASES = [{"name": "first"}, {"name": "second", "after": "first"}]


def references(planted):
    study = planted.config
    found = StudyComparisons.of(study, planted.cells, [evaluation.benchmark for evaluation in study.evaluations])
    return {arm.variant: other.variant for arm, other in found.references.items()}


@pytest.mark.parametrize("more", [{}, {"axes": RATES}, {"phases": PHASES}])
def test_every_variant_counts_against_the_baseline_of_its_settings_and_phase(more, tmp_path):
    planted = PlantedStudy(tmp_path, ("hw", "fwm", "ld"), range(3), baseline="hw", **more)
    found, points = references(planted), 2 if more else 1
    assert family_size(planted.config, planted.cells) == len(found) == 2 * points
    assert len(set(found.values())) == points
    for arm, reference in found.items():
        variant = arm.partition(".")[0]
        assert variant in ("fwm", "ld") and reference == arm.replace(variant, "hw", 1)


def test_the_spread_of_a_pilot_is_that_around_its_declared_baseline(tmp_path):
    planted = PlantedStudy(tmp_path, ("hw", "fwm", "ld"), range(4), baseline="hw")
    planted.plant(seed_spread=0.01)
    (tmp_path / "runs/demo/study.yaml").write_text(planted.path.read_text())
    spread = pilot_spread(tmp_path / "runs/demo")["motion"]
    assert 0.005 < spread.seeds < 0.05


def test_a_study_without_a_baseline_is_refused_with_one_line(tmp_path):
    planted = PlantedStudy(tmp_path, ("hw", "fwm"), range(3))
    with pytest.raises(InputError, match="baseline") as error:
        family_size(planted.config, planted.cells)
    assert "\n" not in str(error.value)
