"""Features of every encoder from one decode pass, shared by all processes, in files of a limited size.

FOLDER/<split>/<number of the encoder>.<pooling>/<rank>-<number>.rows
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_jepa.config.benchmark import Pooling, Precision
from hpc_jepa.distributed import GlooGroup, rank
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.frozen_features import FrozenFeatures, MappedFiles, pool
from hpc_jepa.evaluation.progress import Advance
from hpc_jepa.io.malloc import release_freed_memory

Encode = Callable[[Tensor], Tensor]
"""Pixels [B, C, F, Hp, Wp] -> tokens [B, N, D], tubelet by tubelet."""

DTYPES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "fp32": torch.float32}
MAX_FILE_BYTES = 1 << 26
"""Bytes after which another file begins."""


@dataclass(frozen=True)
class TokenEncoder:
    """An encoder and how many tubelets it makes of a clip."""

    encode: Encode
    tubelets: int


ExtractedFeatures = dict[tuple[str, Pooling], FrozenFeatures]
"""Features by name of the encoder and pooling."""


@dataclass(frozen=True)
class FeatureExtraction:
    """Where features go, and in which form.

    limit: bytes that all features may take on the disk, checked as soon as the first batch has shown their shape.
    """

    folder: Path
    poolings: Sequence[Pooling]
    token_precision: Precision
    pooled_precision: Precision
    limit: float

    @torch.inference_mode()
    def run(
        self,
        encoders: Mapping[str, TokenEncoder],
        passes: Sequence[Iterable[tuple[Tensor, Tensor, Tensor]]],
        rows: int,
        group: GlooGroup,
        advance: Advance,
    ) -> ExtractedFeatures:
        """Features of all processes, ordered by clip of a sample, then by sample.

        Each of ``passes`` is one clip of this process's samples: (pixels [B, C, F, Hp, Wp], labels [B], samples [B]).
        ``rows`` counts the clips of all processes; ``advance`` is called once per batch. All processes must call it.
        Raises InputError where the features would take more than the limit.
        """
        with ExitStack() as stack:
            writers = {
                (name, pooling): stack.enter_context(_RowWriter(self.folder / f"{number}.{pooling}", rank()))
                for number, name in enumerate(encoders)
                for pooling in self.poolings
            }
            facts = [
                self._write(encoders, number, clips, writers, rows, advance) for number, clips in enumerate(passes)
            ]
        mine = np.concatenate(facts, axis=1)
        everyone = group.gather_objects((mine, {key: writer.facts for key, writer in writers.items()}))
        rows_of_all = np.concatenate([rows for rows, _ in everyone], axis=1)
        return {
            key: _merge_ranks(
                rows_of_all, [files[key] for _, files in everyone], encoders[key[0]].tubelets, len(passes)
            )
            for key in writers
        }

    def _write(
        self,
        encoders: Mapping[str, TokenEncoder],
        number: int,
        clips: Iterable[tuple[Tensor, Tensor, Tensor]],
        writers: Mapping[tuple[str, Pooling], "_RowWriter"],
        rows: int,
        advance: Advance,
    ) -> NDArray[np.int64]:
        """[3, n]: number of the clip, label and sample of each row written."""
        labels, samples = [], []
        for pixels, batch_labels, batch_samples in clips:
            labels.append(batch_labels)
            samples.append(batch_samples)
            for name, encoder in encoders.items():
                tokens = encoder.encode(pixels)
                for pooling in self.poolings:
                    writers[name, pooling].write(self._to_stored(tokens, pooling, encoder.tubelets))
            if len(labels) == 1 and number == 0:
                self._check_disk_limit(writers.values(), rows)
            advance()
        if not labels:
            return np.empty((3, 0), np.int64)
        known = torch.cat(labels)
        return torch.stack([torch.full_like(known, number), known, torch.cat(samples)]).numpy()

    def _to_stored(self, tokens: Tensor, pooling: Pooling, tubelets: int) -> NDArray[np.floating]:
        precision = DTYPES[self.token_precision if pooling == "tokens" else self.pooled_precision]
        stored: NDArray[np.floating] = pool(tokens.to(precision), pooling, tubelets).to(precision).cpu().numpy()
        return stored

    def _check_disk_limit(self, writers: Iterable["_RowWriter"], rows: int) -> None:
        need = rows * sum(writer.row_size for writer in writers)
        if need > self.limit:
            raise InputError(
                f"features of {rows} clips need {need / 2**30:.1f} GiB, features.disk allows {self.limit / 2**30:.1f}; "
                "raise it, evaluate fewer weights at a time, or choose probes that read means"
            )


@dataclass(frozen=True)
class _WrittenFiles:
    """What one process wrote: files with their rows, and the form of a row."""

    written: tuple[tuple[Path, int], ...]
    shape: tuple[int, ...]
    dtype: np.dtype[np.floating] | None


def _merge_ranks(rows: NDArray[np.int64], parts: Sequence[_WrittenFiles], tubelets: int, clips: int) -> FrozenFeatures:
    """The files of all processes as one table, by clip, then by sample. rows: [3, n] as written, rank after rank."""
    form = next(part for part in parts if part.dtype is not None)
    assert form.dtype is not None
    files = [file for part in parts for file in part.written]
    starts = np.cumsum([0, *(count for _, count in files)])[:-1]
    order = np.lexsort((rows[2], rows[0]))
    table = MappedFiles(tuple(path for path, _ in files), starts, order, form.shape, form.dtype)
    return FrozenFeatures(table, rows[1, order], rows[2, order], tubelets, clips)


@dataclass
class _RowWriter:
    """Rows into files of at most SHARD bytes (or one batch)."""

    folder: Path
    rank: int
    written: list[tuple[Path, int]] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    dtype: np.dtype[np.floating] | None = None
    _file: BinaryIO | None = None

    def __enter__(self) -> "_RowWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def row_size(self) -> int:
        """Bytes of a row."""
        return int(np.prod(self.shape)) * (self.dtype.itemsize if self.dtype else 0)

    @property
    def facts(self) -> _WrittenFiles:
        """What other processes need to know to read it."""
        return _WrittenFiles(tuple(self.written), self.shape, self.dtype)

    def write(self, rows: NDArray[np.floating]) -> None:
        """Append rows [B, N, D]."""
        self.shape, self.dtype = rows.shape[1:], rows.dtype
        if self._file is None or self.written[-1][1] * self.row_size + rows.nbytes > MAX_FILE_BYTES:
            self._next()
        assert self._file is not None
        rows.tofile(self._file)
        path, count = self.written[-1]
        self.written[-1] = (path, count + len(rows))

    def _next(self) -> None:
        if self._file is not None:
            self._file.close()
        path = self.folder / f"{self.rank}-{len(self.written):05d}.rows"
        self.written.append((path, 0))
        release_freed_memory()
        self._file = path.open("wb")
