"""Dynamic loss scaling for fp16, on the device: the rules of DeepSpeed's section ``fp16``, without its host sync.

A gradient below 6e-8 is zero in fp16, so the loss is multiplied by a power of two before the backward pass, and the
float32 gradients are divided by it after. A scale that is too large makes gradients overflow: that step is skipped and
the scale halved. It doubles after ``window`` steps without an overflow. DeepSpeed's own scaler reads every gradient on
the host, and needs weights in fp16; here weights, gradients and moments stay float32.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hpc_jepa.config.training import EngineConfig, LossScaleConfig
from hpc_jepa.errors import InputError

LARGEST = 2.0**24
"""Limit of the scale, beyond which nothing is gained."""


class LossScaler:
    """Scale of the loss, the same on all ranks.

    state [2]: the scale, and the steps since it changed or a gradient overflowed. Both are part of a checkpoint.
    """

    def __init__(self, config: LossScaleConfig, device: torch.device) -> None:
        self._config = config
        self.state = torch.tensor([config.initial, 0.0], device=device)
        self._overflows = torch.zeros((), device=device)

    @property
    def scale(self) -> Tensor:
        """The scale of the next loss."""
        return self.state[0]

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to call ``backward`` on."""
        return loss * self.scale

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divide gradients by the scale, exactly: it is a power of two."""
        if gradients:
            torch._foreach_mul_(list(gradients), self.scale.reciprocal())

    @property
    def can_fall(self) -> Tensor:
        """Whether the scale can be halved: if not, a non-finite gradient is no matter of the scale."""
        return self.scale > self._config.min

    def update(self, norm: Tensor, fault: Tensor) -> Tensor:
        """Adapt the scale after a step with gradient norm ``norm``; returns whether the gradient overflowed.

        ``fault``: the step was skipped for another reason, a non-finite loss; it changes nothing.
        """
        overflow = ~norm.isfinite() & ~fault & self.can_fall
        scale, fine = self.state.unbind()
        fine = torch.where(overflow, 0.0, fine + 1)
        grows = fine >= self._config.window
        grown = torch.where(grows, (2 * scale).clamp(max=LARGEST), scale)
        new_scale = torch.where(overflow, (scale / 2).clamp(min=self._config.min), grown)
        new_state = torch.stack([new_scale, torch.where(grows, 0.0, fine)])
        self.state.copy_(torch.where(fault | (~norm.isfinite() & ~overflow), self.state, new_state))
        self._overflows += overflow
        return overflow

    def metrics(self) -> dict[str, Tensor]:
        """The scale, and the overflows since the last call."""
        overflows, self._overflows = self._overflows, torch.zeros_like(self._overflows)
        return {"loss_scale": self.scale.clone(), "overflow_steps": overflows}


def require_fp16_device(engine: EngineConfig, device: torch.device) -> None:
    """Raise InputError if the run would use fp16 on a CPU."""
    if engine.precision == "fp16" and device.type == "cpu":
        raise InputError(
            "engine.precision=fp16: no GPU here, and on a CPU fp16 is slower than fp32 and gains nothing; "
            "set engine.precision=fp32"
        )
