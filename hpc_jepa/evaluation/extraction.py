"""Extract the features of all encoders in one decode pass, shared by all processes, into files of limited size.

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

ClipPass = Iterable[tuple[Tensor, Tensor, Tensor]]
"""Batches of one clip per sample: pixels [B, C, F, Hp, Wp], labels [B], samples [B]."""

DTYPES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "fp32": torch.float32}
MAX_FILE_BYTES = 1 << 26


@dataclass(frozen=True)
class TokenEncoder:
    """A frozen encoder function, the number of tubelets it makes of a clip, and the SHA-256 of external weights."""

    encode: Encode
    tubelets: int
    sha256: str = ""


ExtractedFeatures = dict[tuple[str, Pooling], FrozenFeatures]
"""Features by encoder name and pooling."""


@dataclass(frozen=True)
class FeatureExtraction:
    """Output folder, poolings and precisions of an extraction.

    limit: maximum bytes of all features on disk, checked after the first batch has shown their shape.
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
        passes: Sequence[ClipPass],
        rows: int,
        group: GlooGroup,
        advance: Advance,
    ) -> ExtractedFeatures:
        """Features of all processes, ordered by clip number, then by sample. All processes must call it.

        passes: one iterable per clip of a sample, over the samples of this process. rows: clips of all processes.
        advance: called once per batch. Raises InputError if the features would exceed ``limit``.
        """
        with ExitStack() as stack:
            writers = {
                (name, pooling): stack.enter_context(_RowWriter(self.folder / f"{number}.{pooling}", rank()))
                for number, name in enumerate(encoders)
                for pooling in self.poolings
            }
            rows_by_pass = [
                self._write(encoders, number, clips, writers, rows, advance) for number, clips in enumerate(passes)
            ]
        gathered = group.gather_objects((np.concatenate(rows_by_pass, axis=1), writers))
        all_rows = np.concatenate([rows for rows, _ in gathered], axis=1)
        return {
            key: _merge_ranks(all_rows, [by_key[key] for _, by_key in gathered], encoders[key[0]].tubelets, len(passes))
            for key in writers
        }

    def _write(
        self,
        encoders: Mapping[str, TokenEncoder],
        number: int,
        clips: ClipPass,
        writers: Mapping[tuple[str, Pooling], "_RowWriter"],
        rows: int,
        advance: Advance,
    ) -> NDArray[np.int64]:
        """[3, n]: clip number, label and sample of each row written."""
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
        all_labels = torch.cat(labels)
        return torch.stack([torch.full_like(all_labels, number), all_labels, torch.cat(samples)]).numpy()

    def _to_stored(self, tokens: Tensor, pooling: Pooling, tubelets: int) -> NDArray[np.floating]:
        precision = DTYPES[self.token_precision if pooling == "tokens" else self.pooled_precision]
        stored: NDArray[np.floating] = pool(tokens.to(precision), pooling, tubelets).to(precision).cpu().numpy()
        return stored

    def _check_disk_limit(self, writers: Iterable["_RowWriter"], rows: int) -> None:
        needed = rows * sum(writer.row_size for writer in writers)
        if needed > self.limit:
            raise InputError(
                f"features of {rows} clips need {needed / 2**30:.1f} GiB on disk, feature_limit is "
                f"{self.limit / 2**30:.1f}; raise feature_limit, evaluate fewer weights at a time, or use probes with "
                "pooling mean or tubelets"
            )


def _merge_ranks(rows: NDArray[np.int64], writers: Sequence["_RowWriter"], tubelets: int, clips: int) -> FrozenFeatures:
    """The files of all processes as one table, by clip, then by sample. rows: [3, n] as written, rank after rank."""
    layout = next(writer for writer in writers if writer.dtype is not None)
    assert layout.dtype is not None
    files = [file for writer in writers for file in writer.counts]
    starts = np.cumsum([0, *(count for _, count in files)])[:-1]
    order = np.lexsort((rows[2], rows[0]))
    table = MappedFiles(tuple(path for path, _ in files), starts, order, layout.shape, layout.dtype)
    return FrozenFeatures(table, rows[1, order], rows[2, order], tubelets, clips)


@dataclass
class _RowWriter:
    """Writes rows to files of at most MAX_FILE_BYTES (or one batch).

    counts: files and their number of rows. dtype: None before the first row. Picklable once closed.
    """

    folder: Path
    rank: int
    counts: list[tuple[Path, int]] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    dtype: np.dtype[np.floating] | None = None
    _file: BinaryIO | None = None

    def __enter__(self) -> "_RowWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def row_size(self) -> int:
        """Bytes of a row."""
        return int(np.prod(self.shape)) * (self.dtype.itemsize if self.dtype else 0)

    def write(self, rows: NDArray[np.floating]) -> None:
        """Append rows [B, N, D]."""
        self.shape, self.dtype = rows.shape[1:], rows.dtype
        if self._file is None or self.counts[-1][1] * self.row_size + rows.nbytes > MAX_FILE_BYTES:
            self._open_next()
        assert self._file is not None
        rows.tofile(self._file)
        path, count = self.counts[-1]
        self.counts[-1] = (path, count + len(rows))

    def _open_next(self) -> None:
        if self._file is not None:
            self._file.close()
        path = self.folder / f"{self.rank}-{len(self.counts):05d}.rows"
        self.counts.append((path, 0))
        release_freed_memory()
        self._file = path.open("wb")
