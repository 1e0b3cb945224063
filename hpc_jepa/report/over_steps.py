"""Accuracy over the steps of a run, from the records of its kept checkpoints and of its last one."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hpc_jepa.report.results import ResultRow, ResultSource, result_row
from hpc_jepa.report.run_report import RunReport


@dataclass(frozen=True)
class StepSeries:
    """Target weights of one run under one probe: rows by step, at least two."""

    run: str
    rows: tuple[ResultRow, ...]

    @property
    def best(self) -> ResultRow:
        """The row of the highest accuracy, the latest of equal ones."""
        return max(self.rows, key=lambda row: (row.value, row.steps))

    @property
    def sentence(self) -> str:
        """Which checkpoint is the best one, and how the last one compares."""
        best, last = self.best, self.rows[-1]
        where = f"{self.run} ({best.benchmark}, {best.protocol}, {best.probe.replace('_', ' ')} probe)"
        if best is last:
            return f"{where}: best at the last of {len(self.rows)} checkpoints, step {last.steps:,}: {best.formatted}."
        return (
            f"{where}: best at step {best.steps:,} of {len(self.rows)} checkpoints: {best.formatted}; the last one, "
            f"step {last.steps:,}: {last.formatted}. The best of several is too high by selection."
        )


def step_series(runs: Sequence[RunReport]) -> list[StepSeries]:
    """Series of all runs with records of chosen steps, by benchmark, protocol and probe."""
    return [
        StepSeries(run.label, tuple(by_step[step] for step in sorted(by_step)))
        for run in runs
        for by_step in _by_probe(run).values()
        if len(by_step) > 1
    ]


def _by_probe(run: RunReport) -> dict[tuple[str, str, str], dict[int, ResultRow]]:
    """Rows by probe and step; at one step the record of the newest checkpoint counts."""
    found: dict[tuple[str, str, str], dict[int, ResultRow]] = {}
    for row in _rows(run):
        found.setdefault((row.benchmark, row.protocol, row.probe), {})[row.steps] = row
    chosen = {(record.benchmark, record.protocol) for record in run.step_records.values()}
    return {key: rows for key, rows in found.items() if key[:2] in chosen}


def _rows(run: RunReport) -> Iterator[ResultRow]:
    records: Iterable[ResultSource] = (
        ResultSource(path, record, result)
        for records in (run.step_records, run.records)
        for path, record in records.items()
        for result in record.results
    )
    return (result_row(source) for source in records if source.result.weights == "target")
