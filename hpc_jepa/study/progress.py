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


def standing(cell: Cell) -> Standing:
    """Read the standing of a cell; "not started" where there is no run folder."""
    run = cell.config.folder
    state = read_state(run)
    if state is None:
        return Standing("not started", 0)
    if state["state"] == "done":
        return Standing("done", state["step"], _evaluated(run))
    line = _last_line(run / "metrics.jsonl")
    if state["state"] != "running" or line is None:
        return Standing(state["state"], max(state["step"], 0), state.get("error", ""))
    figures = json.loads(line)
    return Standing(
        "running", figures["step"], f"loss {figures['loss']:.3f}  {figures['clips_per_second']:.0f} clips/s"
    )


def _evaluated(run: Path) -> str:
    names = sorted(path.stem for path in (run / "eval").glob("*.json"))
    return f"evaluated on {', '.join(names)}" if names else "trained"


def _last_line(path: Path) -> str | None:
    """The last complete line of a file that may be growing."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL, 0), os.SEEK_SET)
        lines = file.read().split(b"\n")[:-1]
    return lines[-1].decode() if lines else None
