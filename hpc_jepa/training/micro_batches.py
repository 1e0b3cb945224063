"""Forward and backward passes of a step, micro-batch by micro-batch."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from hpc_jepa.config.run import RunConfig
from hpc_jepa.objectives.composition import weighted_sum
from hpc_jepa.training.batches import TrainBatch
from hpc_jepa.training.divergence import HealthSampler, TargetSample, sample_target
from hpc_jepa.training.engine import backward


class Accumulated(NamedTuple):
    """Loss and unweighted terms of this process's clips, and the sampled target tokens, if any."""

    loss: Tensor
    terms: dict[str, Tensor]
    target_sample: TargetSample | None


def accumulate_gradients(
    engine: DeepSpeedEngine,
    batch: TrainBatch,
    step: int,
    coefficients: Mapping[str, float],
    sampler: HealthSampler | None = None,
) -> Accumulated:
    """Run all micro-batches of a step; the optimizer step comes after.

    DeepSpeed divides each loss by ``engine.accumulation`` and adds up the gradients. Stages 0 and 1 exchange them
    after the last micro-batch, stages 2 and 3 after each. ``engine.step()`` between them only counts.
    """
    losses, terms, samples = [], [], []
    step_masks = batch.masks if len(batch.masks) > 1 else ()
    for number, (pixels, masks) in enumerate(batch.micro_batches()):
        if number:
            engine.step()
        micro_terms, target = engine(pixels, masks, step, step_masks)
        loss = weighted_sum(micro_terms, coefficients)
        backward(engine, loss)
        losses.append(loss.detach())
        terms.append({name: term.detach() for name, term in micro_terms.items()})
        if sampler is not None:
            samples.append(sampler(target, masks[0].padding))
    return Accumulated(
        loss=_mean(losses),
        terms={name: _mean([micro_terms[name] for micro_terms in terms]) for name in terms[0]},
        target_sample=_joined(samples) if samples else None,
    )


def health_sampler(config: RunConfig) -> HealthSampler:
    """Takes an equal part of ``monitor.health_tokens`` from each micro-batch."""
    tokens = max(config.monitor.health_tokens // config.engine.accumulation, 1)
    return partial(sample_target, levels=len(config.model.encoder.levels), tokens=tokens)


def _joined(samples: list[TargetSample]) -> TargetSample:
    """The samples of all micro-batches. Either all have padding or none: that is decided for the whole step."""
    real = [sample.real for sample in samples if sample.real is not None]
    return TargetSample(torch.cat([sample.features for sample in samples]), torch.cat(real) if real else None)


def _mean(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).mean(0)
