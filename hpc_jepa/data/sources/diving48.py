"""Diving-48 V2: <youtube_id>_<number>.mp4, one dive each; the class is its sequence of figures."""

import re
from pathlib import Path

from hpc_jepa.data.sources.annotated_files import AnnotatedSample, DatasetListing
from hpc_jepa.data.sources.annotations import find_annotation, read_json, read_json_records
from hpc_jepa.data.sources.file_tree import FileTree, media_stem, safe_key
from hpc_jepa.errors import InputError

LAYOUT = "<vid_name>.mp4"
CUT = re.compile(r"(.{11})_[0-9]+")
"""Name of a dive: the id of the video that it was cut from, with dozens of others, and its number."""


def list_diving48(videos: Path, annotations: Path) -> DatasetListing:
    """Samples from Diving48_V2_train.json and Diving48_V2_test.json, class names from Diving48_vocab.json.

    Each file is one dive (``start_frame`` is 0), so it is stored whole.
    """
    classes = _classes(find_annotation(annotations, "Diving48_vocab.json"))
    files = FileTree(videos)
    entries = []
    for split in ("train", "test"):
        path = find_annotation(annotations, f"Diving48_V2_{split}.json")
        for record in read_json_records(path, "vid_name", "label", "start_frame", "end_frame"):
            name, label = media_stem(str(record["vid_name"])), record["label"]
            if record["start_frame"] != 0:
                raise InputError(f"{path}: {name} has start_frame {record['start_frame']}; expected 0, as in V2")
            if type(label) is not int or not 0 <= label < len(classes):
                raise InputError(f"{path}: {name} has label {label!r}, Diving48_vocab.json has {len(classes)} classes")
            cut = CUT.fullmatch(name)
            sample = AnnotatedSample(safe_key(name), files.find(name), split, label, sought=(name,))
            entries.append(sample._replace(cluster=cut[1] if cut else None))
    return DatasetListing("diving48", tuple(entries), classes, files, LAYOUT, expected_splits=("train", "test"))


def _classes(path: Path) -> tuple[str, ...]:
    vocabulary = read_json(path)
    if not isinstance(vocabulary, list) or not all(isinstance(figures, list) for figures in vocabulary):
        raise InputError(f'{path}: expected a list of classes, each a list of figures, [["Back", "15som", ...], ...]')
    return tuple(" ".join(map(str, figures)) for figures in vocabulary)
