"""Your own data in folders: <class>/<file> or <split>/<class>/<file>, videos or images."""

from pathlib import Path, PurePosixPath

from hpc_jepa.data.sources.annotated_files import AnnotatedSample, DatasetListing
from hpc_jepa.data.sources.annotations import SPLITS
from hpc_jepa.data.sources.file_tree import FileTree, safe_key
from hpc_jepa.errors import InputError

LAYOUT = "<class>/<file> or <split>/<class>/<file>"


def list_class_folders(videos: Path) -> DatasetListing:
    """Every file, labelled by its folder; files directly in the root or in a split have no label."""
    files = FileTree(videos)
    if not files.names:
        raise InputError(f"{videos}: no videos or images; expected {LAYOUT}")
    parsed = [_parse(name) for name in files.names]
    classes = tuple(sorted({name for _, name, _ in parsed if name}))
    labels = {name: label for label, name in enumerate(classes)}
    entries = [
        AnnotatedSample(safe_key(key), file, split, labels.get(name))
        for file, (split, name, key) in zip(files.names, parsed, strict=True)
    ]
    return DatasetListing("folder", tuple(entries), classes, files, LAYOUT)


def _parse(file: str) -> tuple[str, str, str]:
    """Split, class and key of a file."""
    *folders, name = PurePosixPath(file).with_suffix("").parts
    split = SPLITS.get(folders[0].lower()) if folders else None
    within = folders[1:] if split else folders
    return split or "train", "/".join(within), "-".join([*within, name])
