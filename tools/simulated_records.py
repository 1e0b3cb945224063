"""A simulated grid as a study on disk, and what the report says about it: records in, verdict out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from simulated_grids import Grid

from hpc_jepa.config.loading import dump_config, find_config, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.record import ProbeRecord, accuracy_fields, write_record
from hpc_jepa.report.report_data import collect_run_data
from hpc_jepa.report.result_grid import Contrast
from hpc_jepa.report.run_report import find_runs
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.study.grid import create_study_dir, expand_study

CLASSES = 20
STUDY = "extended"
"""The shipped study whose regime, variants and benchmark the simulated one borrows."""


def verdicts(grid: Grid, root: Path) -> dict[str, Contrast]:
    """Write ``grid`` below ``root`` as the training and the evaluation would, and read what the report says of it."""
    study = _study(grid)
    folder = create_study_dir(study, root).path
    names = dict(zip([variant.objective for variant in study.variants], ["", *grid.variants], strict=True))
    for cell in expand_study(study, root):
        name = names[cell.config.variant]
        scores = (grid.variants[name] if name else grid.reference).get(cell.config.seed)
        if scores is not None:
            (evaluation,) = cell.evaluations
            _write_run(cell.config, evaluation.benchmark.name, evaluation.protocol, scores > 0, grid.clusters)
    data = collect_run_data(find_runs([folder]), [folder])
    contrasts = [found for report_grid in data.grids for found in report_grid.all_contrasts()]
    return {names[row]: contrast for row, _, contrast in contrasts}


def _study(grid: Grid) -> StudyConfig:
    shipped = read_config(StudyConfig, [find_config(STUDY, "study")])
    if len(grid.variants) >= len(shipped.variants):
        raise InputError(f"--records: at most {len(shipped.variants)} variants, as many as the study {STUDY} has")
    seeds = set(grid.reference).union(*grid.variants.values())
    evaluation = shipped.evaluations[0]
    return shipped.model_copy(
        update={
            "study": "simulated",
            "regimes": shipped.regimes[:1],
            "variants": shipped.variants[: len(grid.variants) + 1],
            "seeds": tuple(sorted(seeds)),
            "evaluations": (evaluation.model_copy(update={"protocols": evaluation.protocols[:1]}),),
        }
    )


def _write_run(
    config: RunConfig, benchmark: str, protocol: str, right: NDArray[np.bool_], clusters: NDArray[np.int64] | None
) -> None:
    """A finished run whose ``target`` encoder classifies the test clips ``right`` [n]."""
    run = RunDir(config.folder)
    run.path.mkdir(parents=True)
    run.config_file.write_text(dump_config(config))
    steps = config.schedule.steps
    run.state_file.write_text(json.dumps({"state": "done", "step": steps, "steps": steps}))
    labels = np.arange(right.size) % CLASSES
    predictions = {
        "labels": labels,
        "samples": np.arange(right.size),
        "target.linear": np.where(right, labels, (labels + 1) % CLASSES)[None],
    }
    if clusters is not None:
        predictions["clusters"] = clusters
    facts: dict[str, Any] = {"weights": "target", "probe": "linear", "pooling": "mean", "probe_seeds": ()}
    result = {**facts, "metric": "top1", **accuracy_fields(right[None], clusters)}
    path = RunDir(config.folder).record_file(benchmark, protocol)
    write_record(ProbeRecord, path, {**_record_facts(config, benchmark, protocol), "results": (result,)}, predictions)


def _record_facts(config: RunConfig, benchmark: str, protocol: str) -> Mapping[str, Any]:
    return {
        "run": {
            "study": config.study,
            "regime": config.regime,
            "variant": config.variant,
            "seed": config.seed,
            "semantics": config.semantics.preset,
            "overridden": config.semantics.overridden(),
            "switches": config.named_switches,
            "fingerprint": config.fingerprint(),
            "step": config.schedule.steps,
            "steps": config.schedule.steps,
        },
        "benchmark": benchmark,
        "title": benchmark,
        "classes": CLASSES,
        "protocol": protocol,
        "protocol_fingerprint": "0" * 16,
        "data": {"train": "0" * 64, "test": "1" * 64},
        "software": {"simulated": "1"},
    }
