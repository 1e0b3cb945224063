"""A simulated grid as a study on disk, and what the report says about it: records in, verdict out."""

from pathlib import Path

from simulated_grids import CLASSES, Grid
from simulated_records import write_answers, write_run

from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.report.report_data import collect_run_data
from hpc_jepa.report.result_grid import Contrast
from hpc_jepa.report.run_report import find_runs
from hpc_jepa.study.grid import create_study_dir, expand_study

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
            write_run(cell.config)
            answers = {("target", "linear"): scores > 0}
            write_answers(
                cell.config, evaluation.benchmark.name, evaluation.protocol, answers, grid.clusters, classes=CLASSES
            )
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
