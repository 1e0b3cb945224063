"""Expand a study into its cells."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hpc_jepa.config.benchmark import (
    NUMBER_METRICS,
    PROTOCOLS,
    BenchmarkConfig,
    MetricName,
    ProtocolName,
    Task,
    Weights,
)
from hpc_jepa.config.init import InitConfig
from hpc_jepa.config.loading import dump_config, find_config, nearest_or_all, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.semantics import switch_text
from hpc_jepa.config.strict import KeyPath
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.config.study_variants import RunPhase, VariantConfig
from hpc_jepa.config.sweep import override_text, settings_name, sweep_points
from hpc_jepa.config.yaml_reader import as_value, parse_value
from hpc_jepa.errors import InputError
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.io.resources import resource_name
from hpc_jepa.runs.run_dir import RunDir, StudyDir


@dataclass(frozen=True)
class CellEvaluation:
    """One evaluation record of a cell: benchmark, its configuration file, protocol, task, and which weights.

    overrides: settings of the protocol that the study changes; ``benchmark`` has them. where: file, line and key in the
    study, for messages.
    every: also evaluate target weights of the checkpoints at multiples of this step count; None: only the last.
    decides: metric that the study compares by; None: that of the benchmark.
    probe: name of the probe that decides, if this protocol does; None: the first one.
    preferred: the study names this protocol as the one that decides.
    step: evaluate target weights of the checkpoint after this many steps instead.
    online: evaluate these while the run trains.
    """

    benchmark: BenchmarkConfig
    file: str
    protocol: ProtocolName
    weights: tuple[Weights, ...]
    every: int | None = None
    decides: MetricName | None = None
    step: int | None = None
    online: bool = False
    task: Task = "probe"
    overrides: tuple[str, ...] = ()
    where: str = field(default="", compare=False)
    probe: str | None = None
    preferred: bool = False

    def __str__(self) -> str:
        task = "" if self.task == "probe" else f" {self.task}"
        return f"{self.benchmark.name}.{self.protocol}{task}"

    @property
    def facts(self) -> dict[str, Any]:
        """What is evaluated, for scripts."""
        return {
            "benchmark": self.benchmark.name,
            "protocol": self.protocol,
            "task": self.task,
            "overrides": self.overrides,
            "weights": self.weights,
        }

    @property
    def metric(self) -> MetricName:
        """The metric that decides."""
        return self.decides or self.benchmark.metric

    @property
    def deciding_probe(self) -> str:
        """Name of the probe that decides, if this protocol does."""
        return self.probe or next(iter(self.benchmark.protocols[self.protocol].probes))

    @cached_property
    def fingerprints(self) -> set[str]:
        """Fingerprints of the protocol for this task, one of which the record must have."""
        return self.benchmark.protocols[self.protocol].known_fingerprints(self.task)

    def record_file(self, run: RunDir, step: int | None = None) -> Path:
        """Its record in a run, of the last step, or of the checkpoint after ``step`` steps."""
        return run.record_file(self.benchmark.name, self.protocol, self.task, step)

    @property
    def commands(self) -> list[tuple[str, ...]]:
        """Arguments after ``hpc-jepa evaluate RUN`` of each command; the last one is of the last step."""
        if self.step is not None:
            return [(*self._common, "--weights", "target", "--step", str(self.step))]
        steps = [] if self.every is None else [self.steps_command]
        return [*steps, (*self._common, *(word for name in self.weights for word in ("--weights", name)))]

    @property
    def steps_command(self) -> tuple[str, ...]:
        """Arguments after ``hpc-jepa evaluate RUN`` that evaluate the checkpoints at multiples of ``every``."""
        return (*self._common, "--weights", "target", "--every", str(self.every))

    @property
    def _common(self) -> tuple[str, ...]:
        task = () if self.task == "probe" else ("--task", self.task)
        own = () if self.decides is None else (f"decides={self.decides}",)
        settings = (f"protocols.{self.protocol}.{override}" for override in self.overrides)
        return ("--benchmark", self.file, "--protocol", self.protocol, *task, *settings, *own)


@dataclass(frozen=True)
class StudyCell:
    """One run of the grid, its arguments of ``hpc-jepa train``, and its evaluations.

    after: folder of the run of an earlier phase whose last checkpoint it begins with.
    until: it is trained for this many steps only, the prefix that the looks of a sequential study compare.
    """

    config: RunConfig
    arguments: tuple[str, ...]
    evaluations: tuple[CellEvaluation, ...]
    after: Path | None = None
    until: int | None = None

    @property
    def steps(self) -> int:
        """Steps that it is trained for."""
        return self.config.schedule.steps if self.until is None else self.until

    @property
    def is_trained(self) -> bool:
        """Whether all steps are done. Raises DataError if a file of the run is damaged."""
        return is_trained(self.run, self.until)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.folder

    @property
    def arm(self) -> str:
        """``<regime>/<variant>``: all cells of an arm differ in their seed alone."""
        return f"{self.config.regime}/{self.folder.parent.name}"

    @cached_property
    def run(self) -> RunDir:
        """Contents of the run folder."""
        return RunDir(self.folder)

    @property
    def online(self) -> CellEvaluation | None:
        """The evaluation of its checkpoints while it trains, if the study has one."""
        return next((evaluation for evaluation in self.evaluations if evaluation.online), None)

    @property
    def waits(self) -> bool:
        """Whether the run that it begins after is not done. Raises DataError if a file of that run is damaged."""
        return waits_for(self.run, self.after)


def is_trained(run: RunDir, until: int | None) -> bool:
    """Whether all steps of a run are done, or those until a pause. Raises DataError if a file of it is damaged."""
    state = run.state
    if state is None:
        return False
    paused = until is not None and state.state == "interrupted" and (state.step or 0) >= until
    return state.state == "done" or paused


def waits_for(run: RunDir, after: Path | None) -> bool:
    """Whether a run has not begun, and the run ``after`` which it begins is not done.

    Raises DataError if a file of that run is damaged.
    """
    if after is None or run.checkpoint_dirs():
        return False
    state = RunDir(after).state
    return state is None or state.state != "done"


def expand_study(study: StudyConfig, runs: Path) -> list[StudyCell]:
    """All cells of the grid.

    Raises InputError for an unknown regime, variant, benchmark or setting, and if two cells would share a folder.
    """
    cells = [
        cell
        for regime in study.regimes
        for variant in study.variants
        for point in sweep_points(study.axes)
        for cell in _phases(study, regime, variant, point, runs)
    ]
    _check_distinct_folders(cells)
    evaluations = [item for index in range(len(study.evaluations)) for item in _evaluations(study, index)]
    _check_outcome(study, evaluations)
    _check_deciding_probes(study, evaluations)
    return [_selecting(study, cell) for cell in _with_evaluations(cells, evaluations)]


def _check_outcome(study: StudyConfig, evaluations: Iterable[CellEvaluation]) -> None:
    """Raise InputError if no evaluation has the protocol or the probe that the study is to be answered by."""
    outcome = study.about.outcome
    if outcome is None:
        return
    own = [each for each in evaluations if each.task == outcome.task]
    own = [each for each in own if each.file in (outcome.benchmarks or (each.file,))]
    for name in dict.fromkeys(each.file for each in own):
        protocols = [each for each in own if each.file == name]
        chosen = [each for each in protocols if each.protocol == (outcome.protocol or each.protocol)]
        probes = [probe for each in chosen for probe in each.benchmark.protocols[each.protocol].probes]
        faults = (
            ("protocol", outcome.protocol, [each.protocol for each in protocols], not chosen),
            ("probe", outcome.probe, probes, outcome.probe is not None and outcome.probe not in probes),
        )
        for key, value, known, is_wrong in faults:
            if is_wrong:
                where = study.locations.prefix(("about", "outcome", key))
                listed = ", ".join(dict.fromkeys(known))
                raise InputError(f"{where}about.outcome.{key}: {name} is not evaluated by '{value}'; it has {listed}")


def deciding_evaluations(evaluations: Iterable[CellEvaluation], decides: Collection[str]) -> list[CellEvaluation]:
    """One evaluation of probes on each of the benchmarks ``decides``, as in a report: of the protocol that the study
    names, else of the first of PROTOCOLS.
    """
    first: dict[str, CellEvaluation] = {}
    for evaluation in sorted(evaluations, key=lambda each: (not each.preferred, PROTOCOLS.index(each.protocol))):
        if evaluation.task == "probe" and evaluation.file in decides:
            first.setdefault(evaluation.benchmark.name, evaluation)
    return list(first.values())


def _selecting(study: StudyConfig, cell: StudyCell) -> StudyCell:
    """A cell of the looks stops after their prefix, and is evaluated there on what decides.

    Raises InputError if the run is not longer than the prefix.
    """
    rule, confirmation = study.sequential, study.confirmation
    if rule is None or rule.prefix is None or confirmation is None or cell.config.seed in confirmation.seeds:
        return cell
    if rule.prefix >= cell.config.schedule.steps:
        raise InputError(
            f"sequential.prefix: {rule.prefix:,} steps, but {cell.arm} has {cell.config.schedule.steps:,}; use fewer"
        )
    deciding = deciding_evaluations(cell.evaluations, rule.decides or study.probed[:1])
    evaluations = tuple(replace(each, weights=("target",), every=None, step=rule.prefix) for each in deciding)
    return replace(cell, evaluations=evaluations, until=rule.prefix)


def create_study_dir(study: StudyConfig, runs: Path) -> StudyDir:
    """Create ``RUNS/<study>`` and write its ``study.yaml``, from which a report lists missing cells.

    Raises InputError if a folder in it is a link that leads out of it.
    """
    folder = StudyDir(runs / study.study)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.refuse_links_outside()
    write_atomically(folder.config_file, dump_config(study).encode())
    return folder


def _phases(
    study: StudyConfig, regime: str, variant: VariantConfig, point: Mapping[str, Any], runs: Path
) -> list[StudyCell]:
    """The cells of all phases of a variant at one point of the axes, earlier phases first."""
    if not study.phases:
        return _cells(study, regime, variant, point, runs)
    cells: dict[str | None, list[StudyCell]] = {None: []}
    for phase in study.phases:
        cells[phase.name] = _cells(study, regime, variant, point, runs, phase, cells[phase.after])
    return [cell for of_phase in cells.values() for cell in of_phase]


def _cells(
    study: StudyConfig,
    regime: str,
    variant: VariantConfig,
    point: Mapping[str, Any],
    runs: Path,
    phase: RunPhase | None = None,
    before: Sequence[StudyCell] = (),
) -> list[StudyCell]:
    """One cell per seed. The configuration is read and validated once: seeds are validated with the study.

    point: values of the axes. before: cells of the phase that this one begins after, seed by seed.
    """
    seeds = variant.seeds or study.run_seeds
    files = (find_config(regime, "regime"), find_config(variant.objective, "objective"))
    layers = tuple(str(resource_name(file)) for file in files)
    preset = f"semantics={variant.semantics.preset}"
    overrides = (f"study={as_value(study.study)}", f"runs={as_value(str(runs))}", preset)
    own = (*study.overrides, *variant.overrides, *(override_text(key, value) for key, value in point.items()))
    if phase is not None:
        own = (*own, *phase.overrides)
    begins = [_begin_after(phase, cell) for cell in before] if phase is not None and before else [()] * len(seeds)
    with _study_file_named(study, variant, point, phase):
        config = read_config(RunConfig, layers, (*overrides, f"seed={seeds[0]}", *own, *begins[0]))
    name = _variant_name(variant, config.variant, point) + (f".{phase.name}" if phase else "")
    if name != config.variant:
        own = (*own, f"variant={as_value(name)}")
        config = config.model_copy(update={"variant": name})
    switches = _switch_overrides(variant)
    if switches:
        layered = (*overrides, f"seed={seeds[0]}", *own, *begins[0], *switches)
        config = _with_switches(variant, config, layers, layered)
    cells = []
    for index, (seed, begin) in enumerate(zip(seeds, begins, strict=True)):
        after = before[index].folder if before else None
        own_config = config.model_copy(update={"seed": seed})
        if after is not None and config.init is not None:
            own_config = own_config.model_copy(update={"init": config.init.model_copy(update={"run": after})})
        arguments = (*layers, *overrides, f"seed={seed}", *own, *begin, *switches)
        cells.append(StudyCell(own_config, arguments, (), after))
    return cells


@contextmanager
def _study_file_named(
    study: StudyConfig, variant: VariantConfig, point: Mapping[str, Any], phase: RunPhase | None
) -> Iterator[None]:
    """Say where the study has an override that an error names: file, line and key."""
    try:
        yield
    except InputError as error:
        places: list[tuple[KeyPath, str]] = [(("axes", key), override_text(key, value)) for key, value in point.items()]
        places += [(("overrides",), text) for text in study.overrides]
        number = str(study.variants.index(variant))
        places += [(("variants", number, "overrides"), text) for text in variant.overrides]
        if phase is not None:
            place = ("phases", str(study.phases.index(phase)), "overrides")
            places += [(place, text) for text in phase.overrides]
        for keys, text in places:
            if str(error).startswith(f"override {text}"):
                raise InputError(f"{study.locations.prefix(keys)}{'.'.join(keys)}: {error}") from error
        raise


def _begin_after(phase: RunPhase, before: StudyCell) -> tuple[str, ...]:
    """The override that begins a run with the last checkpoint of another one, whatever its variant sets for init."""
    own = InitConfig(run=before.folder, step=before.config.schedule.steps, what=phase.what)
    return (override_text("init", own.model_dump(mode="json")),)


def _variant_name(variant: VariantConfig, objective: str, point: Mapping[str, Any]) -> str:
    """Name of the variant in folders and tables, with its settings; ``objective``: that of the composition."""
    if variant.name is not None:
        return settings_name(variant.name, point)
    own = {key: parse_value(text) for key, _, text in (override.partition("=") for override in variant.overrides)}
    return settings_name(objective, {**own, **point})


def _switch_overrides(variant: VariantConfig) -> tuple[str, ...]:
    """Overrides that set the single switches of a variant. They come last: overrides of the study are for all cells."""
    switches = variant.semantics.switches
    if not switches:
        return ()
    return (
        *(f"semantics.{name}={switch_text(value)}" for name, value in switches.items()),
        f"switches=[{', '.join(switches)}]",
    )


def _with_switches(
    variant: VariantConfig, plain: RunConfig, layers: Sequence[str], overrides: Sequence[str]
) -> RunConfig:
    """The configuration with the switches. Raises InputError if one of them changes nothing in this regime."""
    for name, value in variant.semantics.switches.items():
        if getattr(plain.semantics, name) == value:
            raise InputError(
                f"variants: {variant.objective}: {name} is {switch_text(value)} under {plain.semantics_name} semantics "
                f"in regime {plain.regime} without this switch too; leave it out"
            )
    return read_config(RunConfig, layers, overrides)


def _with_evaluations(cells: Sequence[StudyCell], evaluations: Sequence[CellEvaluation]) -> list[StudyCell]:
    """Add evaluations to cells. All runs of a regime and seed start from the same random encoder, so only the first one
    evaluates it.
    """
    without_random = tuple(_without_random(evaluation) for evaluation in evaluations)
    evaluated, seen = [], set()
    for cell in cells:
        start = (cell.config.regime, cell.config.seed)
        evaluated.append(replace(cell, evaluations=without_random if start in seen else tuple(evaluations)))
        seen.add(start)
    return evaluated


def _evaluations(study: StudyConfig, index: int) -> list[CellEvaluation]:
    """The evaluations of one entry, one of each of its protocols. Raises InputError naming its key if it cannot be."""
    entry = study.evaluations[index]
    file = str(find_config(entry.benchmark, "benchmark"))
    benchmark = read_config(BenchmarkConfig, [file])
    metric = None if entry.decides is None else entry.decides.metric
    if metric is not None and (metric in NUMBER_METRICS) != (benchmark.target is not None):
        kind = "a numeric target" if benchmark.target else "classes"
        raise InputError(f"evaluations: {entry.benchmark} has {kind}; decides: {metric} does not measure it")
    if entry.task != "probe" and benchmark.target is not None:
        where = _entry_key(study, index, "task")
        raise InputError(f"{where}: {entry.task} needs classes, but {entry.benchmark} has a numeric target; use probe")
    for protocol in entry.protocols:
        if protocol not in benchmark.protocols:
            known = ", ".join(benchmark.protocols)
            raise InputError(f"evaluations: {entry.benchmark} has no protocol '{protocol}'; it has {known}")
    column = study.deciding_column(entry.benchmark) if entry.task == "probe" else None
    return [
        CellEvaluation(
            _with_overrides(study, index, file, protocol) if entry.overrides else benchmark,
            entry.benchmark,
            protocol,
            entry.weights,
            entry.every,
            metric,
            online=entry.online,
            task=entry.task,
            overrides=entry.overrides,
            where=_entry_key(study, index, "overrides" if entry.overrides else "task"),
            probe=column.probe if column else None,
            preferred=column is not None and column.protocol == protocol,
        )
        for protocol in entry.protocols
    ]


def _check_deciding_probes(study: StudyConfig, evaluations: Sequence[CellEvaluation]) -> None:
    """Raise InputError naming its key if a probe that is to decide is none of the deciding protocol."""
    for each in deciding_evaluations(evaluations, study.probed):
        probes = each.benchmark.protocols[each.protocol].probes
        if each.probe is not None and each.probe not in probes:
            named = [entry.is_probed(each.file) and entry.decides is not None for entry in study.evaluations]
            where = _entry_key(study, named.index(True), "decides", "probe")
            raise InputError(
                f"{where}: {each.benchmark.name}, {each.protocol} has no probe '{each.probe}'"
                f"{nearest_or_all(each.probe, probes)}"
            )


def _with_overrides(study: StudyConfig, index: int, file: str, protocol: ProtocolName) -> BenchmarkConfig:
    """The benchmark with the settings that an entry changes. Raises InputError naming its key if one is refused."""
    settings = [f"protocols.{protocol}.{override}" for override in study.evaluations[index].overrides]
    try:
        return read_config(BenchmarkConfig, [file], settings)
    except InputError as error:
        raise InputError(f"{_entry_key(study, index, 'overrides')}: {error}") from error


def _entry_key(study: StudyConfig, index: int, *keys: str) -> str:
    """File, line and key of an entry of ``evaluations``."""
    path = ("evaluations", str(index), *keys)
    return f"{study.locations.prefix(path)}{'.'.join(path)}"


def _without_random(evaluation: CellEvaluation) -> CellEvaluation:
    trained = tuple(name for name in evaluation.weights if name != "random_init")
    return replace(evaluation, weights=trained or evaluation.weights)


def _check_distinct_folders(cells: Sequence[StudyCell]) -> None:
    seen: set[Path] = set()
    for cell in cells:
        if cell.folder in seen:
            raise InputError(
                f"{cell.folder}: two variants of the study have this run folder; remove one, or set name: of one"
            )
        seen.add(cell.folder)
