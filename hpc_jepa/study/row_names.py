"""Names of the rows of a study: which are baselines, and which row each other one is compared with."""

from dataclasses import dataclass
from pathlib import Path

from hpc_jepa.config.study import StudyConfig

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


def row_names(study: StudyConfig) -> RowNames:
    """Row names of a study; the default where it has no axes, phases or baseline of its own."""
    return RowNames.of(study) if study.baseline or study.phases or study.axes else RowNames()
