"""k-nearest-neighbour (kNN) probe by cosine similarity, for several k at once, reading the training set in chunks."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from hpc_jepa.evaluation.frozen_features import FrozenFeatures


def knn_votes(train: FrozenFeatures, queries: Tensor, ks: Sequence[int], classes: int) -> Tensor:
    """[len(ks), B, classes]: number of each query's k nearest training clips per class; queries [B, N * D].

    Training clips are read in chunks; only the max(ks) nearest so far are kept.
    """
    device, kept = queries.device, min(max(ks), len(train))
    queries = normalize(queries, dim=-1)
    similarity = torch.empty(len(queries), 0, device=device)
    labels = torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    for rows in train.chunks():
        keys = normalize(train.batch(rows, device).flatten(1), dim=-1)
        chunk_labels = torch.from_numpy(train.labels[rows]).to(device).expand(len(queries), -1)
        similarity, labels = torch.cat([similarity, queries @ keys.T], dim=1), torch.cat([labels, chunk_labels], dim=1)
        similarity, order = similarity.topk(min(kept, similarity.shape[1]), dim=1)
        labels = labels.gather(1, order)
    counts = one_hot(labels, classes).cumsum(dim=1)
    return torch.stack([counts[:, min(k, kept) - 1] for k in ks])
