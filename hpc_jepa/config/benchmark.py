"""A frozen evaluation: which shards, which clips, which probes."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from hpc_jepa.config.data import IMAGENET_MEAN, IMAGENET_STD
from hpc_jepa.config.strict import Strict

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

    kind: Literal["linear"] = "linear"
    pooling: Literal["mean", "tubelets"] = "mean"
    standardise: bool = True
    l2: float = Field(1e-3, ge=0, description="penalty on the mean loss per sample")
    max_iterations: int = Field(1000, gt=0)


class AttentiveProbeConfig(Strict):
    """Class token and one attention layer over all tokens, then a linear layer; AdamW, constant learning rate."""

    kind: Literal["attentive"] = "attentive"
    heads: int = Field(8, gt=0)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    batch_size: int = Field(64, gt=0)
    updates: int | None = Field(1000, gt=0)
    epochs: int | None = Field(None, gt=0, description="used where updates is null")
    standardise: bool = True


ProbeConfig = LinearProbeConfig | AttentiveProbeConfig


class ProtocolConfig(Strict):
    """One way of judging an encoder on a benchmark."""

    train: Path
    test: Path
    clip: EvaluationClipConfig
    probes: dict[str, ProbeConfig] = Field(min_length=1)
    probe_seeds: tuple[int, ...] = (0, 1, 2)
    batch_size: int = Field(32, gt=0)
    feature_precision: Literal["fp16", "fp32"] = "fp16"


class BenchmarkConfig(Strict):
    """A labelled data set and its protocols (``published`` to the letter, ``careful`` as it should be)."""

    name: str
    title: str
    classes: int = Field(gt=1)
    protocols: dict[Literal["published", "careful"], ProtocolConfig] = Field(min_length=1)
