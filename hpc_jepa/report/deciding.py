"""Which metric, probe and protocol decide on a benchmark: as the study says, else the metric that its records name."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from hpc_jepa.config.benchmark import BenchmarkConfig, MetricName
from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.config.study_evaluations import DecidesConfig
from hpc_jepa.errors import InputError
from hpc_jepa.report.run_report import RunReport

StudyBenchmark = tuple[str, str]
"""Names of a study and of a benchmark."""


def deciding_metrics(runs: Iterable[RunReport]) -> dict[StudyBenchmark, MetricName]:
    """By study and benchmark, where it is said. ``study.yaml`` names a benchmark by its file.

    Raises InputError naming two records of one study that name different metrics, unless the study decides.
    """
    by_study: dict[Path, Mapping[str, MetricName]] = {}
    found: dict[StudyBenchmark, tuple[MetricName, Path | None]] = {}
    for run in runs:
        file = run.study.config_file
        if file not in by_study:
            by_study[file] = _of_study(file)
        found |= {(run.config.study, name): (metric, None) for name, metric in by_study[file].items()}
        for path, record in run.last_records:
            if record.decides is None:
                continue
            metric, other = found.setdefault((run.config.study, record.benchmark), (record.decides, path))
            if other is not None and metric != record.decides:
                raise InputError(
                    f"{path} is to be compared by {record.decides}, {other} by {metric}; evaluate one of them again, "
                    "or set decides: in the evaluations of the study"
                )
    return {key: metric for key, (metric, _) in found.items()}


def deciding_columns(runs: Iterable[RunReport]) -> dict[StudyBenchmark, DecidesConfig]:
    """Probe and protocol that decide by study and benchmark, where ``study.yaml`` names one of them."""
    found: dict[StudyBenchmark, DecidesConfig] = {}
    seen: set[tuple[str, Path]] = set()
    for run in runs:
        file = run.study.config_file
        if (run.config.study, file) not in seen:
            seen.add((run.config.study, file))
            named = {name: each for name, each in _decisions(file).items() if each.probe or each.protocol}
            found |= {(run.config.study, name): decides for name, decides in named.items()}
    return found


def _of_study(file: Path) -> dict[str, MetricName]:
    return {name: each.metric for name, each in _decisions(file).items() if each.metric is not None}


def _decisions(file: Path) -> dict[str, DecidesConfig]:
    """What ``study.yaml`` says by benchmark."""
    if not file.is_file():
        return {}
    try:
        study = read_config(StudyConfig, [file])
    except InputError:  # a report on the whole study names it among the gaps
        return {}
    found: dict[str, DecidesConfig] = {}
    for benchmark in dict.fromkeys(entry.benchmark for entry in study.evaluations if entry.decides is not None):
        column = study.deciding_column(benchmark)
        named = {"probe": column.probe, "protocol": column.protocol} if column else {}
        said = {"metric": study.deciding_metric(benchmark), **named}
        found[_benchmark_name(benchmark)] = DecidesConfig.model_validate(said)
    return found


def _benchmark_name(file: str) -> str:
    """Name of the benchmark in a file; without the file, that of the file."""
    try:
        return read_config(BenchmarkConfig, [find_config(file, "benchmark")]).name
    except InputError:
        return Path(file).stem
