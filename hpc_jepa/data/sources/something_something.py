"""Something-Something V2: <id>.webm with a template (the class), its placeholders and a caption."""

from pathlib import Path

from hpc_jepa.data.sources.annotated_files import AnnotatedSample, DatasetListing
from hpc_jepa.data.sources.annotations import (
    ClassNumbers,
    find_annotation,
    find_annotations,
    read_json,
    read_json_records,
)
from hpc_jepa.data.sources.file_tree import FileTree, media_stem, safe_key
from hpc_jepa.errors import InputError

LAYOUT = "<id>.webm"
SPLIT_NAMES = ("train", "validation", "test")
LABEL_KEYS = ("label", "template", "placeholders")


def list_something_something(videos: Path, annotations: Path) -> DatasetListing:
    """Classes from labels.json (template to number), samples from train.json, validation.json and test.json.

    Each of the three may be missing. Released archives prefix these names with ``something-something-v2-``. The test
    split has no labels.
    """
    path = find_annotation(annotations, "labels.json", "*-labels.json")
    labels = read_json(path)
    numbered = isinstance(labels, dict) and all(str(number).isdecimal() for number in labels.values())
    if not numbered or sorted(map(int, labels.values())) != list(range(len(labels))):
        raise InputError(f'{path}: expected templates with numbers from 0, {{"Holding something": "0", ...}}')
    classes = tuple(sorted(labels, key=lambda name: int(labels[name])))
    numbers = ClassNumbers(classes)
    files = FileTree(videos)
    entries: list[AnnotatedSample] = []
    patterns = [f"{prefix}{split}.json" for split in SPLIT_NAMES for prefix in ("", "*-")]
    parts = find_annotations(annotations, *patterns)
    splits = [part.stem.rpartition("-")[2] for part in parts]
    for part, split in zip(parts, splits, strict=True):
        entries += _entries(part, split, numbers, files)
    return DatasetListing("something-something-v2", tuple(entries), classes, files, LAYOUT, tuple(splits))


def _entries(path: Path, split: str, numbers: ClassNumbers, files: FileTree) -> list[AnnotatedSample]:
    entries = []
    for record in read_json_records(path, "id", *(LABEL_KEYS if split != "test" else ())):
        stem = media_stem(str(record["id"]))
        entry = AnnotatedSample(safe_key(stem), files.find(stem), split)
        if split != "test":
            text, template, placeholders = (record[key] for key in LABEL_KEYS)
            if not isinstance(text, str) or not isinstance(placeholders, list | None):
                raise InputError(f"{path}: id {record['id']}: expected text as label, and a list of placeholders")
            number = numbers.get(str(template).replace("[", "").replace("]", ""))
            if number is None:
                raise InputError(f"{path}: id {record['id']}: template '{template}' is not in labels.json")
            label = {
                "label": number,
                "text": text,
                "template": template,
                "placeholders": tuple(map(str, placeholders or ())),
            }
            entry = entry._replace(**label)
        entries.append(entry)
    return entries
