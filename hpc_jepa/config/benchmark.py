"""Configuration of a frozen evaluation: shards, clips, probes and further tasks."""

from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from hpc_jepa.config.data import IMAGENET_MEAN, IMAGENET_STD
from hpc_jepa.config.fingerprint import fingerprint, fingerprint_v1
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.pooler_probe import Candidates, PoolerProbeConfig
from hpc_jepa.config.renamed_keys import warn_once
from hpc_jepa.config.strict import RootConfig, SettingError, Strict
from hpc_jepa.io.resources import list_resources

ENCODER_PATTERN = r"^(target|student|random_init|timm:[^@]+(@.+)?|vjepa2:.+)$"

Weights = Annotated[str, Field(pattern=ENCODER_PATTERN)]
"""An encoder of a run (target, student, random_init), or an external one: ``timm:<model>`` with random weights,
``timm:<model>@<file>`` with local weights, ``vjepa2:<folder>`` as saved by transformers.
"""

Task = Literal["probe", "few_shot", "robustness", "text"]
LostFrames = Literal["random", "block", "last"]
Pooling = Literal["tokens", "tubelets", "mean"]
Precision = Literal["fp16", "fp32"]
MetricName = Literal["accuracy", "mean_class_accuracy", "mae", "r2"]
"""A metric that can decide: the mean of a score over clips. The first two are of classes, the others of a number."""

NUMBER_METRICS: tuple[MetricName, ...] = ("mae", "r2")
"""Mean absolute error, and the share of the variance that is explained."""


def current_protocol(name: Any) -> Any:
    """Today's name of a protocol: ``standard`` was called ``careful`` in release 0.1."""
    if name != "careful":
        return name
    warn_once("protocols", "careful", "standard")
    return "standard"


ProtocolName = Annotated[Literal["published", "standard", "vjepa"], BeforeValidator(current_protocol)]

PROTOCOLS: tuple[str, ...] = ("published", "standard", "vjepa")
"""Of several protocols of a benchmark the first one decides in a report."""


class EvaluationClipConfig(Strict):
    """Deterministic clips of a sample."""

    frames: int = Field(16, gt=0)
    sampling: Literal["leading", "uniform", "segments"] = Field(
        "uniform",
        description="leading: frames 0, stride, ...; uniform: spread over the whole video; segments: a window at a "
        "random place in each of ``clips`` equal parts of the video, as in V-JEPA 2",
    )
    stride: int = Field(1, gt=0, description="source frames between clip frames, for sampling: leading and segments")
    clips: int = Field(1, gt=0, description="clips of a video at different moments; their predictions are averaged")
    crops: int = Field(1, gt=0, description="square crops of each clip, spread evenly along the long side; likewise")
    size: int | None = Field(224, gt=0, description="resize the short side and crop the centre; null keeps the frame")
    resize: int | None = Field(None, gt=0, description="short side before the crop, if it is not ``size``")
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @model_validator(mode="after")
    def _crops_fit(self) -> "EvaluationClipConfig":
        if self.size is None and (self.crops > 1 or self.resize is not None):
            raise ValueError("crops and resize need a size")
        if self.size is not None and self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize ({self.resize}) must not be smaller than size ({self.size})")
        return self

    @property
    def views(self) -> int:
        """Clips times crops of a video."""
        return self.clips * self.crops


class LogisticProbeConfig(Strict):
    """Multinomial logistic regression on pooled features (scikit-learn, L-BFGS)."""

    kind: Literal["logistic"]
    pooling: Literal["mean", "tubelets"] = "mean"
    l2: Candidates = Field((1e-3,), description="coefficient of |W|^2 / 2, added to the mean loss per sample")
    max_iterations: int = Field(1000, gt=0)

    @property
    def settings(self) -> tuple[dict[str, float], ...]:
        """Candidates for model selection."""
        return tuple({"l2": l2} for l2 in self.l2)


class RidgeProbeConfig(Strict):
    """Ridge regression of a number on pooled features (scikit-learn)."""

    kind: Literal["ridge"]
    pooling: Literal["mean", "tubelets"] = "mean"
    l2: Candidates = Field(
        (1e-3,), description="coefficient of |w|^2, added to the mean squared error per sample; 0: least squares"
    )

    @field_validator("l2")
    @classmethod
    def _not_negative(cls, l2: tuple[float, ...]) -> tuple[float, ...]:
        if min(l2) < 0:
            raise ValueError(f"{min(l2):g} is negative")
        return l2

    @property
    def settings(self) -> tuple[dict[str, float], ...]:
        """Candidates for model selection."""
        return tuple({"l2": l2} for l2 in self.l2)


class KNNProbeConfig(Strict):
    """k nearest neighbours by cosine similarity of pooled features."""

    kind: Literal["knn"]
    pooling: Literal["mean", "tubelets"] = "mean"
    k: tuple[Annotated[int, Field(gt=0)], ...] = Field((20,), min_length=1)

    @property
    def settings(self) -> tuple[dict[str, float], ...]:
        """Candidates for model selection."""
        return tuple({"k": k} for k in self.k)


class TrainedProbeConfig(Strict):
    """A probe trained with AdamW. Several rates and decays are trained in parallel and selected on validation clips."""

    kind: str = Field(pattern=r"^[a-z]\w*$", description="a probe registered in evaluation/probes/")
    pooling: Pooling
    heads: int = Field(8, gt=0)
    lr: Candidates = (1e-3,)
    weight_decay: Candidates = (0.01,)
    schedule: Literal["constant", "cosine"] = Field("constant", description="cosine: to zero, in steps of one epoch")
    batch_size: int = Field(64, gt=0)
    updates: int | None = Field(None, gt=0, description="length of training in steps, for any size of data set")
    epochs: int | None = Field(None, gt=0, description="length of training in passes over the data set")
    epochs_of: dict[str, int] = Field({}, description="number of epochs for single variants")
    standardise: bool = Field(True, description="shift and scale every channel to mean 0, variance 1")

    @model_validator(mode="after")
    def _consistent(self) -> "TrainedProbeConfig":
        if (self.updates is None) == (self.epochs is None):
            raise ValueError(f"{self.kind} probe: set either updates or epochs")
        return self

    @property
    def settings(self) -> tuple[dict[str, float], ...]:
        """Candidates for model selection."""
        return tuple({"lr": lr, "weight_decay": decay} for lr, decay in product(self.lr, self.weight_decay))

    def for_variant(self, variant: str) -> "TrainedProbeConfig":
        """This configuration with the number of epochs of a variant."""
        return self.model_copy(update={"epochs": self.epochs_of.get(variant, self.epochs)})


def _rename_kind(value: Any) -> Any:
    if isinstance(value, dict) and value.get("kind") == "neighbours":
        warn_once("probes", "kind: neighbours", "kind: knn")
        return {**value, "kind": "knn"}
    return value


def _config_class(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    if kind == "attentive" and ("blocks" in value if isinstance(value, dict) else hasattr(value, "blocks")):
        return "pooler"
    return kind if kind in ("logistic", "ridge", "knn") else "trained"


FeatureProbeConfig = LogisticProbeConfig | RidgeProbeConfig | KNNProbeConfig | TrainedProbeConfig
"""A probe that is fitted to stored features."""

ProbeConfig = Annotated[
    Annotated[LogisticProbeConfig, Tag("logistic")]
    | Annotated[RidgeProbeConfig, Tag("ridge")]
    | Annotated[KNNProbeConfig, Tag("knn")]
    | Annotated[PoolerProbeConfig, Tag("pooler")]
    | Annotated[TrainedProbeConfig, Tag("trained")],
    Discriminator(_config_class),
    BeforeValidator(_rename_kind),
]


class SubsetConfig(Strict):
    """Samples drawn once without replacement, as pandas draws them with ``random_state=seed``."""

    train: int = Field(gt=0)
    test: int = Field(gt=0)
    seed: int = Field(42, ge=0)


class FewShotConfig(Strict):
    """Accuracy with a few labels per class: linear probes on k shots, and episodes."""

    pooling: Literal["mean", "tubelets"] = "mean"
    shots: tuple[Annotated[int, Field(gt=0)], ...] = Field((1, 5, 10, 20), min_length=1)
    draws: int = Field(10, gt=1)
    l2: float = Field(1e-2, gt=0, description="coefficient of |W|^2 / 2, added to the mean loss per labelled clip")
    episodes: int = Field(600, gt=1)
    ways: int = Field(5, gt=1, description="classes of an episode")
    episode_shots: tuple[Annotated[int, Field(gt=0)], ...] = (1, 5)
    queries: int = Field(15, gt=0, description="test clips of each class in an episode")


class RobustnessConfig(Strict):
    """Accuracy of probes on corrupted clips."""

    corruptions: tuple[str, ...] = Field((), description="names of corruptions; empty: all")
    probes: tuple[str, ...] = Field((), description="names of probes; empty: all")
    clips: int | None = Field(None, gt=0, description="test clips, evenly spread over the test set; null: all")
    seed: int = Field(0, ge=0)


class TextConfig(Strict):
    """Two projection heads trained contrastively on captions (InfoNCE, learned temperature, AdamW)."""

    pooling: Literal["mean", "tubelets"] = "mean"
    width: int = Field(256, gt=0)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    batch_size: int = Field(512, gt=1)
    updates: int = Field(2000, gt=0)
    dropouts: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.0, 0.25, 0.5, 0.75, 0.875)
    lost_frames: tuple[LostFrames, ...] = Field(
        ("random",),
        min_length=1,
        description="which frames are dropped; the last received frame is held",
    )

    @field_validator("lost_frames")
    @classmethod
    def _each_once(cls, kinds: tuple[LostFrames, ...]) -> tuple[LostFrames, ...]:
        if len(set(kinds)) != len(kinds):
            raise ValueError(f"{list(kinds)} lists one twice")
        return kinds


class ProtocolConfig(Strict):
    """One way to evaluate an encoder on a benchmark."""

    train: Path
    test: Path
    clip: EvaluationClipConfig
    probes: dict[str, ProbeConfig] = Field(min_length=1)
    probe_seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="initialisations of trained probes")
    validation: float = Field(0.0, ge=0, lt=1, description="fraction of the training clips used for model selection")
    subset: SubsetConfig | None = None
    batch_size: int = Field(32, gt=0, description="clips per batch of the encoder")
    encoder_precision: Literal["fp32", "bf16"] = Field("fp32", description="precision of the frozen encoder")
    feature_precision: Precision = Field("fp16", description="precision of stored tokens")
    pooled_precision: Precision = Field("fp32", description="precision of means of tokens, computed and stored")
    feature_limit: float = Field(200.0, gt=0, description="limit of the features of a split on disk, GiB")
    few_shot: FewShotConfig = FewShotConfig()
    robustness: RobustnessConfig = RobustnessConfig()
    text: TextConfig = TextConfig()

    ADDED_KEYS: ClassVar[tuple[str, ...]] = ("clip.crops", "clip.resize", "text.lost_frames")
    """Dotted keys that decide the outcome and that release 0.1 did not have; see ``config/fingerprint.py``."""

    @model_validator(mode="after")
    def _candidates_need_clips(self) -> "ProtocolConfig":
        for name, probe in self.probes.items():
            if isinstance(probe, PoolerProbeConfig):
                if self.clip.size is None:
                    raise ValueError(f"probe {name} is trained on crops: set clip.size")
                if probe.select == "test":
                    continue
            if len(probe.settings) > 1 and not self.validation:
                raise ValueError(f"probe {name} has {len(probe.settings)} candidates to select from: set validation")
        unknown = set(self.robustness.probes) - set(self.probes)
        if unknown:
            raise ValueError(f"robustness.probes: unknown probe {sorted(unknown)[0]}; known: {', '.join(self.probes)}")
        return self

    @property
    def poolers(self) -> dict[str, PoolerProbeConfig]:
        """The probes of several blocks, which are trained while the encoder runs."""
        return {name: probe for name, probe in self.probes.items() if isinstance(probe, PoolerProbeConfig)}

    def fingerprint(self, task: Task = "probe") -> str:
        """Hash of the settings that decide the outcome of the probes, or of a further task, and differ from the
        defaults.
        """
        return fingerprint(self._settings(task, exclude_defaults=True))

    def known_fingerprints(self, task: Task = "probe") -> set[str]:
        """The fingerprint of this protocol, and the one that release 0.1 gave it."""
        changed, settings = self._settings(task, exclude_defaults=True), self._settings(task)
        for probe in settings["probes"].values():
            probe["kind"] = "neighbours" if probe["kind"] == "knn" else probe["kind"]
        return {fingerprint(changed), *fingerprint_v1(settings, self.ADDED_KEYS, changed)}

    def _settings(self, task: Task, exclude_defaults: bool = False) -> dict[str, Any]:
        others = {name for name in get_args(Task) if name != task}
        exclude = {"batch_size", "feature_limit", *others}
        return self.model_dump(mode="json", exclude=exclude, exclude_defaults=exclude_defaults)


class TargetConfig(Strict):
    """A number of each sample that probes predict."""

    key: Annotated[str, AfterValidator(str.lower)] = Field(
        pattern=r"^\S(.*\S)?$", description="column of the table that shards build csv stored with --target"
    )
    unit: str = Field("", description="shown behind the numbers")


class BenchmarkConfig(RootConfig):
    """A labelled data set and its protocols: ``published`` as in the paper, ``standard`` as recommended."""

    name: str = Field(pattern=r"^[\w-]+$")
    title: str
    classes: int = Field(0, ge=0, description="number of classes, at least 2; leave it out with target")
    target: TargetConfig | None = Field(None, description="a number that probes predict instead of classes")
    build: str = Field("", description="the command that builds its shards")
    decides: MetricName | None = Field(
        None,
        description="metric that reports compare by; null: accuracy, or mae of a target. mean_class_accuracy: all "
        "classes weigh alike; r2: squared errors",
    )
    protocols: dict[ProtocolName, ProtocolConfig] = Field(min_length=1)

    @property
    def metric(self) -> MetricName:
        """The metric that decides."""
        return self.decides or ("accuracy" if self.target is None else "mae")

    @model_validator(mode="after")
    def _classes_or_a_number(self) -> "BenchmarkConfig":
        if self.target is None and self.classes < 2:
            raise SettingError(("classes",), "the number of classes, at least 2; or set target: to predict a number")
        if self.target is not None and self.classes:
            raise SettingError(("classes",), "not together with target:, which is a number; remove one of them")
        if self.decides is not None and (self.decides in NUMBER_METRICS) != (self.target is not None):
            known = [name for name in get_args(MetricName) if (name in NUMBER_METRICS) == (self.target is not None)]
            raise SettingError(("decides",), f"{self.decides} does not measure this benchmark; {' or '.join(known)} do")
        for protocol, config in self.protocols.items():
            for name, probe in config.probes.items():
                regresses = isinstance(probe, (RidgeProbeConfig, *([TrainedProbeConfig] if self.target else [])))
                if regresses != (self.target is not None):
                    needs = "predicts a number: set target:" if self.target is None else "predicts classes; use ridge"
                    raise SettingError(("protocols", protocol, "probes", name, "kind"), f"{probe.kind} {needs}")
        return self


@cache
def current_fingerprint(recorded: str, benchmark: str, protocol: ProtocolName, task: Task = "probe") -> str:
    """The fingerprint of this release, if an older one gave ``recorded`` to the same settings; else ``recorded``.

    The settings are those of the benchmark of that name in ``configs/benchmark/``.
    """
    path = list_resources("configs/benchmark").get(benchmark)
    config = read_config(BenchmarkConfig, [path]).protocols.get(protocol) if path else None
    return config.fingerprint(task) if config and recorded in config.known_fingerprints(task) else recorded
