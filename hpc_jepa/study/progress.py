"""How far a cell is, from the files its run writes."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from hpc_jepa.study.grid import Cell
from hpc_jepa.training.run_folder import read_state

TAIL = 8192  # bytes: more than the longest line of metrics.jsonl


class Standing(NamedTuple):
    """State of a cell, steps done, and its speed and loss where it is running."""

    state: str
    step: int
    note: str = ""

    @property
    def words(self) -> str:
        """State and note; figures speak for a running cell."""
        return self.note if self.state == "running" and self.note else f"{self.state}  {self.note}".strip()


def standing(cell: Cell) -> Standing:
    """Read the standing of a cell; "not started" where there is no run folder."""
    run = cell.config.folder
    state = read_state(run)
    if state is None:
        return Standing("not started", 0)
    if state["state"] == "done":
        return Standing("done", state["step"], _evaluated(run))
    line = _last_line(run / "metrics.jsonl")
    figures = json.loads(line) if line else None
    if state["state"] == "running" and figures:
        speed = f"loss {figures['loss']:.3f}  {figures['clips_per_second']:.0f} clips/s"
        return Standing("running", figures["step"] + 1, speed)
    logged = figures["step"] + 1 if figures else 0
    return Standing(state["state"], state["step"] if state["step"] >= 0 else logged, state.get("error", ""))


def _evaluated(run: Path) -> str:
    names = sorted(path.stem for path in (run / "eval").glob("*.json"))
    return f"evaluated on {', '.join(names)}" if names else "not evaluated yet"


def _last_line(path: Path) -> str | None:
    """The last complete line of a file that may be growing."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL, 0), os.SEEK_SET)
        lines = file.read().split(b"\n")[:-1]
    return lines[-1].decode() if lines else None
