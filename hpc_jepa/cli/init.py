"""``hpc-jepa init``: copy the shipped configurations and Slurm files, to edit them."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from hpc_jepa.cli.console import CONSOLE, examples
from hpc_jepa.io.resources import FOLDERS, shipped_dir

EXAMPLES = examples(
    "hpc-jepa init",
    "hpc-jepa init my_study",
)


def init_command(
    folder: Annotated[Path, typer.Argument(help="Working directory to set up.", show_default="here")] = Path(),
) -> None:
    """Copy configs/ and slurm/ from the package into a working directory, where they take precedence.

    Existing files are kept.
    """
    copied = 0
    for name in FOLDERS:
        for source in sorted(path for path in shipped_dir(name).rglob("*") if path.is_file()):
            target = folder / name / source.relative_to(shipped_dir(name))
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
                copied += 1
    CONSOLE.print(f"{folder.resolve()}: {copied} files copied to {' and '.join(f'{name}/' for name in FOLDERS)}")
