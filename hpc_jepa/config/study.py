"""Configuration of a study: regimes x variants x seeds, and the benchmarks of each run."""

import re
from collections import Counter
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, Field, field_serializer, field_validator, model_serializer, model_validator

from hpc_jepa.config.about import AboutConfig, ContrastConfig, OutcomeConfig
from hpc_jepa.config.benchmark import MetricName, ProtocolName, Task
from hpc_jepa.config.semantics import VariantSemantics, row_label, semantics_name
from hpc_jepa.config.strict import RootConfig, SettingError, Strict
from hpc_jepa.config.sweep import override_text, settings_name, value_name
from hpc_jepa.config.yaml_reader import parse_value


def _check_distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if twice := [seed for seed, count in Counter(seeds).items() if count > 1]:
        raise ValueError(f"seed {twice[0]} is listed twice")
    return seeds


Seed = Annotated[int, Field(ge=0, lt=2**63)]
Seeds = Annotated[tuple[Seed, ...], AfterValidator(_check_distinct)]
MAX_CELLS = 10_000
"""Limit of the runs of a study."""

CELL_KEYS = {
    "seed": "list the seeds under seeds:",
    "study": "set study: instead",
    "regime": "list the regimes under regimes:",
    "variant": "list the variants under variants:",
    "semantics": "set semantics: of a variant",
    "switches": "set semantics: of a variant",
    "runs": "pass --runs to the command",
}
"""Keys of a run that a study sets for each cell, and where to set them."""


DOTTED = re.compile(r"\w[\w-]*(\.\w[\w-]*)*")


def override_key(override: str) -> str:
    """The dotted key of ``key.sub=value``."""
    return override.partition("=")[0].strip()


def _sets(override: str, axis: str) -> bool:
    """Whether ``key.sub=value`` sets the key of an axis, itself or in a mapping."""
    key = override_key(override)
    if key == axis:
        return True
    if not axis.startswith(f"{key}."):
        return False
    try:
        value = parse_value(override.partition("=")[2])
    except yaml.YAMLError:  # refused with its reason when the cells are made
        return False
    for part in axis.removeprefix(f"{key}.").split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def _check_cell_keys(overrides: Iterable[str], with_switches: bool) -> None:
    """Raise ValueError for a key that a study sets for each cell; ``with_switches``: also for a switch of semantics."""
    for override in overrides:
        key, shown = override_key(override), override.removesuffix("=")
        if key in CELL_KEYS:
            raise ValueError(f"'{shown}' would put all cells into one run folder; {CELL_KEYS[key]}")
        if with_switches and key.startswith("semantics."):
            raise ValueError(f"'{shown}': a switch of semantics; {CELL_KEYS['semantics']}")


class VariantConfig(Strict):
    """One variant: a composition of ``configs/objective/``, its semantics, and optionally settings and seeds."""

    objective: str
    name: str | None = Field(
        None, pattern=r"^\w[\w.-]*$", description="in folders and tables; null: that of the objective and the overrides"
    )
    overrides: tuple[str, ...] = Field((), description="key.sub=value, applied to the runs of this variant")
    semantics: VariantSemantics = VariantSemantics.of("corrected")
    seeds: Seeds | None = Field(None, min_length=1, description="null: the seeds of the study")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"objective": value} if isinstance(value, str) else value

    @field_validator("overrides")
    @classmethod
    def _keeps_cells_apart(cls, overrides: tuple[str, ...]) -> tuple[str, ...]:
        _check_cell_keys(overrides, with_switches=True)
        keys = [override_key(override) for override in overrides]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"{twice[0]} is set twice")
        return overrides

    @field_serializer("semantics")
    def _as_written(self, semantics: VariantSemantics) -> str | dict[str, Any]:
        return semantics.written

    @property
    def stem(self) -> str:
        """The name without settings."""
        return self.name or Path(self.objective).stem

    @property
    def row(self) -> str:
        """The row of its runs in tables: with settings, and with its semantics unless they are the corrected ones."""
        name = self.stem
        if self.name is None and self.overrides:
            pairs = (override.partition("=") for override in self.overrides)
            try:
                name = settings_name(name, {key: parse_value(text) for key, _, text in pairs})
            except yaml.YAMLError:  # refused with its reason when the cells are made
                return name
        return row_label(name, semantics_name(self.semantics.preset, self.semantics.switches))


class RunPhase(Strict):
    """One phase of every variant: a run of its own, which may begin where the run of an earlier phase ended."""

    name: str = Field(pattern=r"^\w[\w-]*$", description="last part of the names of its folders")
    after: str | None = Field(None, description="phase whose last checkpoint it begins with; null: as the regime says")
    what: Literal["all", "weights"] = Field("all", description="what it takes from that checkpoint; see init.what")
    overrides: tuple[str, ...] = Field((), description="key.sub=value, applied to the runs of this phase")

    @field_validator("overrides")
    @classmethod
    def _keeps_cells_apart(cls, overrides: tuple[str, ...]) -> tuple[str, ...]:
        _check_cell_keys(overrides, with_switches=True)
        return overrides

    @model_validator(mode="after")
    def _one_beginning(self) -> "RunPhase":
        if self.after is not None:
            for override in self.overrides:
                if f"{override_key(override)}.".startswith("init."):
                    raise ValueError(
                        f"'{override}': a phase with after: begins where that one ended; remove one of them"
                    )
        elif self.what != "all":
            raise ValueError("what: belongs to after, which is not set")
        return self


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
        description="metric, or {metric, probe, protocol}, that the study is judged by on this benchmark; null: the "
        "metric of the benchmark and the first probe of the first protocol",
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
            raise SettingError(("decides",), f"chooses among probes, but this is task {self.task}; remove it")
        return self

    @model_validator(mode="after")
    def _online_has_steps(self) -> "EvaluationConfig":
        if self.online and self.every is None:
            raise SettingError(("online",), "needs every:, the steps between the checkpoints to evaluate")
        if self.online and len(self.protocols) > 1:
            raise SettingError(("online",), "evaluates one protocol; list the others in an evaluation of their own")
        return self


class SequentialConfig(Strict):
    """Looks at the results while seeds are added: a variant that is decided at a look gets no further seeds."""

    looks: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        min_length=1, description="seeds of a variant at each look, increasing, for example [2, 3, 5, 8]"
    )
    error: float = Field(
        0.05, gt=0, lt=0.5, description="probability of any false gain or loss in the whole study; of any false equal"
    )
    margin: float = Field(
        1.0, gt=0, le=100, description="points within which a variant counts as equal to the baseline"
    )
    futility: float = Field(
        0.15, ge=0, lt=1, description="stop a variant that has less chance than this of a gain or loss by the last look"
    )
    prefix: int | None = Field(
        None,
        gt=0,
        description="steps after which the looks compare; their runs are trained no further; needs confirmation",
    )
    decides: tuple[str, ...] = Field(
        (), description="benchmarks that decide, by their names in evaluations; empty: the first one of task probe"
    )

    @field_validator("looks")
    @classmethod
    def _increasing(cls, looks: tuple[int, ...]) -> tuple[int, ...]:
        if list(looks) != sorted(set(looks)):
            raise ValueError(f"{list(looks)} is not increasing; write the number of seeds at each look")
        return looks


class ConfirmationConfig(Strict):
    """Fresh seeds for the final comparison of the variants that the looks left."""

    seeds: Seeds = Field(min_length=2, description="seeds that no look uses")


class StudyConfig(RootConfig):
    """Every combination of regime, variant and seed is one run."""

    study: str = Field(pattern=r"^\w[\w.-]*$")
    about: AboutConfig = Field(
        AboutConfig(), description="question and limits of the study as text, or with what answers it; see AboutConfig"
    )
    regimes: tuple[str, ...] = Field(min_length=1, description="names of configs/regime/")
    variants: tuple[VariantConfig, ...] = Field(min_length=1)
    seeds: Seeds = Field((239,), min_length=1)
    overrides: tuple[str, ...] = Field((), description="key.sub=value, applied to every run")
    axes: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        {}, description="dotted key of a run: values; every variant is trained with every combination"
    )
    baseline: str | None = Field(
        None, description="name of the variant that reports compare the others with; null: baseline"
    )
    phases: tuple[RunPhase, ...] = Field((), description="runs of each variant one after the other; empty: one run")
    evaluations: tuple[EvaluationConfig, ...] = ()
    sequential: SequentialConfig | None = Field(None, description="null: all seeds of all variants")
    confirmation: ConfirmationConfig | None = Field(None, description="null: the looks of sequential decide")

    @model_validator(mode="after")
    def _is_finite(self) -> "StudyConfig":
        points = prod(len(values) for values in self.axes.values()) * max(len(self.phases), 1)
        cells = points * len(self.regimes) * sum(len(variant.seeds or self.seeds) for variant in self.variants)
        if cells > MAX_CELLS:
            raise ValueError(f"{cells:,} runs; a study has at most {MAX_CELLS:,}: divide it")
        return self

    @field_validator("evaluations")
    @classmethod
    def _one_is_online(cls, evaluations: tuple[EvaluationConfig, ...]) -> tuple[EvaluationConfig, ...]:
        online = [index for index, evaluation in enumerate(evaluations) if evaluation.online]
        if len(online) > 1:
            raise SettingError((str(online[1]), "online"), "a second one; one evaluation of a study may be online")
        return evaluations

    @field_validator("evaluations")
    @classmethod
    def _one_record_each(cls, evaluations: tuple[EvaluationConfig, ...]) -> tuple[EvaluationConfig, ...]:
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

    @field_validator("evaluations")
    @classmethod
    def _one_column_decides(cls, evaluations: tuple[EvaluationConfig, ...]) -> tuple[EvaluationConfig, ...]:
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
                raise SettingError(
                    (str(index), "decides"), f"evaluations.{other} decides otherwise; remove one of them"
                )
        return evaluations

    @field_validator("overrides")
    @classmethod
    def _keeps_cells_apart(cls, overrides: tuple[str, ...]) -> tuple[str, ...]:
        _check_cell_keys(overrides, with_switches=False)
        return overrides

    @field_validator("axes")
    @classmethod
    def _axes_are_settings(cls, axes: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in axes.items():
            if not DOTTED.fullmatch(key):
                raise SettingError((key,), "not a dotted key of a run such as schedule.lr")
            _check_cell_keys([f"{key}="], with_switches=True)
            names = [value_name(value) for value in values]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise SettingError((key,), f"the value {twice} is listed twice")
        return axes

    @model_validator(mode="after")
    def _one_place_per_setting(self) -> "StudyConfig":
        variants = [(variant.objective, variant.overrides) for variant in self.variants]
        phases = [(f"phase {phase.name}", phase.overrides) for phase in self.phases]
        places = [("overrides", self.overrides), *variants, *phases]
        for axis in self.axes:
            others = {other: values for other, values in self.axes.items() if axis.startswith(f"{other}.")}
            wider = [(f"axis {key}", [override_text(key, each) for each in others[key]]) for key in others]
            for place, overrides in [*places, *wider]:
                if any(_sets(override, axis) for override in overrides):
                    raise SettingError(("axes", axis), f"an axis, but {place} sets it too; remove one of them")
        return self

    @field_validator("phases")
    @classmethod
    def _phases_follow_each_other(cls, phases: tuple[RunPhase, ...]) -> tuple[RunPhase, ...]:
        for index, phase in enumerate(phases):
            before = [other.name for other in phases[:index]]
            if phase.name in before:
                raise SettingError((str(index), "name"), f"a second phase {phase.name}")
            if phase.after is not None and phase.after not in before:
                listed = f"the phases before are {', '.join(before)}" if before else "it is the first phase"
                raise SettingError((str(index), "after"), f"'{phase.after}' is no phase before this one; {listed}")
        return phases

    @model_validator(mode="after")
    def _baseline_is_a_variant(self) -> "StudyConfig":
        names = [variant.stem for variant in self.variants]
        if self.baseline is not None and self.baseline not in names:
            raise SettingError(("baseline",), f"'{self.baseline}' is no variant; they are {', '.join(names)}")
        return self

    @field_serializer("about")
    def _about_as_written(self, about: AboutConfig) -> str | dict[str, Any]:
        return about.written

    @model_validator(mode="after")
    def _can_answer(self) -> "StudyConfig":
        if self.about.outcome is not None and self.about.contrast is not None:
            _check_question(self, self.about.outcome, self.about.contrast)
        return self

    @property
    def description(self) -> str:
        """Question and limits of the study as text."""
        return self.about.question

    @property
    def probed(self) -> tuple[str, ...]:
        """Benchmarks that probes are evaluated on, as written, each once: what can decide."""
        return tuple(dict.fromkeys(entry.benchmark for entry in self.evaluations if entry.task == "probe"))

    def deciding_column(self, benchmark: str) -> DecidesConfig | None:
        """The probe and protocol that decide on a benchmark, named as in ``evaluations``; None: the first ones."""
        found = (entry.decides for entry in self.evaluations if entry.is_probed(benchmark))
        return next((decides for decides in found if decides and (decides.probe or decides.protocol)), None)

    @property
    def run_seeds(self) -> tuple[int, ...]:
        """Seeds of a variant without seeds of its own: with looks, those up to the last look, then of confirmation."""
        if self.sequential is None:
            return self.seeds
        confirmation = self.confirmation.seeds if self.confirmation else ()
        return (*self.seeds[: self.sequential.looks[-1]], *confirmation)

    @model_validator(mode="after")
    def _plans_looks(self) -> "StudyConfig":
        if self.sequential is not None:
            _check_looks(self, self.sequential)
            if self.sequential.prefix is not None and self.confirmation is None:
                message = "needs confirmation:; a prefix of the steps can select variants, not decide on them"
                raise SettingError(("sequential", "prefix"), message)
        if self.confirmation is not None:
            if self.sequential is None:
                raise SettingError(("confirmation",), "needs sequential:, whose looks select what is confirmed")
            if known := sorted(set(self.confirmation.seeds) & set(self.seeds)):
                message = f"seeds: lists {', '.join(map(str, known))} too; a confirmation needs fresh seeds"
                raise SettingError(("confirmation", "seeds"), message)
        return self


def _check_question(study: StudyConfig, outcome: OutcomeConfig, contrast: ContrastConfig) -> None:
    """Raise SettingError if the study has no runs or results to answer its question with."""
    tasks = dict.fromkeys(entry.task for entry in study.evaluations)
    if outcome.task not in tasks:
        listed = f"which have {', '.join(tasks)}" if tasks else "which are empty"
        message = f"{outcome.task} is no task of evaluations, {listed}; add an evaluation of it, or change it here"
        raise SettingError(("about", "outcome", "task"), message)
    names = list(dict.fromkeys(entry.benchmark for entry in study.evaluations if entry.task == outcome.task))
    if unknown := [name for name in outcome.benchmarks if name not in names]:
        message = f"{unknown[0]} is not evaluated on task {outcome.task}, unlike {', '.join(names)}; add it there"
        raise SettingError(("about", "outcome", "benchmarks"), message)
    lacking = [
        entry.benchmark for entry in study.evaluations if entry.task == outcome.task and "target" not in entry.weights
    ]
    if lost := [name for name in lacking if name in (outcome.benchmarks or names)]:
        message = f"compares target weights; add target to weights of {lost[0]} in evaluations"
        raise SettingError(("about", "outcome"), message)
    here = ("about", "contrast")
    if study.sequential is not None:
        raise SettingError(here, "not together with sequential:, which decides by its own rule; remove one of them")
    if study.axes and contrast.variants:
        raise SettingError(here, "not together with axes:, where a variant has several rows; ask for baseline: true")
    rows = [variant.row for variant in study.variants]
    try:
        contrast.refuse_unknown(list(dict.fromkeys(rows)))
    except SettingError as error:
        raise SettingError((*here, *error.keys), str(error)) from None
    baseline = study.baseline or "baseline"
    if contrast.baseline and baseline not in [variant.stem for variant in study.variants]:
        message = f"the study has no variant {baseline}; add it to variants, or name another one under baseline:"
        raise SettingError((*here, "baseline"), message)


def _check_looks(study: StudyConfig, rule: SequentialConfig) -> None:
    """Raise SettingError if the looks do not fit the seeds, variants and evaluations of the study."""
    here = ("sequential",)
    if rule.looks[-1] > len(study.seeds):
        message = f"a look at {rule.looks[-1]} seeds, but seeds: lists {len(study.seeds)}; add seeds or remove the look"
        raise SettingError((*here, "looks"), message)
    for key, other in (("phases", study.phases), ("axes", study.axes)):
        if other:
            message = f"not together with {key}:, where no run is the variant baseline; remove one of them"
            raise SettingError(here, message)
    if study.baseline not in (None, "baseline"):
        raise SettingError(("baseline",), "not together with sequential:, which compares with the variant baseline")
    own = [variant.objective for variant in study.variants if variant.seeds is not None]
    if own:
        raise SettingError(here, f"all variants take the seeds of the study; remove seeds of {', '.join(own)}")
    names = study.probed
    if not names:
        raise SettingError(here, "needs evaluations: of task probe, on which it decides")
    unknown = [name for name in rule.decides if name not in names]
    if unknown:
        message = f"{unknown[0]} is not in evaluations of task probe, which have {', '.join(names)}"
        raise SettingError((*here, "decides"), message)
    deciding = rule.decides or names[:1]
    for entry in study.evaluations:
        if (entry.task, entry.benchmark in deciding, "target" in entry.weights) == ("probe", True, False):
            message = f"decides on target weights; add target to weights of {entry.benchmark} in evaluations"
            raise SettingError(here, message)
