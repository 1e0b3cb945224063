"""Links from the numbers of a page to the records that they come from, relative to the folder of the page."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from hpc_jepa.report.comparisons import StudyScores, label
from hpc_jepa.report.result_grid import ResultGrid
from hpc_jepa.report.results import ResultColumn, ResultRow, ResultSource
from hpc_jepa.report.run_report import RunReport
from hpc_jepa.report.task_results import TaskSource

_Cell = tuple[str, str, str, str]
"""Study, regime, row and column."""


@dataclass(frozen=True)
class RecordLink:
    """A record of one seed. ``chosen_on_test``: its probe is the best of several on the test clips."""

    seed: int
    address: str
    chosen_on_test: bool


@dataclass(frozen=True)
class RecordLinks:
    """Addresses of records. ``outside``: study folders that do not contain the page, so that links to them work only
    from where it was written.
    """

    folder: Path
    sources: Mapping[ResultRow, ResultSource | TaskSource] = field(default_factory=dict)
    cells: Mapping[_Cell, tuple[RecordLink, ...]] = field(default_factory=dict)
    outside: Sequence[Path] = ()

    @classmethod
    def of(
        cls,
        folder: Path,
        sources: Mapping[ResultRow, ResultSource | TaskSource],
        scores: Iterable[StudyScores],
        runs: Iterable[RunReport],
    ) -> "RecordLinks":
        """Links for a page in ``folder``: of all rows, and of all cells of the grids of ``scores``."""
        known = cls(folder, sources)
        compared = {
            (study.study, regime, label(name), str(column)): set(seeds)
            for study in scores
            for (regime, column), found in study.columns.items()
            for name, seeds in found.scores.items()
        }
        cells: dict[_Cell, dict[int, RecordLink]] = {}
        for row in sources:
            key = (row.study, row.regime, label((row.variant, row.semantics)), str(ResultColumn.of(row)))
            if row.weights != "student" and row.seed in compared.get(key, ()):
                cells.setdefault(key, {})[row.seed] = known.of_row(row)
        studies = dict.fromkeys(run.study.path for run in runs)
        here = folder.resolve()
        return cls(
            folder,
            sources,
            {key: tuple(links[seed] for seed in sorted(links)) for key, links in cells.items()},
            [path for path in studies if not here.is_relative_to(path.resolve())],
        )

    def of_row(self, row: ResultRow) -> RecordLink:
        """The record of a row."""
        source = self.sources[row]
        chosen = getattr(source.result, "selected_on", None) == "test"
        return RecordLink(row.seed, self.address(source.path), chosen)

    def of_cell(self, grid: ResultGrid, row: str, column: str) -> tuple[RecordLink, ...]:
        """The records of a cell, by seed; none of published numbers."""
        return self.at(grid.source, grid.regime, row, column)

    def at(self, study: str, regime: str, name: str, column: str) -> tuple[RecordLink, ...]:
        """The records of a row of a study in a column, by seed. ``name``: as in grids, or with all its semantics."""
        short = name.removesuffix(" (corrected)").replace(" (corrected, ", " (")
        return self.cells.get((study, regime, short, column), ())

    def address(self, path: Path) -> str:
        """A file as address relative to the page."""
        relative = os.path.relpath(path.resolve(), self.folder.resolve())
        return quote(Path(relative).as_posix())

    @property
    def any_chosen_on_test(self) -> bool:
        """Whether any record has a probe that was chosen on the test clips."""
        return any(self.of_row(row).chosen_on_test for row in self.sources)
