"""Objectives that cannot work are refused with one line that names the key, before anything is built."""

from functools import partial

import pytest

from hpc_jepa.config.loading import CONFIGS, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import InputError
from hpc_jepa.objectives import build_objective
from hpc_jepa.objectives.registry import validate_objectives

UCF101 = CONFIGS / "regime" / "ucf101.yaml"


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["objectives=[spectrl]"], ["spectrl", "spectral"]),
        (["objectives=[ld, ld]"], ["ld"]),
        (["objectives=[{ld: {hiden: 3}}]"], ["objectives.ld.hiden", "'hidden'"]),
        (["objectives=[{fwm: {appearance_ratio: 1.0}}]"], ["objectives.fwm.appearance_ratio"]),
        (["objectives=[{fwm: {appearance_ratio: 0}}]"], ["objectives.fwm.appearance_ratio"]),
        (["objectives=[{velgate: {percentile: 2}}]"], ["objectives.velgate.percentile"]),
        (["objectives=[base]"], ["'base'"]),
        (["data.clip.frames=2", "objectives=[ld]"], ["objectives.ld", " 2 ", " 1;", "data.clip.frames"]),
        (["data.clip.frames=4", "objectives=[spectral]"], ["objectives.spectral", " 4 ", " 2;", "data.clip.frames"]),
        (["objectives=[{ld: {pairs: forecast}}]"], ["objectives.ld", "temporal_keep"]),
        (["objectives=[{ac: {pairs: forecast}}]"], ["objectives.ac", "temporal_keep"]),
        (["semantics=published", "objectives=[kinematic]"], ["objectives.kinematic", "semantics.kinematic_features"]),
    ],
    ids=str,
)
def test_the_error_is_one_line_with_the_override_and_the_key(overrides, names):
    with pytest.raises(InputError) as raised:
        validate_objectives(read_config(RunConfig, [UCF101], overrides))
    message = str(raised.value)
    assert message.startswith(f"override {overrides[-1]}: ") and "\n" not in message
    assert all(name in message for name in names), message


def test_building_an_unknown_objective_names_the_nearest():
    with pytest.raises(InputError, match="'fwm_hw_ld'"):
        build_objective("fwm_hw_ldd", width=8, levels=4, grid=None)


def test_an_option_alone_is_accepted_if_only_one_objective_has_it():
    build = partial(build_objective, "fwm_hw_ld", width=8, levels=4, grid=None)
    assert build(hidden=5).auxiliary["ld"].head[0].out_features == 5
    assert build(ld={"hidden": 6}).auxiliary["ld"].head[0].out_features == 6
    with pytest.raises(InputError, match=r"^weight: .*\bhw and ld\b"):
        build(weight=2.0)
    with pytest.raises(InputError, match=r"^hiden: .*\bfwm, hw, ld\b"):
        build(hiden=5)


def test_free_combinations_are_accepted():
    config = read_config(RunConfig, [UCF101], ["objectives=[fwm, ld, ltc]"])
    validate_objectives(config)
    assert [choice.name for choice in config.objectives] == ["fwm", "ld", "ltc"]
