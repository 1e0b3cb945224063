"""The result of the GPU check, as JSON and as a Markdown page."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hpc_jepa.cli.gpu_check.part import Row, Status, Value
from hpc_jepa.errors import EXIT_INTERRUPTED
from hpc_jepa.io.atomic import write_atomically

FORMAT = 1
LABELS = {
    "clips_per_second": "clips/s",
    "clips_per_cpu_second": "clips per CPU second",
    "peak_gib": "peak GiB",
    "tflops_per_second": "TFLOP/s",
    "mfu": "MFU",
    "first_step_s": "first step, s",
    "gpus_fed": "GPUs fed",
}
"""Headings of columns that are more than their name."""
BEGIN, END = "<!-- gpu-check: begin -->", "<!-- gpu-check: end -->"
"""Around the page, so that a later page can replace it in ``docs/performance.md``."""
REHEARSAL = "REHEARSAL on a CPU, with stand-ins for the GPU. No number here is a measurement."


@dataclass
class PartResult:
    """The result of one part. tables: rows by caption; seconds: how long it ran; limit: how long it could have."""

    name: str
    title: str
    limit: float
    status: Status = "failed"
    line: str = ""
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    tables: dict[str, list[Row]] = field(default_factory=dict)


@dataclass
class CheckReport:
    """The result of the whole check, complete or up to where it was stopped."""

    rehearsal: bool
    short: bool
    interrupted: bool
    started: str
    seconds: float
    version: str
    commit: str
    machine: str
    parts: list[PartResult]

    @property
    def counts(self) -> Counter[Status]:
        """Number of parts by status."""
        return Counter(part.status for part in self.parts)

    @property
    def exit_code(self) -> int:
        """0 only if no part failed; 130 if the check was stopped."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        return 1 if self.counts["failed"] else 0

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write the JSON and the page; returns their paths. A rehearsal has other file names than a check."""
        stem = "gpu_check_rehearsal" if self.rehearsal else "gpu_check"
        paths = folder / f"{stem}.json", folder / f"{stem}.md"
        for path, text in zip(paths, (self.to_json(), self.to_markdown()), strict=True):
            write_atomically(path, text.encode())
        return paths

    def to_json(self) -> str:
        """All results. ``measured`` is false for a rehearsal."""
        content = {"format": FORMAT, "measured": not self.rehearsal, **asdict(self), "counts": dict(self.counts)}
        return json.dumps(content, indent=1) + "\n"

    def to_markdown(self) -> str:
        """A page with one line per part, then the tables of all parts."""
        command = "hpc-jepa doctor --gpu" if self.short else "make gpu-check"
        version = f"hpc_jepa {self.version}, commit {self.commit}"
        stopped = " Stopped before the end." if self.interrupted else ""
        lines = [
            BEGIN,
            *([f"\n**{REHEARSAL}**"] if self.rehearsal else []),
            f"\n`{command}`, {version}, {self.started}, in {clock(self.seconds)}.  ",
            f"{self.machine}.  ",
            f"{counts_line(self.counts)}.{stopped}\n",
            *_table([part_row(part) for part in self.parts]),
        ]
        for part in self.parts:
            lines += _section(part, self.rehearsal)
        return "\n".join([*lines, "", END, ""])


def counts_line(counts: Counter[Status]) -> str:
    """``7 ok, 1 warning, 0 failed, 2 skipped``."""
    names: tuple[Status, ...] = ("ok", "warning", "failed", "skipped")
    return ", ".join(f"{counts[name]} {name}" for name in names)


def clock(seconds: float) -> str:
    """Minutes and seconds: ``1:05``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def part_row(part: PartResult) -> Row:
    """The line of a part in the first table."""
    return {"part": part.name, "verdict": part.status, "min": clock(part.seconds), "result": part.line}


def label(column: str) -> str:
    """Heading of a column."""
    return LABELS.get(column, column.replace("_", " "))


def shown(value: Value) -> str:
    """A value in a table: three significant digits, thousands with separators."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value


def _section(part: PartResult, rehearsal: bool) -> list[str]:
    """Warnings and tables of a part; nothing if it has neither."""
    if not part.tables and not part.warnings:
        return []
    note = " (rehearsal, not measured)" if rehearsal else ""
    lines = [f"\n### {part.title}{note}"]
    if part.warnings:
        lines += ["", *(f"- {warning}" for warning in part.warnings)]
    for caption, rows in part.tables.items():
        lines += [f"\n{caption}:\n", *_table(rows)]
    return lines


def _table(rows: list[Row]) -> list[str]:
    """A Markdown table; columns in the order in which they first appear, numbers to the right."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {name for name in columns if all(isinstance(row.get(name), int | float | None) for row in rows)}
    cells = [[shown(row.get(name)).replace("|", "\\|") for name in columns] for row in rows]
    rule = ["---:" if name in numeric else "---" for name in columns]
    return [f"| {' | '.join(line)} |" for line in ([label(name) for name in columns], rule, *cells)]
