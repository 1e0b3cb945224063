"""The folder of a run: its configuration, its state, and who may continue in it."""

import json
import os
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.tree import dump, load
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import InputError

State = Literal["running", "done", "interrupted", "failed"]


def refuse_another(config: RunConfig) -> None:
    """Raise InputError, naming the settings that differ, when the folder holds a run of another configuration."""
    path = config.folder / "config.yaml"
    if not path.exists():
        return
    earlier = load(RunConfig, [path])
    if earlier.fingerprint() != config.fingerprint():
        raise InputError(
            f"{config.folder}: holds a run of another configuration ({_differences(earlier, config)}); "
            "choose another study= or variant=, or remove the folder"
        )


def claim(config: RunConfig) -> Path:
    """Make the folder of the run and write its configuration; the folder."""
    path = config.folder / "config.yaml"
    if is_main() and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, dump(config))
    return config.folder


def write_state(run: Path, state: State, step: int, steps: int, **more: Any) -> None:
    """Replace ``state.json``: what ``study status`` reads."""
    record = {"state": state, "step": step, "steps": steps, "time": time.time(), "process": os.getpid(), **more}
    write_atomically(run / "state.json", json.dumps(record, indent=1))


def read_state(run: Path) -> dict[str, Any] | None:
    """The last written state, or None where no run was started."""
    path = run / "state.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_atomically(path: Path, text: str) -> None:
    """Write beside and rename, so that a reader sees the old or the new text, never half of one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.rename(path)


def _differences(earlier: RunConfig, later: RunConfig) -> str:
    before, after = _flat(earlier), _flat(later)
    changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    shown = [f"{key} {before.get(key)} -> {after.get(key)}" for key in sorted(changed)[:3]]
    return ", ".join(shown) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def _flat(config: BaseModel) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    stack: list[tuple[str, Any]] = [("", config.model_dump(mode="json", exclude={"runs", "monitor", "checkpoint"}))]
    while stack:
        prefix, value = stack.pop()
        if isinstance(value, dict):
            stack += [(f"{prefix}.{key}" if prefix else key, inner) for key, inner in value.items()]
        else:
            flat[prefix] = value
    return flat
