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

from hpc_jepa.checkpoint.card import Card, Format, card
from hpc_jepa.checkpoint.encoders import Part, configuration, read_encoder
from hpc_jepa.checkpoint.store import Checkpoint
from hpc_jepa.errors import InputError
from hpc_jepa.models.released import to_original, to_transformers

CARD = "hpc_jepa"
"""Key of the card among the metadata of a safetensors file."""

WEIGHTS = "model.safetensors"


def export(checkpoint: Checkpoint, to: Format, weights: Part, out: Path) -> Card:
    """Write the folder ``out``, whole or not at all; its card.

    Raises InputError where there is something already or the format cannot hold the encoder, CheckpointError where the
    checkpoint is damaged.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; choose another --out, or remove it")
    config = configuration(checkpoint)
    encoder = read_encoder(checkpoint, weights, config)
    about = card(checkpoint, config, weights, to)
    files: dict[str, dict[str, Any]] = {}
    if to == "transformers":
        files["config.json"], tensors = to_transformers(encoder, about.frames, about.size)
    else:
        tensors = to_original(encoder) if to == "timm" else encoder.state_dict()
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(tensors, partial / WEIGHTS, {"format": "pt", CARD: about.model_dump_json()})
    for name, content in files.items():
        (partial / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (partial / "README.md").write_text(about.page(), encoding="utf-8")
    shutil.copymode(partial / "README.md", partial / WEIGHTS)  # the library lets nobody else read what it writes
    partial.rename(out)
    return about
