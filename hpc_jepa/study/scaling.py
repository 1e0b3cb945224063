"""A prediction, from arithmetic alone: how a step grows with the number of GPUs. Nothing of it is measured.

Every GPU keeps its number of clips, so a step on more GPUs sees more clips (weak scaling), and the time of its
arithmetic stays. What is added is the exchange of float32 gradients and weights, in rings:

    stage 0      all-reduce of the gradients
    stage 1, 2   reduce-scatter of the gradients, all-gather of the weights that each process has updated
    stage 3      all-gather of the weights before the pass forwards and the pass backwards, of the target before its;
                 reduce-scatter of the gradients

A ring over p processes passes (p - 1) / p of its bytes through the slowest link for each reduce-scatter or all-gather,
an all-reduce is both (Patarasu and Yuan 2009), and takes p - 1 hops.
"""

from dataclasses import dataclass

from hpc_jepa.config.run import RunConfig
from hpc_jepa.study.gpu_memory import FP32
from hpc_jepa.study.sizes import FORWARD_AND_BACKWARD, model_size


@dataclass(frozen=True)
class Network:
    """Bytes per second that a GPU sends to others of its node, and that a whole node sends to others; seconds a hop.

    A ring for each network card lets the GPUs of a node use all of them together.
    """

    name: str
    gpus_per_node: int
    within: float
    between: float
    hop: float

    def slowest(self, gpus: int) -> float:
        """Bytes per second of the slowest link of a ring."""
        return self.within if gpus <= self.gpus_per_node else min(self.within, self.between)


@dataclass(frozen=True)
class Prediction:
    """Seconds of one step. ``hideable``: the part of ``exchange`` that could run beside the backward pass."""

    gpus: int
    arithmetic: float
    exchange: float
    hideable: float

    @property
    def efficiency(self) -> float:
        """Share of the time that is arithmetic, exchange and arithmetic one after the other."""
        return self.arithmetic / (self.arithmetic + self.exchange)

    @property
    def overlapped_efficiency(self) -> float:
        """The same where everything that can be exchanged beside the backward pass is."""
        return self.arithmetic / (self.arithmetic + self.exchange - self.hideable)


def predict(config: RunConfig, gpus: int, network: Network, peak: float, utilisation: float) -> Prediction:
    """One step of ``config`` with ``engine.batch_size`` clips on each GPU.

    peak: FLOP/s of a GPU; utilisation: the share of it that the arithmetic is assumed to reach.
    """
    counted, stage = model_size(config), config.engine.zero_stage
    arithmetic = counted.flops / (peak * utilisation)
    gradients = _passes(counted.trainable, gpus, network)
    weights = (2 if stage == 3 else 1) * _passes(counted.trainable, gpus, network)
    target = _passes(counted.target, gpus, network) if stage == 3 else 0.0
    backward = arithmetic * (FORWARD_AND_BACKWARD - 1) / FORWARD_AND_BACKWARD
    return Prediction(gpus, arithmetic, gradients + weights + target, hideable=min(gradients, backward))


def _passes(parameters: int, gpus: int, network: Network) -> float:
    """Seconds of one reduce-scatter or all-gather of so many float32 numbers."""
    bytes_passed = FP32 * parameters * (gpus - 1) / gpus
    return bytes_passed / network.slowest(gpus) + (gpus - 1) * network.hop
