"""Your own data in a CSV file with a column ``file`` and optional label, text, start, end, split, key and cluster.

Further columns can be numbers that probes predict.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from hpc_jepa.data.sources.annotated_files import AnnotatedSample, DatasetListing, LayoutFault
from hpc_jepa.data.sources.annotations import (
    find_annotations,
    parse_number,
    parse_seconds,
    read_numbered_csv,
    read_text,
)
from hpc_jepa.data.sources.file_tree import IMAGE_TYPES, VIDEO_TYPES, FileTree, safe_key
from hpc_jepa.errors import InputError

LAYOUT = "as in column 'file', relative to the folder of videos"
COLUMNS = ("file", "label", "text", "start", "end", "split", "key", "cluster")
HEADERLESS = re.compile(rf"(.+(?:{'|'.join(map(re.escape, VIDEO_TYPES + IMAGE_TYPES))}))(?:[ ,;\t]+(\S+))?", re.I)
NOT_A_NAME = re.compile(r"[+-]\d+|[+-]?\d*\.\d+|\d+\.|nan|null|none|n/a|na|#n/a", re.I)
MAX_LABEL_DIGITS = 6
"""Limit for numeric labels, because the largest one sets the number of classes."""


def list_csv_table(videos: Path, annotations: Path, targets: Sequence[str] = ()) -> DatasetListing:
    """Labels are class names, numbered in alphabetical order, or numbers. The default split is ``train``.

    Times are in seconds. ``cluster`` names the recording (or person, or animal) that a clip shows, in every row or in
    none. Files may have absolute paths. Tables of V-JEPA, ``<file> <label>`` without a header, are read too.
    targets: columns of numbers, in any case; every row needs a finite number. Raises InputError with file and line.
    """
    path, *others = find_annotations(annotations, "*.csv")
    if others:
        raise InputError(f"{annotations}: several tables, {path.name} and {others[0].name}; pass one to --annotations")
    names_of_targets = _target_columns(targets)
    numbered_rows = _rows_without_header(path) or list(read_numbered_csv(path, "file"))
    rows = [row for _, row in numbered_rows]
    if not rows:
        raise InputError(f"{path}: no rows")
    if missing := [name for name in names_of_targets if name not in rows[0]]:
        raise InputError(f"{path}:1: no column '{missing[0]}' for --target; found {', '.join(rows[0])}")
    if unknown := [column for column in rows[0] if column not in (*COLUMNS, *names_of_targets)]:
        raise InputError(
            f"{path}:1: unknown column '{unknown[0]}'; expected {', '.join(COLUMNS)}, or --target for a column of "
            "numbers to predict"
        )
    numbers = [
        tuple((name, parse_number(path, line, name, row[name])) for name in names_of_targets)
        for line, row in numbered_rows
    ]
    files = FileTree(videos)
    names = {row["label"] for row in rows if row.get("label")}
    numbered = all(name.isascii() and name.isdigit() for name in names)
    if numbered and (large := [name for name in names if len(name) > MAX_LABEL_DIGITS]):
        raise InputError(f"{path}: label {large[0][:20]} has more than {MAX_LABEL_DIGITS} digits; count classes from 0")
    labels = {name: int(name) for name in names} if numbered else {name: i for i, name in enumerate(sorted(names))}
    classes = tuple(map(str, range(max(labels.values(), default=-1) + 1))) if numbered else tuple(sorted(names))
    entries = [_entry(path, row, labels, files)._replace(targets=own) for row, own in zip(rows, numbers, strict=True)]
    given = _check_clusters(path, rows)
    return DatasetListing(
        "csv", tuple(entries), classes, files, LAYOUT, faults=_odd_labels(classes), given_clusters=given
    )


def _target_columns(targets: Sequence[str]) -> list[str]:
    """Names in lower case, as those of columns. Raises InputError for a column with a meaning of its own."""
    names = list(dict.fromkeys(target.strip().lower() for target in targets))
    for name in names:
        if name in COLUMNS or not name:
            raise InputError(f"--target '{name}': name a column of numbers, other than {', '.join(COLUMNS)}")
    return names


def _check_clusters(path: Path, rows: Sequence[dict[str, str]]) -> bool:
    """Whether the table has clusters. Raises InputError if it has them for some rows only."""
    without = [row["file"] for row in rows if not row.get("cluster")]
    if without and len(without) < len(rows):
        raise InputError(
            f"{path}: {without[0]} has no cluster, but other files have one; a clip from a recording of its own gets "
            "a cluster of its own"
        )
    return not without


def _odd_labels(classes: tuple[str, ...]) -> tuple[LayoutFault, ...]:
    """Class names that look like numbers other than 0, 1, 2, ... or like empty cells."""
    odd = tuple(name for name in classes if NOT_A_NAME.fullmatch(name))
    what = "labels look like numbers or empty cells, but are class names in alphabetical order"
    return (LayoutFault(len(odd), len(classes), what, odd, limited=False),) if odd else ()


def _entry(path: Path, row: dict[str, str], labels: dict[str, int], files: FileTree) -> AnnotatedSample:
    file = row["file"]
    if not PurePosixPath(file).name:
        raise InputError(f"{path}: file '{file}' is not a file name")
    split = row.get("split") or "train"
    if safe_key(split) != split:
        raise InputError(f"{path}: split '{split}' is not a valid folder name; use letters, digits, - and _")
    start, end = (parse_seconds(path, row, column) if row.get(column) else None for column in ("start", "end"))
    if start is not None and start < 0:
        raise InputError(f"{path}: start {start:g} of {file} is negative")
    if end is not None and end <= (start or 0):
        raise InputError(f"{path}: end {end:g} of {file} is not after its start, {start or 0:g}")
    found = files.resolve(file)
    name = PurePosixPath(found or file)
    times = "".join(f"_{time:g}" for time in (start, end) if time is not None)
    return AnnotatedSample(
        key=safe_key(row.get("key") or f"{name.with_suffix('')}{times}"),
        file=found,
        split=split,
        label=labels[row["label"]] if row.get("label") else None,
        text=row.get("text") or None,
        start=start,
        end=end,
        sought=(name.name.partition(".")[0],),
        cluster=row.get("cluster") or None,
    )


def _rows_without_header(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Numbered rows ``<file> <label>``, ``<file>,<label>`` or ``<file>`` of a table; none if it has a header."""
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    rows = [HEADERLESS.fullmatch(line.strip()) for line in lines]
    if not lines or not rows[0]:
        return []
    if wrong := [number for number, row in enumerate(rows, start=1) if not row]:
        raise InputError(f"{path}:{wrong[0]}: expected '<file> <label>', as in line 1; or give the table a header")
    return [(line, {"file": row[1], "label": row[2] or ""}) for line, row in enumerate(rows, start=1) if row]
