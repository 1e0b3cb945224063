"""Fused operations with one signature for every device: Triton on CUDA, PyTorch elsewhere."""
