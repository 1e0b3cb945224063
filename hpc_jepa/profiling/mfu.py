"""Model FLOP utilisation (MFU): achieved FLOP/s as a share of the GPU's peak."""

from functools import cache

import torch

PEAK_TFLOPS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "B200": 2250.0}
"""Dense bf16 matrix products, TFLOP/s, from the vendor's data sheets (SXM form factor)."""


@cache
def peak_flops() -> float | None:
    """Peak bf16 FLOP/s of this rank's GPU; None on a CPU or an unknown GPU."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((1e12 * tflops for model, tflops in PEAK_TFLOPS.items() if model in name), None)


def flops_rates(flops: float, seconds: float) -> dict[str, float]:
    """``tflops_per_second`` of this rank and, if the peak of its GPU is known, ``mfu`` as a share of it."""
    rate = flops / seconds
    peak = peak_flops()
    return {"tflops_per_second": rate / 1e12} | ({"mfu": rate / peak} if peak is not None else {})
