"""Files in the layout of V-JEPA 2.1 go in strictly and come out equal; every single damage is refused by its name."""

import hashlib
import json
import re

import pytest
import torch
import yaml
from typer.testing import CliRunner

from hpc_jepa.checkpoint.export import export_encoder
from hpc_jepa.checkpoint.layout import latest
from hpc_jepa.checkpoint.reader import open_tensors
from hpc_jepa.cli.app import app
from hpc_jepa.config.loading import dump_config
from hpc_jepa.errors import CheckpointError, InputError
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.training.loop import train
from tests.released_layout import released_content

MODELS = {
    "one level": {
        "encoder": {"width": 32, "depth": 4, "heads": 2, "patch": 8, "levels": [4], "norm_blocks": [1, 2, 3, 4]},
        "predictor": {"width": 16, "depth": 2, "heads": 2, "embed": "linear"},
    },
    "four levels": {
        "encoder": {"width": 32, "depth": 4, "heads": 2, "patch": 8, "levels": [1, 2, 3, 4]},
        "predictor": {"width": 16, "depth": 2, "heads": 2, "mask_tokens": 8},
    },
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


@pytest.fixture
def content(model):
    """A random file of the released layout for ``model``."""
    return released_content(model)


@pytest.fixture
def begin(configure, tmp_path, model):
    """``begin(content, steps=0, **init)``: train a run that begins with a file of this content; its configuration."""

    def run(content, steps=0, sha256=None, study="begun", **init):
        file = tmp_path / "released.pt"
        torch.save(content, file)
        known = sha256 or hashlib.sha256(file.read_bytes()).hexdigest()
        schedule = {"steps": steps, "lr": 1e-3}
        init = {"file": str(file), "sha256": known, **init}
        config = configure(study=study, model=model, objectives=[], schedule=schedule, init=init)
        train(config, lambda record: None)
        return config

    return run


def test_all_three_networks_go_in_and_come_out_equal_to_the_bit(begin, content, tmp_path):
    config = begin(content)
    origin = RunDir(config.folder).origin
    assert (origin.kind, origin.parts, origin.drawn) == ("file", ("encoder", "target", "predictor"), ())
    export_encoder(latest(config.folder), "original", "target", tmp_path / "out")
    written = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    for key in ("encoder", "target_encoder", "predictor"):
        assert written[key].keys() == content[key].keys()
        assert [name for name, x in content[key].items() if not torch.equal(written[key][name], x)] == []


def test_the_run_trains_with_a_fresh_optimizer_and_keeps_unused_norms(begin, content):
    config = begin(content, steps=2)
    ended = open_tensors(latest(config.folder).path)
    assert ended["updates"] == 2
    theirs = content["encoder"]
    assert not torch.equal(ended["student.blocks.0.mlp.fc1.weight"], theirs["module.backbone.blocks.0.mlp.fc1.weight"])
    if config.model.encoder.norm_blocks:
        assert torch.equal(ended["student.norms.0.weight"], theirs["module.backbone.norms_block.0.weight"])


@pytest.mark.parametrize("model", ["one level"], indirect=True)
@pytest.mark.parametrize(("parts", "copied"), [(["encoder"], "target"), (["target", "predictor"], "student")])
def test_an_encoder_that_is_not_listed_is_a_copy_of_the_other(begin, content, parts, copied):
    key = {"encoder": "encoder", "target": "target_encoder"}[parts[0]]
    config = begin({name: x for name, x in content.items() if name in (key, "predictor")}, parts=parts)
    began = open_tensors(latest(config.folder).path)
    theirs = content[key]["module.backbone.blocks.1.attn.qkv.weight"]
    assert torch.equal(began["student.blocks.1.attn.qkv.weight"], theirs)
    assert torch.equal(began["target.blocks.1.attn.qkv.weight"], theirs)
    origin = RunDir(config.folder).origin
    assert origin.copied == copied and bool(origin.drawn) == ("predictor" not in parts)


@pytest.mark.parametrize("model", ["one level"], indirect=True)
def test_newer_files_call_the_target_ema_encoder(begin, content):
    content["ema_encoder"] = content.pop("target_encoder")
    config = begin(content)
    began = open_tensors(latest(config.folder).path)
    theirs = content["ema_encoder"]["module.backbone.img_mod_embed"]
    assert torch.equal(began["target.modality.image"], theirs)


def _without(state, name):
    return {key: x for key, x in state.items() if key != f"module.backbone.{name}"}


DAMAGES = {
    "missing": ("predictor", "predictor_blocks.1.mlp.fc2.bias", lambda state, name: _without(state, name)),
    "unexpected": ("encoder", "pos_embed", lambda state, name: {**state, name: torch.zeros(1, 4, 32)}),
    "of another shape": (
        "target_encoder",
        "blocks.3.norm1.weight",
        lambda state, name: {**state, f"module.backbone.{name}": torch.ones(31)},
    ),
    "not finite": (
        "predictor",
        "predictor_proj.bias",
        lambda state, name: {**state, f"module.backbone.{name}": torch.full((32,), torch.nan)},
    ),
    "twice": ("encoder", "img_mod_embed", lambda state, name: {**state, name: torch.zeros(1, 1, 32)}),
}


@pytest.mark.parametrize("model", ["one level"], indirect=True)
@pytest.mark.parametrize("what", DAMAGES)
def test_every_damage_is_refused_by_its_name_and_leaves_nothing_behind(begin, content, what, tmp_path):
    key, name, damage = DAMAGES[what]
    with pytest.raises(CheckpointError, match=rf"released\.pt: .*{key}.*{re.escape(name)}") as refusal:
        begin({**content, key: damage(content[key], name)})
    assert what in str(refusal.value) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("model", ["one level"], indirect=True)
def test_a_wrong_hash_and_missing_networks_are_refused(begin, content, tmp_path):
    with pytest.raises(CheckpointError, match=r"released\.pt: SHA-256 is [0-9a-f]{64}, not a{64}"):
        begin({"harmful": object}, sha256=64 * "a")  # it is not even unpickled
    with pytest.raises(CheckpointError, match=r"ema_encoder or target_encoder"):
        begin({name: x for name, x in content.items() if name != "target_encoder"})
    with pytest.raises(CheckpointError, match=r"predictor is not a state dict"):
        begin({**content, "predictor": [1]})
    too_large = {"module.backbone.predictor_proj.bias": torch.full((32,), 1e300, dtype=torch.float64)}
    with pytest.raises(CheckpointError, match=r"not finite .*predictor_proj\.bias"):  # in float32
        begin({**content, "predictor": {**content["predictor"], **too_large}})
    with pytest.raises(InputError, match=r"gone\.pt"):
        begin(content, file=str(tmp_path / "gone.pt"))


def _check(*arguments):
    return CliRunner().invoke(app, ["checkpoint", "check", *map(str, arguments)])


def test_a_file_is_checked_before_a_job_is_queued(configure, content, model, tmp_path):
    file, layer = tmp_path / "released.pt", tmp_path / "run.yaml"
    torch.save(content, file)
    layer.write_text(dump_config(configure(model=model, objectives=[])))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest in _check(file).output.replace("\n", "")
    results = [json.loads(_check(file, layer, "--forward", "--json").output) for _ in range(2)]
    assert results[0] == results[1]
    assert results[0]["sha256"] == digest and results[0]["loss"] > 0
    assert set(results[0]["terms"]) == {"prediction", "context"}
    other = json.loads(_check(file, layer, "--forward", "--json", "--parts", "encoder").output)
    assert other["loss"] != results[0]["loss"] and other["parts"] == ["encoder"]


@pytest.mark.parametrize("model", ["one level"], indirect=True)
def test_a_file_that_does_not_fit_is_named(configure, content, model, tmp_path):
    file, layer = tmp_path / "released.pt", tmp_path / "run.yaml"
    torch.save(content, file)
    settings = yaml.safe_load(dump_config(configure(model=model, objectives=[])))
    settings["model"]["predictor"]["embed"] = "mlp"
    layer.write_text(yaml.safe_dump(settings))
    refused = _check(file, layer)
    assert refused.exit_code == CheckpointError.exit_code
    assert "predictor.predictor_embed.0.weight" in "".join(refused.output.split())
    assert _check(file, layer, "--parts", "encoder,target").exit_code == 0
    init = f"init={{file: {file}, sha256: {hashlib.sha256(file.read_bytes()).hexdigest()}, parts: [encoder, target]}}"
    assert _check(file, layer, init).exit_code == 0
    assert _check(file, layer, init, "--parts", "predictor").exit_code == CheckpointError.exit_code
    assert _check(file, "--forward").exit_code == InputError.exit_code
    assert _check(file, layer, "--parts", "encoders").exit_code == InputError.exit_code
