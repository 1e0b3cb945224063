"""One task of a Slurm step: ``slurm_store.py FOLDER TIMEOUT``; prints what listens, and one line when all have met."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import psutil

from hpc_jepa.training.slurm_rendezvous import slurm_store

rank = int(os.environ["SLURM_PROCID"])
store = slurm_store(os.environ, Path(sys.argv[1]), timedelta(seconds=float(sys.argv[2])))
store.set(f"from {rank}", str(rank))
store.wait([f"from {other}" for other in range(int(os.environ["SLURM_STEP_NUM_TASKS"]))])
listening = [each.laddr.ip for each in psutil.Process().net_connections("tcp") if each.status == psutil.CONN_LISTEN]
os.write(1, f"met {rank} {','.join(listening)}\n".encode())  # at once: the lines of several tasks go to one pipe
if rank == 0:
    store.set("seen", "")  # the store ends with its process
    for other in range(1, int(os.environ["SLURM_STEP_NUM_TASKS"])):
        store.wait([f"left {other}"])
else:
    store.wait(["seen"])
    store.set(f"left {rank}", "")
