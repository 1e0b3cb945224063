"""Faults of a data set on disk that a build would otherwise pass over: files, classes and splits without samples."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from hpc_jepa.data.sources.annotated_files import NO_FILE, AnnotatedSample, DatasetListing, LayoutFault, why_missing
from hpc_jepa.data.sources.annotations import SPLITS
from hpc_jepa.data.sources.file_tree import IMAGE_TYPES, OTHER_MEDIA, VIDEO_TYPES, FileTree, media_stem, spelling

MIN_SAMPLES_FOR_SHARE = 1000
"""The share of missing files is computed over at least this many, so that small tests of a large data set work."""

VIDEO_DATASETS = ("ucf101", "something-something-v2", "diving48", "kinetics400", "hacs")
_Extent = tuple[str, str, float | None, float | None]
"""Split, file, start and end of a sample."""


def find_faults(listing: DatasetListing, splits: Sequence[str] = ()) -> list[LayoutFault]:
    """Faults of all splits or the given ones, worst first: those that count towards the allowed share, then others."""
    entries = [entry for entry in listing.entries if not splits or entry.split in splits]
    faults = [
        *_missing(listing, entries),
        *_classes_without_files(listing, entries),
        *_splits_without_samples(listing, entries, splits),
        *listing.faults,
        *_classes_without_annotations(listing, entries),
        *_replaced_files(listing.files),
        *_images_for_videos(listing, entries),
        *_repeated(entries),
        *_in_several_splits(entries),
        *_without_label(entries),
        *_similar_splits(entries),
        *_broken_links(listing.files),
        *_classes_without_training(listing, entries),
        *_similar_classes(listing.classes),
        *_other_types(listing.files),
    ]
    concerned = [fault for fault in faults if not splits or not fault.split or fault.split in splits]
    return sorted(concerned, key=lambda fault: not fault.limited)


def _missing(listing: DatasetListing, entries: Sequence[AnnotatedSample]) -> Iterator[LayoutFault]:
    missing = [(entry.key, why_missing(listing.files, entry)) for entry in entries if entry.file is None]
    if missing:
        missing.sort(key=lambda pair: pair[1] == NO_FILE)
        examples = tuple(key if reason == NO_FILE else f"{key} ({reason})" for key, reason in missing)
        what = "annotated files are missing; the ledger lists them"
        yield LayoutFault(len(missing), len(entries), what, examples, at_least=MIN_SAMPLES_FOR_SHARE)


def _classes_without_files(listing: DatasetListing, entries: Sequence[AnnotatedSample]) -> Iterator[LayoutFault]:
    annotated = {entry.label for entry in entries if entry.label is not None}
    empty = annotated - {entry.label for entry in entries if entry.file is not None}
    if empty:
        first = {entry.label: entry for entry in reversed(entries)}
        reasons = [why_missing(listing.files, first[label]) for label in sorted(empty)]
        pairs = zip(_names(listing, empty), reasons, strict=True)
        names = tuple(name if reason == NO_FILE else f"{name} ({reason})" for name, reason in pairs)
        yield LayoutFault(len(empty), len(annotated), "classes have annotations but not a single file", names)


def _classes_without_annotations(listing: DatasetListing, entries: Sequence[AnnotatedSample]) -> Iterator[LayoutFault]:
    """Classes of the list that no sample has. A part of a data set is no fault, so it stops no small build."""
    annotated = {entry.label for entry in entries if entry.label is not None}
    unused = set(range(len(listing.classes))) - annotated
    if annotated and unused:
        limited = listing.dataset != "csv" and len(entries) >= MIN_SAMPLES_FOR_SHARE
        what = "classes have no sample"
        yield LayoutFault(len(unused), len(listing.classes), what, _names(listing, unused), limited)


def _splits_without_samples(
    listing: DatasetListing, entries: Sequence[AnnotatedSample], splits: Sequence[str]
) -> Iterator[LayoutFault]:
    expected = dict.fromkeys([*(entry.split for entry in entries), *listing.expected_splits])
    wanted = [split for split in expected if not splits or split in splits]
    found = {entry.split for entry in entries if entry.file is not None}
    if empty := tuple(split for split in wanted if split not in found):
        yield LayoutFault(len(empty), len(wanted), "splits have not a single sample; choose others by --split", empty)


def _replaced_files(files: FileTree) -> Iterator[LayoutFault]:
    if files.replaced:
        examples = tuple(f"{name} by {best}" for name, best in files.replaced.items())
        what = "files are empty and replaced by others of the same name"
        yield LayoutFault(len(files.replaced), len(files.names), what, examples, limited=False)


def _images_for_videos(listing: DatasetListing, entries: Sequence[AnnotatedSample]) -> Iterator[LayoutFault]:
    """Images in data sets of videos, or beside a video of the same name: thumbnails of downloads."""
    videos = {media_stem(name) for name in listing.files.names if name.lower().endswith(VIDEO_TYPES)}
    files = [entry.file for entry in entries if entry.file is not None]
    images = [file for file in files if file.lower().endswith(IMAGE_TYPES)]
    if listing.dataset in VIDEO_DATASETS and images:
        what = "files of videos are missing, and images of the same name are used instead"
        yield LayoutFault(len(images), len(files), what, tuple(images), at_least=MIN_SAMPLES_FOR_SHARE)
    elif beside := tuple(file for file in images if media_stem(file) in videos):
        what = "samples are images beside a video of the same name, perhaps thumbnails"
        yield LayoutFault(len(beside), len(files), what, beside, limited=False)


def _repeated(entries: Sequence[AnnotatedSample]) -> Iterator[LayoutFault]:
    """Samples of one split that are listed several times, with the same label or others."""
    labels: dict[_Extent, list[int | None]] = {}
    for entry in entries:
        if entry.file is not None:
            labels.setdefault((entry.split, entry.file, entry.start, entry.end), []).append(entry.label)
    several = [(extent[1], found) for extent, found in labels.items() if len(found) > 1]
    same = tuple(file for file, found in several if len(set(found)) == 1)
    other = tuple(file for file, found in several if len(set(found)) > 1)
    if same:
        yield LayoutFault(len(same), len(labels), "samples are annotated more than once", same, limited=False)
    if other:
        what = "samples are annotated more than once, with different labels; each is stored with each label"
        yield LayoutFault(len(other), len(labels), what, other, limited=False)


def _in_several_splits(entries: Sequence[AnnotatedSample]) -> Iterator[LayoutFault]:
    splits: dict[_Extent, set[str]] = {}
    for entry in entries:
        if entry.file is not None:
            splits.setdefault(("", entry.file, entry.start, entry.end), set()).add(entry.split)
    if shared := tuple(extent[1] for extent, found in splits.items() if len(found) > 1):
        yield LayoutFault(
            len(shared), len(splits), "samples are in more than one split (leakage)", shared, limited=False
        )


def _without_label(entries: Sequence[AnnotatedSample]) -> Iterator[LayoutFault]:
    """Samples without a label in splits where others have one."""
    labelled = {entry.split for entry in entries if entry.label is not None}
    concerned = [entry for entry in entries if entry.split in labelled]
    if missing := tuple(entry.file or entry.key for entry in concerned if entry.label is None):
        what = "samples have no label, although others of their split have one"
        yield LayoutFault(len(missing), len(concerned), what, missing, limited=False)


def _similar_splits(entries: Sequence[AnnotatedSample]) -> Iterator[LayoutFault]:
    meanings: dict[str, list[str]] = {}
    for split in dict.fromkeys(entry.split for entry in entries):
        meanings.setdefault(SPLITS.get(split.lower(), split.lower()), []).append(split)
    if pairs := tuple(" / ".join(names) for names in meanings.values() if len(names) > 1):
        what = "splits have several names, and a folder for each"
        yield LayoutFault(len(pairs), len(meanings), what, pairs, limited=False)


def _broken_links(files: FileTree) -> Iterator[LayoutFault]:
    if links := tuple(files.broken_links):
        yield LayoutFault(len(links), len(files.other), "other files are links to nothing", links, limited=False)


def _classes_without_training(listing: DatasetListing, entries: Sequence[AnnotatedSample]) -> Iterator[LayoutFault]:
    found = {(entry.split, entry.label) for entry in entries if entry.file is not None and entry.label is not None}
    train = {label for split, label in found if split == "train"}
    unseen = {label for _, label in found} - train
    if train and unseen:
        what = "classes have samples for validation or testing but none for training"
        yield LayoutFault(len(unseen), len({label for _, label in found}), what, _names(listing, unseen), limited=False)


def _similar_classes(classes: Sequence[str]) -> Iterator[LayoutFault]:
    spelt: dict[str, list[str]] = {}
    for name in dict.fromkeys(classes):
        spelt.setdefault(spelling(name) or name, []).append(name)
    if pairs := tuple(" / ".join(names) for names in spelt.values() if len(names) > 1):
        what = "names of classes differ from others only in case, spaces or punctuation"
        yield LayoutFault(len(pairs), len(spelt), what, pairs, limited=False)


def _other_types(files: FileTree) -> Iterator[LayoutFault]:
    names = tuple(name for name in files.other if name.lower().endswith(OTHER_MEDIA))
    if names:
        kinds = Counter(PurePosixPath(name).suffix.lower() for name in names)
        counts = ", ".join(f"{count:,} {suffix}" for suffix, count in kinds.most_common())
        what = f"files are of types that are not read ({counts})"
        yield LayoutFault(len(names), len(files.names) + len(names), what, names, limited=False)


def _names(listing: DatasetListing, labels: Iterable[int | None]) -> tuple[str, ...]:
    return tuple(listing.classes[label] for label in sorted(label for label in labels if label is not None))
