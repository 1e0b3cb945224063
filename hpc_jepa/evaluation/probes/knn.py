"""k nearest neighbours by cosine similarity, for several k at once, without the training set in memory."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from hpc_jepa.evaluation.frozen_features import FrozenFeatures


def knn_votes(train: FrozenFeatures, queries: Tensor, ks: Sequence[int], classes: int) -> Tensor:
    """[len(ks), B, classes]: how many of the k training clips most like each query [B, N * D] are of each class.

    Training clips are read a chunk at a time, and the best so far are kept.
    """
    device, longest = queries.device, min(max(ks), len(train))
    queries = normalize(queries, dim=-1)
    best = torch.empty(len(queries), 0, device=device)
    labels = torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    for rows in train.chunks():
        keys = normalize(train.batch(rows, device).flatten(1), dim=-1)
        here = torch.from_numpy(train.labels[rows]).to(device).expand(len(queries), -1)
        similarity, known = torch.cat([best, queries @ keys.T], dim=1), torch.cat([labels, here], dim=1)
        best, order = similarity.topk(min(longest, similarity.shape[1]), dim=1)
        labels = known.gather(1, order)
    counted = one_hot(labels, classes).cumsum(dim=1)
    return torch.stack([counted[:, min(k, longest) - 1] for k in ks])
