"""Evaluate a run on a benchmark: one decode pass, every encoder, every probe, one record."""

import math
import platform
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_jepa.config.benchmark import (
    BenchmarkConfig,
    LinearProbeConfig,
    ProbeConfig,
    ProtocolConfig,
    ProtocolName,
    Weights,
)
from hpc_jepa.data.evaluation import EvaluationClips
from hpc_jepa.data.shards.manifest import manifest_hash, read_manifest
from hpc_jepa.distributed import local_device
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation import attentive, linear, record
from hpc_jepa.evaluation.features import Encode, FrozenFeatures, extract
from hpc_jepa.evaluation.progress import Progress, silent
from hpc_jepa.evaluation.record import EvaluationRecord, Predictions, Result, RunIdentity
from hpc_jepa.evaluation.statistics import accuracy
from hpc_jepa.evaluation.weights import TrainedRun, encoders, open_run

SOFTWARE = ("hpc_jepa", "torch", "scikit-learn", "statsmodels", "scipy", "numpy")

Split = Literal["train", "test"]


def evaluate(
    folder: Path,
    benchmark: BenchmarkConfig,
    protocol: ProtocolName,
    weights: Sequence[Weights],
    *,
    force: bool = False,
    progress: Progress = silent,
) -> EvaluationRecord:
    """Evaluate the newest checkpoint of a run and write the record.

    Weights that the record already holds for this checkpoint, protocol and data are not evaluated again, unless
    ``force``. Raises InputError, DataError or CheckpointError in one line.
    """
    evaluator = Evaluator(open_run(folder), benchmark, protocol, progress)
    path = record.record_path(folder, benchmark.name, protocol)
    facts = evaluator.facts()
    old = None if force or not path.is_file() else record.read(path)
    if old is not None and not _same_work(old, facts):
        old = None
    missing = [name for name in dict.fromkeys(weights) if old is None or name not in old.weights]
    if old is not None and not missing:
        return old
    kept = record.read_predictions(path, old) if old is not None else {}
    predictions = {**kept, **evaluator.predictions(missing)}
    results = [*(old.results if old else ()), *evaluator.results(predictions, missing)]
    return record.write(path, {**facts, "results": results}, predictions)


@dataclass(frozen=True)
class Evaluator:
    """One run under one protocol of one benchmark."""

    run: TrainedRun
    benchmark: BenchmarkConfig
    protocol: ProtocolName
    progress: Progress

    @property
    def task(self) -> ProtocolConfig:
        """What the protocol asks for. Raises InputError where the benchmark has no such protocol."""
        if self.protocol not in self.benchmark.protocols:
            known = ", ".join(self.benchmark.protocols)
            raise InputError(f"{self.benchmark.name} has no protocol '{self.protocol}'; it has {known}")
        return self.benchmark.protocols[self.protocol]

    def facts(self) -> dict[str, Any]:
        """All of the record but its results."""
        config, task = self.run.config, self.task
        identity = RunIdentity(
            study=config.study,
            regime=config.regime,
            variant=config.variant,
            seed=config.seed,
            semantics=config.semantics.preset,
            overridden=config.semantics.overridden(),
            fingerprint=config.fingerprint(),
            step=self.run.checkpoint.step,
            steps=config.schedule.steps,
        )
        return {
            "run": identity,
            "benchmark": self.benchmark.name,
            "title": self.benchmark.title,
            "classes": self.benchmark.classes,
            "protocol": self.protocol,
            "protocol_fingerprint": task.fingerprint(),
            "data": {"train": _data_hash(task.train), "test": _data_hash(task.test)},
            "software": {"python": platform.python_version(), **{name: version(name) for name in SOFTWARE}},
        }

    def predictions(self, names: Sequence[Weights]) -> Predictions:
        """What every probe says about every test clip, for the named weights."""
        device = local_device()
        networks = encoders(self.run, names, device)
        encode = {
            name: _on(device, self._fitting(encoder.evaluate), self.task.encoder_precision)
            for name, encoder in networks.items()
        }
        with tempfile.TemporaryDirectory(prefix="hpc_jepa-features-") as folder:
            train = self._features("train", encode, Path(folder))
            test = self._features("test", encode, Path(folder))
            truth = test[names[0]]
            predictions = {"labels": truth.labels, "samples": truth.samples}
            for name in names:
                for probe, config in self.task.probes.items():
                    title = f"{probe} probe, {name}"
                    predictions[f"{name}.{probe}"] = self._probe(title, config, train[name], test[name], device)
        return predictions

    def results(self, predictions: Predictions, names: Iterable[Weights]) -> list[Result]:
        """Accuracies and their intervals."""
        probes = self.task.probes.items()
        return [self._result(predictions, name, probe, config) for name in names for probe, config in probes]

    def _features(self, split: Split, encode: dict[Weights, Encode], folder: Path) -> dict[Weights, FrozenFeatures]:
        clips = self._clips(split)
        place = folder / split
        place.mkdir()
        tubelets = self.task.clip.frames // self.run.config.model.encoder.tubelet
        batches = math.ceil(len(clips) / self.task.batch_size)
        with self.progress(f"features of {split} clips", batches) as advance:
            return extract(encode, clips, tubelets, place, self.task.feature_precision, advance)

    def _fitting(self, encode: Encode) -> Encode:
        """``encode``, told of clips [B, C, F, Hp, Wp] that cannot be cut into whole tokens."""
        config = self.run.config.model.encoder
        token = (config.tubelet, config.patch, config.patch)

        def checked(pixels: Tensor) -> Tensor:
            clip = tuple(pixels.shape[2:])
            if any(side % part for side, part in zip(clip, token, strict=True)):
                raise InputError(
                    f"{self.benchmark.name}.{self.protocol}.clip: {_by(clip)} (frames x pixels) cannot be cut into "
                    f"tokens of {_by(token)}; choose multiples for frames and size"
                )
            return encode(pixels)

        return checked

    def _clips(self, split: Split) -> EvaluationClips:
        shards = self.task.train if split == "train" else self.task.test
        clips = EvaluationClips(shards, self.task.clip, self.task.batch_size, threads=torch.get_num_threads())
        found, expected = set(clips.labels.tolist()), set(range(self.benchmark.classes))
        if not found <= expected or (split == "train" and found != expected):
            raise DataError(
                f"{shards}: its labels are {_span(found)}, but {self.benchmark.name} has classes {_span(expected)}; "
                "name the labelled shards of this benchmark in its protocol"
            )
        return clips

    def _probe(
        self, title: str, config: ProbeConfig, train: FrozenFeatures, test: FrozenFeatures, device: torch.device
    ) -> NDArray[np.int64]:
        if isinstance(config, LinearProbeConfig):
            with self.progress(title, 1) as advance:
                predictions = linear.fit_and_predict(train, test, config)
                advance()
            return predictions
        with self.progress(title, attentive.updates(config, len(train))) as advance:
            return attentive.fit_and_predict(
                train, test, config, self.benchmark.classes, self.task.probe_seeds, device, advance
            )

    def _result(self, predictions: Predictions, name: Weights, probe: str, config: ProbeConfig) -> Result:
        right = record.correct(predictions, f"{name}.{probe}")
        share = accuracy(right)
        return Result(
            weights=name,
            probe=probe,
            pooling=config.pooling,
            probe_seeds=() if isinstance(config, LinearProbeConfig) else self.task.probe_seeds,
            metric="top1",
            value=share.value,
            low=share.low,
            high=share.high,
            n=right.shape[1],
            per_seed=tuple(right.mean(axis=1).tolist()),
        )


def _on(device: torch.device, encode: Encode, precision: Literal["fp32", "bf16"]) -> Encode:
    def moved(pixels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return encode(pixels.to(device))

    return moved


def _same_work(old: EvaluationRecord, facts: dict[str, Any]) -> bool:
    """Whether the record is about this checkpoint, protocol and data."""
    return all(getattr(old, key) == facts[key] for key in ("run", "protocol_fingerprint", "data"))


def _data_hash(shards: Path) -> str:
    read_manifest(shards)  # says how to build shards that are missing
    return manifest_hash(shards)


def _by(sides: Sequence[int]) -> str:
    return "x".join(str(side) for side in sides)


def _span(labels: set[int]) -> str:
    return f"{min(labels)}-{max(labels)} ({len(labels)})"
