"""UCF-101: Class/v_Class_g08_c01.avi, and three official train/test splits."""

import re
from pathlib import Path, PurePosixPath

from hpc_jepa.data.sources.annotated_files import AnnotatedSample, DatasetListing, LayoutFault
from hpc_jepa.data.sources.annotations import ClassNumbers, find_annotation, read_lines
from hpc_jepa.data.sources.file_tree import VIDEO_TYPES, FileTree, safe_key
from hpc_jepa.errors import InputError

LAYOUT = "Class/v_Class_g08_c01.avi"


def list_ucf101(videos: Path, annotations: Path, number: int = 1) -> DatasetListing:
    """Split ``number`` (1 to 3) of ucfTrainTestlist. The label is the number in classInd.txt minus one.

    Classes and files are found in any spelling: HandStandPushups and HandstandPushups occur in released files.
    """
    classes = _classes(find_annotation(annotations, "classInd.txt"))
    files = FileTree(videos)
    labels = ClassNumbers(classes)
    entries = []
    contradictions = []
    for split in ("train", "test"):
        path = find_annotation(annotations, f"{split}list{number:02d}.txt")
        for line, words in enumerate(read_lines(path), start=1):
            name, stem = _parse(words[0])
            label = labels.get(name)
            if label is None:
                raise InputError(f"{path}:{line}: class '{name}' is not in classInd.txt; expected lines like {LAYOUT}")
            if len(words) > 1 and words[1] != str(label + 1):
                contradictions.append(f"{path.name}:{line}: {words[1]}, not {label + 1}")
            file = files.find_spelling(stem, near=name)
            entries.append(AnnotatedSample(safe_key(stem), file, split, label, sought=(stem,), cluster=_group(stem)))
    what = "numbers of classes differ from those in classInd.txt, which are used"
    fault = LayoutFault(len(contradictions), len(entries), what, tuple(contradictions), limited=False)
    faults = (fault,) if contradictions else ()
    return DatasetListing("ucf101", tuple(entries), classes, files, LAYOUT, ("train", "test"), faults)


def _parse(file: str) -> tuple[str, str]:
    """Class and stem of a line of a list; the class is that of the folder, or else that in the file name."""
    path = PurePosixPath(file.replace("\\", "/"))
    stem = path.stem if path.suffix.lower() in VIDEO_TYPES else path.name
    named = re.fullmatch(r"v_(.+)_g\d+_c\d+", stem)
    return path.parent.name or (named[1] if named else ""), stem


def _group(stem: str) -> str | None:
    """``v_Class_g08``: the clips of a group are cut from one video."""
    named = re.fullmatch(r"(v_.+_g\d+)_c\d+", stem)
    return named[1] if named else None


def _classes(path: Path) -> tuple[str, ...]:
    rows = read_lines(path)
    if [row[0] for row in rows] != [str(number) for number in range(1, len(rows) + 1)] or any(
        len(row) != 2 for row in rows
    ):
        raise InputError(f"{path}: expected lines like '1 ApplyEyeMakeup', numbered from 1")
    return tuple(name for _, name in rows)
