"""Every ZeRO stage on the GPU against the CPU: losses, a skipped step, a killed and resumed run."""

import math
import signal
import sys
from typing import Any

from hpc_jepa.cli.gpu_check.children import CPU_ONLY, json_lines
from hpc_jepa.cli.gpu_check.part import PartContext, Verdict, verdict_of
from hpc_jepa.cli.gpu_check.small_training import NAN_STEP, SAVED, STEPS, SmallTraining
from hpc_jepa.errors import HpcJepaError

Losses = dict[int, dict[int, float]]
"""By stage and step."""

FIRST, LAST = 1e-5, 1e-3
"""Largest relative difference of the first loss, before any update, and of all losses: sums are rounded in another
order, and AdamW divides small gradients by their own size."""


def zero_stages(context: PartContext) -> Verdict:
    """Twenty steps at stages 0 to 3 in fp32. The run saves after ten, is killed after fourteen, and is resumed."""
    stages = (1, 3) if context.mode.rehearse else (0, 1, 2, 3)
    folder = str(context.folder / "runs")
    reference, _ = train_stages(SmallTraining(folder, stages=(0,)), CPU_ONLY)
    killed, skipped = train_stages(SmallTraining(folder, stages, "save"))
    resumed, _ = train_stages(SmallTraining(folder, stages, "resume"))
    problems = []
    for stage in stages:
        known = {**killed.get(stage, {}), **resumed.get(stage, {})}
        row = compare(reference[0], known)
        context.row(
            f"Against the CPU at stage 0, fp32, relative difference of the losses (at most {LAST:g})",
            stage=stage,
            steps=len(known),
            first_loss=row["first"],
            all_losses=row["all"],
            skipped_steps=", ".join(map(str, skipped.get(stage, []))),
            resumed_after=min(resumed.get(stage, {STEPS: 0.0})),
        )
        problems += faults(stage, row, known, skipped.get(stage, []), resumed.get(stage, {}))
    line = f"stages {', '.join(map(str, stages))} follow the CPU within {LAST:g}; NaN skipped; killed and resumed"
    return verdict_of(problems, 0, line)


def train_stages(task: SmallTraining, environment: dict[str, str] | None = None) -> tuple[Losses, dict[int, list[int]]]:
    """Losses by stage and step, and the skipped steps by stage."""
    losses: Losses = {}
    skipped: dict[int, list[int]] = {}
    try:
        for line in json_lines([sys.executable, *task.command], environment):
            add(line, losses, skipped)
    except HpcJepaError as error:
        if task.action != "save" or f"exit code {-signal.SIGKILL}" not in str(error):
            raise
    return losses, skipped


def add(line: dict[str, Any], losses: Losses, skipped: dict[int, list[int]]) -> None:
    """Add one line of :mod:`small_training`."""
    losses.setdefault(line["stage"], {})[line["step"]] = line["loss"]
    if line["skipped"]:
        skipped.setdefault(line["stage"], []).append(line["step"])


def compare(expected: dict[int, float], found: dict[int, float]) -> dict[str, float]:
    """Relative differences: of the first loss, and the largest of all. NaN is the largest."""
    differences = {step: abs(found[step] - expected[step]) / abs(expected[step]) for step in found}
    largest = max(differences.values(), key=lambda value: math.inf if math.isnan(value) else value, default=math.nan)
    return {"first": differences.get(0, math.nan), "all": largest}


def faults(
    stage: int, row: dict[str, float], known: dict[int, float], skipped: list[int], resumed: dict[int, float]
) -> list[str]:
    """What is wrong at one stage."""
    wrong = []
    if sorted(known) != list(range(STEPS)):
        wrong.append(f"stage {stage}: {len(known)} of {STEPS} steps")
    if not row["first"] <= FIRST:
        wrong.append(f"stage {stage}: the first loss differs from the CPU's by {row['first']:.1e}")
    if not row["all"] <= LAST:
        wrong.append(f"stage {stage}: losses differ from the CPU's by up to {row['all']:.1e}")
    if skipped != [NAN_STEP]:
        wrong.append(f"stage {stage}: skipped steps {skipped}, not [{NAN_STEP}]")
    if not resumed or min(resumed) != SAVED:
        wrong.append(f"stage {stage}: resumed after {min(resumed, default=0)} steps, not {SAVED}")
    return wrong
