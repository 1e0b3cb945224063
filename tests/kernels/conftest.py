import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Device of the Triton kernels: compiled on a GPU, interpreted on a CPU."""
    pytest.importorskip("triton", reason="triton is not installed")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
