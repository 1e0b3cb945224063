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
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import DataError
from hpc_jepa.evaluation.context import EvaluationContext, SplitName
from hpc_jepa.evaluation.corruptions import ClipCorruption
from hpc_jepa.evaluation.frozen_features import FrozenFeatures, Standardiser
from hpc_jepa.evaluation.outcome import TaskResult
from hpc_jepa.evaluation.record import Predictions, TextResult
from hpc_jepa.evaluation.stats.paired import accuracy
from hpc_jepa.evaluation.tasks import projection_heads
from hpc_jepa.evaluation.tasks.projection_heads import ProjectionHeads, retrieval_ranks
from hpc_jepa.evaluation.text_encoder import embed_sentences

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
        vectors = torch.from_numpy(embed_sentences(distinct.tolist(), device)).to(device)
        return cls(vectors, torch.from_numpy(which).to(device))


@dataclass(frozen=True)
class AlignmentModel:
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
            "video_to_text": retrieval_ranks(videos, texts, belongs).cpu().numpy(),
            "text_to_video": retrieval_ranks(texts, videos, belongs.T).cpu().numpy(),
            "class_names": named.cpu().numpy(),
        }


def evaluate_text(context: EvaluationContext, names: Sequence[Weights]) -> TaskResult | None:
    """Retrieval and zero-shot classification over shares of lost frames; None on all processes but the first."""
    config, pooling = context.config.text, context.config.text.pooling
    encoders, hashes = context.encoders(names)
    results: list[TextResult] = []
    predictions: Predictions = {}
    with context.scratch_dir() as folder:
        train = context.features("train", encoders, [pooling], folder / "train")
        readers = {name: _fit_alignment(context, name, train[name, pooling]) for name in names} if is_main() else {}
        captions = _captions(context, "test") if is_main() else None
        for dropout in config.dropouts:
            damage = ClipCorruption(DROPOUT, dropout)
            place = folder / f"dropout-{dropout:g}"
            found = context.features(
                "test", encoders, [pooling], place, title=f"{dropout:.1%} of the frames lost", corruption=damage
            )
            if captions is None:
                continue
            for name, reader in readers.items():
                features = found[name, pooling].first_clips()
                answers = reader.read(features, captions)
                predictions |= {"labels": features.labels, "samples": features.samples}
                for direction, answer in answers.items():
                    predictions[f"{name}.{direction}.{dropout:g}"] = answer
                results += _results(context, name, dropout, answers, features.labels)
            shutil.rmtree(place)
    return TaskResult(results, predictions, hashes) if is_main() else None


def _fit_alignment(context: EvaluationContext, name: Weights, features: FrozenFeatures) -> AlignmentModel:
    config = context.config
    features = features.first_clips()
    captions = _captions(context, "train")
    standardiser = Standardiser.of(features).to(context.device)
    with context.progress(f"projection heads, {name}", config.text.updates) as advance:
        heads = projection_heads.fit_projection_heads(
            features, standardiser, captions.vectors, captions.which, config.text, config.probe_seeds, advance
        )
    words = [label.replace("_", " ") for label in ShardFolder(config.train).manifest.classes]
    return AlignmentModel(
        heads, standardiser, torch.from_numpy(embed_sentences(words, context.device)).to(context.device)
    )


def _captions(context: EvaluationContext, split: SplitName) -> Captions:
    shards = context.config.train if split == "train" else context.config.test
    return Captions.of(shards, context.samples(split), context.device)


def _results(
    context: EvaluationContext,
    name: Weights,
    dropout: float,
    answers: dict[str, NDArray[np.int64]],
    labels: NDArray[np.int64],
) -> Iterator[TextResult]:
    for direction in ("video_to_text", "text_to_video"):
        for metric, depth in RECALLS.items():
            yield _result(context, name, dropout, direction, metric, answers[direction] < depth)
    yield _result(context, name, dropout, "class_names", "top1", answers["class_names"] == labels)


def _result(
    context: EvaluationContext, name: Weights, dropout: float, direction: str, metric: str, right: NDArray[np.bool_]
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
            "seeds": context.config.probe_seeds,
            "per_seed": tuple(right.mean(axis=1).tolist()),
        }
    )
