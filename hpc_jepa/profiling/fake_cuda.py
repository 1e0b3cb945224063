"""CUDA tensors without data, on a machine without a GPU: what a GPU would execute can be checked and counted."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends

from hpc_jepa.models.rotary import rotations

HOPPER_ORDER = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
"""Backends of attention by preference: PyTorch 2.13 on compute capability 9.0 and 10.0 with cuDNN 9.15.1 or newer."""

HALF = (torch.bfloat16, torch.float16)
GUARDS = "_ZN3c104impl26device_guard_impl_registryE"
HOOKS = "_ZN2at6detail12getCUDAHooksEv"
CUDA = 1
"""Number of the CUDA device type in PyTorch."""
IS_BUILT, HAS_PRIMARY_CONTEXT, ENTRIES = 2, 4, 64
"""Entries of the table of virtual functions of ``CUDAHooksInterface``, after its two destructors."""


@torch.library.custom_op("hpc_jepa::triton_launch", mutates_args=())
def triton_launch(tensors: Sequence[Tensor], kernel: str) -> None:
    """The launch of a Triton kernel with these tensors, as one operator that dispatch modes see."""
    raise NotImplementedError(f"{kernel}: a fake launch has no tensors to compute on")


@triton_launch.register_fake
def _(tensors: Sequence[Tensor], kernel: str) -> None:
    if places := {str(tensor.device) for tensor in tensors if not tensor.is_cuda}:
        raise RuntimeError(f"Triton kernel {kernel}: a tensor is on {', '.join(sorted(places))} instead of CUDA")


@contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Inside, ``device="cuda"`` makes tensors without data, on which all code for GPUs runs, backward passes included.

    Shapes, dtypes, devices and the sequence of operators are those of a GPU of compute capability 9.0; operators whose
    result depends on data raise an exception. Triton kernels are not launched: each appears to dispatch modes as one
    operator ``hpc_jepa::triton_launch``. Attention uses the backend that PyTorch would choose. Not thread-safe: it
    replaces functions of PyTorch until it is left.
    """
    with ExitStack() as stack:
        if not torch.cuda.is_available():
            stack.enter_context(_cuda_in_autograd())
            stack.enter_context(_replaced(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False))
            stack.enter_context(_replaced(torch.cuda, "is_bf16_supported", lambda *_, **__: True))
        stack.enter_context(_replaced(F, "scaled_dot_product_attention", _attention(F.scaled_dot_product_attention)))
        stack.enter_context(_recorded_launches())
        stack.callback(rotations.__wrapped__.cache_clear)  # type: ignore[attr-defined]
        rotations.__wrapped__.cache_clear()  # type: ignore[attr-defined]  # real tables are useless here, and vice versa
        yield stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))


def move_to_cuda(module: nn.Module) -> None:
    """Give a module built under ``torch.device("meta")`` fake CUDA parameters and buffers.

    Sets the dictionaries of ``nn.Module`` themselves: ``cuda()`` does not move from the device meta.
    """
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(on_cuda(parameter), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = on_cuda(buffer)


def on_cuda(tensor: Tensor) -> Tensor:
    """A fake CUDA tensor of the shape, strides and type of a tensor from outside."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")


def attention_backend(query: Tensor) -> SDPBackend:
    """The backend that PyTorch chooses for CUDA tensors without mask, among those that are enabled."""
    enabled = _cur_sdpa_kernel_backends()
    halves_only = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION)
    possible = [backend for backend in HOPPER_ORDER if query.dtype in HALF or backend not in halves_only]
    return next(backend for backend in possible if backend in enabled)


def _attention(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``scaled_dot_product_attention`` with the choice that needs a CUDA build; without mask, as the models call it."""

    def attention(query: Tensor, key: Tensor, value: Tensor, *options: Any, **more: Any) -> Tensor:
        backend = attention_backend(query) if query.is_cuda and not options and not more else SDPBackend.MATH
        aten = torch.ops.aten
        if backend is SDPBackend.FLASH_ATTENTION:
            return aten._scaled_dot_product_flash_attention(query, key, value)[0]  # type: ignore[no-any-return]
        keep = query.requires_grad
        if backend is SDPBackend.CUDNN_ATTENTION:
            return aten._scaled_dot_product_cudnn_attention(query, key, value, None, keep)[0]  # type: ignore[no-any-return]
        if backend is SDPBackend.EFFICIENT_ATTENTION:
            return aten._scaled_dot_product_efficient_attention(query, key, value, None, keep)[0]  # type: ignore[no-any-return]
        return plain(query, key, value, *options, **more)

    return attention


@contextmanager
def _recorded_launches() -> Iterator[None]:
    """Replace ``kernel[grid](...)`` of all Triton kernels by :func:`triton_launch`."""
    try:
        from triton.runtime.jit import KernelInterface
    except ImportError:  # kernels cannot be reached without Triton either
        yield
        return

    def launcher(kernel: Any, grid: object) -> Callable[..., None]:
        def launch(*arguments: Any, **named: Any) -> None:
            tensors = [value for value in (*arguments, *named.values()) if isinstance(value, Tensor)]
            triton_launch(tensors, kernel.__name__)

        return launch

    with _replaced(KernelInterface, "__getitem__", launcher):
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def _cuda_in_autograd() -> Iterator[None]:
    """Let PyTorch compute gradients of fake CUDA tensors where no GPU is, and in a build without CUDA.

    Two objects of its C++ code prevent that. Builds without CUDA have no device guard: ``_ensureCUDADeviceGuardSet``
    installs one without effect, but only over a guard that counts no devices, so such a guard is made first. And the
    autograd engine calls two CUDA hooks, whether CUDA was built in and whether a device is in use: in a copy of their
    function table they return true and false. Raises RuntimeError if this PyTorch is laid out differently.
    """
    libraries = Path(torch.__file__).parent / "lib"
    guards = (ctypes.c_void_p * (CUDA + 1)).in_dll(ctypes.CDLL(str(libraries / "libc10.so")), GUARDS)
    get_hooks = getattr(ctypes.CDLL(str(libraries / "libtorch_cpu.so")), HOOKS)
    get_hooks.restype = ctypes.c_void_p
    hooks = ctypes.c_void_p.from_address(get_hooks())

    none = ctypes.CFUNCTYPE(ctypes.c_int8, ctypes.c_void_p)(lambda _: 0)
    yes = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(lambda _: True)
    no = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int8)(lambda _, __: False)
    if not guards[CUDA]:
        empty_table = (ctypes.c_void_p * ENTRIES)(*[ctypes.cast(none, ctypes.c_void_p)] * ENTRIES)
        empty_guard = ctypes.c_void_p(ctypes.addressof(empty_table))
        guards[CUDA] = ctypes.addressof(empty_guard)
        torch._C._ensureCUDADeviceGuardSet()
    original = hooks.value
    assert original is not None
    table = (ctypes.c_void_p * ENTRIES)(*(ctypes.c_void_p * ENTRIES).from_address(original))
    table[IS_BUILT], table[HAS_PRIMARY_CONTEXT] = (ctypes.cast(f, ctypes.c_void_p) for f in (yes, no))
    hooks.value = ctypes.addressof(table)
    try:
        if torch.accelerator.current_accelerator() != torch.device("cuda"):
            raise RuntimeError(f"PyTorch {torch.__version__}: fake CUDA tensors are not supported in this build")
        yield
    finally:
        hooks.value = original
