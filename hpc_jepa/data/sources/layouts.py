"""File layouts by name, and the published sample counts of the data sets."""

from collections.abc import Callable
from pathlib import Path

from hpc_jepa.data.sources import (
    class_folders,
    csv_table,
    diving48,
    hacs,
    imagenet100,
    kinetics400,
    something_something,
    ucf101,
)
from hpc_jepa.data.sources.annotated_files import DatasetListing

LAYOUTS: dict[str, tuple[str, Callable[[Path, Path], DatasetListing]]] = {
    "ucf101": ("UCF-101", ucf101.list_ucf101),
    "something-something-v2": ("Something-Something V2", something_something.list_something_something),
    "imagenet100": ("ImageNet-100", imagenet100.list_imagenet100),
    "diving48": ("Diving-48 V2", diving48.list_diving48),
    "kinetics400": ("Kinetics-400", kinetics400.list_kinetics400),
    "hacs": ("HACS Clips", hacs.list_hacs),
    "folder": (
        "Your own files in folders by class",
        lambda videos, annotations: class_folders.list_class_folders(videos),
    ),
    "csv": ("Your own files in a table", csv_table.list_csv_table),
}
"""Title and listing function (videos, annotations) of each layout, by its name on the command line."""

PUBLISHED_COUNTS = {
    "ucf101": {"train": 9_537, "test": 3_783},
    "something-something-v2": {"train": 168_913, "validation": 24_777},
    "imagenet100": {"train": 126_689, "validation": 5_000},
    "diving48": {"train": 15_027, "test": 1_970},
}
"""Samples by split; UCF-101 for its first split. Kinetics and HACS have no fixed count, because videos disappear."""
