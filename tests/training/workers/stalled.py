"""Rank 1 never enters the collective in which rank 0 waits for it."""

import time

import torch

from hpc_jepa.distributed import rank
from hpc_jepa.training.launch import join_process_group
from hpc_jepa.training.watchdog import Watchdog


def oversleep():
    time.sleep(100)


if __name__ == "__main__":
    join_process_group()
    torch.distributed.barrier()
    with Watchdog(2.0):
        if rank() == 1:
            oversleep()
        torch.distributed.all_reduce(torch.zeros(1))
