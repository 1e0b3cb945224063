"""A frozen evaluation: which shards, which clips, which probes."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpc_jepa.config.data import IMAGENET_MEAN, IMAGENET_STD
from hpc_jepa.config.strict import Strict

Weights = Literal["target", "student", "random_init"]
ProtocolName = Literal["published", "careful"]
Pooling = Literal["tokens", "mean", "tubelets"]


class EvaluationClipConfig(Strict):
    """One deterministic clip per sample."""

    frames: int = Field(16, gt=0)
    sampling: Literal["leading", "uniform"] = Field(
        "uniform", description="leading: frames 0, stride, ...; uniform: spread over the whole video"
    )
    stride: int = Field(1, gt=0, description="source frames between clip frames, for sampling: leading")
    size: int | None = Field(224, gt=0, description="resize the short side and crop the centre; null keeps the frame")
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


class LinearProbeConfig(Strict):
    """Multinomial logistic regression on pooled features (scikit-learn, L-BFGS)."""

    kind: Literal["linear"]
    pooling: Literal["mean", "tubelets"] = "mean"
    l2: float = Field(1e-3, gt=0, description="weight of |W|^2 / 2 beside the mean loss per sample")
    max_iterations: int = Field(1000, gt=0)


class AttentiveProbeConfig(Strict):
    """Class token and one attention layer over all tokens, then a linear layer; AdamW, constant learning rate."""

    kind: Literal["attentive"]
    heads: int = Field(8, gt=0)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    batch_size: int = Field(64, gt=0)
    updates: int | None = Field(None, gt=0, description="length of training, whatever the size of the data set")
    epochs: int | None = Field(None, gt=0, description="length of training in passes over the data set")
    standardise: bool = Field(True, description="shift and scale every channel to mean 0, variance 1")

    @model_validator(mode="after")
    def _one_length(self) -> "AttentiveProbeConfig":
        if (self.updates is None) == (self.epochs is None):
            raise ValueError("set either updates or epochs")
        return self

    @property
    def pooling(self) -> Pooling:
        """It reads all tokens."""
        return "tokens"


ProbeConfig = Annotated[LinearProbeConfig | AttentiveProbeConfig, Field(discriminator="kind")]


class ProtocolConfig(Strict):
    """One way of judging an encoder on a benchmark."""

    train: Path
    test: Path
    clip: EvaluationClipConfig
    probes: dict[str, ProbeConfig] = Field(min_length=1)
    probe_seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="initialisations of attentive probes")
    batch_size: int = Field(32, gt=0, description="clips decoded and encoded at once")
    encoder_precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic of the frozen encoder")
    feature_precision: Literal["fp16", "fp32"] = Field("fp16", description="how features are stored")

    def fingerprint(self) -> str:
        """Hash of what decides the outcome; how many clips are encoded at once does not."""
        decisive = self.model_dump(mode="json", exclude={"batch_size"})
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


class BenchmarkConfig(Strict):
    """A labelled data set and its protocols (``published`` to the letter, ``careful`` as it should be)."""

    name: str = Field(pattern=r"^[\w-]+$")
    title: str
    classes: int = Field(gt=1)
    protocols: dict[ProtocolName, ProtocolConfig] = Field(min_length=1)
