"""What an exported encoder says about itself: for programs, and as a page for people."""

from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict

from hpc_jepa.checkpoint.encoders import EncoderName, evaluated_encoder
from hpc_jepa.checkpoint.layout import Checkpoint
from hpc_jepa.config.model import EncoderConfig
from hpc_jepa.config.run import RunConfig

ExportFormat = Literal["safetensors", "transformers", "timm"]


class ModelCard(BaseModel):
    """Where an encoder comes from, and what it must be fed.

    weights: what was asked for; read_from: the part of the checkpoint that is (the student, where the run had no EMA).
    frames, size: of the clips it was trained on. data: the hash of every data set's manifest.
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

    def page(self) -> str:
        """Markdown."""
        pages = Environment(
            loader=PackageLoader("hpc_jepa.checkpoint"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,
        )
        return pages.get_template("card.md").render(card=self)


def model_card(checkpoint: Checkpoint, config: RunConfig, weights: EncoderName, to: ExportFormat) -> ModelCard:
    """The card of the encoder that ``weights`` means in a checkpoint of a run of ``config``."""
    manifest, augmentation = checkpoint.manifest, config.data.augmentation
    return ModelCard(
        format=to,
        weights=weights,
        read_from=evaluated_encoder(weights, config),
        encoder=config.model.encoder,
        frames=config.data.clip.frames,
        size=config.data.clip.size,
        mean=augmentation.mean,
        std=augmentation.std,
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
