"""Which rows of a study are baselines and phases, by their names, as its ``study.yaml`` says."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.report.run_report import RunReport

BASELINE = "baseline"


@dataclass(frozen=True)
class RowNames:
    """Names of the rows of a study: ``<variant>[.<settings>][.<phase>]``.

    baseline: variant that the others are compared with. declared: whether the study names it, so that its variants may
    differ in settings alone. variants: names of the variants. swept: whether it has axes, whose values are in the names
    of baselines too. phases: names of the phases, first to last.
    """

    baseline: str = BASELINE
    declared: bool = False
    variants: tuple[str, ...] = ()
    swept: bool = False
    phases: tuple[str, ...] = ()

    @classmethod
    def of(cls, study: StudyConfig) -> "RowNames":
        """As the configuration of a study says."""
        variants = tuple(variant.name or Path(variant.objective).stem for variant in study.variants)
        declared = study.baseline is not None
        phases = tuple(phase.name for phase in study.phases)
        return cls(study.baseline or BASELINE, declared, variants, bool(study.axes), phases)

    def phase(self, row: str) -> str:
        """Phase of a row, the last one of a row without (an encoder that no run trained), empty without phases."""
        _, dot, last = row.rpartition(".")
        if dot and last in self.phases:
            return last
        return self.phases[-1] if self.phases else ""

    def reference(self, row: str) -> str | None:
        """Name of the row to compare a row with: the baseline with the same settings, of the same phase.

        None for the baseline itself.
        """
        phase = self.phase(row)
        stem = row.removesuffix(f".{phase}") if phase else row
        variant = max((name for name in self.variants if f"{stem}.".startswith(f"{name}.")), key=len, default=stem)
        if variant == self.baseline:
            return None
        settings = stem.removeprefix(variant) if self.swept and variant in self.variants else ""
        return f"{self.baseline}{settings}{f'.{phase}' if phase else ''}"

    def order(self, row: str) -> tuple[int, bool]:
        """Sort key that puts later phases, and in each of them the baseline, first."""
        phase = self.phase(row)
        return (-self.phases.index(phase) if phase else 0, self.reference(row) is not None)


def read_row_names(runs: Sequence[RunReport]) -> dict[str, RowNames]:
    """Row names of each study: the default without a sound ``study.yaml`` beside its runs."""
    files: dict[str, list[Path]] = {}
    for run in runs:
        files.setdefault(run.config.study, []).append(run.dir.study.config_file)
    return {study: _from_files(dict.fromkeys(paths)) for study, paths in files.items()}


def names_of(names: Mapping[str, RowNames], study: str) -> RowNames:
    """The row names of a study, the default if they are unknown."""
    return names.get(study, RowNames())


def _from_files(paths: Iterable[Path]) -> RowNames:
    for path in paths:
        if path.is_file():
            try:
                study = read_config(StudyConfig, [path])
            except InputError:  # a report on the whole study names it among the gaps
                continue
            return RowNames.of(study) if study.baseline or study.phases or study.axes else RowNames()
    return RowNames()
