"""Probes of one kind side by side: every parameter has a leading axis S, so one pass over the features trains all."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from hpc_jepa.config.benchmark import TrainedProbeConfig
from hpc_jepa.evaluation.frozen_features import FrozenFeatures
from hpc_jepa.evaluation.probes.attentive import AttentiveProbes
from hpc_jepa.evaluation.probes.linear import LinearProbes
from hpc_jepa.evaluation.probes.routers import MotionRouter, SpatialRouter
from hpc_jepa.evaluation.probes.space_time import SpaceTimeAttention
from hpc_jepa.evaluation.probes.temporal import TemporalAttention, TemporalConvolution


class StackedModule(nn.Module):
    """S modules of equal form as one, through torch.func."""

    def __init__(self, singles: Sequence[nn.Module]) -> None:
        super().__init__()
        stacked, _ = stack_module_state(list(singles))
        self._names = {name.replace(".", "/"): name for name in stacked}
        for inner, name in self._names.items():
            self.register_parameter(inner, nn.Parameter(stacked[name].detach()))
        self._form = [copy.deepcopy(singles[0]).to("meta")]  # in a list: it is no part of this module

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> logits [S, B, classes]."""
        form = self._form[0].train(self.training)

        def single(parameters: dict[str, Tensor]) -> Tensor:
            logits: Tensor = functional_call(form, parameters, (tokens,))
            return logits

        own: dict[str, Tensor] = {self._names[name]: parameter for name, parameter in self.named_parameters()}
        logits: Tensor = vmap(single, randomness="different")(own)
        return logits


def build_probes(config: TrainedProbeConfig, features: FrozenFeatures, classes: int, seeds: Sequence[int]) -> nn.Module:
    """One probe for each seed: [B, N, D] -> logits [S, B, classes]. Raises InputError where the width does not fit."""
    width, tubelets, heads = features.width, features.tubelets, config.heads
    if config.kind == "linear":
        return LinearProbes(features.tokens.shape[1] * width, classes, seeds)
    if config.kind == "attentive":
        return AttentiveProbes(width, classes, heads, seeds)
    forms: dict[str, Callable[[], nn.Module]] = {
        "temporal_attention": lambda: TemporalAttention(width, classes, heads),
        "temporal_convolution": lambda: TemporalConvolution(width, classes, heads),
        "motion_router": lambda: MotionRouter(width, classes, tubelets),
        "spatial_router": lambda: SpatialRouter(width, classes),
        "space_time_attention": lambda: SpaceTimeAttention(width, classes, heads, tubelets),
    }
    return StackedModule([_seeded(forms[config.kind], seed) for seed in seeds])


def select_probes(stack: nn.Module, rows: Sequence[int]) -> nn.Module:
    """Only some of the probes of a stack."""
    picked = copy.deepcopy(stack)
    for parameter in picked.parameters():
        parameter.grad = None
        parameter.data = parameter.data[list(rows)].clone()
    return picked


def _seeded(build_form: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_form()
