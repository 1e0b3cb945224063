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
    for name in FOLDERS:
        shutil.copytree(shipped_dir(name), folder / name, dirs_exist_ok=True, copy_function=_copy_if_missing)
    names = " and ".join(f"{name}/" for name in FOLDERS)
    CONSOLE.print(f"{folder.resolve()}: {names} hold all shipped files; files that existed are unchanged")


def _copy_if_missing(source: str, target: str) -> None:
    if not Path(target).exists():
        shutil.copy(source, target)
