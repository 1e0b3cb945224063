"""What a training step may do on a GPU: operators on CUDA tensors, and nothing for which the host has to wait."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

FROM_HOST = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, torch.scalar_tensor}
TO_HOST = {torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.cpu}
WITHOUT_DATA = {"prim"}
"""Namespaces of operators that read properties of tensors."""


class OnlyOnDevice(TorchDispatchMode):
    """Fails on every operator with a tensor that is not on CUDA: a copy from or to the host waits for the device."""

    def __enter__(self):
        self._functions = _NoHostValues()
        self._functions.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._functions.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.namespace not in WITHOUT_DATA:
            places = {x.device.type for x in tree_iter((args, kwargs, result)) if isinstance(x, torch.Tensor)}
            assert places <= {"cuda"}, f"{function} with a tensor on {places - {'cuda'}}"
        return result


class _NoHostValues(TorchFunctionMode):
    """Fails on functions that make a tensor of Python numbers, or the reverse."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function not in FROM_HOST | TO_HOST, f"{function.__name__}: a host sync"
        return function(*args, **(kwargs or {}))
