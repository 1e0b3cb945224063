"""Real shards for every room: a small motion benchmark, built once by the real builder."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from hpc_jepa.data.shards.builder import build, recipe_of
from hpc_jepa.data.sources import motion8


@pytest.fixture(scope="session")
def motion_shards(tmp_path_factory):
    """Folder with ``train`` (24), ``test`` (8) and ``unlabelled`` (16) clips of 32 pixels and 16 frames."""
    out = tmp_path_factory.mktemp("motion8")
    with ThreadPoolExecutor(1) as pool:
        for source in motion8.splits(train=24, test=8, unlabelled=16, size=32, frames=16):
            build(source, out / source.split, recipe_of(source, 10), pool, lambda samples: None)
    return out
