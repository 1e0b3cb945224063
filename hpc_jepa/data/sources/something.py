"""Something-Something V2: <id>.webm, and what people do in it: a template, what fills its gaps, the whole sentence."""

from pathlib import Path

from hpc_jepa.data.sources.annotations import find, find_all, read_any_json, read_json
from hpc_jepa.data.sources.listing import Entry, Listing
from hpc_jepa.data.sources.tree import FileTree, safe_key
from hpc_jepa.errors import InputError

LAYOUT = "<id>.webm"
PARTS = ("train", "validation", "test")


def listing(videos: Path, annotations: Path) -> Listing:
    """labels.json (template to number) and those of train.json, validation.json and test.json that are there.

    Released archives put ``something-something-v2-`` before these names. The test split has no labels.
    """
    path = find(annotations, "labels.json", "*-labels.json")
    labels = read_any_json(path)
    if not isinstance(labels, dict) or sorted(map(int, labels.values())) != list(range(len(labels))):
        raise InputError(f'{path}: templates with numbers from 0 expected, {{"Holding something": "0", ...}}')
    classes = tuple(sorted(labels, key=lambda name: int(labels[name])))
    numbers = {name: label for label, name in enumerate(classes)}
    files = FileTree(videos)
    entries: list[Entry] = []
    for part in find_all(annotations, *(form.format(split) for split in PARTS for form in ("{}.json", "*-{}.json"))):
        entries += _entries(part, part.stem.rpartition("-")[2], numbers, files)
    return Listing("something-something-v2", tuple(entries), classes, files, LAYOUT)


def _entries(path: Path, split: str, numbers: dict[str, int], files: FileTree) -> list[Entry]:
    if split == "test":
        records = read_json(path, "id")
        return [Entry(safe_key(str(record["id"])), files.find(str(record["id"])), split) for record in records]
    entries = []
    for record in read_json(path, "id", "label", "template", "placeholders"):
        name = record["template"].replace("[", "").replace("]", "")
        if name not in numbers:
            raise InputError(f"{path}: id {record['id']}: template '{record['template']}' is not in labels.json")
        entries.append(
            Entry(
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
