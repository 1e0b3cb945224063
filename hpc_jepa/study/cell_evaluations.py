"""The evaluations of the runs of a study, as its configuration lists them."""

from collections.abc import Collection, Iterable, Sequence

from hpc_jepa.config.about import OutcomeConfig, covers
from hpc_jepa.config.benchmark import NUMBER_METRICS, PROTOCOLS, BenchmarkConfig, ProtocolName
from hpc_jepa.config.loading import find_config, nearest_or_all, read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.conditions import planned_conditions
from hpc_jepa.study.cell import CellEvaluation


def study_evaluations(study: StudyConfig) -> list[CellEvaluation]:
    """All evaluations of a run of the study. Raises InputError naming the key of one that cannot be."""
    return [item for index in range(len(study.evaluations)) for item in _of_entry(study, index)]


def deciding_evaluations(evaluations: Iterable[CellEvaluation], decides: Collection[str]) -> list[CellEvaluation]:
    """One evaluation of probes on each of the benchmarks ``decides``, as in a report: of the protocol that the study
    names, else of the first of PROTOCOLS.
    """
    first: dict[str, CellEvaluation] = {}
    for evaluation in sorted(evaluations, key=lambda each: (not each.preferred, PROTOCOLS.index(each.protocol))):
        if evaluation.task == "probe" and evaluation.file in decides:
            first.setdefault(evaluation.benchmark.name, evaluation)
    return list(first.values())


def check_outcome(study: StudyConfig, evaluations: Iterable[CellEvaluation]) -> None:
    """Raise InputError if no evaluation has the protocol, probe or condition that the study is to be answered by."""
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
    _check_conditions(study, outcome, own)


def _check_conditions(study: StudyConfig, outcome: OutcomeConfig, evaluations: Iterable[CellEvaluation]) -> None:
    """Raise InputError naming a condition of the outcome that none of its evaluations measures."""
    if not outcome.conditions:
        return
    protocols = [each.benchmark.protocols[each.protocol] for each in evaluations]
    known = dict.fromkeys(name for each in protocols for name in planned_conditions(outcome.task, each))
    for index, asked in enumerate(outcome.conditions):
        if not any(covers(asked, name) for name in known):
            where = study.locations.prefix(("about", "outcome", "conditions", str(index)))
            parts = list(dict.fromkeys(part for name in known for part in name.split(", ")))
            raise InputError(
                f"{where}about.outcome.conditions: '{asked}' is not measured; there are {'; '.join(parts)}"
            )


def _of_entry(study: StudyConfig, index: int) -> list[CellEvaluation]:
    """The evaluations of one entry, one of each of its protocols. Raises InputError naming its key if it cannot be."""
    entry = study.evaluations[index]
    file = str(find_config(entry.benchmark, "benchmark"))
    benchmark = read_config(BenchmarkConfig, [file])
    metric = study.deciding_metric(entry.benchmark)
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


def check_deciding_probes(study: StudyConfig, evaluations: Sequence[CellEvaluation]) -> None:
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
