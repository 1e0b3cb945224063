"""Kinetics-400: intervals of videos listed in CSV files; the videos are cut or uncut."""

from pathlib import Path

from hpc_jepa.data.sources.annotated_files import AnnotatedSample, DatasetListing
from hpc_jepa.data.sources.annotations import find_annotations, parse_seconds, read_csv, standard_split_name
from hpc_jepa.data.sources.file_tree import FileTree, safe_key

LAYOUT = "<class>/<youtube_id>_<start, 6 digits>_<end, 6 digits>.mp4, or <youtube_id>.mp4 uncut, in any folder"


def list_kinetics400(videos: Path, annotations: Path) -> DatasetListing:
    """Samples from all CSV files: label (optional), youtube_id, time_start, time_end, split."""
    files = FileTree(videos)
    rows = []
    for path in find_annotations(annotations, "*.csv"):
        for row in read_csv(path, "youtube_id", "time_start", "time_end", "split"):
            rows.append((path, row))
    classes = tuple(sorted({row["label"] for _, row in rows if row.get("label")}))
    labels = {name: label for label, name in enumerate(classes)}
    entries = [_entry(path, row, labels, files) for path, row in rows]
    return DatasetListing("kinetics400", tuple(entries), classes, files, LAYOUT)


def _entry(path: Path, row: dict[str, str], labels: dict[str, int], files: FileTree) -> AnnotatedSample:
    video, name = row["youtube_id"], row.get("label", "")
    start, end = parse_seconds(path, row, "time_start"), parse_seconds(path, row, "time_end")
    stem = f"{video}_{int(start):06d}_{int(end):06d}"
    cut, whole = files.find(stem, near=name), files.find(video, near=name)
    interval = (None, None) if cut or not whole else (start, end)
    split = standard_split_name(path, row["split"])
    return AnnotatedSample(safe_key(stem), cut or whole, split, labels.get(name), None, *interval)
