"""The encoders in a checkpoint."""

from typing import Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from hpc_jepa.checkpoint import reader
from hpc_jepa.checkpoint.layout import Checkpoint
from hpc_jepa.config.model import EncoderConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import CheckpointError
from hpc_jepa.models.encoder import Encoder

EncoderName = Literal["target", "student"]
"""The EMA target, or the student that it follows."""


def saved_config(checkpoint: Checkpoint) -> RunConfig:
    """The configuration of the run. Raises CheckpointError where it cannot be read any more."""
    try:
        return RunConfig.model_validate(checkpoint.manifest.config)
    except ValidationError as error:
        fault = f"{'.'.join(map(str, error.errors()[0]['loc']))}: {error.errors()[0]['msg']}"
        raise CheckpointError(f"{checkpoint.path}: its configuration is not read any more ({fault})") from error


def evaluated_encoder(name: EncoderName, config: RunConfig) -> EncoderName:
    """Without EMA the stored target was never trained (B1): unless published semantics ask for it, read the student."""
    untrained = config.targets != "ema" and config.semantics.evaluated_weights == "trained"
    return "student" if name == "target" and untrained else name


def read_encoder(checkpoint: Checkpoint, name: EncoderName, config: RunConfig) -> Encoder:
    """What ``name`` means in a run of ``config``, frozen and in evaluation mode, fp32 on the CPU.

    Raises CheckpointError where its files are damaged, or do not fit the model of ``config``.
    """
    try:
        return encoder_from_state(config.model.encoder, reader.read_part(checkpoint, evaluated_encoder(name, config)))
    except RuntimeError as error:
        fault = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{checkpoint.path}: {name} does not fit the model of the run: {fault}") from error


def encoder_from_state(config: EncoderConfig, state: dict[str, Tensor]) -> Encoder:
    """An encoder with these weights, drawn from nothing. Raises RuntimeError where they do not fit."""
    with torch.device("meta"):
        encoder = Encoder(config)
    encoder.load_state_dict(state, assign=True)
    return encoder.eval().requires_grad_(False)
