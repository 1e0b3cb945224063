"""What is judged: one run under one protocol of one benchmark, and how features are made of its clips."""

import math
import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_jepa.config.benchmark import BenchmarkConfig, Pooling, ProtocolConfig, ProtocolName, Task, Weights
from hpc_jepa.data.evaluation_clips import Corruption, EvaluationClips
from hpc_jepa.data.shards.manifest import MANIFEST_NAME, manifest_hash, read_manifest
from hpc_jepa.distributed import GlooGroup, is_main, local_device, rank, world_size
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation import external_encoders
from hpc_jepa.evaluation.external_encoders import is_external
from hpc_jepa.evaluation.extraction import Encode, ExtractedFeatures, FeatureExtraction, TokenEncoder
from hpc_jepa.evaluation.progress import Progress
from hpc_jepa.evaluation.record import RunIdentity
from hpc_jepa.evaluation.run_encoders import TrainedRun, load_run_encoders
from hpc_jepa.io.revision import code_revision

SOFTWARE_PACKAGES = ("hpc_jepa", "torch", "scikit-learn", "statsmodels", "scipy", "numpy")
COLLECTIVE_TIMEOUT = timedelta(days=1)
"""The first process trains probes while the others wait for the next clips."""

SplitName = Literal["train", "test"]


@dataclass(frozen=True)
class EvaluationContext:
    """One run under one protocol of one benchmark. Raises InputError where the benchmark has no such protocol."""

    run: TrainedRun
    benchmark: BenchmarkConfig
    protocol: ProtocolName
    progress: Progress
    group: GlooGroup = field(default_factory=lambda: GlooGroup(COLLECTIVE_TIMEOUT))
    device: torch.device = field(default_factory=local_device)

    @cached_property
    def config(self) -> ProtocolConfig:
        """What the protocol asks for."""
        if self.protocol not in self.benchmark.protocols:
            known = ", ".join(self.benchmark.protocols)
            raise InputError(f"{self.benchmark.name} has no protocol '{self.protocol}'; it has {known}")
        return self.benchmark.protocols[self.protocol]

    def metadata(self, task: Task) -> dict[str, Any]:
        """What a record says beside its results and the encoders they are of."""
        run, config = self.run.config, self.config
        identity = RunIdentity(
            study=run.study,
            regime=run.regime,
            variant=run.variant,
            seed=run.seed,
            semantics=run.semantics.preset,
            overridden=run.semantics.overridden(),
            fingerprint=run.fingerprint(),
            step=self.run.checkpoint.step,
            steps=run.schedule.steps,
        )
        return {
            "run": identity,
            "benchmark": self.benchmark.name,
            "title": self.benchmark.title,
            "classes": self.benchmark.classes,
            "protocol": self.protocol,
            "protocol_fingerprint": config.fingerprint(None if task == "probe" else task),
            "data": {"train": self._data_hash(config.train), "test": self._data_hash(config.test)},
            "software": {
                "commit": code_revision(),
                "python": platform.python_version(),
                **{name: version(name) for name in SOFTWARE_PACKAGES},
            },
        }

    def encoders(self, names: Sequence[Weights]) -> tuple[dict[Weights, TokenEncoder], dict[Weights, str]]:
        """The named encoders, and the SHA-256 of those from elsewhere."""
        own = load_run_encoders(self.run, [name for name in names if not is_external(name)], self.device)
        tubelets = self.config.clip.frames // self.run.config.model.encoder.tubelet
        found = {name: TokenEncoder(self._checked(encoder.forward_features), tubelets) for name, encoder in own.items()}
        hashes: dict[Weights, str] = {}
        for name in filter(is_external, names):
            encoder, hashes[name] = external_encoders.load_external_encoder(
                name, self.config.clip, self.run.config.seed, self.device
            )
            found[name] = encoder
        return {name: self._on_device(found[name]) for name in names}, hashes

    @contextmanager
    def scratch_dir(self) -> Iterator[Path]:
        """A folder that all processes see, as long as the first one needs it."""
        if not is_main():
            yield Path(self.group.gather_objects(None)[0])
            return
        with tempfile.TemporaryDirectory(prefix=".features-", dir=self.run.folder) as folder:
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
        """Features of a split, of all processes together, in files below ``folder``, which must not exist.

        ``only``: the samples to take; None: what the protocol asks for.
        """
        config = self.config
        shards = config.train if split == "train" else config.test
        samples = self.samples(split) if only is None else only
        threads = torch.get_num_threads()
        passes = [
            EvaluationClips(
                shards, config.clip, config.batch_size, rank(), world_size(), threads, samples, number, corruption
            )
            for number in range(config.clip.clips)
        ]
        self._check_labels(shards, split, passes[0].labels)
        extraction = FeatureExtraction(
            folder, poolings, config.feature_precision, config.pooled_precision, config.feature_limit * 2**30
        )
        batches = sum(math.ceil(len(clips) / config.batch_size) for clips in passes)
        with self.progress(title or f"features of {split} clips", batches) as advance:
            return extraction.run(encoders, passes, len(samples) * len(passes), self.group, advance)

    def samples(self, split: SplitName) -> NDArray[np.int64]:
        """Numbers of the samples of a split that the protocol asks for, rising."""
        count = read_manifest(self.config.train if split == "train" else self.config.test).samples
        subset = self.config.subset
        if subset is None:
            return np.arange(count)
        wanted = subset.train if split == "train" else subset.test
        if wanted > count:
            raise DataError(f"{self.benchmark.name}: subset.{split} asks for {wanted} samples, there are {count}")
        return np.sort(np.random.RandomState(subset.seed).choice(count, wanted, replace=False))

    def _data_hash(self, shards: Path) -> str:
        if self.benchmark.build and not (shards / MANIFEST_NAME).is_file():
            raise DataError(
                f"{shards}: no shards there; build those of {self.benchmark.title} with: {self.benchmark.build}"
            )
        read_manifest(shards)
        return manifest_hash(shards)

    def _check_labels(self, shards: Path, split: SplitName, labels: Tensor) -> None:
        found: set[int] = set().union(*self.group.gather_objects(set(labels.tolist())))
        expected = set(range(self.benchmark.classes))
        if not found <= expected or (split == "train" and found != expected):
            raise DataError(
                f"{shards}: its labels are {_label_range(found)}, but {self.benchmark.name} "
                f"has classes {_label_range(expected)}; "
                "name the labelled shards of this benchmark in its protocol"
            )

    def _checked(self, encode: Encode) -> Encode:
        """``encode``, told of clips [B, C, F, Hp, Wp] that cannot be cut into whole tokens."""
        config = self.run.config.model.encoder
        token = (config.tubelet, config.patch, config.patch)

        def checked(pixels: Tensor) -> Tensor:
            clip = tuple(pixels.shape[2:])
            if any(side % part for side, part in zip(clip, token, strict=True)):
                raise InputError(
                    f"{self.benchmark.name}.{self.protocol}.clip: {_dimensions(clip)} (frames x pixels) "
                    "cannot be cut into "
                    f"tokens of {_dimensions(token)}; choose multiples for frames and size"
                )
            return encode(pixels)

        return checked

    def _on_device(self, encoder: TokenEncoder) -> TokenEncoder:
        """The encoder for pixels from anywhere, in the arithmetic of the protocol."""
        device, enabled = self.device, self.config.encoder_precision == "bf16"

        def moved(pixels: Tensor) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                return encoder.encode(pixels.to(device))

        return TokenEncoder(moved, encoder.tubelets)


def _dimensions(sides: Sequence[int]) -> str:
    return "x".join(str(side) for side in sides)


def _label_range(labels: set[int]) -> str:
    return f"{min(labels)}-{max(labels)} ({len(labels)})"
