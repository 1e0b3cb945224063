"""Evaluations of the runs of a study, and what decides on each benchmark."""

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, field_validator, model_serializer, model_validator

from hpc_jepa.config.benchmark import MetricName, ProtocolName, Task
from hpc_jepa.config.strict import SettingError, Strict
from hpc_jepa.config.sweep import DOTTED, override_key


class DecidesConfig(Strict):
    """Metric, probe and protocol that a study is judged by on a benchmark; a metric alone may be a word."""

    metric: MetricName | None = Field(None, description="null: as the benchmark says")
    probe: str | None = Field(None, min_length=1, description="a probe of the protocol; null: its first one")
    protocol: ProtocolName | None = Field(
        None, description="one that is evaluated; null: published before standard before vjepa"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"metric": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _says_something(self) -> "DecidesConfig":
        if self.metric is None and self.probe is None and self.protocol is None:
            raise ValueError("is empty; set metric, probe or protocol, or remove it")
        return self

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        """A metric alone as the word that releases before this form wrote."""
        said = {name: value for name in ("metric", "probe", "protocol") if (value := getattr(self, name)) is not None}
        return self.metric if list(said) == ["metric"] and self.metric is not None else said


class EvaluationConfig(Strict):
    """A benchmark of ``configs/benchmark/`` and the weights to evaluate on it."""

    benchmark: str
    task: Task = Field(
        "probe",
        description="probe: all labels; few_shot, robustness, text: see docs/evaluations.md",
        exclude_if=lambda value: value == "probe",
    )
    protocols: tuple[ProtocolName, ...] = ("standard",)
    overrides: tuple[str, ...] = Field(
        (),
        description="key.sub=value of the protocols, for example few_shot.draws=5",
        exclude_if=lambda value: not value,
    )
    weights: tuple[Literal["target", "student", "random_init"], ...] = ("target", "student", "random_init")
    every: int | None = Field(
        None,
        gt=0,
        description="also target weights of all checkpoints at multiples of this step count, see checkpoint.keep_every",
    )
    decides: DecidesConfig | None = Field(
        None,
        description="metric, or {metric, probe, protocol}, that the study is judged by on this benchmark, all tasks "
        "by the metric; null: the metric of the benchmark and the first probe of the first protocol",
    )
    online: bool = Field(
        False, description="evaluate these checkpoints while the run trains: on Slurm in a job beside it"
    )

    def is_probed(self, benchmark: str) -> bool:
        """Whether it is an evaluation of probes on a benchmark."""
        return self.task == "probe" and self.benchmark == benchmark

    @field_validator("overrides")
    @classmethod
    def _each_key_once(cls, overrides: tuple[str, ...]) -> tuple[str, ...]:
        for index, override in enumerate(overrides):
            if not DOTTED.fullmatch(override_key(override)) or "=" not in override:
                raise SettingError((str(index),), f"{override}: has the form key.sub=value, a setting of a protocol")
        keys = [override_key(override) for override in overrides]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"{twice[0]} is set twice")
        return overrides

    @model_validator(mode="after")
    def _settings_are_of_its_task(self) -> "EvaluationConfig":
        for index, override in enumerate(self.overrides):
            section = override_key(override).partition(".")[0]
            if section in get_args(Task) and section != self.task:
                message = f"{override}: a setting of task {section}, but this is task {self.task}; remove one of them"
                raise SettingError(("overrides", str(index)), message)
        if self.decides is not None and self.task != "probe":
            self._decides_by_metric_alone(self.decides)
        return self

    def _decides_by_metric_alone(self, decides: DecidesConfig) -> None:
        if self.task == "text":
            raise SettingError(("decides",), "recall decides on task text; remove it")
        for key in ("probe", "protocol"):
            if getattr(decides, key) is not None:
                raise SettingError(("decides", key), f"chooses among probes, but this is task {self.task}; remove it")

    @model_validator(mode="after")
    def _online_has_steps(self) -> "EvaluationConfig":
        if self.online and self.every is None:
            raise SettingError(("online",), "needs every:, the steps between the checkpoints to evaluate")
        if self.online and len(self.protocols) > 1:
            raise SettingError(("online",), "evaluates one protocol; list the others in an evaluation of their own")
        return self


def _one_is_online(evaluations: tuple[EvaluationConfig, ...]) -> tuple[EvaluationConfig, ...]:
    online = [index for index, evaluation in enumerate(evaluations) if evaluation.online]
    if len(online) > 1:
        raise SettingError((str(online[1]), "online"), "a second one; one evaluation of a study may be online")
    return evaluations


def _one_record_each(evaluations: tuple[EvaluationConfig, ...]) -> tuple[EvaluationConfig, ...]:
    """Evaluations of one benchmark, protocol and task share their record, so their settings must agree."""
    first: dict[tuple[str, str, str], int] = {}
    for index, entry in enumerate(evaluations):
        for protocol in entry.protocols:
            other = first.setdefault((entry.benchmark, protocol, entry.task), index)
            if evaluations[other].overrides != entry.overrides:
                message = (
                    f"evaluations.{other} has other settings of {entry.benchmark}, {protocol}, {entry.task}, which "
                    "has one record in each run; remove one of them"
                )
                raise SettingError((str(index), "overrides"), message)
    return evaluations


def _one_column_decides(evaluations: tuple[EvaluationConfig, ...]) -> tuple[EvaluationConfig, ...]:
    """A deciding protocol is evaluated, and two entries of one benchmark do not name different columns."""
    named: dict[str, tuple[int, DecidesConfig]] = {}
    for index, entry in enumerate(evaluations):
        decides = entry.decides
        if decides is None or (decides.probe is None and decides.protocol is None):
            continue
        known = [name for other in evaluations if other.is_probed(entry.benchmark) for name in other.protocols]
        if decides.protocol is not None and decides.protocol not in known:
            message = f"{entry.benchmark} is evaluated under {', '.join(known)}; add the protocol there"
            raise SettingError((str(index), "decides", "protocol"), message)
        other, first = named.setdefault(entry.benchmark, (index, decides))
        if (first.probe, first.protocol) != (decides.probe, decides.protocol):
            raise SettingError((str(index), "decides"), f"evaluations.{other} decides otherwise; remove one of them")
    return evaluations


def _one_metric_decides(evaluations: tuple[EvaluationConfig, ...]) -> tuple[EvaluationConfig, ...]:
    """Two entries of one benchmark do not name different metrics: its probes and tasks are compared by the same."""
    named: dict[str, tuple[int, MetricName]] = {}
    for index, entry in enumerate(evaluations):
        if entry.decides is None or entry.decides.metric is None:
            continue
        other, metric = named.setdefault(entry.benchmark, (index, entry.decides.metric))
        if metric != entry.decides.metric:
            message = f"evaluations.{other} says {metric}, which is of the whole benchmark; remove one of them"
            raise SettingError((str(index), "decides"), message)
    return evaluations


Evaluations = Annotated[
    tuple[EvaluationConfig, ...],
    AfterValidator(_one_is_online),
    AfterValidator(_one_record_each),
    AfterValidator(_one_column_decides),
    AfterValidator(_one_metric_decides),
]
"""All evaluations of a study, which fit together."""
