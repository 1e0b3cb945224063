"""An exported encoder computes the features of the run's encoder in every supported program."""

import doctest
import importlib
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import hpc_jepa
from hpc_jepa.checkpoint.export import CARD_KEY, export_encoder, model_card
from hpc_jepa.checkpoint.layout import resolve_checkpoint
from hpc_jepa.errors import CheckpointError, InputError

VJEPA2_POSITIONS = {
    "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2], "rotary": "vjepa2"},
    "predictor": {"width": 16, "depth": 1, "heads": 2},
}
CLIPS = torch.randint(256, (2, 3, 4, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def run(save_run, tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs")).folder


@pytest.fixture(scope="module")
def vjepa2_run(save_run, tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs"), model=VJEPA2_POSITIONS).folder


def exported(path, to, weights, out):
    export_encoder(resolve_checkpoint(path), to, weights, out)
    return out


def transformers_features(model, encoder):
    """Features of a VJEPA2Model for CLIPS, normalised as ``encoder`` does."""
    return model.eval().get_vision_features(((CLIPS / 255 - encoder.mean) / encoder.std).transpose(1, 2))


@pytest.mark.parametrize("weights", ["target", "student"])
@pytest.mark.parametrize("to", ["safetensors", "timm"])
def test_an_export_has_the_features_of_the_run(run, to, weights, tmp_path):
    of_run = hpc_jepa.load_encoder(run, weights)(CLIPS)
    out = exported(run, to, weights, tmp_path / "out")
    for path in (out, str(out / "model.safetensors")):
        torch.testing.assert_close(hpc_jepa.load_encoder(path)(CLIPS), of_run, rtol=0, atol=1e-5)
    other = hpc_jepa.load_encoder(run, "student" if weights == "target" else "target")(CLIPS)
    assert (of_run - other).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("weights", ["target", "student"])
def test_transformers_has_the_features_of_the_run(vjepa2_run, weights, tmp_path, transformers):
    out = exported(vjepa2_run, "transformers", weights, tmp_path / "out")
    theirs, info = transformers.VJEPA2Model.from_pretrained(out, output_loading_info=True)
    assert not info["unexpected_keys"] and all(name.startswith("predictor.") for name in info["missing_keys"])
    encoder = hpc_jepa.load_encoder(vjepa2_run, weights)
    features = transformers_features(theirs, encoder)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, encoder(CLIPS), rtol=0, atol=1e-5)
    torch.testing.assert_close(features, hpc_jepa.load_encoder(out)(CLIPS), rtol=0, atol=1e-5)


@torch.no_grad()
def test_transformers_accepts_equal_positions(save_run, tmp_path, transformers):
    """With one frequency per axis and a 16x16 grid both kinds of rotary positions are the same."""
    model = VJEPA2_POSITIONS | {"encoder": {"width": 16, "depth": 2, "heads": 2, "patch": 2, "levels": [2]}}
    run = save_run(tmp_path, model=model).folder
    theirs = transformers.VJEPA2Model.from_pretrained(exported(run, "transformers", "target", tmp_path / "out"))
    encoder = hpc_jepa.load_encoder(run)
    torch.testing.assert_close(transformers_features(theirs, encoder), encoder(CLIPS), rtol=0, atol=1e-5)


def test_transformers_refuses_other_positions_and_writes_nothing(run, tmp_path):
    with pytest.raises(InputError, match=r"4x4 tokens.*model\.encoder\.rotary=vjepa2"):
        exported(run, "transformers", "target", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_timm_layout_has_the_names_of_timm(run, tmp_path, torchvision_operators):
    timm = importlib.import_module("timm.models.vision_transformer")
    theirs = timm.VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        num_classes=0,
        class_token=False,
        pos_embed="none",
        global_pool="",
    )
    ours = load_file(exported(run, "timm", "target", tmp_path / "out") / "model.safetensors")
    assert {name: x.shape for name, x in ours.items() if "patch_embed.proj.weight" not in name} == {
        name: x.shape for name, x in theirs.state_dict().items() if "patch_embed.proj.weight" not in name
    }
    assert ours["patch_embed.proj.weight"].shape == (32, 3, 2, 8, 8)


def test_the_model_card_has_the_origin_of_the_encoder(run, tmp_path):
    page = (exported(run, "safetensors", "student", tmp_path / "out") / "README.md").read_text()
    for value in ("**student**", "step 7 of 10", "corrected", "fwm, ld", "digest-of-none", "hand, made, baseline"):
        assert value in page
    assert page.startswith("---\nlibrary_name")


def test_without_ema_the_student_is_exported_as_target(save_run, tmp_path):
    run = save_run(tmp_path / "runs", ema="never").folder
    out = exported(run, "safetensors", "target", tmp_path / "out")
    torch.testing.assert_close(hpc_jepa.load_encoder(out)(CLIPS), hpc_jepa.load_encoder(run, "student")(CLIPS))
    card = model_card(resolve_checkpoint(run), "target", "safetensors")
    assert (card.weights, card.read_from) == ("target", "student")
    assert "weights of the student" in (out / "README.md").read_text()


def test_existing_folders_and_damaged_checkpoints_are_refused(save_run, tmp_path):
    run = save_run(tmp_path / "runs").folder
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=f"{tmp_path / 'out'}"):
        exported(run, "safetensors", "target", tmp_path / "out")
    weights = run / "checkpoints/step-00000007/weights-0000.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match=r"weights-0000\.safetensors"):
        exported(run, "safetensors", "target", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_export_with_the_tensor_names_of_release_0_1_is_read(run, tmp_path):
    new = exported(run, "safetensors", "target", tmp_path / "new") / "model.safetensors"
    names = {"norm1": "attention_norm", "attn.proj": "attention.output", "attn": "attention", "norm2": "mlp_norm"}
    names |= {"fc1": "hidden", "fc2": "output", "norms.": "level_norms."}
    state = load_file(new)
    for here, there in names.items():
        state = {name.replace(here, there): x for name, x in state.items()}
    assert "blocks.0.attention.output.weight" in state and "level_norms.0.bias" in state
    card = model_card(resolve_checkpoint(run), "target", "safetensors").model_dump_json()
    save_file(state, tmp_path / "old.safetensors", {CARD_KEY: card})
    old, new = (hpc_jepa.load_encoder(path)(CLIPS) for path in (tmp_path / "old.safetensors", new))
    assert torch.equal(old, new)


def test_a_loaded_encoder_is_frozen_and_has_its_sizes(run):
    encoder = hpc_jepa.load_encoder(run / "checkpoints/latest")
    assert (encoder.width, encoder.levels, encoder.patch, encoder.tubelet) == (32, (1, 2), 8, 2)
    tokens = encoder(CLIPS)
    assert tokens.shape == (2, encoder.token_grid(CLIPS).tokens, 32) == (2, 32, 32) and not tokens.requires_grad
    assert encoder(CLIPS[:, :, :1]).shape == (2, 16, 32)
    levels = encoder.forward_levels(CLIPS)
    assert levels.shape == (2, 32, 64) and torch.equal(levels[..., 32:], tokens)
    for wrong in (CLIPS[:, :2], CLIPS[..., :31], CLIPS[:, :, :3], CLIPS[0]):
        with pytest.raises(InputError, match="multiple of 2"):
            encoder(wrong)


def test_integer_and_float_clips_are_normalised_alike(run):
    encoder = hpc_jepa.load_encoder(run)
    tokens = encoder(CLIPS)
    normalised = (CLIPS / 255 - encoder.mean) / encoder.std
    for same in (encoder(CLIPS.long()), encoder(CLIPS / 255), encoder(normalised, normalise=False)):
        torch.testing.assert_close(same, tokens, rtol=0, atol=1e-5)
    for wrong in (CLIPS.float(), normalised):
        with pytest.raises(InputError, match="normalise=False"):
            encoder(wrong)


def test_only_the_settings_of_the_encoder_need_to_be_valid(run, edit_config):
    tokens = hpc_jepa.load_encoder(run)(CLIPS)
    edit_config(run, lambda config: config["monitor"].update(unknown_key=1))
    assert torch.equal(hpc_jepa.load_encoder(run)(CLIPS), tokens)
    edit_config(run, lambda config: config["model"]["encoder"].update(unknown_key=1))
    with pytest.raises(CheckpointError, match="unknown_key"):
        hpc_jepa.load_encoder(run)


def test_the_example_of_load_encoder_runs(save_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = VJEPA2_POSITIONS | {"encoder": {"width": 128, "depth": 1, "heads": 2, "patch": 8, "levels": [1]}}
    save_run("runs", study="quickstart", regime="quickstart", seed=0, model=model)
    (example,) = (found for found in doctest.DocTestFinder().find(hpc_jepa.load_encoder) if found.examples)
    assert doctest.DocTestRunner().run(example).failed == 0


def test_importing_the_package_does_not_import_torch():
    code = "import sys, hpc_jepa; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
