"""Join the other processes of an evaluation, where a launcher started several."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def process_group() -> Iterator[None]:
    """A process group on the host as long as the block runs; none where this process is alone.

    The processes share the clips and exchange where their features lie, so they need no fast network. Raises InputError
    where only some of a launcher's variables are set.
    """
    if not {"RANK", "WORLD_SIZE"} & os.environ.keys():
        yield
        return
    from hpc_jepa.training.launch import check_launcher_variables  # loads DeepSpeed, which one process does not need

    check_launcher_variables()
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
