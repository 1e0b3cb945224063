"""Accuracy over the steps of a run, from the records of its kept checkpoints and of its last one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hpc_jepa.report.results import ResultRow, ResultSource, result_row
from hpc_jepa.report.run_report import RunReport


@dataclass(frozen=True)
class StepSeries:
    """Target weights of one run under one probe: rows by step, at least two.

    validation: results on validation clips in percent, which choose the best row; None if a row has none.
    """

    run: str
    rows: tuple[ResultRow, ...]
    validation: tuple[float, ...] | None = None

    @property
    def best(self) -> ResultRow:
        """The row of the highest accuracy, or R² of a number, on validation clips; else of the highest accuracy or
        smallest error on the test split; the latest of equal ones.
        """
        chosen_by = self.validation or [row.quality for row in self.rows]
        return max(zip(chosen_by, self.rows, strict=True), key=lambda pair: (pair[0], pair[1].steps))[1]

    @property
    def sentence(self) -> str:
        """Which checkpoint is the best one, and how the last one compares."""
        best, last = self.best, self.rows[-1]
        where = f"{self.run} ({best.benchmark}, {best.protocol}, {best.probe.replace('_', ' ')} probe)"
        chosen = "on validation clips" if self.validation else "on the test split"
        if best is last:
            return f"{where}: best {chosen} at the last of {len(self.rows)}, step {last.steps:,}: {last.formatted}."
        caution = "" if self.validation else " The best of several on the test split is too high by selection."
        return (
            f"{where}: best {chosen} at step {best.steps:,} of {len(self.rows)} checkpoints: {best.formatted}; "
            f"the last one, step {last.steps:,}: {last.formatted}.{caution}"
        )


def step_sentences(series: Sequence[StepSeries]) -> list[str]:
    """The best checkpoint of each run and probe; those whose last one is the best are counted if they are several."""
    last = [each for each in series if each.best is each.rows[-1]]
    if len(last) < 2:
        return [each.sentence for each in series]
    counted = f"The last checkpoint is the best one of {len(last)} of {len(series)} runs and probes."
    return [*(each.sentence for each in series if each.best is not each.rows[-1]), counted]


def step_series(runs: Sequence[RunReport]) -> list[StepSeries]:
    """Series of all runs with records of chosen steps, by benchmark, protocol and probe."""
    return [
        _series(run.label, [by_step[step] for step in sorted(by_step)])
        for run in runs
        for by_step in _by_probe(run).values()
        if len(by_step) > 1
    ]


def _series(run: str, sources: Sequence[ResultSource]) -> StepSeries:
    tried = [
        [100 * each.validation for each in source.result.candidates if each.validation is not None]
        for source in sources
    ]
    validation = tuple(map(max, tried)) if all(tried) else None
    return StepSeries(run, tuple(map(result_row, sources)), validation)


def _by_probe(run: RunReport) -> dict[tuple[str, str, str], dict[int, ResultSource]]:
    """Results of target weights by probe and step; at one step the record of the newest checkpoint counts."""
    found: dict[tuple[str, str, str], dict[int, ResultSource]] = {}
    for source in _sources(run):
        record = source.record
        found.setdefault((record.benchmark, record.protocol, source.result.probe), {})[record.run.step] = source
    chosen = {(record.benchmark, record.protocol) for record in run.step_records.values()}
    return {key: results for key, results in found.items() if key[:2] in chosen}


def _sources(run: RunReport) -> Iterator[ResultSource]:
    return (
        ResultSource(path, record, result)
        for records in (run.step_records, run.records)
        for path, record in records.items()
        for result in record.results
        if result.weights == "target"
    )
