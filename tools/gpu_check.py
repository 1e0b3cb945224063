#!/usr/bin/env python3
"""Check a GPU machine from end to end in less than ten minutes: ``make gpu-check``.

    python tools/gpu_check.py                       every part; needs one GPU
    python tools/gpu_check.py --rehearse            the same parts, small and on the CPU, under stand-ins
    python tools/gpu_check.py --only decoding --only speed
    python tools/gpu_check.py --patience 3          three times the time limits, for slow file systems

Every part runs in its own process with a time limit, and a part that fails does not stop the others. The check writes
``gpu_check.json``, the page ``gpu_check.md`` for docs/performance.md, and the logs of all parts into --out. Exit code:
0 if no part failed, 1 if one did, 130 if it was stopped; the files are written in every case.
"""

from pathlib import Path
from typing import Annotated

import typer
from timing import one_line_errors, require_writable

from hpc_jepa.cli.gpu_check.check import check_gpu, chosen_parts
from hpc_jepa.cli.gpu_check.part import Mode


def main(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path(),
    rehearse: Annotated[
        bool, typer.Option("--rehearse", envvar="REHEARSE", help="Small and on the CPU; measures nothing.")
    ] = False,
    only: Annotated[list[str] | None, typer.Option(help="Name of a part; repeatable.")] = None,
    patience: Annotated[float, typer.Option(min=0.1, help="Factor of all time limits.")] = 1.0,
) -> None:
    """Run all parts and write the report."""
    with one_line_errors():
        report = check_gpu(chosen_parts(only), Mode(rehearse), require_writable(out), patience, typer.echo)
    raise typer.Exit(report.exit_code)


if __name__ == "__main__":
    typer.run(main)
