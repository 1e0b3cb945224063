"""Several GPUs against one: torchrun, and srun with one visible GPU per task."""

import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from hpc_jepa.cli.gpu_check.children import json_lines, visible_devices
from hpc_jepa.cli.gpu_check.part import PartContext, SkipPartError, Verdict, verdict_of
from hpc_jepa.cli.gpu_check.small_training import NAN_STEP, SmallTraining
from hpc_jepa.cli.gpu_check.zero_stages import LAST, Losses, add, compare, train_stages

PROCESSES, STAGE = 2, 1
JOB_ID = "4711"
"""Of the job that a rehearsal pretends to be; the port of the rendezvous depends on it."""


def several_processes(context: PartContext) -> Verdict:
    """Losses of two processes against those of one, in fp32 at ZeRO stage 1."""
    if not context.mode.rehearse and len(visible_devices().names) < PROCESSES:
        raise SkipPartError("one GPU is visible; two are needed")
    task = SmallTraining(str(context.folder / "one"), (STAGE,))
    expected, _ = train_stages(task)
    problems, started = [], []
    for name, lines in launchers(context):
        found: Losses = {}
        skipped: dict[int, list[int]] = {}
        for line in lines:
            add(line, found, skipped)
        row = compare(expected[STAGE], found.get(STAGE, {}))
        context.row(
            f"{PROCESSES} processes against one, relative difference of the losses (at most {LAST:g})",
            launcher=name,
            steps=len(found.get(STAGE, {})),
            first_loss=row["first"],
            all_losses=row["all"],
            skipped_steps=", ".join(map(str, skipped.get(STAGE, []))),
        )
        started.append(name)
        if not row["all"] <= LAST or skipped.get(STAGE) != [NAN_STEP]:
            problems.append(f"{name}: losses differ by {row['all']:.1e}, skipped {skipped.get(STAGE, [])}")
    return verdict_of(problems, 0, f"{' and '.join(started)}: the losses of one process within {LAST:g}")


def launchers(context: PartContext) -> Iterator[tuple[str, Iterator[dict[str, float]]]]:
    """The launchers of this machine, each with the lines that its training prints."""
    worker = SmallTraining(str(context.folder / "torchrun"), (STAGE,)).command
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    yield "torchrun", json_lines([sys.executable, *torchrun, *worker], {"OMP_NUM_THREADS": "1"})
    worker = SmallTraining(str(context.folder / "srun"), (STAGE,)).command
    if context.mode.rehearse:
        yield "srun (stand-in)", as_srun(worker)
    elif not shutil.which("srun") or "SLURM_JOB_ID" not in os.environ:
        context.warn("srun was not tried: this is no Slurm job; repeat it inside salloc --ntasks=2 --gpus-per-task=1")
    else:
        srun = ["srun", "--overlap", "--kill-on-bad-exit=1", "--nodes=1", f"--ntasks={PROCESSES}", "--gpus-per-task=1"]
        yield "srun --gpus-per-task=1", json_lines([*srun, sys.executable, *worker])


def as_srun(worker: list[str]) -> Iterator[dict[str, float]]:
    """Start the processes with the variables of a job step, as srun does; the lines of the first."""
    step = {
        "SLURM_JOB_ID": JOB_ID,
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NUM_TASKS": str(PROCESSES),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": str(PROCESSES),
        "SLURM_NODEID": "0",
        "OMP_NUM_THREADS": "1",
    }
    places = [{**step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(PROCESSES)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        outputs = [pool.submit(lambda place: list(json_lines([sys.executable, *worker], place)), p) for p in places]
        yield from outputs[0].result()
        for output in outputs[1:]:
            output.result()
