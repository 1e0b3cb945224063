"""Sizes of the three networks."""

from typing import Literal, Self

from pydantic import Field, model_validator

from hpc_jepa.config.strict import Strict

Rotary = Literal["vjepa2.1", "vjepa2"]
"""Rotary position embedding of an encoder: see ``models/rotary.py``."""

SIZES = {
    "tiny": (128, 4),
    "small": (384, 12),
    "base": (768, 12),
    "large": (1024, 24),
    "huge": (1280, 32),
    "giant": (1408, 40),
}
"""Width and depth of the encoders in ``configs/model/``."""

Targets = Literal["ema", "student", "student_detached"]
"""Network that computes the targets: the EMA copy, or the student with or without a gradient."""


class TransformerConfig(Strict):
    """Size of a transformer."""

    width: int = Field(gt=0, le=2**16)
    depth: int = Field(gt=0, le=2**10)
    heads: int = Field(gt=0)
    mlp_ratio: float = Field(4.0, gt=0)

    @model_validator(mode="after")
    def _even_heads(self) -> Self:
        if self.width % (2 * self.heads):  # rotary embeddings rotate pairs of channels
            raise ValueError(f"width ({self.width}) must be a multiple of twice heads ({self.heads})")
        return self


class EncoderConfig(TransformerConfig):
    """Video vision transformer (student and EMA target)."""

    width: int = Field(768, gt=0, le=2**16)
    depth: int = Field(12, gt=0, le=2**10)
    heads: int = Field(12, gt=0)
    patch: int = Field(16, gt=0, description="side of a square patch, pixels")
    tubelet: int = Field(2, gt=0, description="frames of a tubelet")
    levels: tuple[int, ...] = Field((3, 6, 9, 12), description="blocks, from 1, whose outputs form the training latent")
    norm_blocks: tuple[int, ...] | None = Field(
        None, description="blocks with a layer norm, those of levels among them, as in released files; null: levels"
    )
    rotary: Rotary = Field("vjepa2.1", description="position embedding; vjepa2: as in VJEPA2Model of transformers")

    @model_validator(mode="after")
    def _levels_end_at_depth(self) -> Self:
        if not self.levels or list(self.levels) != sorted(set(self.levels)) or self.levels[-1] != self.depth:
            raise ValueError(f"levels {list(self.levels)} must be ascending and end at depth ({self.depth})")
        if self.levels[0] < 1:
            raise ValueError("levels are counted from 1")
        return self

    @model_validator(mode="after")
    def _levels_have_norms(self) -> Self:
        blocks = self.normed
        if list(blocks) != sorted(set(blocks)) or not set(self.levels) <= set(blocks) <= set(range(1, self.depth + 1)):
            raise ValueError(
                f"norm_blocks {list(blocks)} must be ascending, from 1 to depth ({self.depth}), and include levels "
                f"{list(self.levels)}"
            )
        return self

    @property
    def normed(self) -> tuple[int, ...]:
        """Blocks with a layer norm."""
        return self.levels if self.norm_blocks is None else self.norm_blocks

    @property
    def latent_width(self) -> int:
        """Width D of the training latent: all levels concatenated."""
        return self.width * len(self.levels)


class PredictorConfig(TransformerConfig):
    """Narrow transformer that predicts target latents from context latents."""

    width: int = Field(256, gt=0, le=2**16)
    depth: int = Field(8, gt=0, le=2**10)
    heads: int = Field(8, gt=0)
    embed: Literal["mlp", "linear"] = Field(
        "mlp", description="projection of the context; linear: as in released predictors of one level"
    )
    mask_tokens: int = Field(2, gt=0, description="allocated mask tokens; only the first is used (B20)")


class ModelConfig(Strict):
    """The three networks of a Video-JEPA."""

    size: str = Field("base", description="a label for tables")
    encoder: EncoderConfig = EncoderConfig()
    predictor: PredictorConfig = PredictorConfig()
    activation_checkpointing: bool = False

    @property
    def size_warning(self) -> str:
        """Why ``size`` is misleading, or an empty text: it is a label and changes nothing."""
        width, depth = self.encoder.width, self.encoder.depth
        if self.size == "base" or SIZES.get(self.size) == (width, depth):
            return ""
        known = SIZES.get(self.size)
        usual = f", usually of {known[0]} x {known[1]}" if known else ""
        return (
            f"model.size: '{self.size}'{usual} is only a label; the encoder has width {width} and depth {depth}: "
            f"configs/model/{', '.join(SIZES)} set them"
        )
