"""Predicted time of a training step on many GPUs, from FLOPs and bytes alone. Nothing here is measured.

Weak scaling: every GPU keeps its number of clips, so the compute time of a step is constant. Ring collectives of
float32 gradients and weights are added:

    stage 0      all-reduce of the gradients
    stage 1, 2   reduce-scatter of the gradients, all-gather of the updated weights
    stage 3      all-gather of the weights before the forward and the backward pass, of the target before its forward
                 pass; reduce-scatter of the gradients

A reduce-scatter or all-gather over p processes sends (p - 1) / p of the bytes over the slowest link in p - 1 hops; an
all-reduce is both (Patarasu and Yuan 2009).
"""

from dataclasses import dataclass

from hpc_jepa.config.run import RunConfig
from hpc_jepa.models.flops import FORWARD_AND_BACKWARD
from hpc_jepa.study.gpu_memory import FP32
from hpc_jepa.study.sizes import model_size


@dataclass(frozen=True)
class Network:
    """Bandwidth of a GPU inside its node and of a whole node to other nodes, in bytes/s; latency of a hop in seconds.

    One ring per network card lets the GPUs of a node use all cards together.
    """

    name: str
    gpus_per_node: int
    within: float
    between: float
    hop: float

    def slowest(self, gpus: int) -> float:
        """Bandwidth of the slowest link of a ring, in bytes/s."""
        return self.within if gpus <= self.gpus_per_node else min(self.within, self.between)


@dataclass(frozen=True)
class Prediction:
    """Seconds of one step. ``hideable``: the part of ``communication`` that can overlap with the backward pass."""

    gpus: int
    compute: float
    communication: float
    hideable: float

    @property
    def efficiency(self) -> float:
        """Share of compute in the step time, without overlap."""
        return self.compute / (self.compute + self.communication)

    @property
    def overlapped_efficiency(self) -> float:
        """Share of compute in the step time, with all possible overlap."""
        return self.compute / (self.compute + self.communication - self.hideable)


def predict(config: RunConfig, gpus: int, network: Network, peak: float, utilisation: float) -> Prediction:
    """One step of ``config`` with ``engine.batch_size`` clips on each GPU.

    peak: FLOP/s of a GPU; utilisation: assumed model FLOP utilisation.
    """
    size, stage = model_size(config), config.engine.zero_stage
    compute = size.flops / (peak * utilisation)
    gradients = _collective_seconds(size.trainable, gpus, network)
    weights = (2 if stage == 3 else 1) * _collective_seconds(size.trainable, gpus, network)
    target = _collective_seconds(size.target, gpus, network) if stage == 3 else 0.0
    backward = compute * (FORWARD_AND_BACKWARD - 1) / FORWARD_AND_BACKWARD
    return Prediction(gpus, compute, gradients + weights + target, hideable=min(gradients, backward))


def _collective_seconds(parameters: int, gpus: int, network: Network) -> float:
    """Seconds of one reduce-scatter or all-gather of float32 parameters."""
    sent = FP32 * parameters * (gpus - 1) / gpus
    return sent / network.slowest(gpus) + (gpus - 1) * network.hop
