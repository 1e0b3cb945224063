"""The first sentence names a planted effect, and without an effect seldom one."""

import pytest
from scipy import stats
from simulate_answers import shares_named

from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.study import StudyConfig

GRIDS = 20


@pytest.mark.parametrize("name", ["few_shot", "robustness", "cross_domain"])
def test_a_planted_effect_is_named_and_the_null_is_not(name):
    study = read_config(StudyConfig, [find_config(name, "study")])
    assert shares_named(study, 0.15, GRIDS)[0] > 0.8
    assert sum(shares_named(study, 0.0, GRIDS)) * GRIDS <= stats.binom.isf(1e-3, GRIDS, 0.05)
