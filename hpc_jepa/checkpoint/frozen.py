"""Encoders from wherever they lie: runs, checkpoints, exports, released weights."""

from pathlib import Path

from hpc_jepa.checkpoint.encoders import EncoderName, read_encoder, saved_config
from hpc_jepa.checkpoint.places import resolve_checkpoint
from hpc_jepa.checkpoint.pretrained import is_weights_path, read_pretrained
from hpc_jepa.models.feature_extractor import FeatureExtractor


def load_encoder(path: str | Path, weights: EncoderName = "target", heads: int | None = None) -> FeatureExtractor:
    """A frozen encoder in evaluation mode, fp32 on the CPU: clips [B, 3, F, H, W] -> features [B, N, D].

    path: a run folder (its newest checkpoint), the folder of a checkpoint, what ``hpc-jepa checkpoint export`` wrote,
    or released V-JEPA 2 and 2.1 weights: the original ``.pt``, or the folder of a VJEPA2Model.
    weights: of a run, a checkpoint or a ``.pt``: the EMA ``target``, or the ``student``. In a run without EMA the
    target was not trained, so it is the student too, unless the run's semantics say otherwise.
    heads: attention heads of weights whose size was never released.

    Pixels are normalised, ``(x / 255 - mean) / std``. Tokens come in the order time, row, column, and D is the width of
    the encoder: what frozen evaluation reads.

    >>> import torch, hpc_jepa
    >>> encoder = hpc_jepa.load_encoder("runs/quickstart/quickstart/baseline/seed-0")
    >>> video = torch.randint(256, (1, 3, 8, 64, 64))
    >>> mean, std = (torch.tensor(x).view(3, 1, 1, 1) for x in (encoder.mean, encoder.std))
    >>> tokens = encoder((video / 255 - mean) / std)
    >>> tokens.shape  # 8 frames in tubelets of 2, 64x64 pixels in patches of 8
    torch.Size([1, 256, 128])

    Raises InputError where the path is none of these, CheckpointError where what is there is damaged.
    """
    path = Path(path)
    if is_weights_path(path):
        files = read_pretrained(path, weights, heads)
        return FeatureExtractor(files.encoder(), files.mean, files.std)
    checkpoint = resolve_checkpoint(path)
    config = saved_config(checkpoint)
    augmentation = config.data.augmentation
    return FeatureExtractor(read_encoder(checkpoint, weights, config), augmentation.mean, augmentation.std)
