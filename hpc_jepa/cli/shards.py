"""``hpc-jepa shards``: build, check and look at shard folders."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hpc_jepa.cli import shards_build
from hpc_jepa.cli.screen import CONSOLE, progress
from hpc_jepa.cli.shards_build import summary
from hpc_jepa.data.shards.manifest import Manifest, read_manifest
from hpc_jepa.data.shards.preview import contact_sheet
from hpc_jepa.data.shards.verify import find_faults, write_indexes
from hpc_jepa.errors import DataError, InputError

app = typer.Typer(no_args_is_help=True, help="Build, check and look at shard folders.")
app.add_typer(
    shards_build.app,
    name="build",
    help="Turn a data set into shards, OUT/<split>/. Stopped, it goes on when started again; done, it changes nothing.",
)

Folder = Annotated[Path, typer.Argument(help="A shard folder: SHARDS/<data set>/<split>.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog="Example: hpc-jepa shards verify --decode shards/motion8-small/train")
def verify(
    folder: Folder,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every frame as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare a shard folder with its manifest: sizes, checksums, indexes."""
    manifest = read_manifest(folder)
    with progress(f"verify {folder}", len(manifest.shards)) as advance:
        faults = find_faults(folder, decode, advance)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "faults": faults}, indent=1))
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more}; copy or build {folder} again")
    CONSOLE.print(f"{folder}: {manifest.samples} samples in {len(manifest.shards)} shards, no faults")


@app.command(epilog="Example: hpc-jepa shards info shards/motion8-small/train")
def info(folder: Folder, as_json: AsJson = False) -> None:
    """Show what a shard folder holds and how it was made."""
    manifest = read_manifest(folder)
    if as_json:
        typer.echo(manifest.model_dump_json(indent=1))
    else:
        Console().print(_table(folder, manifest))


@app.command(epilog="Example: hpc-jepa shards index shards/motion8-small/train")
def index(folder: Folder) -> None:
    """Write the index of every tar anew (the format of DALI's wds2idx)."""
    CONSOLE.print(f"{folder}: {write_indexes(folder)} indexes written")


@app.command(epilog="Example: hpc-jepa shards preview shards/motion8-small/train --out motion8.png")
def preview(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("preview.png"),
    samples: Annotated[int, typer.Option(min=1, help="Rows.")] = 12,
    frames: Annotated[int, typer.Option(min=1, help="Frames per row.")] = 8,
) -> None:
    """Draw a contact sheet."""
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: a contact sheet is a PNG file; let the name end in .png")
    contact_sheet(folder, samples, frames).save(out)
    CONSOLE.print(f"{out}: written")


def _table(folder: Path, manifest: Manifest) -> Table:
    recipe, encoding = manifest.recipe, manifest.recipe.encoding
    table = Table(title=str(folder), title_justify="left", show_header=False)
    rows = {
        "data set": f"{recipe.dataset}, {recipe.split}",
        "content": summary(manifest),
        "frames": f"{manifest.shortest} to {manifest.longest} per video",
        "classes": ", ".join(manifest.classes) or "none",
        "settings": ", ".join(f"{name} {value}" for name, value in recipe.settings.items()),
        "encoding": ", ".join(f"{name} {value}" for name, value in encoding.model_dump().items()),
        "software": ", ".join(f"{name} {version}" for name, version in manifest.software.items()),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
