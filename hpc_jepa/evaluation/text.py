"""Do frozen features lie where words can find them? Retrieval by caption and class names, with frames lost."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_jepa.config.benchmark import Weights
from hpc_jepa.data.shards.folder import ShardFolder
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import DataError
from hpc_jepa.evaluation import alignment
from hpc_jepa.evaluation.alignment import ProjectionHeads, ranks
from hpc_jepa.evaluation.corruptions import Damage
from hpc_jepa.evaluation.features import FrozenFeatures, Standardiser
from hpc_jepa.evaluation.outcome import Outcome
from hpc_jepa.evaluation.record import Predictions, TextResult
from hpc_jepa.evaluation.sentences import embed
from hpc_jepa.evaluation.statistics import accuracy
from hpc_jepa.evaluation.subject import Split, Subject

DROPOUT = "frame_dropout_random"
RECALLS = {"R@1": 1, "R@5": 5, "R@10": 10}


@dataclass(frozen=True)
class Captions:
    """Distinct captions as vectors [U, E], and which of them belongs to each sample of a split [n]."""

    vectors: Tensor
    which: Tensor

    @classmethod
    def of(cls, shards: Path, samples: NDArray[np.int64], device: torch.device) -> "Captions":
        """Captions of the samples. Raises DataError where one has none."""
        folder = ShardFolder(shards)
        texts = [folder.info(index).text for index in samples.tolist()]
        if None in texts:
            silent = folder.key(int(samples[texts.index(None)]))
            raise DataError(f"{shards}: {silent} has no caption; text alignment needs one for every sample")
        distinct, which = np.unique(np.array(texts, dtype=str), return_inverse=True)
        vectors = torch.from_numpy(embed(distinct.tolist(), device)).to(device)
        return cls(vectors, torch.from_numpy(which).to(device))


@dataclass(frozen=True)
class Reader:
    """The heads of one encoder and what they need to read features and class names."""

    heads: ProjectionHeads
    standardiser: Standardiser
    class_names: Tensor

    @torch.inference_mode()
    def read(self, features: FrozenFeatures, captions: Captions) -> dict[str, NDArray[np.int64]]:
        """By direction: rank of the first right answer [S, queries], or the class named [S, n]."""
        device = captions.vectors.device
        parts = [
            self.heads.videos(self.standardiser(features.batch(rows, device)).flatten(1)) for rows in features.chunks()
        ]
        videos, texts = torch.cat(parts, dim=1), self.heads.texts(captions.vectors)
        belongs = captions.which[:, None] == torch.arange(len(captions.vectors), device=device)
        named = (videos @ self.heads.texts(self.class_names).mT).argmax(dim=-1)
        return {
            "video_to_text": ranks(videos, texts, belongs).cpu().numpy(),
            "text_to_video": ranks(texts, videos, belongs.T).cpu().numpy(),
            "class_names": named.cpu().numpy(),
        }


def measure(subject: Subject, names: Sequence[Weights]) -> Outcome | None:
    """Retrieval and zero-shot classification over shares of lost frames; None on all processes but the first."""
    config, pooling = subject.config.text, subject.config.text.pooling
    encoders, hashes = subject.encoders(names)
    results: list[TextResult] = []
    predictions: Predictions = {}
    with subject.workplace() as folder:
        train = subject.features("train", encoders, [pooling], folder / "train")
        readers = {name: _fitted(subject, name, train[name, pooling]) for name in names} if is_main() else {}
        captions = _captions(subject, "test") if is_main() else None
        for dropout in config.dropouts:
            damage = Damage(DROPOUT, dropout)
            place = folder / f"dropout-{dropout:g}"
            found = subject.features(
                "test", encoders, [pooling], place, title=f"{dropout:.1%} of the frames lost", corruption=damage
            )
            if captions is None:
                continue
            for name, reader in readers.items():
                features = found[name, pooling].first()
                answers = reader.read(features, captions)
                predictions |= {"labels": features.labels, "samples": features.samples}
                for direction, answer in answers.items():
                    predictions[f"{name}.{direction}.{dropout:g}"] = answer
                results += _results(subject, name, dropout, answers, features.labels)
            shutil.rmtree(place)
    return Outcome(results, predictions, hashes) if is_main() else None


def _fitted(subject: Subject, name: Weights, features: FrozenFeatures) -> Reader:
    config = subject.config
    features = features.first()
    captions = _captions(subject, "train")
    standardiser = Standardiser.of(features).to(subject.device)
    with subject.progress(f"projection heads, {name}", config.text.updates) as advance:
        heads = alignment.fit(
            features, standardiser, captions.vectors, captions.which, config.text, config.probe_seeds, advance
        )
    words = [label.replace("_", " ") for label in ShardFolder(config.train).manifest.classes]
    return Reader(heads, standardiser, torch.from_numpy(embed(words, subject.device)).to(subject.device))


def _captions(subject: Subject, split: Split) -> Captions:
    shards = subject.config.train if split == "train" else subject.config.test
    return Captions.of(shards, subject.samples(split), subject.device)


def _results(
    subject: Subject, name: Weights, dropout: float, answers: dict[str, NDArray[np.int64]], labels: NDArray[np.int64]
) -> Iterator[TextResult]:
    for direction in ("video_to_text", "text_to_video"):
        for metric, depth in RECALLS.items():
            yield _result(subject, name, dropout, direction, metric, answers[direction] < depth)
    yield _result(subject, name, dropout, "class_names", "top1", answers["class_names"] == labels)


def _result(
    subject: Subject, name: Weights, dropout: float, direction: str, metric: str, right: NDArray[np.bool_]
) -> TextResult:
    share = accuracy(right)
    return TextResult.model_validate(
        {
            "weights": name,
            "dropout": dropout,
            "direction": direction,
            "metric": metric,
            "value": share.value,
            "low": share.low,
            "high": share.high,
            "n": right.shape[1],
            "seeds": subject.config.probe_seeds,
            "per_seed": tuple(right.mean(axis=1).tolist()),
        }
    )
