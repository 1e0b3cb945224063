import pytest
import torch


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, triton_interpreter) -> torch.device:
    """Device of the Triton kernels: compiled on a GPU, interpreted on a CPU."""
    return torch.device(request.param)
