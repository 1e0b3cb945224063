"""``hpc-jepa doctor``: what this machine can do."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpc_jepa.cli.console import CONSOLE
from hpc_jepa.cli.machine.check_result import CheckResult

EXAMPLES = """Examples:

  hpc-jepa doctor

  hpc-jepa doctor --folder /scratch/me --json
"""

COLOURS = {"ok": "green", "note": "yellow", "missing": "bold red"}


def doctor(
    folder: Annotated[Path, typer.Option(help="Folder whose file system is measured, with a file of 64 MiB.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try what this machine can do: packages, CPU, GPU, DALI, codecs, Slurm, file-system speed.

    Each line is ok, note (it works, but know this) or missing. The exit code is 0 whatever is found.
    """
    from hpc_jepa.cli.machine import disk, hardware, software, video

    disk.refuse_unwritable(folder)
    questions: dict[str, Callable[[], list[CheckResult]]] = {
        "packages": lambda: [software.python(), *software.packages()],
        "processor": lambda: [hardware.cores(), hardware.bf16()],
        "GPU": hardware.gpus,
        "DALI": video.dali,
        "codecs": lambda: [video.codec(*names) for names in video.CODECS],
        "Slurm": lambda: [software.slurm()],
        "file system": lambda: [disk.file_system(folder)],
    }
    found: list[CheckResult] = []
    with CONSOLE.status("") as status:
        for subject, ask in questions.items():
            status.update(f"looking at {subject}")
            found += ask()
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=1))
    else:
        Console().print(_table(found))


def _table(found: list[CheckResult]) -> Table:
    table = Table.grid(padding=(0, 2))
    for finding in found:
        words = Text(finding.found)
        if finding.advice:
            words.append(f"\n{finding.advice}", style="italic")
        table.add_row(Text(finding.verdict, style=COLOURS[finding.verdict]), Text(finding.check, style="bold"), words)
    return table
