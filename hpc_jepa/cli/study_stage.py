"""``hpc-jepa study stage``: copy the tars that a node will read to its local disk."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hpc_jepa.cli.console import CONSOLE, AsJson, examples, plural, progress_bar
from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import HpcJepaError, InputError

GIB = 1 << 30
EXAMPLES = examples(
    "hpc-jepa study stage paper --node-local /local/shards",
    "hpc-jepa study stage paper --node-local /local/shards --limit 500 --cell RUN --cell RUN",
)


def stage_command(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name in configs/study/, or a YAML file.")],
    node_local: Annotated[Path, typer.Option("--node-local", help="Folder on the node's disk: data.reading.scratch.")],
    cell: Annotated[
        list[Path] | None,
        typer.Option("--cell", help="Run folder of a cell of this node; repeatable.", show_default="all cells"),
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(min=1e-6, help="GiB of copies in the folder.", show_default="data.reading.scratch_limit"),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Root folder of all runs.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Copy the tars that cells will read next to a local disk, in the order in which they need them.

    Which tars a step reads is a function of seed and step, so the order is known. Copies needed last are removed first.
    """
    from hpc_jepa.study.grid import expand_study
    from hpc_jepa.study.stage import plan_stage, scratch_limit, stage

    cells = expand_study(read_config(StudyConfig, [find_config(study, "study")]), runs)
    if cell:
        wanted = {folder.resolve() for folder in cell}
        cells = [each for each in cells if each.folder.resolve() in wanted]
        if unknown := wanted - {each.folder.resolve() for each in cells}:
            raise InputError(f"--cell {min(unknown)}: not a cell of {study} below {runs}")
    allowed = int((scratch_limit(cells) if limit is None else limit) * GIB)
    plan = plan_stage(cells, allowed)
    with progress_bar("tars", len(plan.tars)) as advance:
        missing = stage(plan, node_local, allowed, lambda tar: advance())
    elsewhere = [each for each in cells if each.config.data.reading.scratch != node_local]
    if as_json:
        figures = {
            "tars": len(plan.tars) - len(missing),
            "bytes": plan.size - sum(tar.size for tar in missing),
            "all_tars": len(plan.sources),
            "all_bytes": sum(plan.sources.values()),
            "steps": plan.steps,
        }
        typer.echo(json.dumps(figures))
    else:
        size, whole = plan.size / GIB, sum(plan.sources.values()) / GIB
        typer.echo(
            f"{len(plan.tars) - len(missing)} of {plural(len(plan.sources), 'tar', 'tars')}, {size:.3g} of "
            f"{whole:.3g} GiB: all that {plural(len(cells), 'cell reads', 'cells read')} "
            + ("from now on" if plan.steps is None else f"in the next {plan.steps:,} steps")
        )
    if elsewhere:
        CONSOLE.print(
            f"note: {len(elsewhere)} of {plural(len(cells), 'cell', 'cells')} do not read from {node_local}; "
            f"set data.reading.scratch={node_local} in overrides: of the study",
            highlight=False,
        )
    if missing:
        raise HpcJepaError(
            f"{missing[0].path} and {len(missing) - 1} more were not copied: no room in {node_local}, whose copies are "
            "needed before, or another checksum than in the manifest"
        )
