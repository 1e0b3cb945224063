"""What is in checkpoints, and whether it is what was saved."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from hpc_jepa.checkpoint import store
from hpc_jepa.checkpoint.store import WEIGHTS, Checkpoint, Manifest
from hpc_jepa.checkpoint.tensors import Tensors
from hpc_jepa.errors import CheckpointError


@dataclass(frozen=True)
class Entry:
    """A folder beside others of the same run; ``manifest`` is None where it is missing or damaged.

    fault: why it is no checkpoint to go on from, as far as names and sizes of its files tell; empty if none is seen.
    """

    path: Path
    manifest: Manifest | None
    fault: str


@dataclass(frozen=True)
class TensorFacts:
    """A tensor: Euclidean norm of its finite elements, and how many are none."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    norm: float
    nan: int
    infinite: int

    @property
    def count(self) -> int:
        """How many elements it has."""
        return torch.Size(self.shape).numel()


def entries(run: Path) -> list[Entry]:
    """Every checkpoint of a run, oldest first, then those set aside as damaged. Contents of files are not read."""
    aside = sorted((run / "checkpoints").glob("damaged-*"))
    return [_entry(path) for path in store.folders(run)] + [Entry(path, None, "set aside as damaged") for path in aside]


def faults(path: Path) -> list[str]:
    """All that is wrong with the checkpoint in a folder, a line per fault: manifest, checksums, completeness."""
    found = store.faults_of(path)
    return found or list(_incomplete(store.opened(path)))


def tensor_facts(checkpoint: Checkpoint, prefixes: tuple[str, ...] = WEIGHTS) -> Iterator[TensorFacts]:
    """Tensors whose names begin with one of ``prefixes``, read one at a time. Raises CheckpointError."""
    stored = Tensors(checkpoint)
    for name in stored:
        if name.startswith(prefixes):
            x = stored[name]
            finite = x.double().nan_to_num(0, 0, 0)
            yield TensorFacts(
                name,
                shape=tuple(x.shape),
                dtype=str(x.dtype).removeprefix("torch."),
                norm=finite.norm().item(),
                nan=int(x.isnan().sum()),
                infinite=int(x.isinf().sum()),
            )


def parameters(facts: list[TensorFacts], within: str = "") -> dict[str, int]:
    """How many elements each part has: what stands in a name before the next dot after ``within``."""
    counts: Counter[str] = Counter()
    for tensor in facts:
        if tensor.name.startswith(within):
            counts[tensor.name.removeprefix(within).split(".")[0]] += tensor.count
    return dict(counts)


def _entry(path: Path) -> Entry:
    try:
        manifest = store.opened(path).manifest
    except CheckpointError:
        return Entry(path, None, "manifest missing or damaged")
    for name, recorded in manifest.files.items():
        size = (path / name).stat().st_size if (path / name).is_file() else None
        if size != recorded.size:
            short = "missing" if size is None else f"has {size} of {recorded.size} bytes"
            return Entry(path, manifest, f"{name} {short}")
    return Entry(path, manifest, "")


def _incomplete(checkpoint: Checkpoint) -> Iterator[str]:
    """Files may all be sound and still not hold every element that the manifest promises."""
    stored = Tensors(checkpoint)
    for name in stored:
        try:
            stored[name]
        except CheckpointError as error:
            yield str(error)
