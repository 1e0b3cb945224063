"""Configuration files: the location of every error, renamed keys, and layers."""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import pytest

from hpc_jepa.config.benchmark import ProtocolName
from hpc_jepa.config.cluster import find_profile
from hpc_jepa.config.loading import dump_config, read_config
from hpc_jepa.config.model import SIZES
from hpc_jepa.config.renamed_keys import RENAMED_KEYS
from hpc_jepa.config.run import RunConfig, load_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.objectives.registry import validate_objectives
from hpc_jepa.runs import RunDir

GOLDEN = Path(__file__).parents[1] / "golden"

BASE = """regime: r
data:
  sources:
    a: {shards: x}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """``write(NAME, TEXT)`` writes a file in the working directory and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        (tmp_path / name).write_text(text)
        return name

    return write


@pytest.mark.parametrize(
    ("text", "line", "key", "nearest"),
    [
        ("objectives:\n  - fwm: {static_wight: 1}\n", 6, "objectives.fwm.static_wight", "static_weight"),
        (
            "objectives:\n  - fwm:\n      static_weight: 1\n      apearance_ratio: 1\n",
            8,
            "apearance_ratio",
            "appearance",
        ),
        (
            "objectives:\n  - ld\n  - name: hw\n    options:\n      temprature: 2\n",
            9,
            "objectives.hw.temprature",
            "temp",
        ),
        ("objectives:\n  - ld\n  - fmw\n", 7, "fmw", "fwm"),
        ("objectives: [fmw]\n", 5, "fmw", "fwm"),
        ("objectives:\n  - velgate: {percentile: 2}\n", 6, "objectives.velgate.percentile", ""),
        ("objectives:\n  - ld:\n      pairs: forecast\n", 6, "objectives.ld", "temporal_keep"),
        ("schedule: {stepps: 3}\n", 5, "schedule.stepps", "steps"),
    ],
)
def test_an_error_names_file_line_and_nearest_key(write, text, line, key, nearest):
    with pytest.raises(InputError) as raised:
        validate_objectives(load_config(write("run.yaml", BASE + text)))
    message = str(raised.value)
    assert message.startswith(f"run.yaml:{line}: ") and key in message and nearest in message and "\n" not in message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("variants: [{objective: baseline, name: a/b}]\n", "variants.0.name"),
        ("variants: []\n", "variants"),
        ("variants: [baseline]\naxes: [schedule.lr]\n", "axes"),
        ("variants: [baseline]\nseeds: [0, 1]\nevaluations: [{benchmark: x}]\nsequential: 3\n", "sequential"),
    ],
)
def test_one_mistake_is_one_error_without_names_of_classes(write, text, key):
    with pytest.raises(InputError) as raised:
        read_config(StudyConfig, [write("study.yaml", "study: s\nregimes: [trial]\n" + text)])
    message = str(raised.value)
    assert f" {key}: " in message
    assert not any(word in message for word in ("more)", "Config", "dictionary", "Tuple"))


def test_an_error_names_the_layer_that_set_the_key_last(write):
    layers = [
        write("a.yaml", BASE + "objectives: [ld, {fwm: {static_weight: 1}}]\n"),
        write("b.yaml", "objectives: [x]"),
    ]
    with pytest.raises(InputError, match=r"^b\.yaml:1: "):
        validate_objectives(load_config(*layers))
    with pytest.raises(InputError, match=r"^override objectives=\[ld, y\]: "):
        validate_objectives(load_config(*layers, overrides=["objectives=[ld, y]"]))


def test_an_error_in_a_mapping_of_an_override_names_the_override(write):
    layer = write("run.yaml", BASE + "schedule: {phases: {lr: 1.0e-3}}\n")
    override = "schedule.phases={lr: [{initial: 1.0e-3, final: 0, start: 90%, end: 10%}]}"
    with pytest.raises(InputError, match=rf"^override {re.escape(override)}: schedule\.phases\.lr\.0\.end: "):
        load_config(layer, overrides=[override])


def test_equal_values_from_different_files_are_equal_configurations(write):
    one, other = (load_config(write(name, BASE)) for name in ("a.yaml", "b.yaml"))
    assert one == other and one.locations.find(("regime",)) == "a.yaml:1"
    assert one.model_copy(update={"seed": 1}) != other


def test_old_keys_are_read_and_named_once(write, caplog):
    text = BASE + "  reading: {ahead: 7}\noptimizer: {clip_gradient: 2.0}\nguard: {skips_in_a_row: 4}\n"
    for _ in range(2):
        config = load_config(write("run.yaml", text), overrides=["seed=2"])
    assert (config.data.reading.prefetch_steps, config.optimizer.grad_clip) == (7, 2.0)
    assert config.guard.max_consecutive_skips == 4
    assert len(caplog.messages) == 3 and all(message.startswith("run.yaml:") for message in caplog.messages)
    assert RunConfig.model_validate(
        {"regime": "r", "data": {"sources": {"a": {"shards": "x"}}, "reading": {"ahead": 7}}}
    )


def test_a_run_of_an_older_release_is_read_without_warnings(caplog):
    config = RunDir(GOLDEN / "checkpoint_format_2").config
    assert config.optimizer.grad_clip == 0 and config.guard.max_consecutive_skips == 10
    assert caplog.messages == []


def test_an_old_key_keeps_its_place_between_the_layers(write):
    layers = [write("a.yaml", BASE + "optimizer: {clip_gradient: 2}"), write("b.yaml", "optimizer: {grad_clip: 3}")]
    assert load_config(*layers).optimizer.grad_clip == 3
    assert load_config(*layers, overrides=["optimizer.clip_gradient=4"]).optimizer.grad_clip == 4
    with pytest.raises(InputError, match=r"optimizer\.clip_gradient"):
        load_config(write("c.yaml", BASE + "optimizer: {clip_gradient: 2, grad_clip: 3}"))


def test_every_renamed_key_exists():
    profile = {key: new for key, new in RENAMED_KEYS.items() if "." not in key}
    assert set(profile.values()) <= set(type(find_profile("small").cluster).model_fields)
    assert RENAMED_KEYS["protocols.careful"] in get_args(get_args(ProtocolName)[0])
    for key in RENAMED_KEYS.keys() - profile.keys() - {"protocols.careful"}:
        node = RunConfig
        *parents, _ = key.split(".")
        for parent in parents:
            node = node.model_fields[parent].annotation
        assert RENAMED_KEYS[key] in node.model_fields


def test_a_dumped_configuration_is_read_back(write):
    config = load_config(write("run.yaml", BASE), overrides=["objectives=[{ld: {hidden: 3}}]", "semantics=published"])
    assert read_config(RunConfig, [write("again.yaml", dump_config(config))]) == config


def test_null_removes_a_source_of_the_extended_file(write):
    base = write("base.yaml", "regime: r\ndata:\n  sources: {a: {shards: x}, b: {shards: y, weight: 2}}\n")
    own = write("own.yaml", "extends: base.yaml\ndata:\n  sources: {a: null, c: {shards: z}}\n")
    assert {name: source.shards for name, source in load_config(own).data.sources.items()} == {"b": "y", "c": "z"}
    assert list(load_config(base, overrides=["data.sources.b=null"]).data.sources) == ["a"]
    with pytest.raises(InputError, match="sources"):
        load_config(own, overrides=["data.sources={b: null, c: null}"])


def test_the_grid_of_a_run():
    config = RunConfig.model_validate({"regime": "r", "data": {"sources": {"a": {"shards": "x"}}}})
    assert (config.grid.time, config.grid.height, config.grid.width, config.grid.image) == (8, 14, 14, False)
    assert (config.image_grid.time, config.image_grid.tokens, config.image_grid.image) == (1, 196, True)


def test_an_unknown_key_without_a_near_name_lists_the_valid_ones(write):
    with pytest.raises(InputError, match=r"a\.yaml:5: engine\.qqq: .*batch_size"):
        read_config(RunConfig, [write("a.yaml", BASE + "engine: {qqq: 1}\n")])


@pytest.mark.parametrize("name", list(SIZES))
def test_the_shipped_models_have_the_size_of_their_label(name):
    model = load_config("configs/regime/ucf101.yaml", f"configs/model/{name}.yaml").model
    assert (model.size, model.encoder.width, model.encoder.depth) == (name, *SIZES[name]) and not model.size_warning


def test_a_label_that_does_not_fit_is_named(write):
    assert "large" in load_config(write("a.yaml", BASE + "model: {size: large}")).model.size_warning
    assert "lagre" in load_config(write("b.yaml", BASE + "model: {size: lagre}")).model.size_warning
    assert not load_config(write("c.yaml", BASE)).model.size_warning


@pytest.mark.parametrize(
    ("accepted", "valid"),
    [
        ("schedule.steps", True),
        ("schedule", True),
        ("data.sources.a", True),
        ("data.sources.b", False),
        ("schedule.stepps", False),
        ("x", False),
    ],
)
def test_accepted_changes_must_be_settings(write, accepted, valid):
    text = BASE + f"checkpoint: {{accept: [{accepted}]}}\n"
    with nullcontext() if valid else pytest.raises(InputError, match="accept"):
        load_config(write("run.yaml", text))
