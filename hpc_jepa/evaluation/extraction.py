"""Extract the features of all encoders of one or several runs in one decode pass, shared by all processes.

They are written to files of limited size: FOLDER/<split>/<number of the encoder>.<pooling>/<rank>-<number>.rows
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hpc_jepa.config.benchmark import Pooling, Precision
from hpc_jepa.distributed import GlooGroup, portable_error, rank
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
    """A frozen encoder function, the number of tubelets it makes of a clip, and the SHA-256 of external weights.

    size: bytes of its weights in memory.
    """

    encode: Encode
    tubelets: int
    sha256: str = ""
    size: int = 0


def weight_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and buffers of a module."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


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
        advance: called once per batch. Raises InputError if the features would exceed ``limit``, and the error of an
        encoder.
        """
        [found] = extract_together([(self, encoders)], passes, rows, group, advance, isolated=False)
        assert isinstance(found, dict)
        return found

    def to_stored(self, tokens: Tensor, pooling: Pooling, tubelets: int) -> NDArray[np.floating]:
        """Tokens [B, N, D] pooled, in the precision of the files."""
        precision = DTYPES[self.token_precision if pooling == "tokens" else self.pooled_precision]
        stored: NDArray[np.floating] = pool(tokens.to(precision), pooling, tubelets).to(precision).cpu().numpy()
        return stored


@torch.inference_mode()
def extract_together(
    extractions: Sequence[tuple[FeatureExtraction, Mapping[str, TokenEncoder]]],
    passes: Sequence[ClipPass],
    rows: int,
    group: GlooGroup,
    advance: Advance,
    *,
    isolated: bool,
) -> list[ExtractedFeatures | Exception | None]:
    """The features of several runs from one pass over the clips, each as :meth:`FeatureExtraction.run` makes them.

    An encoder sees the batches that it would see alone, so its features have the same bits. The first ``limit`` holds
    for all of them together: None for those that do not fit beside the ones before them, of which nothing is written.
    isolated: an error of one run, on any process, is returned for it and leaves the others alone. Collective.
    """
    outputs = [_Output(extraction, encoders, isolated) for extraction, encoders in extractions]
    with ExitStack() as stack:
        for output in outputs:
            stack.enter_context(output)
        rows_by_pass = [_write(outputs, number, clips, rows, advance) for number, clips in enumerate(passes)]
    gathered = group.gather_objects((np.concatenate(rows_by_pass, axis=1), [output.outcome for output in outputs]))
    all_rows = np.concatenate([rows for rows, _ in gathered], axis=1)
    by_output = zip(*(outcomes for _, outcomes in gathered), strict=True)
    return [output.merged(all_rows, outcomes, len(passes)) for output, outcomes in zip(outputs, by_output, strict=True)]


def _write(
    outputs: Sequence["_Output"], number: int, clips: ClipPass, rows: int, advance: Advance
) -> NDArray[np.int64]:
    """[3, n]: clip number, label and sample of each row written."""
    labels, samples = [], []
    if not any(output.is_active for output in outputs):
        return np.empty((3, 0), np.int64)
    for pixels, batch_labels, batch_samples in clips:
        labels.append(batch_labels)
        samples.append(batch_samples)
        for output in outputs:
            output.write(pixels)
        if len(labels) == 1 and number == 0:
            _keep_within_limit(outputs, rows)
        advance()
        if not any(output.is_active for output in outputs):
            break
    if not labels:
        return np.empty((3, 0), np.int64)
    all_labels = torch.cat(labels)
    return torch.stack([torch.full_like(all_labels, number), all_labels, torch.cat(samples)]).numpy()


def _keep_within_limit(outputs: Sequence["_Output"], rows: int) -> None:
    """Refuse the features that exceed the limit by themselves, and defer those that do beside the others."""
    limit, total = outputs[0].extraction.limit, 0
    for output in outputs:
        needed = rows * output.row_size
        if output.is_active and needed > limit:
            output.refuse(rows, needed)
        elif output.is_active and total + needed > limit:
            output.defer()
        elif output.is_active:
            total += needed


class _Output:
    """The features of one run in a pass over the clips: written, failed, or deferred to a later pass."""

    def __init__(self, extraction: FeatureExtraction, encoders: Mapping[str, TokenEncoder], isolated: bool) -> None:
        self.extraction = extraction
        self.is_active = True
        self._encoders = encoders
        self._isolated = isolated
        self._failure: Exception | None = None
        self._writers = {
            (name, pooling): _RowWriter(extraction.folder / f"{number}.{pooling}", rank())
            for number, name in enumerate(encoders)
            for pooling in extraction.poolings
        }

    def __enter__(self) -> "_Output":
        for writer in self._writers.values():
            writer.open()
        return self

    def __exit__(self, *error: object) -> None:
        for writer in self._writers.values():
            writer.close()

    @property
    def row_size(self) -> int:
        """Bytes of a clip's features in all files."""
        return sum(writer.row_size for writer in self._writers.values())

    @property
    def outcome(self) -> "Exception | dict[tuple[str, Pooling], _RowWriter] | None":
        """What this process has: closed files, the error of the run, or None if it is deferred. Picklable."""
        if self.is_active:
            return self._writers
        return None if self._failure is None else portable_error(self._failure)

    def write(self, pixels: Tensor) -> None:
        """Encode a batch and write its features."""
        if not self.is_active:
            return
        try:
            for name, encoder in self._encoders.items():
                tokens = encoder.encode(pixels)
                for pooling in self.extraction.poolings:
                    stored = self.extraction.to_stored(tokens, pooling, encoder.tubelets)
                    self._writers[name, pooling].write(stored)
        except Exception as error:  # noqa: BLE001  not hidden: returned for this run, after the others are done
            self._fail(error)

    def refuse(self, rows: int, needed: float) -> None:
        """Fail because the features exceed the limit."""
        self._fail(
            InputError(
                f"features of {rows} clips need {needed / 2**30:.1f} GiB on disk, feature_limit is "
                f"{self.extraction.limit / 2**30:.1f}; raise feature_limit, evaluate fewer weights at a time, or use "
                "probes with pooling mean or tubelets"
            )
        )

    def defer(self) -> None:
        """Write nothing in this pass."""
        self.is_active = False
        for writer in self._writers.values():
            writer.discard()

    def merged(
        self,
        rows: NDArray[np.int64],
        outcomes: "Sequence[Exception | dict[tuple[str, Pooling], _RowWriter] | None]",
        clips: int,
    ) -> ExtractedFeatures | Exception | None:
        """The features from the files of all processes, the first error of any, or None if any has deferred them."""
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                return outcome
        writers = [outcome for outcome in outcomes if isinstance(outcome, dict)]
        if len(writers) < len(outcomes):
            return None
        return {
            (name, pooling): _merge_ranks(rows, [each[name, pooling] for each in writers], encoder.tubelets, clips)
            for name, encoder in self._encoders.items()
            for pooling in self.extraction.poolings
        }

    def _fail(self, error: Exception) -> None:
        if not self._isolated:
            raise error
        self._failure = error
        self.defer()


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

    def open(self) -> None:
        """Create the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Close the last file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def discard(self) -> None:
        """Remove the files of this process."""
        self.close()
        for path, _ in self.counts:
            path.unlink(missing_ok=True)
        self.counts.clear()

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
