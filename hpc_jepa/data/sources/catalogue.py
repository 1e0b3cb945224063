"""The layouts that files can have, and how many samples the data sets are published with."""

from collections.abc import Callable
from pathlib import Path

from hpc_jepa.data.sources import (
    diving48,
    folder,
    hacs,
    imagenet100,
    kinetics400,
    something,
    table,
    ucf101,
)
from hpc_jepa.data.sources.listing import Listing

LAYOUTS: dict[str, tuple[str, Callable[[Path, Path], Listing]]] = {
    "ucf101": ("UCF-101", ucf101.listing),
    "something-something-v2": ("Something-Something V2", something.listing),
    "imagenet100": ("ImageNet-100", imagenet100.listing),
    "diving48": ("Diving-48 V2", diving48.listing),
    "kinetics400": ("Kinetics-400", kinetics400.listing),
    "hacs": ("HACS Clips", hacs.listing),
    "folder": ("Your own files in folders by class", lambda videos, annotations: folder.listing(videos)),
    "csv": ("Your own files in a table", table.listing),
}
"""Title and reader of each layout, by the name on the command line."""

PUBLISHED = {
    "ucf101": {"train": 9_537, "test": 3_783},
    "something-something-v2": {"train": 168_913, "validation": 24_777},
    "imagenet100": {"train": 126_689, "validation": 5_000},
    "diving48": {"train": 15_027, "test": 1_970},
}
"""Samples by split, UCF-101 as in its first split. Kinetics and HACS shrink as videos disappear: no number is right."""
