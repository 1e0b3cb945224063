"""ImageNet-100: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG of ImageNet-1k, and the list of the 100 classes."""

from pathlib import Path, PurePosixPath

from hpc_jepa.data.sources.annotated_files import AnnotatedSample, DatasetListing
from hpc_jepa.data.sources.annotations import SPLITS, find_annotation, read_json, read_lines
from hpc_jepa.data.sources.file_tree import FileTree, safe_key
from hpc_jepa.errors import InputError

LAYOUT = "train/<wnid>/<wnid>_<number>.JPEG and val/<wnid>/*.JPEG"


def list_imagenet100(videos: Path, annotations: Path) -> DatasetListing:
    """Images of the classes in the list: a text file, one wnid a line, or Labels.json, wnid to words.

    Labels count the wnids in alphabetical order, as folders are. The training images may lie in several folders
    (train.X1, train.X2, ...).
    """
    names = _names(find_annotation(annotations, "Labels.json", "*100*.txt", "*.txt"))
    wnids = sorted(names)
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    files = FileTree(videos)
    entries = []
    for name in files.names:
        *folders, wnid, _ = ("", *PurePosixPath(name).parts)
        split = SPLITS.get(folders[-1].partition(".")[0])
        if split and wnid in labels:
            stem = PurePosixPath(name).stem
            key = stem if stem.startswith(wnid) else f"{wnid}_{stem}"
            entries.append(AnnotatedSample(safe_key(key), name, split, labels[wnid]))
    if not entries:
        raise InputError(
            f"{videos}: no image of the {len(wnids)} listed classes; expected {LAYOUT}, found {files.summary}"
        )
    return DatasetListing("imagenet100", tuple(entries), tuple(names[wnid] for wnid in wnids), files, LAYOUT)


def _names(path: Path) -> dict[str, str]:
    """Class names by wnid; where the list has none, the wnid is the name."""
    if path.suffix == ".json":
        names = read_json(path)
        if not isinstance(names, dict) or not names:
            raise InputError(f'{path}: wnids with names expected, {{"n01440764": "tench", ...}}')
        return {wnid: str(name) for wnid, name in names.items()}
    return {words[0]: " ".join(words[1:]) or words[0] for words in read_lines(path)}
