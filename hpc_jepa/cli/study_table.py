"""Table of ``hpc-jepa study status``."""

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hpc_jepa.cli.console import clock, stdout_console
from hpc_jepa.runs.run_dir import StudyDir
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.status import CellStatus, StudyStatus, read_study_status

REFRESH = 5.0  # seconds
COLOURS = {
    "done": "green",
    "running": "cyan",
    "evaluating": "cyan",
    "failed": "red",
    "damaged": "red",
    "refused": "red",
    "stalled": "red",
}
MOVING = ("queued", "running", "evaluating")


def print_status(cells: Sequence[StudyCell], labels: Sequence[str], study: StudyDir) -> None:
    """Print the table once."""
    view = read_study_status(cells, study)
    stdout_console().print(_render(view, labels))
    _print_damage(view)


def watch_status(cells: Sequence[StudyCell], labels: Sequence[str], study: StudyDir) -> None:
    """Refresh the table until nothing is queued or running."""
    with Live(console=stdout_console(), auto_refresh=False) as live:
        while True:
            view = read_study_status(cells, study)
            live.update(_render(view, labels), refresh=True)
            if not any(status.state in MOVING for status in view.statuses):
                break
            time.sleep(REFRESH)
    _print_damage(view)


def _print_damage(view: StudyStatus) -> None:
    """The message of each damaged cell on a line of its own, with the whole path of the file."""
    for status in view.statuses:
        if status.state == "damaged":
            stdout_console().print(status.note, soft_wrap=True)


def _render(view: StudyStatus, labels: Sequence[str]) -> RenderableType:
    table = Table("cell", "state", "step", "left", "note", box=None, pad_edge=False)
    for label, cell, status in zip(labels, view.cells, view.statuses, strict=True):
        colour = COLOURS.get(status.state, "default")
        steps = f"{status.step}/{cell.steps}"
        table.add_row(
            label,
            Text(status.state, colour),
            steps,
            "" if status.seconds_left is None else clock(status.seconds_left),
            _note(status),
        )
    counts = Counter(status.state for status in view.statuses)
    summary = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    return Group(table, f"\n{len(view.cells)} cells: {summary}", *([view.warning] if view.warning else []))


def _note(status: CellStatus) -> str:
    """Note of a cell, number of resumptions, and the log of a failed one."""
    if status.state == "damaged":
        return "a file is damaged; see below"
    again = f"resumed {status.resumptions} x" if status.resumptions else ""
    log = f"({status.log})" if status.log and status.state in ("failed", "stalled") else ""
    return "  ".join(part for part in (status.note, again, log) if part)
