"""Annotation files, found by name below a folder and read with errors that say what was expected."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpc_jepa.errors import InputError

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validate": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""What data sets call their splits, and what the folders of shards are called."""

MAX_SECONDS = 1e9
"""Seconds; more, or no finite number, is a mistake that no video can be searched for."""


def find_annotation(folder: Path, *patterns: str) -> Path:
    """The file of the first pattern that has one, in ``folder`` or one level below; ``folder`` itself may be the file.

    Raises InputError saying what was expected and what was found.
    """
    for pattern in patterns:
        if matches := _matches(folder, pattern):
            return matches[0]
    found = _described(folder)
    raise InputError(f"{folder}: {' or '.join(patterns)} expected here, found {found}; check --annotations")


def find_annotations(folder: Path, *patterns: str) -> list[Path]:
    """The files of every pattern, each once. Raises InputError like ``find`` where there are none."""
    files = {path: None for pattern in patterns for path in _matches(folder, pattern)}
    return list(files) or [find_annotation(folder, *patterns)]


def read_lines(path: Path) -> list[list[str]]:
    """The words of every line that has any."""
    return [words for line in _text(path).splitlines() if (words := line.split())]


def read_json_records(path: Path, *keys: str) -> list[dict[str, Any]]:
    """A list of records that have ``keys``. Raises InputError naming the record that has not."""
    records = read_json(path)
    if not isinstance(records, list):
        raise InputError(f"{path}: a list of records expected, found a {type(records).__name__}")
    for number, record in enumerate(records):
        missing = [key for key in keys if not isinstance(record, dict) or key not in record]
        if missing:
            raise InputError(f"{path}: record {number} has no '{missing[0]}'; expected {', '.join(keys)}")
    return records


def read_json(path: Path) -> Any:
    """Whatever a JSON file holds. Raises InputError naming the line at which it is damaged."""
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON ({error.msg})") from error


def read_csv(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    """Rows of a csv file by column name. Raises InputError when one of ``columns`` is missing."""
    reader = csv.DictReader(io.StringIO(_text(path)))
    try:
        yield from _rows(path, reader, columns)
    except csv.Error as error:
        raise InputError(f"{path}:{reader.reader.line_num}: damaged table ({error})") from error


def parse_seconds(path: Path, row: dict[str, str], column: str) -> float:
    """A time of a table. Raises InputError where it is no number."""
    try:
        time = float(row[column])
    except ValueError:
        time = float("nan")
    if not abs(time) <= MAX_SECONDS:
        raise InputError(f"{path}: {column} '{row[column][:20]}' is not a number of seconds")
    return time


def standard_split_name(path: Path, name: str) -> str:
    """The common name of a split. Raises InputError for one that is unknown."""
    if name.strip().lower() not in SPLITS:
        raise InputError(f"{path}: unknown split '{name}'; expected one of {', '.join(SPLITS)}")
    return SPLITS[name.strip().lower()]


def _rows(path: Path, reader: "csv.DictReader[str]", columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    names = reader.fieldnames or []
    if missing := [column for column in columns if column not in names]:
        raise InputError(f"{path}:1: no column '{missing[0]}'; expected {', '.join(columns)}, found {', '.join(names)}")
    for row in reader:
        if None in row.values() or None in row:
            raise InputError(f"{path}:{reader.line_num}: {len(names)} columns expected")
        yield row


def _matches(folder: Path, pattern: str) -> list[Path]:
    if folder.is_file():
        return [folder]
    return sorted(folder.glob(pattern)) or sorted(folder.glob(f"*/{pattern}"))


def _described(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more if names else "nothing"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check --annotations") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file; check --annotations") from error
