"""What a layout says about a data set of files: every sample with its file, label and text, before a file is opened."""

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
    """One annotated sample. file: below the folder of videos; None where it is not there.

    text: a caption; class names need not be repeated. start, end: seconds, where only this part of the file is meant.
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
    """All splits of a data set. files: the tree the entries were looked up in; layout: what it should look like."""

    dataset: str
    entries: tuple[AnnotatedSample, ...]
    classes: tuple[str, ...]
    files: FileTree
    layout: str

    @property
    def unannotated(self) -> list[str]:
        """Files no entry speaks of."""
        named = {entry.file for entry in self.entries}
        return [file for file in self.files.names if file not in named]

    @property
    def missing(self) -> list[str]:
        """Keys of entries whose file is not there."""
        return [entry.key for entry in self.entries if entry.file is None]

    def sources(self, splits: Sequence[str] = ()) -> list["FileSource"]:
        """One source for each split, or for those asked for.

        Raises InputError where not one annotated file is there, saying what was found and what was expected.
        """
        if not self.entries:
            raise InputError(f"{self.files.root}: the annotations of {self.dataset} name no files; check --annotations")
        if len(self.missing) == len(self.entries):
            raise InputError(
                f"{self.files.root}: none of {len(self.entries)} annotated files is here; {self.dataset} has files "
                f"{self.layout}, such as the one of {self.entries[0].key}; found {self.files.summary}"
            )
        by_split: dict[str, list[AnnotatedSample]] = {}
        for entry in self.entries:
            by_split.setdefault(entry.split, []).append(entry)
        if unknown := [split for split in splits if split not in by_split]:
            raise InputError(f"--split {unknown[0]}: {self.dataset} has {', '.join(by_split)}")
        return [
            FileSource(self.dataset, split, self.files.root, tuple(_named(entries)), self.classes)
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
        """The annotations; videos are expected not to change."""
        text = json.dumps([self.classes, self.entries])
        return {"annotations": hashlib.sha256(text.encode()).hexdigest()[:16]}

    def __len__(self) -> int:
        return len(self.entries)

    def origin(self, index: int) -> SampleOrigin:
        """The key and the file below the folder of videos."""
        entry = self.entries[index]
        return SampleOrigin(entry.key, entry.file or "")

    def load(self, index: int) -> Sample:
        """Read one file."""
        entry = self.entries[index]
        if entry.file is None:
            raise UndecodableError("annotated, but there is no such file")
        try:
            data = (self.root / entry.file).read_bytes()
        except OSError as error:
            raise UndecodableError(f"cannot be read ({error.strerror})") from error
        text = entry.text if entry.text is not None or entry.label is None else self.classes[entry.label]
        media = EncodedFile(data, entry.start, entry.end)
        return Sample(media, entry.label, text, entry.template, entry.placeholders)


def _named(entries: Iterable[AnnotatedSample]) -> Iterator[AnnotatedSample]:
    """Entries, each once, with keys of their own: different ones that share a key get a number."""
    taken: set[str] = set()
    for entry in dict.fromkeys(entries):
        names = chain([entry.key], (f"{entry.key}-{number}" for number in count(2)))
        key = next(name for name in names if name not in taken)
        taken.add(key)
        yield entry._replace(key=key)
