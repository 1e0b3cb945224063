"""What a study asks: its question as text, the outcome that answers it, and the contrast of its variants."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from hpc_jepa.config.benchmark import ProtocolName, Task
from hpc_jepa.config.loading import did_you_mean
from hpc_jepa.config.strict import KeyPath, SettingError, Strict


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""One name, or a list of names."""

TextMetric = Literal["R@1", "R@5", "R@10", "top1"]


class OutcomeConfig(Strict):
    """The results that answer the question."""

    task: Task = "probe"
    benchmarks: Names = Field((), description="names in evaluations; empty: all that are evaluated on the task")
    protocol: ProtocolName | None = Field(None, description="null: the protocol that decides on the benchmark")
    probe: str | None = Field(None, description="null: the probe that decides")
    metric: tuple[TextMetric, ...] = Field((), description="of text alone: which; empty: R@1, R@5 and R@10")
    conditions: Names = Field(
        (),
        description="of few_shot, robustness and text: as in the tables, or a part of it, as video_to_text; empty: "
        "all, of robustness the mean over corruptions",
    )

    @field_validator("metric", mode="before")
    @classmethod
    def _one_metric(cls, value: Any) -> Any:
        return _listed(value)

    @model_validator(mode="after")
    def _fits_the_task(self) -> "OutcomeConfig":
        if self.metric and self.task != "text":
            message = f"chooses a metric of text, but this is task {self.task}; set decides: of the evaluation instead"
            raise SettingError(("metric",), message)
        if self.conditions and self.task == "probe":
            raise SettingError(("conditions",), "probes have none; remove it")
        if self.probe is not None and self.task in ("few_shot", "text"):
            raise SettingError(("probe",), f"{self.task} has no probes; remove it")
        return self

    def covers(self, condition: str) -> bool:
        """Whether ``conditions`` names a condition of a table, or a part of it."""
        return any(covers(name, condition) for name in self.conditions)


def covers(name: str, condition: str) -> bool:
    """Whether a name is that of a condition of a table, or of a part of it: ``noise`` of ``noise, severity 3``."""
    return set(name.split(", ")) <= set(condition.split(", "))


class ContrastConfig(Strict):
    """Which variants are compared: two groups or a 2 x 2 design, and each variant with the baseline."""

    groups: dict[str, Names] | None = Field(
        None, description="two names, each with its variants: mean of the first group against that of the second"
    )
    factors: dict[str, tuple[Names, Names]] | None = Field(
        None, description="two names, each with the variants without and with it: main effects and interaction"
    )
    baseline: bool = Field(False, description="each variant against the baseline, alone or beside groups or factors")

    @model_validator(mode="after")
    def _is_one_question(self) -> "ContrastConfig":
        if self.groups is not None and self.factors is not None:
            raise SettingError(("factors",), "not together with groups:, which is another question; remove one of them")
        if self.groups is None and self.factors is None and not self.baseline:
            raise ValueError("names no variants; set groups:, factors: or baseline: true")
        for key, parts in (("groups", self.groups), ("factors", self.factors)):
            if parts is not None and len(parts) != 2:
                raise SettingError((key,), f"has {len(parts)} names, but needs two")
        for keys, names in self._listed_variants():
            _check_list(keys, names)
        if self.groups is not None:
            first, second = self.groups
            _check_apart(("groups", second), self.groups[second], self.groups[first])
        if self.factors is not None:
            _check_cells(self.factors)
        return self

    @property
    def cells(self) -> dict[tuple[bool, bool], tuple[str, ...]]:
        """Variants of each cell of the 2 x 2 design: without or with the first factor, without or with the second."""
        return _cells(self.factors) if self.factors else {}

    @property
    def variants(self) -> tuple[str, ...]:
        """All variants that groups and factors name, each once."""
        return tuple(dict.fromkeys(name for _, names in self._listed_variants() for name in names))

    def refuse_unknown(self, known: Sequence[str]) -> None:
        """Raise SettingError for a variant that is not among ``known``."""
        for keys, names in self._listed_variants():
            for name in names:
                if name not in known:
                    raise SettingError(
                        keys, f"'{name}' is no variant{did_you_mean(name, known)}; they are {', '.join(known)}"
                    )

    def _listed_variants(self) -> Iterator[tuple[KeyPath, tuple[str, ...]]]:
        """Each list of variants with the keys that lead to it."""
        for name, variants in (self.groups or {}).items():
            yield ("groups", name), variants
        for name, sides in (self.factors or {}).items():
            for index, side in enumerate(sides):
                yield ("factors", name, str(index)), side


class AboutConfig(Strict):
    """The question of a study. With an outcome and a contrast the report answers it in its first sentence."""

    question: str = Field("", description="question and limits of the study, printed at the top of its report")
    outcome: OutcomeConfig | None = Field(None, description="null: the report has no sentence that answers it")
    contrast: ContrastConfig | None = Field(None, description="set together with outcome")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"question": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_complete(self) -> "AboutConfig":
        if (self.outcome is None) != (self.contrast is None):
            absent, other = ("outcome", "contrast") if self.outcome is None else ("contrast", "outcome")
            raise SettingError((absent,), f"needed with {other}:; set it, or remove {other}")
        return self

    @property
    def written(self) -> str | dict[str, Any]:
        """The shortest form in YAML: the text alone where there is nothing else."""
        if self.outcome is None or self.contrast is None:
            return self.question
        parts = {"outcome": self.outcome, "contrast": self.contrast}
        return {"question": self.question} | {
            name: part.model_dump(mode="json", exclude_defaults=True) for name, part in parts.items()
        }


Factors = Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]


def _check_list(keys: KeyPath, names: Sequence[str]) -> None:
    """Raise SettingError for a list without a variant, or with one twice."""
    if not names:
        raise SettingError(keys, "lists no variant")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise SettingError(keys, f"'{twice[0]}' is listed twice")


def _check_apart(keys: KeyPath, names: Sequence[str], others: Sequence[str]) -> None:
    """Raise SettingError for a variant on both sides of a comparison."""
    if both := [name for name in names if name in others]:
        raise SettingError(keys, f"'{both[0]}' is on the other side too; remove it from one of them")


def _check_cells(factors: Factors) -> None:
    """Raise SettingError unless both factors divide the same variants, with some in each of the four cells."""
    (first, (without, with_)), (second, sides) = factors.items()
    _check_apart(("factors", first, "1"), with_, without)
    _check_apart(("factors", second, "1"), sides[1], sides[0])
    if lone := sorted({*without, *with_} ^ {*sides[0], *sides[1]}):
        where = second if lone[0] in (*without, *with_) else first
        raise SettingError(("factors", where), f"lacks '{lone[0]}'; both factors divide the same variants")
    for (one, other), names in _cells(factors).items():
        if not names:
            cell = f"{'with' if one else 'without'} {first} and {'with' if other else 'without'} {second}"
            raise SettingError(("factors",), f"no variant is {cell}; a 2 x 2 design needs one")


def _cells(factors: Factors) -> dict[tuple[bool, bool], tuple[str, ...]]:
    first, second = factors.values()
    return {
        (one, other): tuple(name for name in first[one] if name in second[other])
        for one, other in product((False, True), repeat=2)
    }
