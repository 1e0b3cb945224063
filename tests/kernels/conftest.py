import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where kernels run: compiled on a GPU, interpreted without one."""
    pytest.importorskip("triton", reason="triton is not installed")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
