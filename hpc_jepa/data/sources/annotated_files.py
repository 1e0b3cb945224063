"""Data sets of annotated files: listing of the samples, and the data source of one split."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from hpc_jepa.data.sources.file_tree import FileTree
from hpc_jepa.data.sources.source import EncodedFile, Sample, SampleOrigin, SettingValue
from hpc_jepa.errors import InputError, UndecodableError


class AnnotatedSample(NamedTuple):
    """One annotated sample. file: relative to the folder of videos; None if it does not exist.

    text: a caption, if other than the class name. start, end: seconds; None for the whole file.
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


@dataclass(frozen=True)
class DatasetListing:
    """All samples of a data set. files: the searched tree; layout: the expected file names, for error messages."""

    dataset: str
    entries: tuple[AnnotatedSample, ...]
    classes: tuple[str, ...]
    files: FileTree
    layout: str

    @property
    def unannotated(self) -> list[str]:
        """Files without an annotation."""
        named = {entry.file for entry in self.entries}
        return [file for file in self.files.names if file not in named]

    @property
    def missing(self) -> list[str]:
        """Keys of samples whose file does not exist."""
        return [entry.key for entry in self.entries if entry.file is None]

    def sources(self, splits: Sequence[str] = ()) -> list["FileSource"]:
        """One source per split, of all splits or the given ones.

        Raises InputError if no annotated file exists, or for an unknown split.
        """
        if not self.entries:
            raise InputError(f"{self.files.root}: the annotations of {self.dataset} list no files; check --annotations")
        if len(self.missing) == len(self.entries):
            raise InputError(
                f"{self.files.root}: none of {len(self.entries)} annotated files found; {self.dataset} has files "
                f"{self.layout}, for example for {self.entries[0].key}; found {self.files.summary}"
            )
        by_split: dict[str, list[AnnotatedSample]] = {}
        for entry in self.entries:
            by_split.setdefault(entry.split, []).append(entry)
        if unknown := [split for split in splits if split not in by_split]:
            raise InputError(f"--split {unknown[0]}: {self.dataset} has {', '.join(by_split)}")
        return [
            FileSource(self.dataset, split, self.files.root, tuple(_with_unique_keys(entries)), self.classes)
            for split, entries in by_split.items()
            if not splits or split in splits
        ]


@dataclass(frozen=True)
class FileSource:
    """One split of a data set of files."""

    dataset: str
    split: str
    root: Path
    entries: tuple[AnnotatedSample, ...]
    classes: tuple[str, ...]

    @property
    def settings(self) -> Mapping[str, SettingValue]:
        """Hash of the annotations; the files are assumed not to change."""
        text = json.dumps([self.classes, self.entries])
        return {"annotations": hashlib.sha256(text.encode()).hexdigest()[:16]}

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
            raise UndecodableError("annotated, but the file does not exist")
        try:
            data = (self.root / entry.file).read_bytes()
        except OSError as error:
            raise UndecodableError(f"cannot be read ({error.strerror})") from error
        text = entry.text if entry.text is not None or entry.label is None else self.classes[entry.label]
        media = EncodedFile(data, entry.start, entry.end)
        return Sample(media, entry.label, text, entry.template, entry.placeholders)


def _with_unique_keys(entries: Iterable[AnnotatedSample]) -> Iterator[AnnotatedSample]:
    """Distinct entries; a number is appended to keys that repeat."""
    taken: set[str] = set()
    for entry in dict.fromkeys(entries):
        names = chain([entry.key], (f"{entry.key}-{number}" for number in count(2)))
        key = next(name for name in names if name not in taken)
        taken.add(key)
        yield entry._replace(key=key)
