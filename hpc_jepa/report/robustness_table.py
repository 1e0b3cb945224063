"""Robustness of each encoder: mean corruption error relative to the baseline, and consistency."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hpc_jepa.evaluation.record import RobustnessRecord
from hpc_jepa.evaluation.tasks.robustness import mean_corruption_error
from hpc_jepa.report.results import TRAINED
from hpc_jepa.report.row_names import BASELINE
from hpc_jepa.report.run_report import RunReport


@dataclass(frozen=True)
class RobustnessRow:
    """``error``: error on corrupted clips relative to the baseline. ``consistency``: percent of clips whose class does
    not change under corruption, mean over corruptions.
    """

    where: str
    encoder: str
    probe: str
    error: float
    reference: str
    consistency: float


def robustness_table(runs: Sequence[RunReport]) -> list[RobustnessRow]:
    """One row per encoder and probe with a baseline of the same study, regime, benchmark and protocol."""
    records = [(run, record) for run in runs for record in run.robustness.values()]
    lines: dict[tuple[str, str, str], RobustnessRow] = {}
    for run, record in records:
        reference = _baseline(run, record, records)
        if reference is not None:
            lines |= {(line.where, line.encoder, line.probe): line for line in _lines(run, record, *reference)}
    return list(lines.values())


def _baseline(
    run: RunReport, record: RobustnessRecord, records: Iterable[tuple[RunReport, RobustnessRecord]]
) -> tuple[RunReport, RobustnessRecord] | None:
    """Record of the baseline for the same benchmark, preferably of the same seed, preset and switches."""
    same = [
        (other, other_record)
        for other, other_record in records
        if other.config.variant == BASELINE
        and (other.config.study, other.config.regime) == (run.config.study, run.config.regime)
        and (other_record.benchmark, other_record.protocol) == (record.benchmark, record.protocol)
    ]
    own = run.config

    def distance(item: tuple[RunReport, RobustnessRecord]) -> tuple[bool, bool, bool]:
        config = item[0].config
        return (
            config.seed != own.seed,
            config.semantics.preset != own.semantics.preset,
            config.named_switches != own.named_switches,
        )

    return min(same, key=distance, default=None)


def _lines(
    run: RunReport, record: RobustnessRecord, other: RunReport, baseline: RobustnessRecord
) -> Iterator[RobustnessRow]:
    known = {(result.weights, result.probe) for result in baseline.results}
    for weights, probe in dict.fromkeys((result.weights, result.probe) for result in record.results):
        if ("target", probe) not in known:
            continue
        kept = [r.consistency for r in record.results if (r.weights, r.probe) == (weights, probe) and r.severity]
        yield RobustnessRow(
            where=f"{record.benchmark}, {record.protocol}, {run.config.regime}",
            encoder=f"{run.label}, {weights}" if weights in TRAINED else f"{weights}, seed {run.config.seed}",
            probe=probe,
            error=mean_corruption_error(record, weights, probe, baseline, "target"),
            reference=other.label,
            consistency=100 * float(np.mean(kept)),
        )
