"""Configuration of a study: regimes x variants x seeds, and the benchmarks of each run."""

from math import prod
from typing import Annotated, Any

from pydantic import Field, field_serializer, field_validator, model_validator

from hpc_jepa.config.about import AboutConfig, ContrastConfig, OutcomeConfig
from hpc_jepa.config.benchmark import MetricName
from hpc_jepa.config.sequential import ConfirmationConfig, SequentialConfig
from hpc_jepa.config.strict import RootConfig, SettingError
from hpc_jepa.config.study_evaluations import DecidesConfig, Evaluations
from hpc_jepa.config.study_variants import RunPhase, Seeds, VariantConfig, check_cell_keys, sets_key
from hpc_jepa.config.sweep import DOTTED, override_text, value_name

StudyName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
MAX_CELLS = 10_000
"""Limit of the runs of a study."""


class StudyConfig(RootConfig):
    """Every combination of regime, variant and seed is one run."""

    study: StudyName
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
    evaluations: Evaluations = ()
    reuse: tuple[StudyName, ...] = Field(
        (),
        description="other studies below RUNS, whose runs with the same regime, variant, seed and settings are used",
        exclude_if=lambda value: not value,
    )
    sequential: SequentialConfig | None = Field(None, description="null: all seeds of all variants")
    confirmation: ConfirmationConfig | None = Field(None, description="null: the looks of sequential decide")

    @model_validator(mode="after")
    def _is_finite(self) -> "StudyConfig":
        points = prod(len(values) for values in self.axes.values()) * max(len(self.phases), 1)
        cells = points * len(self.regimes) * sum(len(variant.seeds or self.seeds) for variant in self.variants)
        if cells > MAX_CELLS:
            raise ValueError(f"{cells:,} runs; a study has at most {MAX_CELLS:,}: divide it")
        return self

    @field_validator("overrides")
    @classmethod
    def _keeps_cells_apart(cls, overrides: tuple[str, ...]) -> tuple[str, ...]:
        check_cell_keys(overrides, with_switches=False)
        return overrides

    @field_validator("axes")
    @classmethod
    def _axes_are_settings(cls, axes: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in axes.items():
            if not DOTTED.fullmatch(key):
                raise SettingError((key,), "not a dotted key of a run such as schedule.lr")
            check_cell_keys([f"{key}="], with_switches=True)
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
                if any(sets_key(override, axis) for override in overrides):
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

    def deciding_metric(self, benchmark: str) -> MetricName | None:
        """The metric that decides on a benchmark, named as in ``evaluations``; None: that of the benchmark."""
        own = (entry.decides for entry in self.evaluations if entry.benchmark == benchmark)
        return next((decides.metric for decides in own if decides and decides.metric), None)

    @model_validator(mode="after")
    def _reuses_whole_runs(self) -> "StudyConfig":
        for index, name in enumerate(self.reuse):
            if name == self.study or name in self.reuse[:index]:
                message = f"'{name}' is this study" if name == self.study else f"'{name}' is listed twice"
                raise SettingError(("reuse", str(index)), f"{message}; remove it")
        for key, other, reason in (
            ("sequential", self.sequential, "whose error holds for results that nobody has seen"),
            ("phases", self.phases, "each of which begins with a run of this study"),
        ):
            if self.reuse and other:
                raise SettingError(("reuse",), f"not together with {key}:, {reason}; remove one of them")
        return self

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
