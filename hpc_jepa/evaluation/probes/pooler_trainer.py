"""Train attentive poolers of several blocks while the frozen encoder runs, and predict with them, on all processes.

The candidates are trained one after the other on the tokens of each batch, so that only one keeps its activations. What
an epoch contains depends on seed and epoch alone. After every epoch the state is written, so that a restarted
evaluation continues with the bits of an undisturbed one.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from einops import rearrange, reduce
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

from hpc_jepa.config.pooler_probe import PoolerProbeConfig
from hpc_jepa.data.prefetch import Prefetcher
from hpc_jepa.data.probe_clips import LabelledViews, ProbeClips
from hpc_jepa.distributed import GlooGroup, is_main, rank, world_size
from hpc_jepa.evaluation.extraction import Encode
from hpc_jepa.evaluation.probes.attentive_pooler import PoolerClassifier
from hpc_jepa.evaluation.probes.trainer import ProbeHyperparameters
from hpc_jepa.evaluation.progress import Advance
from hpc_jepa.io.atomic import fsync
from hpc_jepa.kernels.eager_optimizer import eager_optimizer

PREFETCHED_GROUPS = 2
DAMAGED_FILE = (OSError, RuntimeError, UnpicklingError, EOFError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class PoolerSource:
    """Clips of a split, encoded in groups of at most ``limit`` clips, or one sample.

    clips: crops and temporal clips of a sample in a test; training has one crop.
    """

    clips: ProbeClips
    encode: Encode
    limit: int
    threads: int

    def tokens(self, pixels: Tensor) -> Tensor:
        """Pixels [B, V, S, C, F, size, size] -> tokens [B * V, S * N, D]: those of all clips of a view in one row."""
        views = pixels.shape[1]
        flat = rearrange(pixels, "b v s c f h w -> (b v s) c f h w")
        encoded = torch.cat([self.encode(part) for part in torch.split(flat, self.limit)])
        return rearrange(encoded, "(b v s) n d -> (b v) (s n) d", b=len(pixels), v=views)

    @contextmanager
    def groups(
        self, load: Callable[[int], LabelledViews], samples: Sequence[NDArray[np.int64]]
    ) -> Iterator[Callable[[int], tuple[Tensor, Tensor]]]:
        """A function from the number of a group of samples, called in order, to its pixels and labels [B]."""
        flat = np.concatenate([*samples, np.empty(0, np.int64)])
        starts = np.cumsum([0, *map(len, samples)])
        ahead = PREFETCHED_GROUPS * max(map(len, samples), default=1)
        prefetcher = Prefetcher(lambda item: load(int(flat[item])), ahead, self.threads, len(flat), "decode")

        def group(number: int) -> tuple[Tensor, Tensor]:
            found = [each.result() for each in prefetcher.futures(int(starts[number]), len(samples[number]))]
            return torch.stack([each.pixels for each in found]), torch.tensor([each.label for each in found])

        try:
            yield group
        finally:
            prefetcher.close()

    def split(self, samples: NDArray[np.int64], views: int) -> list[NDArray[np.int64]]:
        """Samples of ``views`` clips each in groups that are encoded at once."""
        size = max(1, self.limit // views)
        return [samples[start : start + size] for start in range(0, len(samples), size)]


class Poolers:
    """All candidates of a probe with all seeds, and their optimizers. Collective."""

    def __init__(
        self,
        config: PoolerProbeConfig,
        width: int,
        classes: int,
        seeds: Sequence[int],
        device: torch.device,
        timeout: timedelta,
    ) -> None:
        """timeout: limit of an exchange of gradients. Raises InputError if config.heads does not divide the width."""
        self.config = config
        self.settings = [
            ProbeHyperparameters(s["lr"], s["weight_decay"], seed) for s in config.settings for seed in seeds
        ]
        self.heads = [_initial(config, width, classes, setting.seed).to(device) for setting in self.settings]
        self._optimizers = [
            eager_optimizer(AdamW, list(head.parameters()), lr=s.lr, weight_decay=s.weight_decay, fused=True)
            for head, s in zip(self.heads, self.settings, strict=True)
        ]
        self._device = device
        nccl = world_size() > 1 and device.type == "cuda"
        self._group = dist.new_group(backend="nccl", timeout=timeout) if nccl else None

    def accumulate(self, source: PoolerSource, pixels: Tensor, labels: Tensor, samples: int) -> None:
        """Add the gradients of the cross-entropy of pixels [B, 1, ...], divided by the ``samples`` of the batch."""
        with torch.no_grad():
            tokens = source.tokens(pixels)
        for head in self.heads:
            loss = cross_entropy(self._logits(head, tokens), labels.to(self._device), reduction="sum") / samples
            torch.autograd.backward(loss)

    def step(self, number: int, steps_per_epoch: int) -> None:
        """Update all candidates with the gradients of all processes; ``number`` counts updates from 1. Collective."""
        for head, optimizer, setting in zip(self.heads, self._optimizers, self.settings, strict=True):
            self._sum_gradients(head)
            optimizer.param_groups[0]["lr"] = learning_rate(self.config, setting.lr, number, steps_per_epoch)
            optimizer.step()
            optimizer.zero_grad()

    def probabilities(self, head: PoolerClassifier, tokens: Tensor, views: int) -> Tensor:
        """Tokens [B * V, N, D] of V crops per sample -> mean probability of each class [B, classes]."""
        probabilities = self._logits(head, tokens).float().softmax(-1)
        return reduce(probabilities, "(b v) c -> b c", "mean", v=views)

    def select(self, rows: Sequence[int]) -> list[PoolerClassifier]:
        """Some of the classifiers."""
        return [self.heads[row] for row in rows]

    def save(self, path: Path, key: str, epochs: int) -> None:
        """Write weights and moments after ``epochs`` epochs; ``key`` names what they belong to."""
        state = {
            "key": key,
            "epochs": epochs,
            "heads": [head.state_dict() for head in self.heads],
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f"{path.name}.partial")
        torch.save(state, temporary)
        fsync(temporary)
        temporary.rename(path)

    def load(self, path: Path, key: str, group: GlooGroup) -> int:
        """Continue from a saved state; the number of epochs done, 0 if there is no usable one. Collective."""
        state = _read_state(path, key) if is_main() else None
        epochs: int = group.gather_objects(state["epochs"] if state else 0)[0]
        if not epochs:
            return 0
        state = state or _read_state(path, key)
        assert state is not None and state["epochs"] == epochs, f"{path} differs between processes"
        for head, optimizer, weights, moments in zip(
            self.heads, self._optimizers, state["heads"], state["optimizers"], strict=True
        ):
            head.load_state_dict(weights)
            optimizer.load_state_dict(moments)
        return epochs

    def _logits(self, head: PoolerClassifier, tokens: Tensor) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            logits: Tensor = head(tokens)
        return logits

    def _sum_gradients(self, head: PoolerClassifier) -> None:
        """Sum over processes; a process without samples in this batch adds zeros."""
        parameters = list(head.parameters())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if world_size() == 1:
            return
        flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        dist.all_reduce(flat, group=self._group)
        for parameter, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)


def train_poolers(
    poolers: Poolers,
    source: PoolerSource,
    samples: NDArray[np.int64],
    clips: int,
    seed: int,
    first_epoch: int,
    advance: Advance,
    finished: Callable[[int], None],
) -> None:
    """Train on ``samples`` from ``first_epoch`` on; ``clips`` clips of each sample are one row of tokens. Collective.

    Every epoch is a new permutation, whose last batch may be smaller. advance: called after each update. finished:
    called after each epoch with the number of epochs done.
    """
    size = poolers.config.batch_size
    for epoch in range(first_epoch, poolers.config.epochs):
        order = np.random.default_rng((seed, epoch)).permutation(samples)
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        parts = [source.split(batch[rank() :: world_size()], clips) for batch in batches]
        load = partial(source.clips.augmented, epoch=epoch)
        with source.groups(load, [part for groups in parts for part in groups]) as group:
            numbers = iter(range(sum(map(len, parts))))
            for done, (batch, own) in enumerate(zip(batches, parts, strict=True), start=1):
                for number in islice(numbers, len(own)):
                    poolers.accumulate(source, *group(number), len(batch))
                poolers.step(epoch * len(batches) + done, len(batches))
                advance()
        finished(epoch + 1)


@torch.inference_mode()
def predict_poolers(
    poolers: Poolers,
    heads: Sequence[PoolerClassifier],
    source: PoolerSource,
    samples: NDArray[np.int64],
    views: int,
    group: GlooGroup,
    advance: Advance,
) -> NDArray[np.int64]:
    """Predicted class of each head for each sample [S, n], on all processes, which share the samples. Collective.

    views: crops times clips of a sample. Clips are tokens of one row; the probabilities of the crops are averaged.
    advance: called after each group of samples.
    """
    groups = source.split(samples[rank() :: world_size()], views)
    predicted = [np.empty((len(heads), 0), np.int64)]
    with source.groups(source.clips.views, groups) as load:
        for number in range(len(groups)):
            pixels, _ = load(number)
            tokens = source.tokens(pixels)
            classes = [poolers.probabilities(head, tokens, pixels.shape[1]).argmax(-1) for head in heads]
            predicted.append(torch.stack(classes).cpu().numpy())
            advance()
    everything = np.empty((len(heads), len(samples)), np.int64)
    for number, part in enumerate(group.gather_objects(np.concatenate(predicted, axis=1))):
        everything[:, number :: world_size()] = part
    return everything


def learning_rate(config: PoolerProbeConfig, lr: float, step: int, steps_per_epoch: int) -> float:
    """Learning rate of update ``step``, counted from 1: linear from ``start_lr``, then a cosine to 0 at the last."""
    warmup, steps = int(config.warmup * steps_per_epoch), config.epochs * steps_per_epoch
    if step < warmup:
        start = lr if config.start_lr is None else config.start_lr
        return start + step / warmup * (lr - start)
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _initial(config: PoolerProbeConfig, width: int, classes: int, seed: int) -> PoolerClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PoolerClassifier(width, classes, config.blocks, config.heads)


def _read_state(path: Path, key: str) -> dict[str, Any] | None:
    """A state that belongs to ``key``; None if there is none, or the file is damaged."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state if state["key"] == key else None
    except DAMAGED_FILE:
        return None
