#!/usr/bin/env python3
"""The reference study: its records for shipping, and its page, figure and picture computed from them.

    python tools/reference_study.py update runs/reference      all of the following
    python tools/reference_study.py collect runs/reference     records of complete seeds -> docs/reference_study/records
    python tools/reference_study.py page                       tables of docs/reference_study/index.md, and its figure
    python tools/reference_study.py picture                    docs/images/report.webp, with Chromium

A seed is complete if every row of the study has finished and was evaluated with it. What identifies the machine that
ran the study is left out: the folder of its runs, times and process numbers. Records and predictions are as they were.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from reference_figure import figure_svg
from reference_tables import blocks, fill, read_study
from timing import one_line_errors

from hpc_jepa.config.loading import dump_config, read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.report.write_report import write_report
from hpc_jepa.runs.run_dir import RunDir, StudyDir
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.grid import expand_study

DOCS = Path(__file__).parents[1] / "docs"
RECORDS = DOCS / "reference_study" / "records"
PAGE = DOCS / "reference_study" / "index.md"
FIGURE = DOCS / "images" / "reference_study.svg"
PICTURE = DOCS / "images" / "report.webp"

RUNS = "runs"
"""Folder of runs in the shipped configurations, the default of ``hpc-jepa train``."""

PICTURE_SIZE = (1100, 1300)
CHROMIUM = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def update(study: Annotated[Path, typer.Argument(help="RUNS/<study>, written by study submit.")]) -> None:
    """Collect the records of a study, and write page, figure and picture from them."""
    collect(study)
    page()
    picture()


@app.command()
def collect(
    study: Annotated[Path, typer.Argument(help="RUNS/<study>, written by study submit.")],
    out: Annotated[Path, typer.Option(help="Folder for RUNS/<study>; its study is replaced.")] = RECORDS,
) -> None:
    """Copy configurations, states, records and predictions of all complete seeds."""
    with one_line_errors():
        seeds, count = collect_records(study, out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    listed = ", ".join(map(str, seeds))
    typer.echo(f"{count} runs, all of seed {listed}, {size / 1e6:.2f} MB: {out}")


@app.command()
def page(
    records: Annotated[Path, typer.Option(help="Collected records.")] = RECORDS,
) -> None:
    """Compute the tables of the page and the figure from the records, and write them."""
    with one_line_errors():
        found = read_study(records)
        write_atomically(PAGE, fill(PAGE.read_text(), blocks(found)).encode())
        write_atomically(FIGURE, figure_svg(found).encode())
    typer.echo(f"{PAGE}\n{FIGURE}")


@app.command()
def picture(
    records: Annotated[Path, typer.Option(help="Collected records.")] = RECORDS,
) -> None:
    """Take a picture of the report on the records."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with one_line_errors(), tempfile.TemporaryDirectory() as folder:
        if browser is None:
            raise InputError("the picture needs Chromium (apt-get install chromium)")
        # Inside the folder of the records the page names no path of this machine.
        copied = shutil.copytree(records, Path(folder) / RUNS)
        index = write_report([copied]).folder / "index.html"
        taken = Path(folder) / "report.png"
        size = ",".join(map(str, PICTURE_SIZE))
        options = (f"--user-data-dir={folder}/profile", f"--screenshot={taken}", f"--window-size={size}")
        subprocess.run([browser, *CHROMIUM, *options, index.as_uri()], check=True, capture_output=True)
        with Image.open(taken) as image:
            image.convert("RGB").save(PICTURE, quality=80, method=6)
    typer.echo(PICTURE)


def collect_records(source: Path, out: Path) -> tuple[list[int], int]:
    """Copy the runs of the complete seeds of a study below ``out``; returns these seeds, and the number of runs.

    Raises InputError if the folder is no study, or no seed is complete.
    """
    config_file = StudyDir(source).config_file
    if not config_file.is_file():
        raise InputError(f"{source}: no study ({config_file.name} is missing); name RUNS/<study>")
    study = read_config(StudyConfig, [config_file])
    cells = expand_study(study, source.parent)
    unfinished = {cell.config.seed for cell in cells if not _is_complete(cell)}
    seeds = sorted({cell.config.seed for cell in cells} - unfinished)
    if not seeds:
        raise InputError(f"{source}: no seed with which all {len(study.variants)} rows were trained and evaluated")
    folder = out / study.study
    shutil.rmtree(folder, ignore_errors=True)
    chosen = [cell for cell in cells if cell.config.seed in seeds]
    for cell in chosen:
        _copy_run(cell, out)
    shipped = study.model_copy(update={"seeds": tuple(seeds)})
    (folder / config_file.name).write_text(dump_config(shipped))
    return seeds, len(chosen)


def _is_complete(cell: StudyCell) -> bool:
    state = cell.run.state
    return state is not None and state.state == "done" and all(path.is_file() for path in _record_files(cell))


def _record_files(cell: StudyCell) -> list[Path]:
    """Records and predictions that the study asks for."""
    records = [cell.run.record_file(each.benchmark.name, each.protocol) for each in cell.evaluations]
    return [path.with_suffix(suffix) for path in records for suffix in (".json", ".npz")]


def _copy_run(cell: StudyCell, out: Path) -> None:
    """Configuration without the folder of the runs, state without time and process, records as they are."""
    target = RunDir(out / cell.folder.relative_to(Path(cell.config.runs)))
    target.record_dir().mkdir(parents=True)
    target.config_file.write_text(dump_config(cell.run.config.model_copy(update={"runs": RUNS})))
    state = cell.run.state
    if state is not None:
        target.state_file.write_text(state.model_dump_json(indent=1, exclude={"time", "pid"}, exclude_none=True) + "\n")
    for path in _record_files(cell):
        shutil.copyfile(path, target.record_dir() / path.name)


if __name__ == "__main__":
    app()
