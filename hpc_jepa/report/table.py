"""The table of a study: one row per encoder, one column per probe, missing cells shown as missing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAVY
from rich.table import Table
from rich.text import Text

from hpc_jepa.report.results import RANDOM, ResultRow
from hpc_jepa.report.run_report import RunReport

MISSING = "missing"


@dataclass(frozen=True)
class EncoderKey:
    """A row of the table. Ordered as it is shown: random encoders first, then by variant."""

    variant: str
    semantics: str
    seed: int
    weights: str

    @property
    def order(self) -> tuple[object, ...]:
        """Sort key."""
        return (self.weights != RANDOM, self.variant, self.semantics, self.seed, self.weights != "target")


@dataclass(frozen=True)
class ResultTable:
    """All results of one regime, benchmark and protocol; ``cells`` by encoder and probe, absent where missing."""

    study: str
    regime: str
    benchmark: str
    protocol: str
    probes: tuple[str, ...]
    encoders: tuple[EncoderKey, ...]
    cells: dict[tuple[EncoderKey, str], ResultRow]

    @property
    def title(self) -> str:
        """What is compared."""
        return f"{self.study}: {self.benchmark}, {self.protocol} protocol, regime {self.regime}"

    @property
    def clips(self) -> int:
        """Test clips behind an interval."""
        return next(iter(self.cells.values())).n

    def cell(self, encoder: EncoderKey, probe: str) -> ResultRow | None:
        """The result, or None where it is missing."""
        return self.cells.get((encoder, probe))


def result_tables(runs: Iterable[RunReport], rows: Sequence[ResultRow]) -> list[ResultTable]:
    """One table per study, regime, benchmark and protocol, with a row for every run of the regime."""
    keys = dict.fromkeys((row.study, row.regime, row.benchmark, row.protocol) for row in rows)
    listed = list(runs)
    return [_table(key, listed, rows) for key in keys]


def as_text(table: ResultTable) -> Table:
    """For the terminal and ``results.txt``: two lines a row, so that it fits where 80 columns do."""
    title = f"{table.title}\naccuracy in %, 95 % interval below, {table.clips:,} test clips"
    text = Table("encoder", title=title, title_justify="left", box=SIMPLE_HEAVY, padding=(0, 1))
    for probe in table.probes:
        text.add_column(probe.replace("_", "\n"), justify="right", no_wrap=True)
    for encoder in table.encoders:
        cells = [_cell(table.cell(encoder, probe)) for probe in table.probes]
        text.add_row(_label(encoder), *cells)
    return text


def _table(key: tuple[str, str, str, str], runs: Sequence[RunReport], rows: Sequence[ResultRow]) -> ResultTable:
    here = [row for row in rows if (row.study, row.regime, row.benchmark, row.protocol) == key]
    cells = {(EncoderKey(row.variant, row.semantics, row.seed, row.weights), row.probe): row for row in here}
    weights = dict.fromkeys(row.weights for row in here if row.is_trained)
    trained = (run.config for run in runs if (run.config.study, run.config.regime) == key[:2])
    expected = [
        EncoderKey(config.variant, config.semantics.preset, config.seed, name) for config in trained for name in weights
    ]
    names = {encoder for encoder, _ in cells} | set(expected)
    ordered = tuple(sorted(names, key=lambda encoder: encoder.order))
    return ResultTable(*key, tuple(dict.fromkeys(row.probe for row in here)), ordered, cells)


def _label(encoder: EncoderKey) -> Text:
    if encoder.weights == RANDOM:
        return Text.assemble((encoder.variant, "bold"), (f"\nuntrained, seed {encoder.seed}", "dim"))
    name, detail = f"{encoder.variant} ({encoder.semantics})", f"\n{encoder.weights} weights, seed {encoder.seed}"
    return Text.assemble((name, "bold"), (detail, "dim"))


def _cell(row: ResultRow | None) -> Text:
    if row is None:
        return Text(MISSING, "dim")
    return Text.assemble((f"{row.value:.1f}", "bold"), (f"\n{row.low:.1f} - {row.high:.1f}", "dim"))
