"""Export an encoder with its model card for use without the run.

    OUT/
        model.safetensors   the tensors; the header has the model card as JSON
        README.md           the model card as a page
        config.json         for transformers only

``safetensors`` keeps our names and all levels; ``timm`` and ``transformers`` keep what maps videos to features.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save_file

from hpc_jepa.checkpoint.layout import Checkpoint
from hpc_jepa.checkpoint.reader import EncoderName, encoder_settings, read_encoder
from hpc_jepa.config.model import EncoderConfig
from hpc_jepa.errors import InputError
from hpc_jepa.models.released import to_original, to_transformers

ExportFormat = Literal["safetensors", "transformers", "timm"]

CARD_KEY = "hpc_jepa"
"""Key of the model card in the metadata of a safetensors file."""

WEIGHTS_FILE = "model.safetensors"


class ModelCard(BaseModel):
    """Origin of an encoder and the input it expects.

    weights: the encoder requested; read_from: the one exported (the student if the run had no EMA). frames, size: of
    the training clips. data: hash of every data set's manifest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: ExportFormat
    weights: EncoderName
    read_from: EncoderName
    encoder: EncoderConfig
    frames: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    study: str
    regime: str
    variant: str
    seed: int
    step: int
    steps: int
    batch_size: int
    objectives: list[dict[str, Any]]
    ema: bool
    semantics: str
    changed_semantics: dict[str, Any]
    data: dict[str, str]
    fingerprint: str
    versions: dict[str, str]

    def to_markdown(self) -> str:
        """The card as a Hugging Face model card."""
        templates = Environment(
            loader=PackageLoader("hpc_jepa.checkpoint"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,
        )
        return templates.get_template("card.md").render(card=self)


def model_card(checkpoint: Checkpoint, weights: EncoderName, to: ExportFormat) -> ModelCard:
    """The card of the encoder ``weights`` of a checkpoint. Raises CheckpointError on unreadable settings."""
    manifest, config, settings = checkpoint.manifest, checkpoint.config, encoder_settings(checkpoint)
    return ModelCard(
        format=to,
        weights=weights,
        read_from=settings.evaluated(weights),
        encoder=settings.encoder,
        frames=config.data.clip.frames,
        size=config.data.clip.size,
        mean=settings.mean,
        std=settings.std,
        study=config.study,
        regime=config.regime,
        variant=config.variant,
        seed=config.seed,
        step=manifest.step,
        steps=config.schedule.steps,
        batch_size=config.engine.batch_size,
        objectives=[choice.model_dump(mode="json") for choice in config.objectives],
        ema=config.targets == "ema",
        semantics=config.semantics.preset,
        changed_semantics=config.semantics.overridden(),
        data=manifest.data_hashes,
        fingerprint=manifest.fingerprint,
        versions=manifest.versions,
    )


def export_encoder(checkpoint: Checkpoint, to: ExportFormat, weights: EncoderName, out: Path) -> ModelCard:
    """Write the folder ``out`` atomically and return its model card.

    Raises InputError if ``out`` exists or the format cannot represent the encoder, CheckpointError if the checkpoint is
    damaged.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; choose another --out, or remove it")
    card, encoder = model_card(checkpoint, weights, to), read_encoder(checkpoint, weights)
    config: dict[str, Any] | None = None
    if to == "transformers":
        config, tensors = to_transformers(encoder, card.frames, card.size)
    else:
        tensors = to_original(encoder) if to == "timm" else encoder.state_dict()
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(tensors, partial / WEIGHTS_FILE, {"format": "pt", CARD_KEY: card.model_dump_json()})
    if config is not None:
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (partial / "README.md").write_text(card.to_markdown(), encoding="utf-8")
    shutil.copymode(partial / "README.md", partial / WEIGHTS_FILE)  # save_file creates files that only the owner reads
    partial.rename(out)
    return card
