"""Clips of the splits of a benchmark under one protocol, and the features of one or several runs on them."""

import logging
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_jepa.config.benchmark import (
    BenchmarkConfig,
    Pooling,
    ProtocolConfig,
    ProtocolName,
    Weights,
    current_protocol,
)
from hpc_jepa.data.evaluation_clips import Corruption, EvaluationClips
from hpc_jepa.data.shards.duplicates import shared_videos
from hpc_jepa.data.shards.manifest import read_manifest
from hpc_jepa.distributed import GlooGroup, is_main, rank, world_size
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation.class_names import training_numbers
from hpc_jepa.evaluation.extraction import (
    ExtractedFeatures,
    FeatureExtraction,
    TokenEncoder,
    extract_together,
)
from hpc_jepa.evaluation.frozen_features import FrozenFeatures
from hpc_jepa.evaluation.probes.probe_registry import validate_probes
from hpc_jepa.evaluation.progress import Progress
from hpc_jepa.evaluation.targets import read_targets, with_targets

LOG = logging.getLogger(__name__)
COLLECTIVE_TIMEOUT = timedelta(days=1)
"""Long, because the first process trains probes while the others wait for the next clips."""

SplitName = Literal["train", "test"]
T = TypeVar("T")


class SplitLabels(NamedTuple):
    """Samples of a split [n], ascending, their classes [n], and numbers of their source videos [n] if known."""

    samples: NDArray[np.int64]
    labels: NDArray[np.int64]
    clusters: NDArray[np.int64] | None


@dataclass(frozen=True, eq=False)
class FeatureRequest:
    """Features of a split that a run needs next, in files below ``folder``, which must not exist.

    only: samples to read; None: all samples of the protocol.
    """

    split: SplitName
    encoders: Mapping[Weights, TokenEncoder]
    poolings: Sequence[Pooling]
    folder: Path
    title: str = ""
    corruption: Corruption | None = None
    only: NDArray[np.int64] | None = None

    @property
    def clips(self) -> tuple[object, ...]:
        """Equal for requests that read the same clips of one benchmark and protocol."""
        return self.split, self.corruption, None if self.only is None else self.only.tobytes()


FeatureWork = Generator[FeatureRequest, ExtractedFeatures, T]
"""Work on a run that pauses at each request and goes on with the features; it returns a T."""


@dataclass(frozen=True)
class SplitClips:
    """The splits of a benchmark under one protocol, and the processes that share the work.

    cluster_names: names of the source videos of the splits that were read, if known.
    """

    benchmark: BenchmarkConfig
    protocol: ProtocolName
    progress: Progress
    group: GlooGroup
    cluster_names: dict[SplitName, set[str]] = field(default_factory=dict, compare=False)
    checked: set[str] = field(default_factory=set, compare=False)

    @classmethod
    def open(
        cls, benchmark: BenchmarkConfig, protocol: ProtocolName, progress: Progress, group: GlooGroup
    ) -> "SplitClips":
        """Raises InputError if the protocol or one of its probes is unknown."""
        protocol = current_protocol(protocol)
        if protocol not in benchmark.protocols:
            known = ", ".join(benchmark.protocols)
            raise InputError(f"{benchmark.name}: unknown protocol '{protocol}'; choose from {known}")
        validate_probes(benchmark, protocol)
        return cls(benchmark, protocol, progress, group)

    @property
    def config(self) -> ProtocolConfig:
        """Configuration of the protocol."""
        return self.benchmark.protocols[self.protocol]

    def shards(self, split: SplitName) -> Path:
        """Shard folder of a split."""
        return self.config.train if split == "train" else self.config.test

    def check_splits(self) -> None:
        """Raise InputError if the test split is part of the training split, or has classes that this does not have;
        warn once about single shared videos.
        """
        config = self.config
        if "splits" in self.checked:
            return
        if self.benchmark.target is None:
            numbers = training_numbers(config.train, config.test)
            if numbers is not None and is_main():
                LOG.info("%s: %d classes numbered by name as in %s", config.test, len(numbers), config.train)
        if not is_main():
            return
        shared = shared_videos(config.train, config.test)
        samples = read_manifest(config.test).samples
        if len(shared) == samples:
            raise InputError(
                f"{config.test}: all test videos are in {config.train} too; name the shards of the test split"
            )
        if shared:
            train, test = shared[0]
            LOG.warning(
                "%s: %d of %d test videos are in %s too, for example %s as %s: the accuracy is too high",
                config.test, len(shared), samples, config.train, test, train,
            )  # fmt: skip
        self.checked.add("splits")

    def extract(
        self, requests: Sequence[FeatureRequest], *, isolated: bool = False
    ) -> list[ExtractedFeatures | Exception | None]:
        """The features of each request from one pass over the clips, which are those of all requests. Collective.

        See :func:`hpc_jepa.evaluation.extraction.extract_together` for ``isolated`` and the results.
        """
        first, config = requests[0], self.config
        split, samples = first.split, self.samples(first.split) if first.only is None else first.only
        threads = torch.get_num_threads()
        passes = [
            EvaluationClips(
                self.shards(split), config.clip, config.batch_size, rank(), world_size(), threads, samples, number,
                first.corruption, self._training_numbers(split),
            )
            for number in range(config.clip.views)
        ]  # fmt: skip
        target = self.benchmark.target
        if target is None:
            self._check_labels(split, passes[0].labels)
        targets = None if target is None else read_targets(self.shards(split), target.key, samples, self.group)
        clusters = self._clusters(split, samples, passes[0])
        extractions = [
            (
                FeatureExtraction(
                    each.folder, each.poolings, config.feature_precision, config.pooled_precision,
                    config.feature_limit * 2**30,
                ),
                each.encoders,
            )
            for each in requests
        ]  # fmt: skip
        batches = sum(math.ceil(len(clips) / config.batch_size) for clips in passes)
        title = first.title or f"features of {split} clips"
        if len(requests) > 1:
            title += f", {len(requests)} evaluations"
        with self.progress(title, batches) as advance:
            found = extract_together(
                extractions, passes, len(samples) * len(passes), self.group, advance, isolated=isolated
            )

        def completed(features: FrozenFeatures) -> FrozenFeatures:
            if clusters is not None:
                features = replace(features, clusters=clusters[np.searchsorted(samples, features.samples)])
            return features if targets is None else with_targets(features, samples, targets)

        return [
            {key: completed(features) for key, features in each.items()} if isinstance(each, dict) else each
            for each in found
        ]

    def split_labels(self, split: SplitName) -> SplitLabels:
        """Classes and source videos of the samples of a split, without decoding them. Collective."""
        samples = self.samples(split)
        clips = EvaluationClips(
            self.shards(split),
            self.config.clip,
            self.config.batch_size,
            rank(),
            world_size(),
            subset=samples,
            numbers=self._training_numbers(split),
        )
        self._check_labels(split, clips.labels)
        labels = np.empty(len(samples), np.int64)
        for number, own in enumerate(self.group.gather_objects(clips.labels.numpy())):
            labels[number :: world_size()] = own
        return SplitLabels(samples, labels, self._clusters(split, samples, clips))

    def _clusters(
        self, split: SplitName, samples: NDArray[np.int64], clips: EvaluationClips
    ) -> NDArray[np.int64] | None:
        """[samples]: number of the source video of each sample; None if the shards do not name them. Collective."""
        known = read_manifest(self.shards(split)).known_clusters
        if known == "unknown":
            return None
        if known == "independent":
            return np.arange(len(samples))
        gathered = self.group.gather_objects(dict(zip(clips.indices.tolist(), clips.clusters, strict=True)))
        names = {sample: name for part in gathered for sample, name in part.items()}
        if None in names.values():
            raise DataError(
                f"{self.shards(split)}: a sample has no cluster, but the manifest says that all have one; build again"
            )
        ordered = [names[sample] for sample in samples.tolist()]
        self._note_clusters(split, set(ordered))
        return np.unique(np.array(ordered), return_inverse=True)[1]

    def _note_clusters(self, split: SplitName, names: set[str]) -> None:
        """Warn once if the training and test clips share source videos."""
        if split in self.cluster_names:
            return
        self.cluster_names[split] = names
        splits = (self.cluster_names.get(name, set[str]()) for name in ("train", "test"))
        shared = set.intersection(*splits)
        if shared and is_main():
            LOG.warning(
                "%s: %d source videos of the test clips are also in %s, for example %s: on clips of new videos the "
                "accuracy may be lower",
                self.config.test, len(shared), self.config.train, min(shared),
            )  # fmt: skip

    def samples(self, split: SplitName) -> NDArray[np.int64]:
        """Sample indices of a split that the protocol uses, ascending."""
        count = read_manifest(self.shards(split)).samples
        subset = self.config.subset
        if subset is None:
            return np.arange(count)
        size = subset.train if split == "train" else subset.test
        if size > count:
            raise DataError(f"{self.benchmark.name}: subset.{split} is {size}, but the split has {count} samples")
        return np.sort(np.random.RandomState(subset.seed).choice(count, size, replace=False))

    def _training_numbers(self, split: SplitName) -> NDArray[np.int64] | None:
        """Number of each class of a split among the training classes; None if it is its own, or of a target."""
        if split == "train" or self.benchmark.target is not None:
            return None
        return training_numbers(self.config.train, self.config.test)

    def _check_labels(self, split: SplitName, labels: Tensor) -> None:
        found: set[int] = set().union(*self.group.gather_objects(set(labels.tolist())))
        expected = set(range(self.benchmark.classes))
        if not found <= expected or (split == "train" and found != expected):
            raise DataError(
                f"{self.shards(split)}: labels are {_label_range(found)}, but {self.benchmark.name} has "
                f"classes {_label_range(expected)}; set protocols.{self.protocol}.{split} to its labelled shards"
            )


def _label_range(labels: set[int]) -> str:
    return f"{min(labels)}-{max(labels)} ({len(labels)})"
