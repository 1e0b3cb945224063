"""The order in which a run reads its tars: a function of seed and step."""

from collections.abc import Sequence

import numpy as np

from hpc_jepa.config.data import DataConfig
from hpc_jepa.data.clip_sampler import ClipSampler
from hpc_jepa.data.mixture import MixtureSource
from hpc_jepa.data.shards.shard_folder import ShardFolder

LOOKAHEAD_TERMS = 64
"""How many tars of each slot are known ahead; what comes later counts as never."""


def mixture_sampler(
    config: DataConfig, folders: Sequence[ShardFolder], seed: int, batch_size: int, repeats: int = 1
) -> ClipSampler:
    """The sampler of a configuration, whose sources are in ``folders``."""
    sources = [
        MixtureSource(source.weight, folder.shard_sizes, folder.manifest.longest == 1)
        for source, folder in zip(config.sources.values(), folders, strict=True)
    ]
    images = config.images == "batches"
    return ClipSampler(seed, sources, batch_size, repeats, config.shard_order, images, config.sampling)


class TarOrder:
    """When the clips of a sampler need which tars, which are named by their checksums."""

    def __init__(self, sampler: ClipSampler, folders: Sequence[ShardFolder]) -> None:
        self._sampler = sampler
        self._checksums = [[shard.sha256 for shard in folder.manifest.shards] for folder in folders]

    def at(self, step: int) -> list[str]:
        """The tars of a step, in the order of its clips."""
        sources, samples = self._sampler.drawn(step)
        found: dict[str, None] = {}
        for source, sample in zip(sources.tolist(), samples.tolist(), strict=True):
            tar = np.searchsorted(self._sampler.sources[source].ends, sample, side="right")
            found[self._checksums[source][int(tar)]] = None
        return list(found)

    def next_uses(self, step: int) -> dict[str, int]:
        """The first step from ``step`` on that may need each tar, as far as it is known; for an order of shards."""
        uses: dict[str, int] = {}
        order = self._sampler.order
        assert order is not None
        for number, checksums in enumerate(self._checksums):
            for tar, first in self._sampler.next_uses(step, number, order, LOOKAHEAD_TERMS).items():
                uses[checksums[tar]] = min(uses.get(checksums[tar], first), first)
        return uses
