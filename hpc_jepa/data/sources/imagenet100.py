"""ImageNet-100: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG of ImageNet-1k, and a list of the 100 classes."""

from pathlib import Path, PurePosixPath

from hpc_jepa.data.sources.annotated_files import AnnotatedSample, DatasetListing
from hpc_jepa.data.sources.annotations import SPLITS, find_annotation, read_json, read_lines
from hpc_jepa.data.sources.file_tree import FileTree, safe_key
from hpc_jepa.errors import InputError

LAYOUT = "train/<wnid>/<wnid>_<number>.JPEG and val/<wnid>/*.JPEG"


def list_imagenet100(videos: Path, annotations: Path) -> DatasetListing:
    """Images of the listed classes: a text file with one wnid per line, or Labels.json, wnid to name.

    Labels number the wnids in alphabetical order. Training images may be split over folders train.X1, train.X2, ...
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
    """Class names by wnid; the wnid itself if the list has no name."""
    if path.suffix == ".json":
        names = read_json(path)
        if not isinstance(names, dict) or not names:
            raise InputError(f'{path}: expected wnids with names, {{"n01440764": "tench", ...}}')
        return {wnid: str(name) for wnid, name in names.items()}
    return {words[0]: " ".join(words[1:]) or words[0] for words in read_lines(path)}
