"""Fingerprints cover the settings that decide the outcome and differ from the defaults; those of 0.1 still match."""

import json
from pathlib import Path

import pytest
from pydantic import Field

from hpc_jepa.config.benchmark import BenchmarkConfig, ProtocolConfig, current_fingerprint
from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.training import OptimizerConfig

RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "fingerprints_v1.json").read_text())
"""Configurations and what release 0.1 computed for them."""

MINIMAL = RECORDED["runs"]["minimal"]["values"]


class LaterOptimizer(OptimizerConfig):
    amsgrad: bool = Field(False)


class LaterRun(RunConfig):
    """The configuration of a later release, with one more optional key."""

    ADDED_KEYS = (*RunConfig.ADDED_KEYS, "optimizer.amsgrad")
    optimizer: LaterOptimizer = LaterOptimizer()


class LaterProtocol(ProtocolConfig):
    ADDED_KEYS = (*ProtocolConfig.ADDED_KEYS, "decode_backend")
    decode_backend: str = "pyav"


@pytest.mark.parametrize("name", RECORDED["runs"])
def test_a_new_optional_key_does_not_change_the_fingerprint_of_a_run(name):
    values = RECORDED["runs"][name]["values"]
    now, later = RunConfig.model_validate(values), LaterRun.model_validate(values)
    assert now.fingerprint() == later.fingerprint()
    used = LaterRun.model_validate(values | {"optimizer": {"amsgrad": True}})
    assert used.fingerprint() != now.fingerprint()


@pytest.mark.parametrize("task", ["probe", "few_shot"])
@pytest.mark.parametrize("name", RECORDED["protocols"])
def test_a_new_optional_key_does_not_change_the_fingerprint_of_a_protocol(name, task):
    values = RECORDED["protocols"][name]["values"]
    now, later = ProtocolConfig.model_validate(values), LaterProtocol.model_validate(values)
    assert now.fingerprint(task) == later.fingerprint(task)
    assert LaterProtocol.model_validate(values | {"decode_backend": "dali"}).fingerprint(task) != now.fingerprint(task)


@pytest.mark.parametrize("config_type", [RunConfig, LaterRun])
@pytest.mark.parametrize("name", RECORDED["runs"])
def test_fingerprints_of_release_0_1_match_runs(name, config_type):
    config = config_type.model_validate(RECORDED["runs"][name]["values"])
    assert RECORDED["runs"][name]["fingerprint"] in config.known_fingerprints()
    assert config.fingerprint() in config.known_fingerprints()
    other = config.model_copy(update={"seed": 7})
    assert RECORDED["runs"][name]["fingerprint"] not in other.known_fingerprints()
    assert config.fingerprint() not in other.known_fingerprints()


@pytest.mark.parametrize("config_type", [ProtocolConfig, LaterProtocol])
@pytest.mark.parametrize("name", RECORDED["protocols"])
def test_fingerprints_of_release_0_1_match_protocols(name, config_type):
    recorded = RECORDED["protocols"][name]
    config = config_type.model_validate(recorded["values"])
    assert recorded["probe"] in config.known_fingerprints()
    assert recorded["few_shot"] in config.known_fingerprints("few_shot")
    assert recorded["probe"] not in config.model_copy(update={"probe_seeds": (9,)}).known_fingerprints()


def test_a_new_key_in_use_has_no_fingerprint_of_release_0_1():
    config = LaterRun.model_validate(MINIMAL | {"optimizer": {"amsgrad": True}})
    assert RECORDED["runs"]["minimal"]["fingerprint"] not in config.known_fingerprints()


@pytest.mark.parametrize("task", [None, "robustness"])
def test_records_of_both_releases_are_comparable(task):
    (name, config), *_ = read_config(BenchmarkConfig, [find_config("ucf101", "benchmark")]).protocols.items()
    now = config.fingerprint(task)
    assert len(config.known_fingerprints(task)) == 2
    assert {current_fingerprint(known, "ucf101", name, task) for known in config.known_fingerprints(task)} == {now}
    assert current_fingerprint("0123456789abcdef", "ucf101", name, task) == "0123456789abcdef"
    assert current_fingerprint(now, "unknown", name, task) == now


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"runs": "elsewhere"}, True),
        ({"engine": {"zero_stage": 3}}, True),
        ({"guard": {"collapse": "stop"}}, True),
        ({"engine": {"batch_size": 32}}, True),  # the default, spelled out
        ({"semantics": "corrected"}, True),
        ({"engine": {"batch_size": 16}}, False),
        ({"semantics": "published"}, False),
        ({"masking": {"motion": {}}}, False),  # guidance with default options is not the absence of guidance
        ({"objectives": ["ld"]}, False),
        ({"seed": 1}, False),
    ],
    ids=str,
)
def test_only_settings_that_decide_the_outcome_change_a_fingerprint(changes, same):
    changed = RunConfig.model_validate(MINIMAL | changes)
    assert (changed.fingerprint() == RunConfig.model_validate(MINIMAL).fingerprint()) == same
