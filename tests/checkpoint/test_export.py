"""An exported encoder computes what the encoder of the run does, in the programs it is meant for."""

import doctest
import importlib
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import hpc_jepa
from hpc_jepa.checkpoint.export import export_encoder
from hpc_jepa.checkpoint.places import resolve_checkpoint
from hpc_jepa.errors import CheckpointError, InputError

RELEASED_POSITIONS = {
    "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2], "rotary": "vjepa2"},
    "predictor": {"width": 16, "depth": 1, "heads": 2},
}
CLIPS = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def run(save_run, tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs")).folder


@pytest.fixture(scope="module")
def released_run(save_run, tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs"), model=RELEASED_POSITIONS).folder


def exported(path, to, weights, out):
    export_encoder(resolve_checkpoint(path), to, weights, out)
    return out


@pytest.mark.parametrize("weights", ["target", "student"])
@pytest.mark.parametrize("to", ["safetensors", "timm"])
def test_an_export_gives_the_features_of_the_run_to_the_bit_or_nearly(run, to, weights, tmp_path):
    of_run = hpc_jepa.load_encoder(run, weights)(CLIPS)
    out = exported(run, to, weights, tmp_path / "out")
    for path in (out, str(out / "model.safetensors")):
        torch.testing.assert_close(hpc_jepa.load_encoder(path)(CLIPS), of_run, rtol=0, atol=1e-5)
    other = hpc_jepa.load_encoder(run, "student" if weights == "target" else "target")(CLIPS)
    assert (of_run - other).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("weights", ["target", "student"])
def test_transformers_computes_what_the_run_does(released_run, weights, tmp_path, transformers):
    out = exported(released_run, "transformers", weights, tmp_path / "out")
    theirs, info = transformers.VJEPA2Model.from_pretrained(out, output_loading_info=True)
    assert not info["unexpected_keys"] and all(name.startswith("predictor.") for name in info["missing_keys"])
    features = theirs.eval().get_vision_features(CLIPS.transpose(1, 2))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, hpc_jepa.load_encoder(released_run, weights)(CLIPS), rtol=0, atol=1e-5)
    torch.testing.assert_close(features, hpc_jepa.load_encoder(out)(CLIPS), rtol=0, atol=1e-5)


@torch.no_grad()
def test_transformers_gets_what_positions_it_shares(save_run, tmp_path, transformers):
    """One frequency per axis and the reference grid of 16x16: nothing is stretched, and there is one way to pair."""
    model = RELEASED_POSITIONS | {"encoder": {"width": 16, "depth": 2, "heads": 2, "patch": 2, "levels": [2]}}
    run = save_run(tmp_path, model=model).folder
    theirs = transformers.VJEPA2Model.from_pretrained(exported(run, "transformers", "target", tmp_path / "out"))
    features = theirs.eval().get_vision_features(CLIPS.transpose(1, 2))
    torch.testing.assert_close(features, hpc_jepa.load_encoder(run)(CLIPS), rtol=0, atol=1e-5)


def test_transformers_refuses_what_it_cannot_compute_and_nothing_is_written(run, tmp_path):
    with pytest.raises(InputError, match=r"stretches its 4x4 tokens .* and turns both channels .*rotary=vjepa2"):
        exported(run, "transformers", "target", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_names_of_the_timm_layout_are_those_of_timm(run, tmp_path, torchvision_operators):
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


def test_the_card_says_what_it_is_and_where_from(run, tmp_path):
    page = (exported(run, "safetensors", "student", tmp_path / "out") / "README.md").read_text()
    for fact in ("**student**", "step 7 of 10", "corrected", "fwm, ld", "digest-of-none", "hand, made, baseline"):
        assert fact in page
    assert page.startswith("---\nlibrary_name")


def test_without_ema_the_target_is_the_student_and_the_card_says_so(save_run, tmp_path):
    run = save_run(tmp_path / "runs", ema="never").folder
    out = exported(run, "safetensors", "target", tmp_path / "out")
    torch.testing.assert_close(hpc_jepa.load_encoder(out)(CLIPS), hpc_jepa.load_encoder(run, "student")(CLIPS))
    assert "weights of the student" in (out / "README.md").read_text()


def test_an_existing_folder_and_a_damaged_checkpoint_are_refused(save_run, tmp_path):
    run = save_run(tmp_path / "runs").folder
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        exported(run, "safetensors", "target", tmp_path / "out")
    weights = run / "checkpoints/step-00000007/weights-0000.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match=r"weights-0000\.safetensors: checksum differs"):
        exported(run, "safetensors", "target", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_encoder_is_frozen_and_says_what_it_wants(run):
    encoder = hpc_jepa.load_encoder(run / "checkpoints/latest")
    tokens = encoder(CLIPS)
    assert tokens.shape == (2, 32, 32) and not tokens.requires_grad
    assert encoder(CLIPS[:, :, :1]).shape == (2, 16, 32)
    for wrong in (CLIPS[:, :2], CLIPS[..., :31], CLIPS[:, :, :3], CLIPS[0]):
        with pytest.raises(InputError, match=r"give \[B, 3, F, H, W\] with F a multiple of 2, H and W of 8"):
            encoder(wrong)


def test_the_example_of_load_encoder_runs(save_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = RELEASED_POSITIONS | {"encoder": {"width": 128, "depth": 1, "heads": 2, "patch": 8, "levels": [1]}}
    save_run("runs", study="quickstart", regime="quickstart", seed=0, model=model)
    (example,) = (found for found in doctest.DocTestFinder().find(hpc_jepa.load_encoder) if found.examples)
    assert doctest.DocTestRunner().run(example).failed == 0


def test_importing_the_package_does_not_wait_for_torch():
    code = "import sys, hpc_jepa; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
