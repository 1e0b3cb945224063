"""Train many probes in one pass over the features, with AdamW and a learning rate and weight decay per probe."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from hpc_jepa.config.benchmark import TrainedProbeConfig
from hpc_jepa.evaluation.frozen_features import FrozenFeatures, Standardiser
from hpc_jepa.evaluation.probes.probe_registry import build_probes
from hpc_jepa.evaluation.progress import Advance
from hpc_jepa.kernels.eager_optimizer import eager_optimizer


class ProbeHyperparameters(NamedTuple):
    """Hyperparameters of one probe of a stack; ``seed`` is that of its initialisation."""

    lr: float
    weight_decay: float
    seed: int


def train_probes(
    features: FrozenFeatures,
    standardiser: Standardiser,
    config: TrainedProbeConfig,
    classes: int,
    settings: Sequence[ProbeHyperparameters],
    advance: Advance,
    targets: Tensor | None = None,
) -> nn.Module:
    """Train one probe per setting with cross-entropy: tokens [B, N, D] -> logits [S, B, classes].

    With ``targets`` [n], numbers of mean 0 and variance 1, with the squared error instead: outputs [S, B, 1].
    All probes see the same batches in the same order; the seed only sets the initialisation (and dropout).
    ``advance`` is called once per update.
    """
    device = standardiser.mean.device
    probes = build_probes(config, features, classes, [setting.seed for setting in settings]).to(device).train()
    optimizer = _StackedAdamW(list(probes.parameters()), settings)
    batches = list(_batches(len(features), config))
    schedule = CosineAnnealingLR(optimizer.adam, len(batches)) if config.schedule == "cosine" else None
    answers = (torch.from_numpy(features.labels) if targets is None else targets).to(device)
    with torch.random.fork_rng():
        torch.manual_seed(settings[0].seed)
        for epoch in batches:
            for rows in epoch:
                logits = probes(standardiser(features.batch(rows, device)))
                expected = answers[torch.from_numpy(rows).to(device)].repeat(len(settings))
                # Mean over clips, sum over probes: gradients of a probe do not depend on the others.
                loss = _loss(rearrange(logits, "s b c -> (s b) c"), expected) * len(settings)
                torch.autograd.backward(loss)
                optimizer.step()
                advance()
            if schedule is not None:
                schedule.step()
    return probes.eval()


def _loss(outputs: Tensor, expected: Tensor) -> Tensor:
    """Mean cross-entropy with classes, mean squared error with numbers."""
    if expected.is_floating_point():
        return mse_loss(outputs.squeeze(1), expected)
    return cross_entropy(outputs, expected)


@torch.inference_mode()
def predict_numbers(probes: nn.Module, standardiser: Standardiser, features: FrozenFeatures) -> Tensor:
    """Mean output of probes of a number over the clips of each sample [S, n], on the CPU."""
    device = standardiser.mean.device
    outputs = [probes(standardiser(features.batch(rows, device))).squeeze(-1).cpu() for rows in features.chunks()]
    return reduce(torch.cat(outputs, dim=1), "s (v n) -> s n", "mean", v=features.clips)


@torch.inference_mode()
def predict_probabilities(probes: nn.Module, standardiser: Standardiser, features: FrozenFeatures) -> Tensor:
    """Mean probability of each class over the clips of each sample [S, n, classes], on the CPU."""
    device = standardiser.mean.device
    probabilities = [probes(standardiser(features.batch(rows, device))).softmax(-1).cpu() for rows in features.chunks()]
    return reduce(torch.cat(probabilities, dim=1), "s (v n) c -> s n c", "mean", v=features.clips)


def count_updates(config: TrainedProbeConfig, clips: int) -> int:
    """Number of optimizer steps."""
    return config.updates or (config.epochs or 0) * math.ceil(clips / config.batch_size)


class _StackedAdamW:
    """AdamW (Loshchilov & Hutter 2019) with a learning rate and weight decay per row of stacked parameters.

    One fused Adam with learning rate 1 (times the schedule) and without decay computes the update of all rows; each row
    is then scaled by its own learning rate and decayed.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], settings: Sequence[ProbeHyperparameters]) -> None:
        self._parameters = parameters
        self.adam = eager_optimizer(Adam, parameters, lr=1.0, fused=True)
        rates, decays = torch.tensor([[s.lr, s.weight_decay] for s in settings], dtype=torch.float32).T
        self._rates, self._decays = rates.to(parameters[0].device), decays.to(parameters[0].device)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter and clear its gradient."""
        before = [parameter.clone() for parameter in self._parameters]
        self.adam.step()
        self.adam.zero_grad()
        kept = 1 - self._rates * self._decays * self.adam.param_groups[0]["lr"]
        for parameter, old in zip(self._parameters, before, strict=True):
            rows = (-1, *[1] * (old.ndim - 1))
            parameter.sub_(old).mul_(self._rates.view(rows)).addcmul_(old, kept.view(rows))


def _batches(clips: int, config: TrainedProbeConfig) -> Iterator[list[NDArray[np.int64]]]:
    """Row numbers of every batch by epoch; each epoch is a new permutation whose last batch may be smaller."""
    left = count_updates(config, clips)
    epoch = 0
    while left > 0:
        order = np.random.default_rng(epoch).permutation(clips)
        starts = range(0, clips, config.batch_size)[:left]
        yield [order[start : start + config.batch_size] for start in starts]
        left -= len(starts)
        epoch += 1
