"""The fused forms of the networks with their Triton kernels replaced by plain operations of the same rounding."""

import torch
import torch.nn.functional as F

from hpc_jepa.kernels import casts, layer_norm, rotary
from hpc_jepa.kernels.rotary import rotate
from hpc_jepa.kernels.triton import layer_norm as norm_kernels
from hpc_jepa.kernels.triton import rotary as rotary_kernels


def use_reference_kernels() -> None:
    """Select the fused forms on a CPU, where the interpreter would take an hour for two hundred steps."""
    for module in (casts, layer_norm, rotary):
        module.fused = lambda _: True
    norm_kernels.add_norm, norm_kernels.norms, norm_kernels.norm_backward = add_norm, norms, norm_backward
    rotary_kernels.rotate_qk, rotary_kernels.rotate_back = rotate_qk, rotate_back


def add_norm(x, update, weight, bias, eps):
    total = x + update
    return total, F.layer_norm(total.float(), total.shape[-1:], weight, bias, eps).to(x.dtype)


def norms(levels, weights, biases, eps, dtype):
    parts = zip(levels, weights, biases, strict=True)
    return torch.cat([F.layer_norm(x.float(), x.shape[-1:], w, b, eps) for x, w, b in parts], -1).to(dtype)


@torch.enable_grad()
def norm_backward(x, weight, of_normed, index, of_total, eps):
    exactly, gain = x.detach().float().requires_grad_(), weight.detach().requires_grad_()
    shift = torch.zeros_like(gain, requires_grad=True)
    normed = F.layer_norm(exactly, x.shape[-1:], gain, shift, eps)
    width = x.shape[-1]
    part = of_normed[..., index * width : (index + 1) * width].float()
    of_input, of_gain, of_shift = torch.autograd.grad(normed, (exactly, gain, shift), part)
    of_input = of_input if of_total is None else of_input + of_total.float()
    return of_input.to(x.dtype), torch.stack((of_gain, of_shift))


def rotate_qk(projections, rotation, heads):
    parts = projections.unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    return rotate(parts, rotation).to(projections.dtype).transpose(2, 3).contiguous()


def rotate_back(query, key, value, rotation):
    back = rotation * torch.tensor([1.0, -1.0])
    parts = [rotate(query, back).to(query.dtype), rotate(key, back).to(key.dtype), value]
    return torch.stack([part.transpose(1, 2) for part in parts], 2).flatten(2)
