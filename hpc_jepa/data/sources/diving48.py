"""Diving-48 V2: <vid_name>.mp4, one dive each, and the sequence of figures in it."""

from pathlib import Path

from hpc_jepa.data.sources.annotated_files import AnnotatedSample, DatasetListing
from hpc_jepa.data.sources.annotations import find_annotation, read_json, read_json_records
from hpc_jepa.data.sources.file_tree import FileTree, safe_key
from hpc_jepa.errors import InputError

LAYOUT = "<vid_name>.mp4"


def list_diving48(videos: Path, annotations: Path) -> DatasetListing:
    """Diving48_V2_train.json and Diving48_V2_test.json; names of classes from Diving48_vocab.json.

    Files hold the dive alone: frames are annotated from 0 on, so they are stored whole.
    """
    classes = tuple(" ".join(figures) for figures in read_json(find_annotation(annotations, "Diving48_vocab.json")))
    files = FileTree(videos)
    entries = []
    for split in ("train", "test"):
        path = find_annotation(annotations, f"Diving48_V2_{split}.json")
        for record in read_json_records(path, "vid_name", "label", "start_frame", "end_frame"):
            name, label = record["vid_name"], record["label"]
            if record["start_frame"] != 0:
                raise InputError(f"{path}: {name} begins at frame {record['start_frame']}; V2 has dives cut already")
            if not 0 <= label < len(classes):
                raise InputError(f"{path}: {name} has label {label}, Diving48_vocab.json {len(classes)} classes")
            entries.append(AnnotatedSample(safe_key(name), files.find(name), split, label))
    return DatasetListing("diving48", tuple(entries), classes, files, LAYOUT)
