"""Triton kernels, imported only on CUDA. With TRITON_INTERPRET=1 they run on CPU tensors, slowly, for tests."""
