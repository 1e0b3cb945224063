"""The table of ``hpc-jepa study status``."""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from hpc_jepa.study.grid import Cell
from hpc_jepa.study.overview import Overview, overview
from hpc_jepa.study.progress import Standing

REFRESH = 5.0  # seconds
COLOURS = {
    "done": "green",
    "running": "cyan",
    "evaluating": "cyan",
    "failed": "red",
    "refused": "red",
    "stands still": "red",
}
MOVING = ("queued", "running", "evaluating")


def show(cells: Sequence[Cell], labels: Sequence[str], study: Path) -> None:
    """Once."""
    Console().print(_rendered(overview(cells, study), labels))


def show_until_settled(cells: Sequence[Cell], labels: Sequence[str], study: Path) -> None:
    """Again and again, until nothing waits or runs any more."""
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            view = overview(cells, study)
            live.update(_rendered(view, labels), refresh=True)
            if not any(how.state in MOVING for how in view.standings):
                return
            time.sleep(REFRESH)


def _rendered(view: Overview, labels: Sequence[str]) -> RenderableType:
    table = Table("cell", "state", "step", "left", "note", box=None, pad_edge=False)
    for label, cell, how in zip(labels, view.cells, view.standings, strict=True):
        colour = COLOURS.get(how.state, "default")
        steps = f"{how.step}/{cell.config.schedule.steps}"
        table.add_row(label, f"[{colour}]{how.state}[/]", steps, _clock(how.seconds_left), escape(_note(how)))
    counts = Counter(how.state for how in view.standings)
    summary = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    return Group(table, f"\n{len(view.cells)} cells: {summary}", *([view.caveat] if view.caveat else []))


def _note(how: Standing) -> str:
    """What there is to say: resumptions, and for a failed cell where to read on."""
    again = f"resumed {how.resumptions} x" if how.resumptions else ""
    log = f"({how.log})" if how.log and how.state in ("failed", "stands still") else ""
    return "  ".join(part for part in (how.note, again, log) if part)


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))
