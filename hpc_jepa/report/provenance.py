"""Provenance of every number: run, checkpoint, data and software."""

from collections.abc import Iterable
from dataclasses import dataclass

from hpc_jepa.report.run_report import RunReport


@dataclass(frozen=True)
class RecordOrigin:
    """Provenance of one evaluation record."""

    run: str
    folder: str
    benchmark: str
    weights: str
    step: str
    overridden: str
    fingerprint: str
    data: dict[str, str]
    software: str


def record_origins(runs: Iterable[RunReport]) -> list[RecordOrigin]:
    """One entry per record."""
    return [
        RecordOrigin(
            run=run.label,
            folder=str(run.dir),
            benchmark=f"{record.benchmark}, {record.protocol} ({record.protocol_fingerprint})",
            weights=", ".join(dict.fromkeys(result.weights for result in record.results)),
            step=f"{record.run.step:,} of {record.run.steps:,}",
            overridden=", ".join(f"{key}: {value}" for key, value in record.run.overridden.items()) or "none",
            fingerprint=record.run.fingerprint,
            data={split: digest[:16] for split, digest in record.data.items()},
            software=", ".join(f"{name} {version}" for name, version in record.software.items()),
        )
        for run in runs
        for record in run.records.values()
    ]
