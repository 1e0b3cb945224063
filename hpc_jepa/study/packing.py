"""Cells in the order in which packed jobs take them: those that read the same clips are next to each other."""

import json
from collections import Counter
from collections.abc import Sequence

from hpc_jepa.config.cluster import Profile
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import InputError
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.cell_pool import PooledTask
from hpc_jepa.study.task import evaluation_task, training_task


def pooled_trainings(cells: Sequence[StudyCell]) -> list[PooledTask]:
    """Trainings of cells, those with the same clips next to each other."""
    groups: dict[str, int] = {}
    numbered = [(groups.setdefault(clips_key(cell.config), len(groups)), cell) for cell in cells]
    return [
        PooledTask(**vars(training_task(cell)), until=cell.until, after=cell.after, group=group)
        for group, cell in sorted(numbered, key=lambda each: each[0])
    ]


def pooled_evaluations(cells: Sequence[StudyCell]) -> list[PooledTask]:
    """One task for the evaluations of each cell. All read the same benchmarks: a task of several runs belongs here."""
    return [PooledTask(**vars(evaluation_task(cell)), until=cell.until) for cell in cells]


def clips_key(config: RunConfig) -> str:
    """Equal for runs that read the same clips in the same order, with the same augmentation."""
    content = {"data": config.data.model_dump(mode="json"), "seed": config.seed, "batch": config.engine.batch_size}
    return json.dumps(content, sort_keys=True)


def sharing_note(tasks: Sequence[PooledTask]) -> str:
    """Which tasks read the same clips, as text."""
    counts = Counter(task.group for task in tasks)
    most = max(counts.values())
    if most == 1:
        return "no two cells read the same clips, so packing saves idle GPUs and no decoding"
    return f"cells of one regime and seed are put together (up to {most} read the same clips)"


def refuse_online_packed(cells: Sequence[StudyCell], profile: Profile) -> None:
    """Raise InputError if the study evaluates beside its trainings and the profile packs: a job for a cell, not known
    in advance, cannot be followed.
    """
    if profile.cluster.packs and any(cell.online is not None for cell in cells):
        sections = {"train": profile.cluster.train, "evaluate": profile.cluster.evaluate}
        section = next(name for name, resources in sections.items() if resources.cells_of_job > 1)
        key = "cells_per_job" if sections[section].cells_per_job > 1 else "cells_per_pass"
        raise InputError(
            f"{profile.location(f'{section}.{key}')}: packed jobs cannot evaluate beside the training "
            f"(evaluations: online: true in the study); set {key}: 1, or online: false"
        )
