"""ImageNet-100: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG of ImageNet-1k, and a list of the 100 classes."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hpc_jepa.data.sources.annotated_files import AnnotatedSample, DatasetListing, LayoutFault
from hpc_jepa.data.sources.annotations import SPLITS, files_below, find_annotations, read_json, read_lines
from hpc_jepa.data.sources.file_tree import FileTree, safe_key
from hpc_jepa.errors import InputError

LAYOUT = "train/<wnid>/<wnid>_<number>.JPEG and val/<wnid>/*.JPEG"
CLASS_LISTS = ("Labels.json", "*100*.txt", "*100*.csv", "*100*.json", "*class*.json", "*.txt", "*.csv")
VALIDATION_LABELS = ("*val*.csv", "*val*.txt", "*val*.sh")
"""Lists of validation images with their classes: LOC_val_solution.csv, valprep.sh, val_annotations.txt, ..."""

WNID = re.compile(r"(?<![A-Za-z0-9])n\d{8}(?![A-Za-z0-9])")
IMAGE = re.compile(r"[A-Za-z0-9_]*val_\d+")
HEADERS = ("wnid", "synset", "class", "label", "id", "index")


class _Place(NamedTuple):
    """Split of an image, and its class by folder, list or file name; None if none of them has it."""

    split: str
    wnid: str | None


def list_imagenet100(videos: Path, annotations: Path) -> DatasetListing:
    """Images of the listed classes: a text, CSV or JSON file with one wnid per class, with or without names.

    Labels number the wnids in alphabetical order. Training images may be split over folders train.X1, train.X2, ...
    Validation images without folders of classes get theirs from the file name, or a list beside that of the classes.
    """
    names, repeated = _names(_class_list(annotations))
    wnids = sorted(names)
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    files = FileTree(videos)
    validation = _validation_labels(annotations)
    entries = []
    unsorted: dict[str, list[str]] = {"train": [], "validation": []}
    for name in files.names:
        place = _place(name, validation)
        if place and place.wnid in labels:
            stem = PurePosixPath(name).stem
            key = stem if stem.startswith(place.wnid) else f"{place.wnid}_{stem}"
            entries.append(AnnotatedSample(safe_key(key), name, place.split, labels[place.wnid]))
        elif place and place.wnid is None and place.split in unsorted:
            unsorted[place.split].append(name)
    if not entries:
        raise InputError(
            f"{videos}: no image of the {len(wnids)} listed classes; expected {LAYOUT}, found {files.summary}"
        )
    faults = (
        *repeated,
        *(_unsorted_fault(split, found, len(files.names)) for split, found in unsorted.items() if found),
    )
    classes = tuple(names[wnid] for wnid in wnids)
    return DatasetListing(
        "imagenet100", tuple(entries), classes, files, LAYOUT, ("train", "validation"), faults, independent=True
    )


def _place(name: str, validation: dict[str, str]) -> _Place | None:
    """Split and class of an image; None if no folder is named like a split."""
    path = PurePosixPath(name)
    split = None
    wnid = None
    for folder in path.parts[:-1]:
        if found := SPLITS.get(folder.partition(".")[0].lower()):
            split, wnid = found, None
        elif split and (match := WNID.match(folder)):
            wnid = match[0]
    if split is None:
        return None
    if wnid is None and split == "validation":
        wnid = validation.get(path.stem)
    if wnid is None and (match := re.search(r"(?:^|_)(n\d{8})(?:_|$)", path.stem)):
        wnid = match[1]
    return _Place(split, wnid)


def _unsorted_fault(split: str, names: list[str], images: int) -> LayoutFault:
    what = f"images are in {split} but in no folder of a class"
    if split == "validation":
        what += "; sort them into val/<wnid>/, or put LOC_val_solution.csv beside the list of classes"
    return LayoutFault(len(names), images, what, tuple(names), split=split)


def _class_list(annotations: Path) -> Path:
    """The list of classes, which is not one of validation images."""
    found = find_annotations(annotations, *CLASS_LISTS)
    return next((path for path in found if "val" not in path.stem.lower()), found[0])


def _validation_labels(annotations: Path) -> dict[str, str]:
    """Class by stem of the validation images, from lists with an image and a wnid in each line, if there are any."""
    labels = {}
    for pattern in VALIDATION_LABELS if annotations.is_dir() else ():
        for _, path in files_below(annotations, pattern):
            for words in read_lines(path):
                line = " ".join(words)
                image, wnid = IMAGE.search(line), WNID.search(line)
                if image and wnid:
                    labels[image[0]] = wnid[0]
    return labels


def _names(path: Path) -> tuple[dict[str, str], list[LayoutFault]]:
    """Class names by wnid, the wnid itself if the list has no name; and the classes that are listed twice."""
    listed = list(_json_classes(path) if path.suffix == ".json" else _text_classes(path))
    if not listed:
        raise InputError(f"{path}: no classes; expected one wnid per line, as in 'n01440764 tench'")
    counts = Counter(wnid for wnid, _ in listed)
    repeated = tuple(wnid for wnid, count in counts.items() if count > 1)
    what = f"classes of {path.name} are listed more than once"
    faults = [LayoutFault(len(repeated), len(counts), what, repeated, limited=False)] if repeated else []
    return dict(listed), faults


def _json_classes(path: Path) -> Iterator[tuple[str, str]]:
    """``{"n01440764": "tench"}``, ``["n01440764"]``, or ``{"0": ["n01440764", "tench"]}``."""
    content = read_json(path)
    try:
        items = content.items() if isinstance(content, dict) else [(wnid, wnid) for wnid in content or ()]
        for key, value in items:
            words = [str(word) for word in (key, *(value if isinstance(value, list) else [value]))]
            wnid = next(word for word in words if WNID.fullmatch(word))
            yield wnid, next((word for word in words if word != wnid and not word.isdecimal()), wnid)
    except (TypeError, StopIteration, RuntimeError) as error:
        raise InputError(f'{path}: expected wnids with names, {{"n01440764": "tench", ...}}') from error


def _text_classes(path: Path) -> Iterator[tuple[str, str]]:
    """One wnid per line, before or after an index, and a name: 'n01440764 tench', 'n01440764,0', '0: n01440764'."""
    for number, words in enumerate(read_lines(path), start=1):
        line = " ".join(words)
        match = WNID.search(line)
        if match:
            name = re.sub(r"^[\W_]*(\d+(?=[\s,;:]|$))?[\W_]*", "", line[match.end() :]).rstrip("\"',; ")
            yield match[0], name or match[0]
        elif not line.startswith("#") and not (number == 1 and line.lower().startswith(HEADERS)):
            raise InputError(f"{path}:{number}: no wnid in '{line[:60]}'; expected lines like 'n01440764 tench'")
