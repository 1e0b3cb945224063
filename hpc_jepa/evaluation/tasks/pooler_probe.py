"""V-JEPA 2's frozen evaluation: poolers of several blocks, trained on augmented clips, tested on views of videos."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hpc_jepa.config.benchmark import Weights
from hpc_jepa.config.pooler_probe import PoolerProbeConfig
from hpc_jepa.data.probe_clips import ProbeClips
from hpc_jepa.data.shards.manifest import manifest_hash
from hpc_jepa.distributed import is_main, world_size
from hpc_jepa.evaluation.context import EvaluationContext
from hpc_jepa.evaluation.extraction import TokenEncoder
from hpc_jepa.evaluation.probes.fit import validation_rows
from hpc_jepa.evaluation.probes.pooler_trainer import (
    Poolers,
    PoolerSource,
    predict_poolers,
    train_poolers,
)
from hpc_jepa.evaluation.record import Candidate, ProbeResult, TaskResult, accuracy_fields
from hpc_jepa.evaluation.split_clips import COLLECTIVE_TIMEOUT, SplitLabels, SplitName
from hpc_jepa.evaluation.stats.metrics import class_metrics
from hpc_jepa.io.revision import code_revision

GIB = 2**30
LOG = logging.getLogger(__name__)


def evaluate_poolers(context: EvaluationContext, encoders: dict[Weights, TokenEncoder], result: TaskResult) -> None:
    """Add the accuracy of every such probe of the protocol on every encoder to ``result``. Collective."""
    configs = context.config.poolers
    if not configs:
        return
    train, test = context.clips.split_labels("train"), context.clips.split_labels("test")
    result.set_clips(test.labels, test.samples, test.clusters)
    for name, encoder in encoders.items():
        for probe, config in configs.items():
            evaluation = _PoolerEvaluation(context, name, encoder, probe, config)
            result.add(*evaluation.run(train, test))


@dataclass(frozen=True)
class _PoolerEvaluation:
    """One probe on one encoder."""

    context: EvaluationContext
    weights: Weights
    encoder: TokenEncoder
    probe: str
    config: PoolerProbeConfig

    def run(self, train: SplitLabels, test: SplitLabels) -> tuple[ProbeResult, NDArray[np.int64]]:
        """The result and its predictions [S, n]. Collective."""
        config, seeds = self.config, self.context.config.probe_seeds
        rows, held_out = np.arange(len(train.labels)), np.empty(0, np.int64)
        if config.select == "validation" and self.context.config.validation:
            rows, held_out = validation_rows(train.labels, train.clusters, self.context.config.validation)
        poolers = self._trained(train.samples[rows])
        everyone = range(len(poolers.settings))
        if config.select == "test":
            predicted = self._predict(poolers, everyone, "test", test.samples)
            scores = _accuracy(predicted, test.labels, len(seeds))
        elif len(held_out):
            predicted = self._predict(poolers, everyone, "train", train.samples[held_out])
            scores = _accuracy(predicted, train.labels[held_out], len(seeds))
        else:
            scores = [0.0]
        best = int(np.argmax(scores))
        chosen = everyone[best * len(seeds) : (best + 1) * len(seeds)]
        if config.select == "test":
            predicted = predicted[list(chosen)]
        else:
            predicted = self._predict(poolers, chosen, "test", test.samples)
        return self._result(scores, best, bool(len(held_out)), predicted, test), predicted

    def _trained(self, samples: NDArray[np.int64]) -> Poolers:
        context, config = self.context, self.config
        source = self._source("train")
        with torch.inference_mode():
            width = source.tokens(source.clips.views(int(samples[0])).pixels[None]).shape[-1]
        poolers = Poolers(
            config, width, context.benchmark.classes, context.config.probe_seeds, context.device, COLLECTIVE_TIMEOUT
        )
        memory = config.memory(width, context.benchmark.classes, len(context.config.probe_seeds)) / GIB
        LOG.info(
            "%s: %d classifiers of %d blocks: %.1f GiB of weights, gradients and moments",
            self.probe, len(poolers.heads), config.blocks, memory,
        )  # fmt: skip
        key = self._key(samples)
        first = poolers.load(self._state_file, key, context.group)
        if first:
            LOG.info("%s: continues after epoch %d of %d", self.probe, first, config.epochs)

        def finished(epochs: int) -> None:
            if is_main():
                poolers.save(self._state_file, key, epochs)

        updates = (config.epochs - first) * -(-len(samples) // config.batch_size)
        with context.progress(f"{self.probe} probe, {self.weights}", updates) as advance:
            clips, seed = context.config.clip.clips, context.config.probe_seeds[0]
            train_poolers(poolers, source, samples, clips, seed, first, advance, finished)
        return poolers

    def _predict(
        self, poolers: Poolers, rows: range, split: SplitName, samples: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        context, source = self.context, self._source(split)
        views = context.config.clip.views
        own = source.split(samples[:: world_size()], views)
        title = f"{self.probe} probe on {'held-out' if split == 'train' else 'test'} clips, {self.weights}"
        with context.progress(title, len(own)) as advance:
            heads = poolers.select(rows)
            return predict_poolers(poolers, heads, source, samples, views, context.group, advance)

    def _source(self, split: SplitName) -> PoolerSource:
        context = self.context
        clips = ProbeClips(
            context.clips.shards(split), context.config.clip, self.config.augmentation, context.config.probe_seeds[0]
        )
        return PoolerSource(clips, self.encoder.encode, context.config.batch_size, torch.get_num_threads())

    @property
    def _state_file(self) -> Path:
        name = f"{self.probe}.{self.weights}".encode()
        return self.context.probe_states / f"{hashlib.sha256(name).hexdigest()[:16]}.pt"

    def _key(self, samples: NDArray[np.int64]) -> str:
        """Hash of all that decides what a saved state contains."""
        context = self.context
        parts = [
            context.run.config.fingerprint(),
            context.checkpoint.step,
            self.weights,
            self.encoder.sha256,
            self.config.model_dump(mode="json"),
            context.config.fingerprint(),
            manifest_hash(context.config.train),
            hashlib.sha256(samples.tobytes()).hexdigest(),
            code_revision(),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _result(
        self, scores: list[float], best: int, validated: bool, predicted: NDArray[np.int64], test: SplitLabels
    ) -> ProbeResult:
        settings, select = self.config.settings, self.config.select
        selected = select == "test" or validated
        return ProbeResult(
            weights=self.weights,
            probe=self.probe,
            pooling=self.config.pooling,
            probe_seeds=self.context.config.probe_seeds,
            metric="top1",
            setting=settings[best],
            candidates=tuple(
                Candidate.model_validate({"setting": setting, select: score})
                for setting, score in zip(settings, scores, strict=True)
                if selected
            ),
            selected_on=select if selected else None,
            **asdict(class_metrics(predicted, test.labels)),
            **accuracy_fields(predicted == test.labels, test.clusters),
        )


def _accuracy(predicted: NDArray[np.int64], labels: NDArray[np.int64], seeds: int) -> list[float]:
    """Predictions [settings * seeds, n] -> accuracy of each setting, mean over seeds."""
    accuracies: list[float] = (predicted == labels).reshape(-1, seeds * len(labels)).mean(axis=1).tolist()
    return accuracies
