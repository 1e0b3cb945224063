"""Files shipped with the package: ``configs/`` and ``slurm/``; the user's own in the working directory win."""

from importlib.resources import files
from pathlib import Path

FOLDERS = ("configs", "slurm")


def shipped_dir(folder: str) -> Path:
    """``configs`` or ``slurm`` inside the installed package, or at the top of a source checkout."""
    installed = Path(str(files("hpc_jepa"))) / folder
    return installed if installed.is_dir() else installed.parents[1] / folder


def find_resource(path: str | Path) -> Path | None:
    """The file at ``path`` or, for a missing ``configs/...`` or ``slurm/...``, the shipped one; None without either."""
    path = Path(path)
    if path.is_file():
        return path
    working_dir, absolute = Path.cwd(), Path.cwd().joinpath(path).resolve()
    if not absolute.is_relative_to(working_dir):
        return None
    folder, *parts = absolute.relative_to(working_dir).parts or ("",)
    shipped = shipped_dir(folder).joinpath(*parts)
    return shipped if folder in FOLDERS and shipped.is_file() else None


def resource_name(path: Path) -> Path:
    """``configs/...`` or ``slurm/...`` of a shipped file, by which every installation finds its own, also one in a
    container; other paths as they are.
    """
    for folder in FOLDERS:
        if path.is_relative_to(shipped_dir(folder)):
            return Path(folder) / path.relative_to(shipped_dir(folder))
    return path


def list_resources(folder: str, pattern: str = "*.yaml") -> dict[str, Path]:
    """Files of a folder such as ``configs/objective`` by stem, the user's own in place of shipped ones of that name."""
    top, _, below = folder.partition("/")
    paths = [*(shipped_dir(top) / below).glob(pattern), *Path(folder).glob(pattern)]
    return {path.stem: path for path in sorted(paths, key=lambda path: path.stem)}
