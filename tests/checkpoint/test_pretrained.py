"""Released V-JEPA 2 and 2.1 weights give the features of their original implementation."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import hpc_jepa
from hpc_jepa.checkpoint import reader
from hpc_jepa.checkpoint.format_2 import upgrade_name
from hpc_jepa.checkpoint.layout import latest, resolve_checkpoint
from hpc_jepa.checkpoint.pretrained import read_pretrained
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.model import EncoderConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import CheckpointError, InputError
from hpc_jepa.evaluation.run_encoders import load_run_encoders
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.models.released import from_transformers, to_original
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.training.import_weights import import_config, import_weights
from hpc_jepa.training.loop import train

GOLDEN = Path(__file__).parents[1] / "golden"
RELEASED = GOLDEN / "released"
VERSION_2_1 = {
    "patch_embedding.video": "patch_embed.proj",
    "patch_embedding.image": "patch_embed_img.proj",
    "modality.video": "video_mod_embed",
    "modality.image": "img_mod_embed",
    "norms": "norms_block",
}


@pytest.fixture
def expected():
    """A normalised clip [2, 3, 4, 16, 16] and its features [2, 32, 32] by VJEPA2Model of transformers 5.23."""
    arrays = np.load(RELEASED / "expected.npz")
    return torch.from_numpy(arrays["clip"]), torch.from_numpy(arrays["tokens"])


@pytest.mark.parametrize("source", ["transformers", "transformers/model.safetensors", "vjepa2.pt"])
def test_files_of_both_layouts_give_the_recorded_features(source, expected):
    clip, tokens = expected
    encoder = hpc_jepa.load_encoder(RELEASED / source, heads=2)
    torch.testing.assert_close(encoder(clip, normalise=False), tokens, rtol=0, atol=1e-5)
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())


def test_an_original_file_has_two_different_encoders(expected):
    clip, tokens = expected
    student = hpc_jepa.load_encoder(RELEASED / "vjepa2.pt", weights="student", heads=2)
    assert (student(clip, normalise=False) - tokens).abs().max() > 1e-3


def test_an_image_equals_a_tubelet_of_equal_frames(expected):
    clip, _ = expected
    encoder = hpc_jepa.load_encoder(RELEASED / "transformers")
    frame = clip[:, :, :1]
    image, video = encoder(frame, normalise=False), encoder(frame.repeat(1, 1, 2, 1, 1), normalise=False)
    torch.testing.assert_close(image, video, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 16, 16), (6, 24, 24), (2, 12, 12)])
def test_every_clip_size_gives_the_features_of_transformers(size, transformers):
    architecture = {"hidden_size": 48, "num_attention_heads": 2, "num_hidden_layers": 3, "mlp_ratio": 2.5}
    config = transformers.VJEPA2Config(patch_size=4, crop_size=size[-1], pred_num_hidden_layers=0, **architecture)
    torch.manual_seed(1)
    theirs = transformers.VJEPA2Model(config).eval()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.3)
    found = from_transformers(theirs.state_dict(), config.to_dict())
    ours = Encoder(found.config)
    ours.load_state_dict(found.state)
    clip = torch.randn(1, 3, *size)
    features = theirs.get_vision_features(clip.transpose(1, 2))
    torch.testing.assert_close(ours.forward_features(clip), features, rtol=1e-5, atol=1e-5)


def test_version_2_1_gives_the_recorded_features(tmp_path):
    """The recorded arrays of a published model, under the names of its release."""
    arrays = np.load(GOLDEN / "model.npz")
    state = {}
    for name in (name for name in arrays.files if name.startswith("encoder.")):
        theirs = upgrade_name(name).removeprefix("encoder.")
        for here, there in VERSION_2_1.items():
            theirs = theirs.replace(here, there)
        state[f"module.backbone.{theirs}"] = torch.from_numpy(arrays[name].astype(np.float32))
    torch.save({"ema_encoder": state, "epoch": 1}, tmp_path / "vjepa2_1.pt")
    encoder = hpc_jepa.load_encoder(tmp_path / "vjepa2_1.pt", heads=2)
    assert encoder.encoder.config.levels == (3, 6, 9, 12)
    clip = torch.from_numpy(arrays["input.clip"].astype(np.float32))
    recorded = torch.from_numpy(arrays["output.encoder.evaluation"].astype(np.float32))
    torch.testing.assert_close(encoder(clip, normalise=False), recorded, rtol=0, atol=1e-5)


def test_an_imported_run_can_be_evaluated(tmp_path, expected):
    config_file = tmp_path / "run.yaml"
    config_file.write_text(
        "regime: made\ndata: {sources: {none: {shards: none}}, clip: {frames: 4, size: 16}}\n"
        "model: {predictor: {width: 16, depth: 1, heads: 2}}\n"
    )
    files = read_pretrained(RELEASED / "vjepa2.pt", heads=2)
    config = import_config(files, [str(config_file)], [f"runs={tmp_path / 'runs'}", "variant=vjepa2"])
    folder = import_weights(files, config)
    clip, tokens = expected
    run = RunDir(folder)
    loaded = load_run_encoders(run.config, resolve_checkpoint(run.path), ["target", "student"], torch.device("cpu"))
    for encoder in loaded.values():
        torch.testing.assert_close(encoder.forward_features(clip), tokens, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match=str(folder)):
        import_weights(files, config)


def test_unreadable_weights_are_named(tmp_path):
    with pytest.raises(InputError, match="heads"):
        hpc_jepa.load_encoder(RELEASED / "vjepa2.pt")
    (tmp_path / "broken.pt").write_bytes((RELEASED / "vjepa2.pt").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"broken\.pt: "):
        hpc_jepa.load_encoder(tmp_path / "broken.pt", heads=2)
    torch.save({"predictor": {}, "epoch": 1}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"ema_encoder.*target_encoder.*predictor.*epoch"):
        hpc_jepa.load_encoder(tmp_path / "other.pt")
    torch.save({"layer.weight": torch.ones(2)}, tmp_path / "linear.pt")
    with pytest.raises(CheckpointError, match=r"linear\.pt: .*patch_embed"):
        hpc_jepa.load_encoder(tmp_path / "linear.pt")
    content = torch.load(RELEASED / "vjepa2.pt")
    del content["target_encoder"]["module.backbone.blocks.1.attn.proj.bias"]
    torch.save(content, tmp_path / "short.pt")
    with pytest.raises(CheckpointError, match=r"short\.pt: .*blocks\.1\.attn\.proj\.bias"):
        hpc_jepa.load_encoder(tmp_path / "short.pt", heads=2)
    with pytest.raises(InputError, match="nowhere"):
        hpc_jepa.load_encoder(tmp_path / "nowhere")


def test_training_can_continue_from_imported_weights(motion_shards, tmp_path):
    config_file = tmp_path / "run.yaml"
    config_file.write_text(
        f"regime: made\nruns: {tmp_path / 'runs'}\nengine: {{batch_size: 4, precision: fp32}}\n"
        f"data: {{sources: {{motion8: {{shards: {motion_shards / 'unlabelled'}}}}}, clip: {{frames: 4, size: 32}}}}\n"
        "model: {predictor: {width: 16, depth: 1, heads: 2}}\n"
    )
    files = read_pretrained(RELEASED / "transformers")
    folder = import_weights(files, import_config(files, [str(config_file)], []))
    longer = read_config(
        RunConfig, [folder / "config.yaml"], ["schedule.steps=1", "checkpoint.accept=[schedule.steps, data]"]
    )
    before = reader.open_tensors(latest(folder).path)["student.blocks.1.mlp.fc2.weight"]
    assert train(longer, lambda line: None) == "done"
    after = reader.open_tensors(latest(folder).path)["student.blocks.1.mlp.fc2.weight"]
    assert 0 < (after - before).abs().max() < 1e-2


def without(*parts):
    return lambda state: {name: x for name, x in state.items() if not any(part in name for part in parts)}


def with_value(part, value):
    return lambda state: {name: torch.full_like(x, value) if part in name else x for name, x in state.items()}


def changed_copy(path, change, keys=("encoder", "target_encoder")):
    """The released file with changed encoders; only those in ``keys``."""
    content = torch.load(RELEASED / "vjepa2.pt")
    torch.save({key: change(content[key]) for key in keys}, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("blocks.1."),
            r"12 tensors missing \(blocks\.1\.norm1\.weight, .*\)|expected 2; missing: blocks 1 to 1",
        ),
        (without("blocks.0."), r"missing|not a V-JEPA encoder: no blocks\.0"),
        (without("blocks."), r"no blocks\.0"),
        (without("backbone.norm."), r"no norms\.0"),
        (without("fc2.bias"), r"2 tensors missing \(blocks\.0\.mlp\.fc2\.bias, blocks\.1\.mlp\.fc2\.bias\)"),
        (with_value("blocks.1.norm2.weight", float("nan")), r"1 tensors .*not finite \(blocks\.1\.norm2\.weight\)"),
        (with_value("attn.qkv.bias", float("inf")), r"2 tensors .*not finite"),
        (lambda state: state | {"module.backbone.extra.weight": torch.ones(3)}, r"1 tensors unknown \(extra\.weight\)"),
        (lambda state: {name: x[..., :1] for name, x in state.items()}, r"damaged\.pt: "),
        (lambda state: {name: x.flatten() for name, x in state.items()}, r"not a video encoder"),
        (lambda state: list(state), r"encoder is not a state dict"),
    ],
)
def test_incomplete_and_non_finite_weights_are_refused(tmp_path, change, message):
    path = changed_copy(tmp_path / "damaged.pt", change)
    with pytest.raises(CheckpointError, match=message):
        hpc_jepa.load_encoder(path, heads=2, depth=2)


def test_missing_last_blocks_are_found_by_every_other_number_of_blocks(tmp_path, caplog):
    cut = changed_copy(tmp_path / "cut.pt", without("blocks.1."), ["target_encoder"])
    assert hpc_jepa.load_encoder(cut, heads=2, depth=1).encoder.config.depth == 1
    assert not caplog.records
    hpc_jepa.load_encoder(cut, heads=2)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with pytest.raises(CheckpointError, match=r"1 blocks, expected 2; missing: blocks 1 to 1"):
        hpc_jepa.load_encoder(cut, heads=2, depth=2)
    content = torch.load(RELEASED / "vjepa2.pt") | torch.load(cut)
    torch.save(content, tmp_path / "both.pt")
    with pytest.raises(CheckpointError, match="expected 2"):
        hpc_jepa.load_encoder(tmp_path / "both.pt", heads=2)
    state = load_file(RELEASED / "transformers" / "model.safetensors")
    shutil.copytree(RELEASED / "transformers", tmp_path / "cut")
    save_file(without("encoder.layer.1.")(state), tmp_path / "cut" / "model.safetensors")
    with pytest.raises(CheckpointError, match="expected 2"):
        hpc_jepa.load_encoder(tmp_path / "cut")


def test_released_widths_have_a_known_number_of_blocks(tmp_path):
    config = EncoderConfig(width=192, depth=11, heads=3, patch=8, tubelet=2, levels=(11,), rotary="vjepa2")
    torch.save({"encoder": to_original(Encoder(config))}, tmp_path / "tiny.pt")
    with pytest.raises(CheckpointError, match="11 blocks, expected 12"):
        hpc_jepa.load_encoder(tmp_path / "tiny.pt", weights="student")
    assert hpc_jepa.load_encoder(tmp_path / "tiny.pt", weights="student", depth=11).width == 192


@pytest.mark.parametrize("listed", [True, False])
def test_missing_files_of_several_are_named(tmp_path, listed):
    folder = shutil.copytree(RELEASED / "transformers", tmp_path / "files")
    (folder / "model.safetensors").rename(
        folder / ("model-00001-of-00002.safetensors" if not listed else "a.safetensors")
    )
    if listed:
        weight_map = {"encoder.layer.0.norm1.weight": "a.safetensors", "encoder.layernorm.weight": "b.safetensors"}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    missing = "b.safetensors" if listed else "model-00002-of-00002.safetensors"
    with pytest.raises(CheckpointError, match=rf"1 of 2 files missing \({missing}\)"):
        hpc_jepa.load_encoder(folder)
