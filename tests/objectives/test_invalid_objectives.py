"""What cannot work is refused when the configuration is read, in words that help."""

from functools import partial

import pytest

from hpc_jepa.config.loading import CONFIGS, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import InputError
from hpc_jepa.objectives import build_objective
from hpc_jepa.objectives.registry import validate_objectives

UCF101 = CONFIGS / "regime" / "ucf101.yaml"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["objectives=[spectrl]"], "unknown objective 'spectrl' (did you mean 'spectral'?)"),
        (["objectives=[ld, ld]"], "twice"),
        (["objectives=[{ld: {hiden: 3}}]"], "objectives.ld.hiden: unknown option (did you mean 'hidden'?)"),
        (["objectives=[{fwm: {appearance_ratio: 1.0}}]"], "objectives.fwm.appearance_ratio"),
        (["objectives=[{fwm: {appearance_ratio: 0}}]"], "objectives.fwm.appearance_ratio"),
        (["objectives=[{velgate: {percentile: 2}}]"], "objectives.velgate.percentile"),
        (["objectives=[base]"], "unknown objective 'base'"),
        (["objectives=[ld]", "data.clip.frames=2"], "needs 2 tubelets along time, clips have 1"),
        (["objectives=[spectral]", "data.clip.frames=4"], "needs 4 tubelets along time, clips have 2"),
        (["objectives=[{ld: {pairs: forecast}}]"], "temporal_keep"),
        (["objectives=[{ac: {pairs: forecast}}]"], "temporal_keep"),
        (["objectives=[kinematic]", "semantics=published"], "no gradient on an EMA target"),
    ],
)
def test_refused_with_one_helpful_line(overrides, words):
    with pytest.raises(InputError) as caught:
        validate_objectives(read_config(RunConfig, [UCF101], overrides))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_building_an_unknown_objective_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'fwm_hw_ld'"):
        build_objective("fwm_hw_ldd", width=8, levels=4, grid=None)


def test_options_can_be_given_by_their_own_name_where_it_is_clear_whose_they_are():
    build = partial(build_objective, "fwm_hw_ld", width=8, levels=4, grid=None)
    assert build(hidden=5).auxiliary["ld"].head[0].out_features == 5
    assert build(ld={"hidden": 6}).auxiliary["ld"].head[0].out_features == 6
    with pytest.raises(InputError, match="weight: an option of hw and ld"):
        build(weight=2.0)


def test_free_combinations_are_accepted():
    config = read_config(RunConfig, [UCF101], ["objectives=[fwm, ld, ltc]"])
    validate_objectives(config)
    assert [choice.name for choice in config.objectives] == ["fwm", "ld", "ltc"]
