"""Configuration of the attentive pooler of V-JEPA 2: a probe of several blocks, trained on augmented clips."""

from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from hpc_jepa.config.data import AugmentationConfig
from hpc_jepa.config.strict import PositiveRange, Strict


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) else value


Candidates = Annotated[tuple[float, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
"""One value, or several candidates for model selection."""

Rates = Annotated[tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(_as_tuple), Field(min_length=1)]
"""Candidates of at least 0."""

MLP_RATIO = 4
BYTES_PER_PARAMETER = 16
"""Weight, gradient and two moments in fp32."""

Policy = Literal["rand_augment", "auto_augment"]


class ProbeAugmentationConfig(Strict):
    """Augmentation of the clips that a probe is trained on. All frames of a clip share the draws.

    Videos: policy on whole frames, random resized crop (bilinear), flip, erasing. Images: random resized crop (bicubic,
    antialiased), flip, policy, erasing.
    """

    policy: Policy | None = Field(
        None, description="rand_augment: random operations; auto_augment: the ImageNet policy of Cubuk et al. 2019"
    )
    operations: int = Field(4, gt=0, description="rand_augment: operations drawn for a clip, each applied with 1/2")
    magnitude: float = Field(7.0, ge=0, le=10, description="rand_augment: mean strength of an operation, 0 to 10")
    magnitude_std: float = Field(0.5, ge=0, description="rand_augment: standard deviation of the strength")
    area: PositiveRange = Field((0.08, 1.0), description="area of the crop as a fraction of the frame")
    aspect: PositiveRange = Field((0.75, 1.3333333333333333), description="width of the crop over its height")
    horizontal_flip: float = Field(0.0, ge=0, le=1)
    erase: float = Field(0.0, ge=0, le=1, description="probability that a rectangle is replaced by Gaussian noise")

    @property
    def crop(self) -> AugmentationConfig:
        """Random resized crop and flip."""
        return AugmentationConfig(area=self.area, aspect=self.aspect, horizontal_flip=self.horizontal_flip)

    @model_validator(mode="after")
    def _fraction(self) -> "ProbeAugmentationConfig":
        if self.area[1] > 1:
            raise ValueError("area is a fraction of the frame, at most 1")
        return self


class PoolerProbeConfig(Strict):
    """``kind: attentive`` with ``blocks``: self-attention blocks, then one block of cross-attention from a query.

    Its features are not stored: every epoch decodes and encodes augmented clips. All candidates are trained on the
    same batches. The learning rate rises linearly from ``start_lr`` to ``lr`` during ``warmup``, then falls to zero as
    a cosine.
    """

    kind: Literal["attentive"]
    blocks: int = Field(gt=0, description="self-attention blocks and the block of cross-attention")
    pooling: Literal["tokens"] = "tokens"
    heads: int = Field(16, gt=0, description="attention heads")
    lr: Rates
    weight_decay: Rates
    start_lr: float | None = Field(None, ge=0, description="learning rate before the first step; null: lr")
    warmup: float = Field(0.0, ge=0, description="epochs from start_lr to lr")
    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0, description="samples of an update, of all processes together")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast of the probe; weights stay in fp32")
    select: Literal["validation", "test"] = Field(
        "validation",
        description="clips on which the best candidate is selected; test: as V-JEPA 2 does, which favours the probe",
    )
    augmentation: ProbeAugmentationConfig = ProbeAugmentationConfig()

    @model_validator(mode="after")
    def _warms_up_within_training(self) -> "PoolerProbeConfig":
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup ({self.warmup:g} epochs) must be shorter than training ({self.epochs})")
        return self

    @property
    def settings(self) -> tuple[dict[str, float], ...]:
        """Candidates for model selection."""
        return tuple({"lr": lr, "weight_decay": decay} for decay, lr in product(self.weight_decay, self.lr))

    def parameters(self, width: int, classes: int) -> int:
        """Parameters of one classifier on tokens of ``width`` channels."""
        norms, mlp = 4 * width, 2 * MLP_RATIO * width**2 + (MLP_RATIO + 1) * width
        self_attention, cross_attention = 4 * (width**2 + width), 3 * (width**2 + width)
        pooler = width + cross_attention + norms + mlp + (self.blocks - 1) * (self_attention + norms + mlp)
        return pooler + (width + 1) * classes

    def memory(self, width: int, classes: int, seeds: int) -> float:
        """Bytes of weights, gradients and moments of all candidates with all seeds, on each process."""
        return len(self.settings) * seeds * self.parameters(width, classes) * BYTES_PER_PARAMETER
