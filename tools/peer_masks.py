"""Masks of other people's code: their mask generators and, if present, their loop over distances."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from peer_import import import_root, peer_module
from torch import Tensor

from hpc_jepa.config.masking import MaskGroupConfig, MaskingConfig
from hpc_jepa.types import TokenGrid

COLLATOR = "src/masks/multiseq_multiblock3d.py"
DISTANCES = "app/vjepa_2_1/models/utils/masks_dist.py"


class PeerMasks:
    """Both mask groups of a batch of clips, made by the code in ``folder``.

    The generators are called directly: their collator also batches the pixels, which is not part of the comparison.

    Raises InputError if there is no such code.
    """

    def __init__(self, folder: Path, config: MaskingConfig, grid: TokenGrid, clip: tuple[int, int, int, int]) -> None:
        root = import_root(folder, COLLATOR)
        _, frames, *side = clip
        collator = peer_module(root, _name(COLLATOR)).MaskCollator(
            [_as_theirs(group, config) for group in config.groups],
            dataset_fpcs=[frames],
            crop_size=tuple(side),
            patch_size=(side[0] // grid.height, side[1] // grid.width),
            tubelet_size=frames // grid.time,
        )
        self._generators = collator.mask_generators[frames]
        self._side = grid.width
        self._guided = config.motion is not None
        self._distances: Callable[..., object] | None = None
        if (root / DISTANCES).is_file():
            self._distances = peer_module(root, _name(DISTANCES)).compute_mask_distance

    @property
    def supports_motion(self) -> bool:
        """Whether that code supports motion guidance."""
        return hasattr(self._generators[0], "compute_motion_maps")

    def __call__(self, pixels: Tensor) -> None:
        """Make masks of clips [B, C, F, Hp, Wp]; with motion guidance, B must be the number of tubelets (B24)."""
        for generator in self._generators:
            maps = {"motion_maps": generator.compute_motion_maps([[pixels]])} if self._guided else {}
            context, target = generator(len(pixels), **maps)
            if self._distances is not None:
                self._distances([[target]], [[context]], self._side, False)


def _name(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def _as_theirs(group: MaskGroupConfig, config: MaskingConfig) -> dict[str, Any]:
    """A mask group as in their YAML files."""
    return {
        "num_blocks": group.blocks,
        "spatial_scale": [group.spatial_scale] * 2,
        "temporal_scale": [group.temporal_scale] * 2,
        "aspect_ratio": list(group.aspect),
        "max_temporal_keep": group.temporal_keep,
        "full_complement": group.full_complement,
        "motion_guided": config.motion is not None,
        **({"motion_guided_strength": config.motion.strength} if config.motion else {}),
    }
