"""Export an encoder with its model card for use without the run.

    OUT/
        model.safetensors   the tensors; the header has the model card as JSON
        model.pt            in its place for original: encoder, target_encoder and predictor
        README.md           the model card as a page
        config.json         for transformers only

``safetensors`` keeps our names and all levels; ``timm`` and ``transformers`` keep what maps videos to features;
``original`` keeps all three networks in the layout of facebookresearch/vjepa2.
"""

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from jinja2 import StrictUndefined, Template
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save_file
from torch import Tensor

from hpc_jepa.checkpoint.layout import Checkpoint
from hpc_jepa.checkpoint.reader import EncoderName, encoder_settings, read_encoder, read_part
from hpc_jepa.config.model import EncoderConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import InputError
from hpc_jepa.io.escape import markdown
from hpc_jepa.models.released import WRITTEN, to_original, to_released, to_transformers

ExportFormat = Literal["safetensors", "transformers", "timm", "original"]

CARD_KEY = "hpc_jepa"
"""Key of the model card in the metadata of a safetensors file."""

WEIGHTS_FILE = "model.safetensors"
ORIGINAL_FILE = "model.pt"


class ModelCard(BaseModel):
    """Origin of an encoder and the input it expects; stored in the header of the exported file.

    weights: the encoder requested; read_from: the one exported (the student if the run had no EMA). mean, std: of the
    normalised pixels. config: of the run. Cards of release 0.1 have other keys for the last two fields.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: ExportFormat
    weights: EncoderName
    read_from: EncoderName
    encoder: EncoderConfig
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    step: int
    fingerprint: str
    versions: dict[str, str]
    data_hashes: dict[str, str] = {}
    config: dict[str, Any] = {}

    def to_markdown(self, config: RunConfig) -> str:
        """The card as a Hugging Face model card."""
        source = files("hpc_jepa.checkpoint").joinpath("templates/card.md").read_text(encoding="utf-8")
        template = Template(source, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, finalize=_escaped)
        page: str = template.render(card=self, run=config)
        return page + "\n"


def _escaped(value: Any) -> Any:
    return markdown(value) if isinstance(value, str) else value


def model_card(checkpoint: Checkpoint, weights: EncoderName, to: ExportFormat) -> ModelCard:
    """The card of the encoder ``weights`` of a checkpoint. Raises CheckpointError on unreadable settings."""
    manifest, settings = checkpoint.manifest, encoder_settings(checkpoint)
    return ModelCard(
        format=to,
        weights=weights,
        read_from=settings.evaluated(weights),
        encoder=settings.encoder,
        mean=settings.mean,
        std=settings.std,
        **manifest.model_dump(include={"step", "fingerprint", "versions", "data_hashes", "config"}),
    )


def export_encoder(checkpoint: Checkpoint, to: ExportFormat, weights: EncoderName, out: Path) -> ModelCard:
    """Write the folder ``out`` atomically and return its model card.

    Raises InputError if ``out`` exists or the format cannot represent the encoder, CheckpointError if the checkpoint is
    damaged.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; choose another --out, or remove it")
    config, card, encoder = checkpoint.config, model_card(checkpoint, weights, to), read_encoder(checkpoint, weights)
    settings: dict[str, Any] | None = None
    tensors: dict[str, Tensor] = {}
    if to == "transformers":
        settings, tensors = to_transformers(encoder, config.data.clip.frames, config.data.clip.size)
    elif to != "original":
        tensors = to_original(encoder) if to == "timm" else encoder.state_dict()
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if to == "original":
        _save_original(checkpoint, partial / ORIGINAL_FILE)
    else:
        save_file(tensors, partial / WEIGHTS_FILE, {"format": "pt", CARD_KEY: card.model_dump_json()})
    if settings is not None:
        (partial / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (partial / "README.md").write_text(card.to_markdown(config), encoding="utf-8")
    if to != "original":  # save_file creates files that only the owner reads
        shutil.copymode(partial / "README.md", partial / WEIGHTS_FILE)
    partial.rename(out)
    return card


def _save_original(checkpoint: Checkpoint, path: Path) -> None:
    networks = {f"{part}.{name}": x for part in WRITTEN for name, x in read_part(checkpoint, part).items()}
    torch.save({**to_released(networks), "epoch": 0}, path)
