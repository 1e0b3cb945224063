"""Slots of a packed job: each cell as a Slurm step with its own GPUs, cores and memory, or as a process of the job."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from hpc_jepa.devices import VISIBLE, visible_names
from hpc_jepa.errors import InputError
from hpc_jepa.study.mps import shared_gpus
from hpc_jepa.study.slots import Slot, TaskSlots

KEPT = ("SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_JOB", "SLURM_ARRAY_", "SLURM_RESTART_COUNT", "SLURM_SUBMIT_")
"""Beginnings of Slurm's variables that describe the job. srun would take others of the step it runs in as options."""

GPU_VARIABLES = (VISIBLE, "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
"""Variables in which Slurm tells a step its GPUs."""

WITH_ERRORS = ("sh", "-c", 'exec "$@" 2>&1', "sh")
"""A command whose errors go to its output: srun adds lines of its own to the errors, which do not belong into a log."""


@dataclass(frozen=True)
class CellShape:
    """Cells at the same time, and what each of them gets.

    processes: on all ``nodes``. cores: of one process. gpus: on each node. memory_mib: on each node; None: the default
    of the site. srun_options: of the profile. cells_per_pass: evaluations that one command does in the place of a cell.
    """

    cells: int
    processes: int
    cores: int
    gpus: int = 0
    nodes: int = 1
    cells_per_gpu: int = 1
    memory_mib: int | None = None
    srun_options: tuple[str, ...] = ()
    cells_per_pass: int = 1

    @property
    def cells_of_job(self) -> int:
        """Cells that a job starts with."""
        return self.cells * self.cells_per_pass


@contextmanager
def packed_slots(shape: CellShape) -> Iterator[tuple[TaskSlots, str]]:
    """Slots for the cells of a job, and one line about them.

    Slurm gives a GPU to one step only, so cells that share one are processes; so are they where srun is not on the
    PATH, as inside a container. Raises InputError if the job sees fewer GPUs than its cells need.
    """
    if shape.cells_per_gpu == 1 and shutil.which("srun") and "SLURM_JOB_ID" in os.environ:
        slots = [Slot(environment=_outside_of_step(os.environ), prefix=step_command(shape))] * shape.cells
        with TaskSlots(slots) as started:
            yield started, f"{shape.cells} at a time, each a Slurm step"
        return
    with shared_gpus(shape.cells_per_gpu, _gpus_of_job(shape)) as (gpus, variables, note):
        slots = list(process_slots(shape, gpus, variables, sorted(os.sched_getaffinity(0))))
        with TaskSlots(slots, processes=shape.processes, threads=shape.cores) as started:
            yield started, f"{shape.cells} at a time, each a process{note}"


def step_command(shape: CellShape) -> tuple[str, ...]:
    """Words before a command that run it as a step with its own part of the job."""
    memory = () if shape.memory_mib is None else (f"--mem={shape.memory_mib}M",)
    if shape.memory_mib is None and "SLURM_MEM_PER_CPU" not in os.environ:
        memory = ("--mem=0",)  # that of the job, which the cells share: the first one would take all of it
    gpus = (f"--gpus-per-node={shape.gpus}",) if shape.gpus else ()
    size = (f"--nodes={shape.nodes}", f"--ntasks={shape.processes}", f"--cpus-per-task={shape.cores}")
    return ("srun", "--exact", *size, *gpus, *memory, "--unbuffered", "--wait=60", *shape.srun_options, *WITH_ERRORS)


def process_slots(
    shape: CellShape, gpus: tuple[str, ...], variables: Mapping[str, str], cores: list[int]
) -> Iterator[Slot]:
    """One slot for each cell with its GPUs, and its part of the cores if there is one for every process."""
    own = shape.cores * shape.processes
    pinned = len(cores) >= own * shape.cells
    for cell in range(shape.cells):
        first = (cell // shape.cells_per_gpu) * shape.gpus
        seen = {VISIBLE: ",".join(gpus[first : first + shape.gpus])} if shape.gpus else {}
        mine = frozenset(cores[cell * own : (cell + 1) * own]) if pinned else frozenset()
        yield Slot({**variables, **seen}, mine)


def _gpus_of_job(shape: CellShape) -> tuple[str, ...]:
    """The GPUs that this process sees, as many as the cells need. Raises InputError if there are fewer."""
    if not shape.gpus:
        return ()
    needed = -(-shape.cells // shape.cells_per_gpu) * shape.gpus
    names = tuple(visible_names(os.environ.get(VISIBLE, "")))
    if len(names) < needed:
        raise InputError(
            f"{VISIBLE}={os.environ.get(VISIBLE, '')}: {len(names)} GPUs, but {shape.cells} cells need {needed}; "
            "request them with gpus_per_node in the profile"
        )
    return names[:needed]


def _outside_of_step(environment: Mapping[str, str]) -> dict[str, str | None]:
    """None for every variable of the step that this process runs in."""
    of_step = (
        name for name in environment if name.startswith(("SLURM_", "SRUN_", "PMI")) and not name.startswith(KEPT)
    )
    return {**dict.fromkeys(of_step), **dict.fromkeys(GPU_VARIABLES)}
