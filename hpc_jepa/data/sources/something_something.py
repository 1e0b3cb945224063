"""Something-Something V2: <id>.webm with a template (the class), its placeholders and a caption."""

from pathlib import Path

from hpc_jepa.data.sources.annotated_files import AnnotatedSample, DatasetListing
from hpc_jepa.data.sources.annotations import find_annotation, find_annotations, read_json, read_json_records
from hpc_jepa.data.sources.file_tree import FileTree, safe_key
from hpc_jepa.errors import InputError

LAYOUT = "<id>.webm"
PARTS = ("train", "validation", "test")


def list_something_something(videos: Path, annotations: Path) -> DatasetListing:
    """Classes from labels.json (template to number), samples from train.json, validation.json and test.json.

    Each of the three may be missing. Released archives prefix these names with ``something-something-v2-``. The test
    split has no labels.
    """
    path = find_annotation(annotations, "labels.json", "*-labels.json")
    labels = read_json(path)
    if not isinstance(labels, dict) or sorted(map(int, labels.values())) != list(range(len(labels))):
        raise InputError(f'{path}: expected templates with numbers from 0, {{"Holding something": "0", ...}}')
    classes = tuple(sorted(labels, key=lambda name: int(labels[name])))
    numbers = {name: label for label, name in enumerate(classes)}
    files = FileTree(videos)
    entries: list[AnnotatedSample] = []
    for part in find_annotations(
        annotations, *(form.format(split) for split in PARTS for form in ("{}.json", "*-{}.json"))
    ):
        entries += _entries(part, part.stem.rpartition("-")[2], numbers, files)
    return DatasetListing("something-something-v2", tuple(entries), classes, files, LAYOUT)


def _entries(path: Path, split: str, numbers: dict[str, int], files: FileTree) -> list[AnnotatedSample]:
    if split == "test":
        records = read_json_records(path, "id")
        return [
            AnnotatedSample(safe_key(str(record["id"])), files.find(str(record["id"])), split) for record in records
        ]
    entries = []
    for record in read_json_records(path, "id", "label", "template", "placeholders"):
        name = record["template"].replace("[", "").replace("]", "")
        if name not in numbers:
            raise InputError(f"{path}: id {record['id']}: template '{record['template']}' is not in labels.json")
        entries.append(
            AnnotatedSample(
                key=safe_key(str(record["id"])),
                file=files.find(str(record["id"])),
                split=split,
                label=numbers[name],
                text=record["label"],
                template=record["template"],
                placeholders=tuple(record["placeholders"]),
            )
        )
    return entries
