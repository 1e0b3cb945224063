"""Weights that people hand over: ``.pt`` files, safetensors with model cards, folders of transformers."""

import io
import itertools
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutations import HOSTILE, cut, damaged_bytes, damaged_json, deep, fuzz
from safetensors.torch import save

from hpc_jepa.checkpoint.export import CARD_KEY
from hpc_jepa.checkpoint.pretrained import read_pretrained
from hpc_jepa.config.model import EncoderConfig
from hpc_jepa.errors import CheckpointError
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.models.released import to_original, to_transformers

CONFIG = EncoderConfig(width=8, depth=2, heads=2, patch=2, tubelet=1, levels=(2,), rotary="vjepa2", mlp_ratio=1)
ENCODER = to_original(Encoder(CONFIG))
TRANSFORMERS_CONFIG, TRANSFORMERS = to_transformers(Encoder(CONFIG), 2, 4)
CARD = {
    "format": "timm",
    "weights": "target",
    "read_from": "target",
    "encoder": CONFIG.model_dump(mode="json"),
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "step": 1,
    "fingerprint": "f",
    "versions": {},
}
EXECUTED = "executed-by-the-pickle"


class Command:
    """Unpickled without restrictions, this creates a folder."""

    def __reduce__(self):
        return os.mkdir, (EXECUTED,)


def strange_values():
    dense = torch.zeros(3)
    yield from HOSTILE
    yield from (Command(), object, print, {1, 2}, (1,), b"x", bytearray(3), 1j, slice(2), OrderedDict(a=1), Path("x"))
    yield from (dense.to_sparse(), torch.zeros(2, 2).to_sparse_csr(), torch.empty(3, device="meta"), torch.tensor(1.0))
    yield from (torch.zeros(1).expand(10**13), torch.zeros(0), torch.zeros(3, dtype=torch.complex64), dense.int())
    yield from (torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8), torch.nn.Parameter(dense), dense.bool())
    yield from (
        dense * float("nan"),
        dense.half(),
        dense.bfloat16(),
        torch.zeros(2, 3, 1, 1, 1),
        torch.Size([1]),
        torch.float,
    )
    yield from (
        torch.nn.Linear(1, 1),
        dense.to(torch.float8_e4m3fn),
        dense.numpy(),
        torch.zeros(1, 0, 5),
        dense.double(),
    )


VALUES = list(strange_values())
NAMES = (
    *("blocks.999999999.norm1.weight", "blocks." + "9" * 5000 + ".x", "blocks.-1.x", "norms_block.4000000.weight", ""),
    *(
        "encoder.layer.5.attention.query.weight",
        "patch_embedding.video.weight",
        "module.backbone.",
        "blocks.1.",
        "\x00",
        "a" * 9999,
    ),
    *("norms_block.0.weight", "patch_embed_img.proj.weight", "video_mod_embed", 1, None, (1, 2), 1.5, b"x", True),
)
KEYS = (*ENCODER, "patch_embed.proj.weight", "patch_embed.proj.bias", "blocks.0.mlp.fc1.weight", *NAMES)
_values = st.integers(0, len(VALUES) - 1).map(VALUES.__getitem__)
_keys = st.integers(0, len(KEYS) - 1).map(KEYS.__getitem__)
_edits = st.lists(st.tuples(_keys, st.sampled_from(("set", "set", "delete", "copy")), _values), max_size=3)


def edited(edits):
    """An encoder in the original layout with other names and values."""
    state = dict(ENCODER)
    for name, operation, value in edits:
        if operation == "set":
            state[name] = value
        elif operation == "delete":
            state.pop(name, None)
        else:
            state[name] = state.get("norm.weight")
    return state


def saved(content, legacy=False):
    """The bytes of a ``torch.save`` file; of a plain pickle if torch cannot write the content."""
    buffer = io.BytesIO()
    try:
        torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, pickle.PicklingError):
        buffer = io.BytesIO(pickle.dumps({"target_encoder": {"x": 1}}))
    return buffer.getvalue()


SOUND = [saved({"target_encoder": ENCODER, "encoder": ENCODER, "epoch": 1}, legacy) for legacy in (False, True)]


@pytest.fixture(scope="module")
def fresh(sandbox):
    numbers = itertools.count()

    def write(files):
        folder = sandbox / str(next(numbers) % 20)
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return folder

    return write


def read(path, **options):
    encoder = read_pretrained(path, heads=2, depth=options.pop("depth", 2), **options).encoder()
    assert sum(parameter.numel() for parameter in encoder.parameters()) < 10**6


@pytest.mark.parametrize("legacy", [False, True])
def test_valid_files_are_read(legacy, fresh):
    read(fresh({"weights.pt": SOUND[legacy]}) / "weights.pt")
    config = json.dumps(TRANSFORMERS_CONFIG).encode()
    read(fresh({"model.safetensors": save(TRANSFORMERS), "config.json": config}))
    card = {CARD_KEY: json.dumps(CARD)}
    read(fresh({"model.safetensors": save(ENCODER, card)}))


@fuzz
@given(
    edits=_edits,
    shape=st.sampled_from(("bare", "target_encoder", "ema_encoder", "encoder", "both", "value")),
    value=_values,
    legacy=st.booleans(),
    depth=st.sampled_from((None, 2, 10**9)),
)
def test_contents_of_a_pickle(edits, shape, value, legacy, depth, survives, fresh):
    state = edited(edits)
    content = {"bare": state, "both": {"target_encoder": state, "encoder": value}, "value": value}.get(
        shape, {shape: state}
    )
    folder = fresh({"weights.pt": saved(content, legacy)})
    path = folder / "weights.pt"
    survives(lambda: read(path, depth=depth), path.name)
    survives(lambda: read(path, depth=depth, name="student"), path.name)


@fuzz
@given(content=damaged_bytes(*SOUND))
def test_bytes_of_a_pickle(content, survives, fresh):
    path = fresh({"weights.pt": content}) / "weights.pt"
    survives(lambda: read(path), path.name)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("content", [Command(), {"encoder": Command()}, {Command: 1}, deep(150), [deep(100)]])
def test_no_code_of_a_pickle_runs(content, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(CheckpointError, match=r"weights\.pt"):
        read_pretrained(path)
    assert not (tmp_path / EXECUTED).exists()


@fuzz
@given(card=damaged_json(CARD), cuts=st.sampled_from((0, 0, 0, 1)), edits=_edits)
def test_safetensors_with_a_card(card, cuts, edits, survives, fresh):
    state = {
        name: x.contiguous()
        for name, x in edited(edits).items()
        if isinstance(name, str) and isinstance(x, torch.Tensor) and x.layout == torch.strided
        if x.device.type == "cpu" and x.numel() < 10**6 and not x.is_quantized and not x.is_complex()
    }
    tensors = {name: x.clone() for name, x in state.items()}
    content = save(tensors, {CARD_KEY: card.decode(errors="replace")})
    if cuts:
        content = cut(content, [("flip", len(card) % 97 / 97, b"\xff{")])
    folder = fresh({"model.safetensors": content})
    survives(lambda: read(folder, depth=None), folder.name)


@fuzz
@given(config=damaged_json(TRANSFORMERS_CONFIG), listing=damaged_json({"weight_map": {"a": "model.safetensors"}}))
def test_folders_of_transformers(config, listing, survives, fresh):
    files = {"model.safetensors": TRANSFORMERS_FILE, "config.json": config}
    if len(listing) % 2:
        files["model.safetensors.index.json"] = listing
    folder = fresh(files)
    survives(lambda: read(folder, depth=None), folder.name)


TRANSFORMERS_FILE = save(TRANSFORMERS)


@pytest.mark.parametrize("count", ["00002", "99999999999", "1" * 200])
def test_missing_files_are_counted_without_a_list_of_them(count, survives, tmp_path):
    (tmp_path / f"model-00001-of-{count}.safetensors").write_bytes(TRANSFORMERS_FILE)
    assert survives(lambda: read(tmp_path), tmp_path.name) is None


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "model.safetensors.index.json"])
def test_a_pipe_or_device_among_the_files(make, name, survives, tmp_path):
    files = {"model.safetensors": TRANSFORMERS_FILE, "config.json": json.dumps(TRANSFORMERS_CONFIG).encode()}
    for other, content in files.items():
        if other != name:
            (tmp_path / other).write_bytes(content)
    make(tmp_path / name)
    assert survives(lambda: read(tmp_path), tmp_path.name) is None
