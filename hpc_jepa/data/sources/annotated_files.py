"""Data sets of annotated files: listing of the samples, and the data source of one split."""

import hashlib
import io
import json
import stat
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import av

from hpc_jepa.data.sources.file_tree import UNFINISHED, FileTree
from hpc_jepa.data.sources.source import EncodedFile, Sample, SampleOrigin, SettingValue
from hpc_jepa.errors import InputError, UndecodableError

NO_FILE = "the file does not exist"
EXAMPLES = 3
TEXT_BYTES = 512
TEXT = frozenset(string.printable.encode())
CUT_TOLERANCE = 0.75
"""Seconds by which a cut file may be longer than its annotation, because it was cut at key frames."""


class LayoutFault(NamedTuple):
    """Something wrong with a data set as it is on disk: ``faulty`` of ``total`` items, as in '3 of 101 <what>'.

    limited: whether a larger share than allowed stops the build. at_least: minimum for the total of that share.
    split: the one that it concerns, if only one.
    """

    faulty: int
    total: int
    what: str
    examples: tuple[str, ...]
    limited: bool = True
    at_least: int = 1
    split: str = ""

    def exceeds(self, allowed: float) -> bool:
        """Whether more items are faulty than ``allowed``, a share."""
        return self.limited and self.faulty > allowed * max(self.total, self.at_least)

    def __str__(self) -> str:
        more = ", ..." if self.faulty > EXAMPLES and len(self.examples) >= EXAMPLES else ""
        shown = f": {', '.join(self.examples[:EXAMPLES])}{more}" if self.examples else ""
        return f"{self.faulty:,} of {self.total:,} {self.what}{shown}"


class SharedCluster(NamedTuple):
    """A cluster with samples in several splits; ``examples``: one file of it by split."""

    name: str
    examples: dict[str, str]

    def __str__(self) -> str:
        return f"{self.name} is in {' and '.join(f'{split} ({file})' for split, file in self.examples.items())}"


class AnnotatedSample(NamedTuple):
    """One annotated sample. file: relative to the folder of videos; None if it does not exist.

    text: a caption, if other than the class name. start, end: seconds; None for the whole file. sought: the stems that
    were looked up, if other than the key, to explain a missing file. cluster: the source video or recording.
    targets: numbers to predict, by name.
    """

    key: str
    file: str | None
    split: str
    label: int | None = None
    text: str | None = None
    start: float | None = None
    end: float | None = None
    template: str | None = None
    placeholders: tuple[str, ...] | None = None
    sought: tuple[str, ...] = ()
    cluster: str | None = None
    targets: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class DatasetListing:
    """All samples of a data set. files: the searched tree; layout: the expected file names, for error messages.

    expected_splits: splits that have a list or a folder. faults: what the listing function found wrong.
    may_be_cut: whether files named like uncut videos may be cut to their annotation already. independent: no two
    samples come from one source video or recording. given_clusters: the clusters are the user's, not part of names.
    """

    dataset: str
    entries: tuple[AnnotatedSample, ...]
    classes: tuple[str, ...]
    files: FileTree
    layout: str
    expected_splits: tuple[str, ...] = ()
    faults: tuple[LayoutFault, ...] = ()
    may_be_cut: bool = False
    independent: bool = False
    given_clusters: bool = False

    @property
    def unannotated(self) -> list[str]:
        """Files without an annotation."""
        named = {entry.file for entry in self.entries}
        return [file for file in self.files.names if file not in named and file not in self.files.replaced]

    @property
    def missing(self) -> list[str]:
        """Keys of samples whose file does not exist."""
        return [entry.key for entry in self.entries if entry.file is None]

    @cached_property
    def shared_clusters(self) -> list[SharedCluster]:
        """Given clusters with samples in several splits; clusters that are part of official names are not checked."""
        places: dict[str, dict[str, str]] = {}
        for entry in self.entries if self.given_clusters else ():
            if entry.cluster is not None:
                places.setdefault(entry.cluster, {}).setdefault(entry.split, entry.file or entry.key)
        return [SharedCluster(name, examples) for name, examples in places.items() if len(examples) > 1]

    def sources(self, splits: Sequence[str] = ()) -> list["FileSource"]:
        """One source per split, of all splits or the given ones.

        Raises InputError if no annotated file exists, or for an unknown split.
        """
        if not self.entries:
            raise InputError(f"{self.files.root}: the annotations of {self.dataset} list no files; check --annotations")
        if len(self.missing) == len(self.entries):
            first = self.entries[0]
            raise InputError(
                f"{self.files.root}: none of {len(self.entries)} annotated files found; {self.dataset} has files "
                f"{self.layout}; the first, {first.key}: {why_missing(self.files, first)}; found {self.files.summary}"
            )
        by_split: dict[str, list[AnnotatedSample]] = {}
        for entry in self.entries:
            by_split.setdefault(entry.split, []).append(entry)
        if unknown := [split for split in splits if split not in by_split]:
            raise InputError(f"--split {unknown[0]}: {self.dataset} has {', '.join(by_split)}")
        return [
            self._source(split, tuple(_with_unique_keys(entries)))
            for split, entries in by_split.items()
            if not splits or split in splits
        ]

    def _source(self, split: str, entries: tuple[AnnotatedSample, ...]) -> "FileSource":
        reasons = {entry.key: why_missing(self.files, entry) for entry in entries if entry.file is None}
        shared = sum(split in cluster.examples for cluster in self.shared_clusters)
        return FileSource(
            self.dataset, split, self.files.root, entries, self.classes, reasons, self.may_be_cut, self.independent,
            self.given_clusters, shared,
        )  # fmt: skip


@dataclass(frozen=True)
class FileSource:
    """One split of a data set of files. missing: by key, why a sample has no file. shared_clusters: number of its
    clusters that have samples in other splits too.
    """

    dataset: str
    split: str
    root: Path
    entries: tuple[AnnotatedSample, ...]
    classes: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    may_be_cut: bool = False
    independent: bool = False
    given_clusters: bool = False
    shared_clusters: int = 0

    @property
    def settings(self) -> Mapping[str, SettingValue]:
        """Hashes of the annotations, clusters and targets that are given; the files are assumed not to change."""
        annotations = _hash([self.classes, [entry[: entry._fields.index("sought")] for entry in self.entries]])
        clusters = {"clusters": _hash([entry.cluster for entry in self.entries])} if self.given_clusters else {}
        with_targets = any(entry.targets for entry in self.entries)
        targets = {"targets": _hash([entry.targets for entry in self.entries])} if with_targets else {}
        return {"annotations": annotations, **clusters, **targets}

    def __len__(self) -> int:
        return len(self.entries)

    def origin(self, index: int) -> SampleOrigin:
        """The key, and the file relative to the folder of videos."""
        entry = self.entries[index]
        return SampleOrigin(entry.key, entry.file or "")

    def load(self, index: int) -> Sample:
        """Read one file."""
        entry = self.entries[index]
        if entry.file is None:
            raise UndecodableError(f"annotated, but {self.missing.get(entry.key, NO_FILE)}")
        path = self.root / entry.file
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise UndecodableError("is no regular file")
            data = path.read_bytes()
        except OSError as error:
            raise UndecodableError(f"cannot be read ({error.strerror})") from error
        text = entry.text if entry.text is not None or entry.label is None else self.classes[entry.label]
        if not data:
            raise UndecodableError("the file is empty (0 bytes)")
        if reason := why_text(data):
            raise UndecodableError(reason)
        whole = self.may_be_cut and is_cut(data, entry.start, entry.end)
        media = EncodedFile(data) if whole else EncodedFile(data, entry.start, entry.end)
        targets = dict(entry.targets) or None
        return Sample(media, entry.label, text, entry.template, entry.placeholders, entry.cluster, targets)


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def why_missing(files: FileTree, entry: AnnotatedSample) -> str:
    """Why there is no file for a sample: nothing, a file of a type that is not read, or one in another spelling."""
    for stem in entry.sought or (entry.key,):
        if other := files.other_type(stem):
            if other.lower().endswith(UNFINISHED):
                return f"{other} is an unfinished download"
            return f"{other} is of a type that is not read; convert it to MP4, PNG or JPEG"
    for stem in entry.sought or (entry.key,):
        if similar := files.similar(stem):
            return f"the file does not exist; its name resembles that of {similar}"
    return NO_FILE


def why_text(data: bytes) -> str:
    """What a file is that has text instead of a video or an image; empty if it is none."""
    start = data[:TEXT_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip()
    if not all(byte in TEXT for byte in start):
        return ""
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, the file itself was not downloaded"
    if start.lower().startswith((b"<!doctype html", b"<html")):
        return "is an HTML page, probably an error of the download"
    return "is text, not a video or image" if start else ""


def is_cut(data: bytes, start: float | None, end: float | None) -> bool:
    """Whether a video is no longer than its annotation and ends before it: somebody cut it and kept the name."""
    if start is None or end is None:
        return False
    try:
        with av.open(io.BytesIO(data), "r") as container:
            duration = (container.duration or 0) / av.time_base
    except (av.FFmpegError, ValueError):
        return False
    return 0 < duration < end - CUT_TOLERANCE and duration <= end - start + CUT_TOLERANCE


def _with_unique_keys(entries: Iterable[AnnotatedSample]) -> Iterator[AnnotatedSample]:
    """Distinct entries; a number is appended to keys that repeat."""
    taken: set[str] = set()
    for entry in dict.fromkeys(entries):
        names = chain([entry.key], (f"{entry.key}-{number}" for number in count(2)))
        key = next(name for name in names if name not in taken)
        taken.add(key)
        yield entry._replace(key=key)
