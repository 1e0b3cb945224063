"""Which metric decides on a benchmark: as the study says, else as its records say, else accuracy."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from hpc_jepa.config.benchmark import MetricName
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
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
        file = run.dir.study.config_file
        if file not in by_study:
            by_study[file] = _of_study(file)
        found |= {(run.config.study, name): (metric, None) for name, metric in by_study[file].items()}
        for path, record in run.records.items():
            if record.decides is None:
                continue
            metric, other = found.setdefault((run.config.study, record.benchmark), (record.decides, path))
            if other is not None and metric != record.decides:
                raise InputError(
                    f"{path} is to be compared by {record.decides}, {other} by {metric}; evaluate one of them again, "
                    "or set decides: in the evaluations of the study"
                )
    return {key: metric for key, (metric, _) in found.items()}


def _of_study(file: Path) -> dict[str, MetricName]:
    if not file.is_file():
        return {}
    try:
        evaluations = read_config(StudyConfig, [file]).evaluations
    except InputError:  # a report on the whole study names it among the gaps
        return {}
    return {Path(entry.benchmark).stem: entry.decides for entry in evaluations if entry.decides is not None}
