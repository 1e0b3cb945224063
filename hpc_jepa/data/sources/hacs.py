"""HACS Clips: two-second intervals of videos with the action (label 1); those without it (-1) are left out."""

import re
from pathlib import Path

from hpc_jepa.data.sources.annotated_files import AnnotatedSample, DatasetListing
from hpc_jepa.data.sources.annotations import find_annotation, parse_seconds, read_csv, standard_split_name
from hpc_jepa.data.sources.file_tree import FileTree, safe_key
from hpc_jepa.errors import InputError

LAYOUT = "<class>/v_<youtube_id>_<start>_<end>.mp4, or v_<youtube_id>.mp4 uncut, in any folder"
CUT = re.compile(r"(?:v_)?(.{11})_([0-9]+\.?[0-9]*)_([0-9]+\.?[0-9]*)")

Interval = tuple[str, float, float]


def list_hacs(videos: Path, annotations: Path) -> DatasetListing:
    """Samples from HACS_clips_v1.1.1.csv: classname, youtube_id, subset, start, end, label.

    The prefix ``v_`` of the files may be missing.
    """
    files = FileTree(videos)
    cut = cut_clips(files, CUT)
    path = find_annotation(annotations, "HACS_clips_v1.1.1.csv", "HACS_clips*.csv")
    rows = list(read_csv(path, "classname", "youtube_id", "subset", "start", "end", "label"))
    positive = [row for row in rows if _has_action(path, row)]
    classes = tuple(sorted({row["classname"] for row in rows}))
    labels = {name: label for label, name in enumerate(classes)}
    entries = [_entry(path, row, labels, files, cut) for row in positive]
    splits = tuple(dict.fromkeys(standard_split_name(path, row["subset"]) for row in rows))
    return DatasetListing("hacs", tuple(entries), classes, files, LAYOUT, splits, may_be_cut=True)


def _has_action(path: Path, row: dict[str, str]) -> bool:
    if row["label"] not in ("1", "1.0", "0", "0.0", "-1", "-1.0"):
        raise InputError(f"{path}: label '{row['label'][:20]}' of {row['youtube_id']} is not 1, 0 or -1")
    return row["label"] in ("1", "1.0")


def cut_clips(files: FileTree, pattern: re.Pattern[str]) -> dict[Interval, str]:
    """File stems of cut clips by video and interval, however their times are formatted.

    pattern: groups of the video, the start and the end.
    """
    matches = (pattern.fullmatch(stem) for stem in files.stems())
    return {(match[1], float(match[2]), float(match[3])): match[0] for match in matches if match}


def _entry(
    path: Path, row: dict[str, str], labels: dict[str, int], files: FileTree, cut: dict[Interval, str]
) -> AnnotatedSample:
    name, video = row["classname"], f"v_{row['youtube_id']}"
    start, end = parse_seconds(path, row, "start"), parse_seconds(path, row, "end")
    clip = cut.get((row["youtube_id"], start, end))
    file = files.find(clip, near=name) if clip else files.find(video, near=name) or files.find(row["youtube_id"], name)
    first, last = (None, None) if clip or not file else (start, end)
    key = safe_key(f"{video}_{start:g}_{end:g}")
    split = standard_split_name(path, row["subset"])
    sought = (f"{video}_{row['start']}_{row['end']}", video)
    return AnnotatedSample(
        key, file, split, labels[name], start=first, end=last, sought=sought, cluster=row["youtube_id"] or None
    )
