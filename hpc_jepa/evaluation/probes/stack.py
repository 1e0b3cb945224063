"""Probes of one kind side by side: every parameter has a leading axis S, so one pass over the features trains all."""

import copy
from collections.abc import Sequence

from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap


class StackedModule(nn.Module):
    """S modules of the same architecture as one, with torch.func."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        stacked, _ = stack_module_state(list(modules))
        self._names = {name.replace(".", "/"): name for name in stacked}
        for registered, name in self._names.items():
            self.register_parameter(registered, nn.Parameter(stacked[name].detach()))
        self._template = [copy.deepcopy(modules[0]).to("meta")]  # in a list, so that it is not a submodule

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> logits [S, B, classes]."""
        template = self._template[0].train(self.training)

        def single(parameters: dict[str, Tensor]) -> Tensor:
            logits: Tensor = functional_call(template, parameters, (tokens,))
            return logits

        own: dict[str, Tensor] = {self._names[name]: parameter for name, parameter in self.named_parameters()}
        logits: Tensor = vmap(single, randomness="different")(own)
        return logits


def select_probes(stack: nn.Module, rows: Sequence[int]) -> nn.Module:
    """A copy with some of the probes of a stack."""
    selected = copy.deepcopy(stack)
    for parameter in selected.parameters():
        parameter.grad = None
        parameter.data = parameter.data[list(rows)].clone()
    return selected
