"""Evaluation context: one run, one protocol of one benchmark, and feature extraction for it on all processes."""

import logging
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_jepa.checkpoint.layout import Checkpoint, RemovedCheckpointError, open_checkpoint, resolve_checkpoint
from hpc_jepa.config.benchmark import BenchmarkConfig, Pooling, ProtocolConfig, ProtocolName, Weights, current_protocol
from hpc_jepa.config.training import DeviceSetting
from hpc_jepa.data.evaluation_clips import Corruption, EvaluationClips
from hpc_jepa.data.shards.manifest import read_manifest
from hpc_jepa.devices import select_device
from hpc_jepa.distributed import GlooGroup, is_main, rank, world_size
from hpc_jepa.errors import CheckpointError, DataError, HpcJepaError, InputError
from hpc_jepa.evaluation.class_names import training_numbers
from hpc_jepa.evaluation.external_encoders import is_external, load_external_encoder
from hpc_jepa.evaluation.extraction import Encode, ExtractedFeatures, FeatureExtraction, TokenEncoder
from hpc_jepa.evaluation.probes.probe_registry import validate_probes
from hpc_jepa.evaluation.progress import Progress
from hpc_jepa.evaluation.run_encoders import load_run_encoders
from hpc_jepa.evaluation.targets import read_targets, with_targets
from hpc_jepa.kernels.build_tools import require_build_tools
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.runs.process_identity import is_in_use, mark_in_use
from hpc_jepa.runs.run_dir import RunDir, open_run

LOG = logging.getLogger(__name__)
COLLECTIVE_TIMEOUT = timedelta(days=1)
"""Long, because the first process trains probes while the others wait for the next clips."""

FEATURES_PREFIX = ".features-"
STATES_PREFIX = ".probes-"

SplitName = Literal["train", "test"]


class SplitLabels(NamedTuple):
    """Samples of a split [n], ascending, their classes [n], and numbers of their source videos [n] if known."""

    samples: NDArray[np.int64]
    labels: NDArray[np.int64]
    clusters: NDArray[np.int64] | None


class StepNotKeptError(InputError):
    """The run has no checkpoint of a chosen step: never saved, or removed."""


@dataclass(frozen=True)
class EvaluationContext:
    """One run under one protocol of one benchmark, the processes that share the work, and their device.

    step: chosen step, None for the newest checkpoint. cluster_names: names of the source videos of the splits that were
    read, if known.
    """

    run: RunDir
    checkpoint: Checkpoint
    benchmark: BenchmarkConfig
    protocol: ProtocolName
    progress: Progress
    group: GlooGroup
    device: torch.device
    step: int | None = None
    cluster_names: dict[SplitName, set[str]] = field(default_factory=dict, compare=False)

    @classmethod
    def open(
        cls,
        folder: Path,
        benchmark: BenchmarkConfig,
        protocol: ProtocolName,
        progress: Progress,
        device: DeviceSetting | None = None,
        step: int | None = None,
    ) -> "EvaluationContext":
        """Open a run folder. Collective: all processes must call it. ``device``: None: as the run's engine.device.

        Raises StepNotKeptError if the run has no checkpoint of ``step``, InputError if the folder is not a run, the
        protocol or one of its probes is unknown, or like :func:`hpc_jepa.devices.choose_device`; CheckpointError if the
        run has no checkpoint; HpcJepaError if Triton cannot start kernels on this node.
        """
        protocol = current_protocol(protocol)
        if protocol not in benchmark.protocols:
            known = ", ".join(benchmark.protocols)
            raise InputError(f"{benchmark.name}: unknown protocol '{protocol}'; choose from {known}")
        validate_probes(benchmark, protocol)
        run = open_run(folder)
        run.refuse_links_outside()
        group = GlooGroup(COLLECTIVE_TIMEOUT)
        checkpoint = _newest_checkpoint(folder, group) if step is None else _checkpoint_of(run, step, group)
        chosen = select_device(device or run.config.engine.device)
        if chosen.type == "cuda":
            require_build_tools()
        return cls(run, checkpoint, benchmark, protocol, progress, group, chosen, step)

    @property
    def config(self) -> ProtocolConfig:
        """Configuration of the protocol."""
        return self.benchmark.protocols[self.protocol]

    def with_newest_checkpoint(self) -> "EvaluationContext":
        """The same for the checkpoint that is the newest now. Collective."""
        return replace(self, checkpoint=_newest_checkpoint(self.run.path, self.group))

    def encoders(self, names: Sequence[Weights]) -> dict[Weights, TokenEncoder]:
        """The named encoders on the device. Collective.

        Raises RemovedCheckpointError on all processes if the training run has removed the checkpoint meanwhile.
        """
        clip, config = self.config.clip, self.run.config
        own = self._own_encoders([name for name in names if not is_external(name)])
        tubelets = clip.frames // config.model.encoder.tubelet
        encoders = {n: TokenEncoder(self._checked(encoder.forward_features), tubelets) for n, encoder in own.items()}
        for name in filter(is_external, names):
            encoders[name] = load_external_encoder(name, clip, config.seed, self.device)
        return {name: self._on_device(encoders[name]) for name in names}

    @property
    def probe_states(self) -> Path:
        """Folder for the states of probes in training, until the record is written."""
        step = "" if self.step is None else f".{self.step}"
        return self.run.path / f"{STATES_PREFIX}{self.benchmark.name}.{self.protocol}{step}"

    @contextmanager
    def scratch_dir(self) -> Iterator[Path]:
        """A temporary folder in the run that all processes see; the first process deletes it on exit.

        Folders of killed processes of this machine are deleted too.
        """
        if not is_main():
            yield Path(self.group.gather_objects(None)[0])
            return
        for left in self.run.path.glob(f"{FEATURES_PREFIX}*"):
            if not is_in_use(left):
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=FEATURES_PREFIX, dir=self.run.path) as folder:
            mark_in_use(Path(folder))
            self.group.gather_objects(folder)
            yield Path(folder)

    def features(
        self,
        split: SplitName,
        encoders: dict[Weights, TokenEncoder],
        poolings: Sequence[Pooling],
        folder: Path,
        *,
        title: str = "",
        corruption: Corruption | None = None,
        only: NDArray[np.int64] | None = None,
    ) -> ExtractedFeatures:
        """Features of a split from all processes, in files below ``folder``, which must not exist. Collective.

        only: samples to read; None: all samples of the protocol.
        """
        config = self.config
        samples = self.samples(split) if only is None else only
        threads = torch.get_num_threads()
        passes = [
            EvaluationClips(
                self.shards(split), config.clip, config.batch_size, rank(), world_size(), threads, samples, number,
                corruption, self._training_numbers(split),
            )
            for number in range(config.clip.views)
        ]  # fmt: skip
        target = self.benchmark.target
        if target is None:
            self._check_labels(split, passes[0].labels)
        targets = None if target is None else read_targets(self.shards(split), target.key, samples, self.group)
        clusters = self._clusters(split, samples, passes[0])
        extraction = FeatureExtraction(
            folder, poolings, config.feature_precision, config.pooled_precision, config.feature_limit * 2**30
        )
        batches = sum(math.ceil(len(clips) / config.batch_size) for clips in passes)
        with self.progress(title or f"features of {split} clips", batches) as advance:
            features = extraction.run(encoders, passes, len(samples) * len(passes), self.group, advance)
        if clusters is not None:
            features = {
                key: replace(found, clusters=clusters[np.searchsorted(samples, found.samples)])
                for key, found in features.items()
            }
        return features if targets is None else {key: with_targets(f, samples, targets) for key, f in features.items()}

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

    def _own_encoders(self, names: Sequence[Weights]) -> dict[Weights, Encoder]:
        own: dict[Weights, Encoder] = {}
        failure: RemovedCheckpointError | None = None
        try:
            own = load_run_encoders(self.run.config, self.checkpoint, names, self.device)
        except RemovedCheckpointError as error:
            failure = error
        for removed in filter(None, self.group.gather_objects(failure)):
            raise removed
        return own

    def shards(self, split: SplitName) -> Path:
        """Shard folder of a split."""
        return self.config.train if split == "train" else self.config.test

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

    def _checked(self, encode: Encode) -> Encode:
        """``encode`` that raises InputError for clips that cannot be divided into whole tokens of the run's encoder."""
        encoder = self.run.config.model.encoder
        token = (encoder.tubelet, encoder.patch, encoder.patch)

        def checked(pixels: Tensor) -> Tensor:
            clip = tuple(pixels.shape[2:])
            if any(side % part for side, part in zip(clip, token, strict=True)):
                raise InputError(
                    f"{self.benchmark.name}: protocols.{self.protocol}.clip: clips of {_dimensions(clip)} (frames x "
                    f"pixels) do not divide into tokens of {_dimensions(token)}; change frames or size"
                )
            return encode(pixels)

        return checked

    def _on_device(self, encoder: TokenEncoder) -> TokenEncoder:
        """The encoder for pixels on the CPU, with autocast as the protocol's encoder_precision says."""
        device, bf16 = self.device, self.config.encoder_precision == "bf16"

        def encode(pixels: Tensor) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                return encoder.encode(pixels.to(device))

        return replace(encoder, encode=encode)


def _newest_checkpoint(folder: Path, group: GlooGroup) -> Checkpoint:
    """The one that the first process finds: a training run may save another one before the last process looks."""
    checkpoint: Checkpoint = group.gather_objects(resolve_checkpoint(folder))[0]
    return checkpoint


def _checkpoint_of(run: RunDir, step: int, group: GlooGroup) -> Checkpoint:
    """The one that the first process finds. Raises StepNotKeptError on all processes if there is none."""
    found: Checkpoint | HpcJepaError = group.gather_objects(_find_step(run, step) if is_main() else None)[0]
    if isinstance(found, HpcJepaError):
        raise found
    return found


def _find_step(run: RunDir, step: int) -> Checkpoint | HpcJepaError:
    folder = run.checkpoint_dir(step)
    try:
        return open_checkpoint(folder)
    except CheckpointError as error:
        if folder.is_dir():
            return error
    kept = ", ".join(map(str, run.checkpoint_steps())) or "none"
    return StepNotKeptError(f"{run}: no checkpoint of step {step}; it has {kept} (checkpoint.keep_every keeps more)")


def _dimensions(sides: Sequence[int]) -> str:
    return "x".join(str(side) for side in sides)


def _label_range(labels: set[int]) -> str:
    return f"{min(labels)}-{max(labels)} ({len(labels)})"
