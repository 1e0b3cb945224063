"""Kernels for CUDA, imported where they run. With TRITON_INTERPRET=1 they run on CPU tensors, slowly, for tests."""
