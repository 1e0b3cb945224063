"""What is in checkpoints, and whether it is what was saved."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from hpc_jepa.checkpoint import layout
from hpc_jepa.checkpoint.layout import WEIGHT_PREFIXES, Checkpoint, CheckpointManifest
from hpc_jepa.checkpoint.reader import TensorReader
from hpc_jepa.errors import CheckpointError
from hpc_jepa.runs.run_dir import RunDir


@dataclass(frozen=True)
class CheckpointEntry:
    """A folder beside others of the same run; ``manifest`` is None where it is missing or damaged.

    fault: why it is no checkpoint to go on from, as far as names and sizes of its files tell; empty if none is seen.
    """

    path: Path
    manifest: CheckpointManifest | None
    error: str


@dataclass(frozen=True)
class TensorStats:
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


def list_checkpoints(run: Path) -> list[CheckpointEntry]:
    """Every checkpoint of a run, oldest first, then those set aside as damaged. Contents of files are not read."""
    aside = sorted(RunDir(run).checkpoints_dir.glob("damaged-*"))
    return [_entry(path) for path in RunDir(run).checkpoint_dirs()] + [
        CheckpointEntry(path, None, "set aside as damaged") for path in aside
    ]


def verify_checkpoint(path: Path) -> list[str]:
    """All that is wrong with the checkpoint in a folder, a line per fault: manifest, checksums, completeness."""
    found = layout.verify_dir(path)
    return found or list(_incomplete(layout.open_checkpoint(path)))


def tensor_stats(checkpoint: Checkpoint, prefixes: tuple[str, ...] = WEIGHT_PREFIXES) -> Iterator[TensorStats]:
    """Tensors whose names begin with one of ``prefixes``, read one at a time. Raises CheckpointError."""
    stored = TensorReader(checkpoint)
    for name in stored:
        if name.startswith(prefixes):
            x = stored[name]
            finite = x.double().nan_to_num(0, 0, 0)
            yield TensorStats(
                name,
                shape=tuple(x.shape),
                dtype=str(x.dtype).removeprefix("torch."),
                norm=finite.norm().item(),
                nan=int(x.isnan().sum()),
                infinite=int(x.isinf().sum()),
            )


def parameter_counts(facts: list[TensorStats], within: str = "") -> dict[str, int]:
    """How many elements each part has: what stands in a name before the next dot after ``within``."""
    counts: Counter[str] = Counter()
    for tensor in facts:
        if tensor.name.startswith(within):
            counts[tensor.name.removeprefix(within).split(".")[0]] += tensor.count
    return dict(counts)


def _entry(path: Path) -> CheckpointEntry:
    try:
        manifest = layout.open_checkpoint(path).manifest
    except CheckpointError:
        return CheckpointEntry(path, None, "manifest missing or damaged")
    for name, recorded in manifest.files.items():
        size = (path / name).stat().st_size if (path / name).is_file() else None
        if size != recorded.size:
            short = "missing" if size is None else f"has {size} of {recorded.size} bytes"
            return CheckpointEntry(path, manifest, f"{name} {short}")
    return CheckpointEntry(path, manifest, "")


def _incomplete(checkpoint: Checkpoint) -> Iterator[str]:
    """Files may all be sound and still not hold every element that the manifest promises."""
    stored = TensorReader(checkpoint)
    for name in stored:
        try:
            stored[name]
        except CheckpointError as error:
            yield str(error)
