"""UCF-101: Class/v_Class_g08_c01.avi, and three official train/test splits."""

from pathlib import Path

from hpc_jepa.data.sources.annotated_files import AnnotatedSample, DatasetListing
from hpc_jepa.data.sources.annotations import find_annotation, read_lines
from hpc_jepa.data.sources.file_tree import FileTree, safe_key
from hpc_jepa.errors import InputError

LAYOUT = "Class/v_Class_g08_c01.avi"


def list_ucf101(videos: Path, annotations: Path, number: int = 1) -> DatasetListing:
    """Split ``number`` (1 to 3) of ucfTrainTestlist. The label is the number in classInd.txt minus one."""
    classes = _classes(find_annotation(annotations, "classInd.txt"))
    files = FileTree(videos)
    labels = {name: label for label, name in enumerate(classes)}
    entries = []
    for split in ("train", "test"):
        path = find_annotation(annotations, f"{split}list{number:02d}.txt")
        for line, words in enumerate(read_lines(path), start=1):
            name, _, stem = words[0].removesuffix(".avi").rpartition("/")
            if name not in labels:
                raise InputError(f"{path}:{line}: class '{name}' is not in classInd.txt; expected lines like {LAYOUT}")
            entries.append(AnnotatedSample(safe_key(stem), files.find(stem, near=name), split, labels[name]))
    return DatasetListing("ucf101", tuple(entries), classes, files, LAYOUT)


def _classes(path: Path) -> tuple[str, ...]:
    rows = read_lines(path)
    if [row[0] for row in rows] != [str(number) for number in range(1, len(rows) + 1)] or any(
        len(row) != 2 for row in rows
    ):
        raise InputError(f"{path}: expected lines like '1 ApplyEyeMakeup', numbered from 1")
    return tuple(name for _, name in rows)
