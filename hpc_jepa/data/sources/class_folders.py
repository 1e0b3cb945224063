"""Your own data in folders: <class>/<file> or <split>/<class>/<file>, videos or images."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from hpc_jepa.data.sources.annotated_files import AnnotatedSample, DatasetListing, LayoutFault
from hpc_jepa.data.sources.annotations import SPLITS
from hpc_jepa.data.sources.file_tree import OTHER_MEDIA, FileTree, safe_key
from hpc_jepa.errors import InputError

LAYOUT = "<class>/<file> or <split>/<class>/<file>"


def list_class_folders(videos: Path, cluster: str | None = None) -> DatasetListing:
    """Every file, labelled by its folder; files directly in the root or in a split have no label.

    cluster: a regular expression for paths below ``videos``; what its first group, or without one all of it, matches
    names the source video or recording.
    """
    files = FileTree(videos)
    if not files.names:
        raise InputError(f"{videos}: no videos or images; expected {LAYOUT}")
    parsed = [_parse(name) for name in files.names]
    places = {(split, name) for split, name, _ in parsed if name}
    classes = tuple(sorted({name for _, name in places}))
    labels = {name: label for label, name in enumerate(classes)}
    clusters = [None] * len(files.names) if cluster is None else _clusters(files, cluster)
    entries = [
        AnnotatedSample(safe_key(key), file, split, labels.get(name), cluster=source)
        for file, (split, name, key), source in zip(files.names, parsed, clusters, strict=True)
    ]
    faults = _faults(files, len(places))
    return DatasetListing(
        "folder", tuple(entries), classes, files, LAYOUT, faults=faults, given_clusters=cluster is not None
    )


def _clusters(files: FileTree, pattern: str) -> list[str]:
    """The cluster of every file. Raises InputError for an invalid pattern and for a file that it does not match."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--cluster '{pattern}': not a regular expression ({error})") from error
    clusters = []
    for name in files.names:
        found = expression.search(name)
        cluster = found[min(expression.groups, 1)] if found else None
        if not cluster:
            raise InputError(f"--cluster '{pattern}': finds nothing in {files.root / name}")
        clusters.append(cluster)
    return clusters


def _faults(files: FileTree, places: int) -> tuple[LayoutFault, ...]:
    """Folders of classes without a file, and folders beside those of splits that are not splits themselves."""
    texts = {str(PurePosixPath(name).parent) for name in files.other if not name.lower().endswith(OTHER_MEDIA)}
    leaves = [name for name in files.empty_folders if not any(x.startswith(f"{name}/") for x in files.empty_folders)]
    empty = tuple(name for name in leaves if name not in texts)
    top = {PurePosixPath(name).parts[0] for name in files.names if "/" in name}
    classes = tuple(sorted(name for name in top if name.lower() not in SPLITS))
    faults = list(_nesting_faults(files))
    if empty:
        faults.append(LayoutFault(len(empty), places + len(empty), "folders have no video or image", empty))
    if classes and len(classes) < len(top):
        what = f"folders are beside those of splits but not named like one, so they are classes ({', '.join(SPLITS)})"
        faults.append(LayoutFault(len(classes), len(top), what, classes, limited=False))
    return tuple(faults)


def _nesting_faults(files: FileTree) -> Iterator[LayoutFault]:
    """Folders around those of splits or classes, as archives have them: the names of all classes begin with theirs."""
    parsed = [_parse(name) for name in files.names]
    folders = {folder for _, folder, _ in parsed if folder}
    inner = {place for folder in folders if (place := _split_within(folder))}
    if len(inner) > 1:
        what = "files are in folders of splits inside another folder, so they are classes; give it as --videos"
        examples = tuple(sorted(inner))
        count = sum(bool(_split_within(folder)) for _, folder, _ in parsed)
        yield LayoutFault(count, len(parsed), what, examples)
    elif len(folders) > 1 and len(tops := {folder.split("/")[0] for folder in folders}) == 1:
        what = "names of classes begin with the same folder; give it as --videos to leave it out"
        yield LayoutFault(len(folders), len(folders), what, tuple(tops), limited=False)


def _split_within(folder: str) -> str:
    """The part of a class folder up to a folder named like a split; empty if there is none above the last one."""
    parts = folder.split("/")
    return next(("/".join(parts[:end]) for end in range(1, len(parts)) if parts[end - 1].lower() in SPLITS), "")


def _parse(file: str) -> tuple[str, str, str]:
    """Split, class and key of a file."""
    *folders, name = PurePosixPath(file).with_suffix("").parts
    split = SPLITS.get(folders[0].lower()) if folders else None
    within = folders[1:] if split else folders
    return split or "train", "/".join(within), "-".join([*within, name])
