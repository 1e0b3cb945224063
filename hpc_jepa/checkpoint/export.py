"""An encoder by itself, for other programs.

    OUT/
        model.safetensors   the tensors; the header holds the card as JSON
        README.md           the card, for people
        config.json         for transformers only

``safetensors`` keeps our names and every level, ``timm`` and ``transformers`` what turns videos into features.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from hpc_jepa.checkpoint.card import ExportFormat, ModelCard, model_card
from hpc_jepa.checkpoint.encoders import EncoderName, read_encoder, saved_config
from hpc_jepa.checkpoint.layout import Checkpoint
from hpc_jepa.errors import InputError
from hpc_jepa.models.released import to_original, to_transformers

CARD_KEY = "hpc_jepa"
"""Key of the card among the metadata of a safetensors file."""

WEIGHTS_FILE = "model.safetensors"


def export_encoder(checkpoint: Checkpoint, to: ExportFormat, weights: EncoderName, out: Path) -> ModelCard:
    """Write the folder ``out``, whole or not at all; its card.

    Raises InputError where there is something already or the format cannot hold the encoder, CheckpointError where the
    checkpoint is damaged.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; choose another --out, or remove it")
    config = saved_config(checkpoint)
    encoder = read_encoder(checkpoint, weights, config)
    about = model_card(checkpoint, config, weights, to)
    files: dict[str, dict[str, Any]] = {}
    if to == "transformers":
        files["config.json"], tensors = to_transformers(encoder, about.frames, about.size)
    else:
        tensors = to_original(encoder) if to == "timm" else encoder.state_dict()
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(tensors, partial / WEIGHTS_FILE, {"format": "pt", CARD_KEY: about.model_dump_json()})
    for name, content in files.items():
        (partial / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (partial / "README.md").write_text(about.page(), encoding="utf-8")
    shutil.copymode(partial / "README.md", partial / WEIGHTS_FILE)  # the library lets nobody else read what it writes
    partial.rename(out)
    return about
