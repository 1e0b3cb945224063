"""Reading and checking of videos by two checkouts of this package, in turn, in a process each; CPU seconds.

Run as a script it is the process of one checkout, whose folder is in PYTHONPATH.
"""

import importlib
import importlib.util
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

THIS, PEER = "this checkout", "peer"
STORE = (("storage_policy", "to_tar_entry"), ("treatment", "stored_form"))
"""Module and name of the function that stores a file: now, and in release 0.2."""

CHECKS = ("probe", "decode")
ROUNDS = 3


class Checkout:
    """The process of a checkout. Raises InputError if ``folder`` has no such package."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": str(folder.resolve())},
        )
        package = self._answer(folder)
        if not package or not Path(str(package)).is_relative_to(folder.resolve()):
            self.close()
            raise input_error(f"{folder}: hpc_jepa of this folder does not start; choose a checkout of release 0.2 on")

    def seconds(self, video: Path, indices: Sequence[int] | None = None, check: str = "") -> float:
        """CPU seconds to decode frames of a file, or to store it after a check."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"video": str(video), "indices": indices, "check": check}) + "\n")
        self._process.stdin.flush()
        return float(self._answer(video))

    def _answer(self, about: Path) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line and self._process.poll():
            raise input_error(f"{about}: the process of a checkout failed; run: {shlex.join(['python', __file__])}")
        return json.loads(line or "null")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def input_error(message: str) -> Exception:
    """An InputError; imported late, so that the process of an old checkout runs this file too."""
    from hpc_jepa.errors import InputError

    return InputError(message)


@contextmanager
def both(peer: Path) -> Iterator[dict[str, Checkout]]:
    """Processes of this checkout and of another."""
    sides = {THIS: Checkout(Path(__file__).parents[1])}
    try:
        sides[PEER] = Checkout(peer)
        yield sides
    finally:
        for side in sides.values():
            side.close()


def compare(
    peer: Path,
    files: Sequence[bytes],
    clips: Mapping[str, Sequence[tuple[bytes, Sequence[int]]]],
    advance: Callable[[], object],
) -> dict[str, Any]:
    """Speed of both checkouts and the ratio ours / peer: clips of each title, and files with each check."""
    seconds: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as scratch, both(peer) as sides:
        for title, pairs in clips.items():
            tasks = [
                partial(_read, path=_file(scratch, data), indices=[int(i) for i in indices]) for data, indices in pairs
            ]
            seconds[title] = _in_turn(sides, tasks, advance)
        paths = [_file(scratch, data) for data in files]
        for check in CHECKS:
            tasks = [partial(_store, path=path, check=check) for path in paths * ROUNDS]
            seconds[f"build, {check}"] = _in_turn(sides, tasks, advance)
    return {
        "per_cpu_second": {
            title: {side: 1 / statistics.median(times) for side, times in both_sides.items()}
            for title, both_sides in seconds.items()
        },
        "ours_over_peer": {
            title: statistics.median(np.divide(times[PEER], times[THIS]).tolist()) for title, times in seconds.items()
        },
    }


def _file(folder: str, data: bytes) -> Path:
    path = Path(folder) / str(hash(data))
    path.write_bytes(data)
    return path


def _read(side: Checkout, path: Path, indices: Sequence[int]) -> float:
    return side.seconds(path, indices=indices)


def _store(side: Checkout, path: Path, check: str) -> float:
    return side.seconds(path, check=check)


def _in_turn(
    sides: Mapping[str, Checkout], tasks: Sequence[Callable[[Checkout], float]], advance: Callable[[], object]
) -> dict[str, list[float]]:
    """Seconds of each side for each task, after a warm-up; the side that goes first alternates."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        tasks[0](side)
    for number, task in enumerate(tasks):
        for name in sorted(sides, reverse=bool(number % 2)):
            seconds[name].append(task(sides[name]))
        advance()
    return seconds


def serve() -> None:
    """Answer tasks, one JSON per line, with CPU seconds."""
    import hpc_jepa
    from hpc_jepa.data.decode import decode_frames

    store = _storing_function()
    print(json.dumps(str(hpc_jepa.__file__)), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        data = Path(task["video"]).read_bytes()
        if task["check"]:
            action: Callable[[], object] = partial(store, data, task["check"])
        else:
            action = partial(decode_frames, data, task["indices"])
        started = time.process_time()
        action()
        print(json.dumps(time.process_time() - started), flush=True)


def _storing_function() -> Callable[[bytes, str], object]:
    """The function that stores a file in mode ``copy``, after a check."""
    from hpc_jepa.data.encode import H264
    from hpc_jepa.data.shards.manifest import Recipe
    from hpc_jepa.data.sources.source import EncodedFile, Sample

    found = next((module, name) for module, name in STORE if importlib.util.find_spec(f"hpc_jepa.data.shards.{module}"))
    store = getattr(importlib.import_module(f"hpc_jepa.data.shards.{found[0]}"), found[1])
    recipes = {
        check: Recipe.model_validate(
            {"dataset": "d", "split": "s", "settings": {}, "encoding": H264, "samples_per_shard": 1, "check": check}
        )
        for check in CHECKS
    }
    return lambda data, check: store(Sample(EncodedFile(data), label=None), "file", (), recipes[check])


if __name__ == "__main__":
    serve()
