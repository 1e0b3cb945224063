"""Sample the masks of a step: a function of seed and step and, with motion guidance, of the clips."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hpc_jepa.config.masking import MaskGroupConfig, MaskingConfig
from hpc_jepa.config.semantics import Semantics
from hpc_jepa.distributed import local_rows
from hpc_jepa.io.random_streams import RandomStream, uniforms
from hpc_jepa.kernels.token_lists import smallest_counts, token_lists, tube_order
from hpc_jepa.kernels.visible_tokens import visible_tokens
from hpc_jepa.masking.block_sampling import block_size, empty_context_error, uniform_origins, visible_tubelets
from hpc_jepa.masking.motion_guidance import guided_origins, motion_map
from hpc_jepa.types import BlockSize, ClipBatch, Padding, TokenGrid, TokenMasks, Truncation

PLACEMENT_ATTEMPTS = 4
"""Block placements drawn per clip and step; later ones are used if the first hides everything."""


class MaskSampler:
    """Samples the blocks of the global batch on every process and returns the masks of the process's own clips.

    batch_size: clips of all processes; rank ``r`` has rows r*batch_size/world_size onwards.
    accumulation: micro-batches of a process. Their masks are those that as many processes would have.
    gather: rows of this process -> rows of all processes in rank order; for motion maps and static flags only.

    Raises InputError if the batch cannot be divided equally among the processes.
    """

    def __init__(
        self,
        config: MaskingConfig,
        semantics: Semantics,
        grid: TokenGrid,
        *,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        gather: Callable[[Tensor], Tensor] = lambda rows: rows,
    ) -> None:
        self.config = config
        self.semantics = semantics
        self.grid = grid
        self.seed = seed
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.parts = world_size * accumulation
        self.gather = gather
        self.local_clips = local_rows(batch_size, rank, world_size, accumulation)
        parts = range(rank * accumulation, (rank + 1) * accumulation)
        self.micro_clips = [local_rows(batch_size, part, self.parts) for part in parts]

    def __call__(self, step: int, clips: ClipBatch) -> tuple[TokenMasks, ...]:
        """Masks of this process's clips, one per mask group, on the device of their pixels. Without accumulation."""
        (masks,) = self.micro_batches(step, clips)
        return masks

    def micro_batches(self, step: int, clips: ClipBatch) -> tuple[tuple[TokenMasks, ...], ...]:
        """For each micro-batch of this process's clips its masks, one per mask group."""
        motion = self._motion(clips)
        paired = self._clips_with_pairs(clips)
        real = self._real_tokens(clips)
        repeats = self.parts if self.semantics.process_randomness == "same" else 1
        groups = []
        for index, group in enumerate(self.config.groups):
            draws = _RandomDraws(self.seed, step, index, self.batch_size, repeats, clips.pixels.device)
            masks = self._group_masks(group, draws, motion, paired)
            groups.append(masks if real is None else self._without_padding(masks, real))
        return tuple(zip(*groups, strict=True))

    def _motion(self, clips: ClipBatch) -> Tensor | None:
        """Motion maps [B, T, H, W] of the global batch, or None without motion guidance."""
        if self.config.motion is None:
            return None
        pool, norm = self.semantics.motion_pool, self.semantics.motion_norm
        maps = [motion_map(pixels, self.grid, pool, norm) for pixels in clips.pixels.chunk(self.accumulation)]
        return self.gather(maps[0] if len(maps) == 1 else torch.cat(maps))

    def _clips_with_pairs(self, clips: ClipBatch) -> Tensor:
        """True for the clips [B] of the global batch that temporal terms include."""
        if self.semantics.static_clips_in_temporal_terms:
            return torch.ones(self.batch_size, dtype=torch.bool, device=clips.pixels.device)
        return self.gather(~clips.static).to(clips.pixels.device)

    def _real_tokens(self, clips: ClipBatch) -> Tensor | None:
        """Leading tokens of this process's clips [b] without padding; None if no clip of the global batch has any."""
        if clips.real_frames is None:
            return None
        length = max(clips.pixels.shape[2] // self.grid.time, 1)
        tubelets = ((clips.real_frames + length - 1) // length).clamp(max=self.grid.time)
        if bool((self.gather(tubelets) == self.grid.time).all()):  # on the host: the sizes of files are known there
            return None
        return (tubelets * self.grid.cells).to(clips.pixels.device)

    def _without_padding(self, masks: list[TokenMasks], real: Tensor) -> list[TokenMasks]:
        """The masks without pairs that end in padding, and with the numbers of tokens that are none."""
        parts = real.chunk(self.accumulation)
        pairs, counts = [], []
        for group, own in zip(masks, parts, strict=True):
            pairs.append(group.next_in_context.where(group.context + self.grid.cells < own[:, None], -1))
            in_context, in_target = (tokens < own[:, None] for tokens in (group.context, group.target))
            counts.append(torch.stack([(pairs[-1] >= 0).sum(1), in_context.sum(1), in_target.sum(1)], dim=1))
        if self.semantics.batch_statistics == "global":
            shared = [self.gather(torch.cat(counts)).sum(0) / self.parts] * self.accumulation
        else:
            shared = [count.sum(0).float() for count in counts]
        return [
            replace(group, next_in_context=pair, pairs=count[0], padding=Padding(own, count[1], count[2]))
            for group, pair, own, count in zip(masks, pairs, parts, shared, strict=True)
        ]

    def _group_masks(
        self, group: MaskGroupConfig, draws: "_RandomDraws", motion: Tensor | None, paired: Tensor
    ) -> list[TokenMasks]:
        """The masks of one group for each micro-batch."""
        size = block_size(group, self.grid, draws.step)
        origins = self._origins(group, draws, size, motion)
        visible, counts = visible_tokens(origins, size, self.grid, visible_tubelets(group, self.grid))
        masks = []
        for clips, truncation in zip(self.micro_clips, self._truncations(group, draws, size, counts), strict=True):
            lists = token_lists(visible, truncation, clips, self.grid)
            masks.append(
                TokenMasks(
                    context=lists.context,
                    target=lists.target,
                    context_distance=lists.context_distance,
                    next_in_context=lists.next_in_context.where(paired[clips, None], -1),
                    pairs=self._pairs_per_part(lists.pairs * paired, clips),
                )
            )
        return masks

    def _origins(self, group: MaskGroupConfig, draws: "_RandomDraws", size: BlockSize, motion: Tensor | None) -> Tensor:
        """Raster indices of block origins [B, attempts, blocks] for the global batch."""
        origin_draws = draws.uniforms(RandomStream.MASK_ORIGIN, PLACEMENT_ATTEMPTS, group.blocks)
        uniform = uniform_origins(origin_draws, size, self.grid)
        if self.config.motion is None or motion is None:
            return uniform
        choice = draws.uniforms(RandomStream.MOTION_CHOICE, PLACEMENT_ATTEMPTS, group.blocks)
        guided = guided_origins(origin_draws, motion, size, self.config.motion.strength)
        return uniform.where(choice < self.config.motion.random_rate, guided)

    def _truncations(
        self, group: MaskGroupConfig, draws: "_RandomDraws", size: BlockSize, counts: Tensor
    ) -> list[Truncation]:
        """For each micro-batch the length of its token lists. Reading it is the only host-device sync of the sampler.

        Raises InputError if a clip has no visible token.
        """
        parts = 1 if self.config.truncation_scope == "global" else self.parts
        limits = smallest_counts(counts, parts, self.grid.tokens, group.full_complement)
        smallest = [(context, target) for context, target in limits.tolist()]
        if min(smallest)[0] == 0:
            raise empty_context_error(size, self.grid, group)
        order = self._truncation_order(draws)
        lengths = [smallest[clips.start * parts // self.batch_size] for clips in self.micro_clips]
        return [Truncation(limits, length, order, group.full_complement) for length in lengths]

    def _truncation_order(self, draws: "_RandomDraws") -> Tensor | None:
        """The order [B, N] in which tokens are kept: raster (None), random tubes, or random (B9)."""
        if self.semantics.mask_truncation == "raster":
            return None
        if self.semantics.mask_truncation == "tubes":
            return tube_order(draws.uniforms(RandomStream.MASK_TRUNCATION, self.grid.cells).argsort(1), self.grid)
        return draws.uniforms(RandomStream.MASK_TRUNCATION, self.grid.tokens).argsort(1)

    def _pairs_per_part(self, pairs_of_clip: Tensor, clips: slice) -> Tensor:
        if self.semantics.batch_statistics == "global":
            return pairs_of_clip.sum() / self.parts
        return pairs_of_clip[clips].sum().float()


@dataclass(frozen=True)
class _RandomDraws:
    """Random numbers of one mask group in one step, one row per clip of the global batch.

    repeats: number of processes that draw equal numbers for their clips (B17).
    """

    seed: int
    step: int
    group: int
    clips: int
    repeats: int
    device: torch.device

    def uniforms(self, stream: RandomStream, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1): [clips, *shape] float64."""
        numbers = uniforms(self.seed, stream, self.step, (self.clips, *shape), self.group, self.repeats)
        return torch.from_numpy(numbers).to(self.device)
