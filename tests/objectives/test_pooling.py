import pytest
import torch

from hpc_jepa.objectives.pairs import Pairs
from hpc_jepa.objectives.pooling import batch_mean, mean_over_pairs


def pairs(valid, count):
    return Pairs(torch.zeros_like(valid, dtype=torch.int64), valid, torch.tensor(count))


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_the_mean_is_right_with_fewer_pairs_than_processes(processes):
    """One process has one pair, the others have none: the mean over processes is the error of that pair."""
    error, valid = torch.tensor([[3.0, 5.0]]), torch.tensor([[1.0, 0.0]])
    here = mean_over_pairs([error], [pairs(valid, 1 / processes)])
    elsewhere = mean_over_pairs([error], [pairs(torch.zeros_like(valid), 1 / processes)])
    assert (here + (processes - 1) * elsewhere) / processes == pytest.approx(3.0)


def test_a_group_without_pairs_does_not_contribute():
    error, valid = torch.tensor([[3.0, 5.0]]), torch.tensor([[1.0, 1.0]])
    both = mean_over_pairs([error, 100 * error], [pairs(valid, 2.0), pairs(torch.zeros_like(valid), 0.0)])
    assert both == 4.0
    assert batch_mean(error * 0, torch.tensor(0.0)) == 0.0
