"""Contents, validity and differences of checkpoints."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpc_jepa.checkpoint import layout
from hpc_jepa.checkpoint.layout import WEIGHT_PREFIXES, Checkpoint, CheckpointManifest
from hpc_jepa.checkpoint.reader import TensorReader
from hpc_jepa.errors import CheckpointError
from hpc_jepa.io.flatten import flatten
from hpc_jepa.runs.run_dir import RunDir


@dataclass(frozen=True)
class CheckpointEntry:
    """A folder in ``checkpoints/``; ``manifest`` is None if it is missing or damaged.

    error: why the run cannot resume from it, judged by names and sizes of its files; empty if none was found.
    """

    path: Path
    manifest: CheckpointManifest | None
    error: str


@dataclass(frozen=True)
class TensorStats:
    """A tensor: Euclidean norm of its finite elements, numbers of NaN and infinite elements."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    norm: float
    nan: int
    infinite: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class TensorDiff:
    """A tensor that differs between checkpoints A and B.

    only: "A" or "B" if the other has no tensor of this name and shape, else empty. differing: number of different
    elements; largest: largest absolute difference; relative: norm of the difference over the norm in A.
    """

    name: str
    shape: tuple[int, ...]
    only: str = ""
    differing: int = 0
    largest: float = 0.0
    relative: float = 0.0


def list_checkpoints(run: Path) -> list[CheckpointEntry]:
    """Checkpoints of a run, oldest first, then the quarantined ones. File contents are not read."""
    quarantined = sorted(RunDir(run).checkpoints_dir.glob("damaged-*"))
    entries = [_entry(path) for path in RunDir(run).checkpoint_dirs()]
    return entries + [CheckpointEntry(path, None, "quarantined as damaged") for path in quarantined]


def verify_checkpoint(path: Path) -> list[str]:
    """All errors of the checkpoint in a folder, one line each: manifest, checksums, missing shards.

    Empty if the training run has removed the checkpoint meanwhile. Raises HpcJepaError if a file cannot be read.
    """
    errors = layout.verify_dir(path)
    try:
        errors = errors or list(_incomplete_tensors(layout.open_checkpoint(path)))
    except CheckpointError as error:
        errors = [str(error)]
    return errors if path.exists() else []


def tensor_stats(checkpoint: Checkpoint, prefixes: tuple[str, ...] = WEIGHT_PREFIXES) -> Iterator[TensorStats]:
    """Statistics of the tensors whose names start with one of ``prefixes``. Raises CheckpointError."""
    tensors = TensorReader(checkpoint)
    for name in tensors:
        if name.startswith(prefixes):
            x = tensors[name]
            finite = x.double().nan_to_num(0, 0, 0)
            yield TensorStats(
                name,
                shape=tuple(x.shape),
                dtype=str(x.dtype).removeprefix("torch."),
                norm=finite.norm().item(),
                nan=int(x.isnan().sum()),
                infinite=int(x.isinf().sum()),
            )


def parameter_counts(stats: list[TensorStats], prefix: str = "") -> dict[str, int]:
    """Number of elements by the part of the name between ``prefix`` and the next dot."""
    counts: Counter[str] = Counter()
    for tensor in stats:
        if tensor.name.startswith(prefix):
            counts[tensor.name.removeprefix(prefix).split(".")[0]] += tensor.count
    return dict(counts)


def diff_tensors(a: Checkpoint, b: Checkpoint, prefixes: tuple[str, ...] = WEIGHT_PREFIXES) -> Iterator[TensorDiff]:
    """Tensors with these prefixes that differ in any bit, in the order of A, then those that only B has."""
    readers = TensorReader(a), TensorReader(b)
    shapes_a, shapes_b = ({name: x.shape(name) for name in x if name.startswith(prefixes)} for x in readers)
    for name, shape in shapes_a.items():
        if shapes_b.get(name) != shape:
            yield TensorDiff(name, shape, only="A")
        elif not torch.equal(readers[0][name], readers[1][name]):
            yield _diff(name, readers[0][name].double(), readers[1][name].double())
    yield from (TensorDiff(name, shape, "B") for name, shape in shapes_b.items() if shapes_a.get(name) != shape)


def diff_settings(a: Checkpoint, b: Checkpoint) -> dict[str, tuple[Any, Any]]:
    """Settings by dotted key, data hashes and versions with different values (in A, in B); None if absent."""
    flat_a, flat_b = (
        flatten({**x.manifest.config, "data_hashes": x.manifest.data_hashes, "versions": x.manifest.versions})
        for x in (a, b)
    )
    pairs = {key: (flat_a.get(key), flat_b.get(key)) for key in flat_a | flat_b}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _entry(path: Path) -> CheckpointEntry:
    try:
        manifest = layout.open_checkpoint(path).manifest
    except CheckpointError:
        return CheckpointEntry(path, None, "manifest missing or damaged")
    for name, recorded in manifest.files.items():
        size = (path / name).stat().st_size if (path / name).is_file() else None
        if size != recorded.size:
            reason = "missing" if size is None else f"has {size} of {recorded.size} bytes"
            return CheckpointEntry(path, manifest, f"{name} {reason}")
    return CheckpointEntry(path, manifest, "")


def _incomplete_tensors(checkpoint: Checkpoint) -> Iterator[str]:
    """Errors of tensors with missing elements: valid files can still lack shards that the manifest lists."""
    tensors = TensorReader(checkpoint)
    for name in tensors:
        try:
            tensors[name]
        except CheckpointError as error:
            yield str(error)


def _diff(name: str, a: Tensor, b: Tensor) -> TensorDiff:
    """Elements that are NaN in both count as equal."""
    gap = torch.where(a.isnan() & b.isnan() | (a == b), 0.0, (a - b).abs())
    relative = (gap.norm() / a.norm()).item() if a.norm() > 0 else float("inf")
    return TensorDiff(name, tuple(a.shape), "", int(gap.ne(0).sum()), gap.max().item(), relative)
