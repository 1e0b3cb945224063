"""Kinetics-400: intervals of videos listed in CSV or JSON files; the videos are cut or uncut."""

import re
from collections.abc import Iterator
from pathlib import Path

from hpc_jepa.data.sources.annotated_files import AnnotatedSample, DatasetListing
from hpc_jepa.data.sources.annotations import (
    SPLITS,
    files_below,
    find_annotations,
    parse_seconds,
    read_csv,
    read_json,
    standard_split_name,
)
from hpc_jepa.data.sources.file_tree import FileTree, safe_key
from hpc_jepa.data.sources.hacs import Interval, cut_clips
from hpc_jepa.errors import InputError

LAYOUT = "<class>/<youtube_id>_<start, 6 digits>_<end, 6 digits>.mp4, or <youtube_id>.mp4, in any folder"
CUT = re.compile(r"(.{11})[_-]([0-9]+\.?[0-9]*)[_-]([0-9]+\.?[0-9]*)")


def list_kinetics400(videos: Path, annotations: Path) -> DatasetListing:
    """Samples from all CSV files, or else all JSON files of the release.

    Columns: label (optional), youtube_id, time_start, time_end, split (or else the split is in the name of the file).
    ``<youtube_id>.mp4`` is cut to the annotated interval, unless it is so short that it must be cut already.
    """
    files = FileTree(videos)
    rows: list[tuple[Path, dict[str, str]]] = []
    splits: dict[str, None] = {}
    for path in find_annotations(annotations, *_patterns(annotations)):
        splits |= dict.fromkeys(split for word in _words(path) if (split := SPLITS.get(word)))
        rows += [(path, row) for row in (_json_rows(path) if path.suffix == ".json" else _csv_rows(path))]
    classes = tuple(sorted({row["label"] for _, row in rows if row.get("label")}))
    labels = {name: label for label, name in enumerate(classes)}
    cut = cut_clips(files, CUT)
    entries = tuple(_entry(path, row, labels, files, cut) for path, row in rows)
    return DatasetListing("kinetics400", entries, classes, files, LAYOUT, tuple(splits), may_be_cut=True)


def _patterns(annotations: Path) -> list[str]:
    """All CSV files; JSON files, which a release has beside them, only without CSV files."""
    tables, records = (any(files_below(annotations, f"*.{kind}")) for kind in ("csv", "json"))
    return ["*.json"] if records and not tables else ["*.csv"]


def _words(path: Path) -> list[str]:
    return re.split(r"[^a-z]+", path.stem.lower())


def _csv_rows(path: Path) -> Iterator[dict[str, str]]:
    for row in read_csv(path, "youtube_id", "time_start", "time_end"):
        yield row if row.get("split") else row | {"split": _split_in_name(path)}


def _split_in_name(path: Path) -> str:
    for word in _words(path):
        if word in SPLITS:
            return word
    raise InputError(f"{path}:1: no column 'split', and no split in the name of the file, as in train.csv")


def _json_rows(path: Path) -> Iterator[dict[str, str]]:
    """``{"<youtube_id>": {"annotations": {"label": ..., "segment": [start, end]}, "subset": ...}, ...}``."""
    content = read_json(path)
    video = ""
    try:
        for video, record in content.items():
            annotation = record["annotations"]
            start, end = annotation["segment"]
            yield {
                **{"youtube_id": video, "time_start": str(start), "time_end": str(end)},
                **{"split": str(record["subset"]), "label": str(annotation.get("label") or "")},
            }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        expected = "videos with 'subset' and 'annotations': 'label', 'segment'"
        raise InputError(f"{path}: expected {expected}; wrong in '{video}'") from error


def _entry(
    path: Path, row: dict[str, str], labels: dict[str, int], files: FileTree, cut: dict[Interval, str]
) -> AnnotatedSample:
    video, name = row["youtube_id"], row.get("label", "")
    start, end = parse_seconds(path, row, "time_start"), parse_seconds(path, row, "time_end")
    stem = f"{video}_{int(start):06d}_{int(end):06d}"
    clip = files.find(stem, near=name)
    if clip is None and (other := cut.get((video, start, end))):
        clip = files.find(other, near=name)
    whole = None if clip else files.find(video, near=name)
    first, last = (None, None) if clip or not whole else (start, end)
    split, label = standard_split_name(path, row["split"]), labels.get(name)
    key, sought = safe_key(stem), (stem, video)
    return AnnotatedSample(
        key, clip or whole, split, label, start=first, end=last, sought=sought, cluster=video or None
    )
