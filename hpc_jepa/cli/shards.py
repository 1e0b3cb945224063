"""``hpc-jepa shards``: build, check and look at shard folders."""

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from hpc_jepa.cli import shards_build
from hpc_jepa.cli.console import CONSOLE, plural, progress_bar
from hpc_jepa.cli.shards_build import summary
from hpc_jepa.data.shards.manifest import MANIFEST_NAME, ShardManifest, read_manifest
from hpc_jepa.data.shards.preview import contact_sheet
from hpc_jepa.data.shards.reshard import SampleFilter, reshard_source
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.shards.verify import find_decode_errors, find_shard_errors, random_samples, write_indexes
from hpc_jepa.data.sources.layouts import PUBLISHED_COUNTS
from hpc_jepa.errors import DataError, InputError

app = typer.Typer(no_args_is_help=True, help="Build, check and look at shard folders.")
app.add_typer(
    shards_build.app,
    name="build",
    help="Turn a data set into shards, OUT/<split>/. Stopped, it goes on when started again; done, it changes nothing.",
)

SHOWN_CLASSES = 8

Folder = Annotated[Path, typer.Argument(help="A shard folder: SHARDS/<data set>/<split>.")]
Folders = Annotated[Path, typer.Argument(help="A shard folder, or the folder of a data set with one for each split.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads; one per core.")]


@app.command(epilog="Example: hpc-jepa shards verify --sample 100 shards/ucf101/train")
def verify(
    folder: Folder,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every sample as well.")] = False,
    sample: Annotated[int, typer.Option(min=0, help="Decode this many samples, drawn at random.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Compare a shard folder with its manifest: sizes, checksums, indexes, and what samples decode to."""
    manifest = read_manifest(folder)
    cores = threads or len(os.sched_getaffinity(0))
    with progress_bar(f"verify {folder}", len(manifest.shards)) as advance:
        faults = find_shard_errors(folder, cores, advance)
    picks = random_samples(folder, manifest.samples if decode else sample, seed)
    if picks and not faults:
        with progress_bar(f"decode {folder}", len(picks)) as advance:
            faults = find_decode_errors(folder, picks, cores, advance)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "decoded": len(picks), "faults": faults}, indent=1))
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more}; copy or build {folder} again")
    decoded = f", {len(picks)} decoded" if picks else ""
    shards = plural(len(manifest.shards), "shard", "shards")
    CONSOLE.print(f"{folder}: {manifest.samples} samples in {shards}{decoded}, no faults")


@app.command(epilog="Example: hpc-jepa shards info shards/ucf101 --expect published")
def info(
    folder: Folders,
    expect: Annotated[
        Literal["published"] | None, typer.Option(help="Fail unless the counts are those of the publications.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what shard folders hold and how they were made."""
    manifests = _manifests(folder)
    if as_json:
        contents = [manifest.model_dump(mode="json") for manifest in manifests.values()]
        typer.echo(json.dumps(contents[0] if (folder / MANIFEST_NAME).is_file() else contents, indent=1))
    else:
        for place, manifest in manifests.items():
            Console().print(_table(place, manifest))
    if expect:
        for place, manifest in manifests.items():
            CONSOLE.print(_as_published(place, manifest))


@app.command(epilog="Example: hpc-jepa shards index downloads/some-data-set")
def index(
    place: Annotated[Path, typer.Argument(help="A tar, or a folder of tars, whoever wrote them.")],
) -> None:
    """Write the index of every tar anew (the format of DALI's wds2idx)."""
    CONSOLE.print(f"{place}: {write_indexes(place)} indexes written")


@app.command(epilog="Example: hpc-jepa shards preview shards/motion8-small/train --out motion8.png")
def preview(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("preview.png"),
    samples: Annotated[int, typer.Option(min=1, help="Rows.")] = 12,
    frames: Annotated[int, typer.Option(min=1, help="Frames per row.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
) -> None:
    """Draw a contact sheet of random clips: labels, frames, and a timeline with the key frames in red."""
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: a contact sheet is a PNG file; let the name end in .png")
    contact_sheet(ShardFolder(folder), random_samples(folder, samples, seed), frames).save(out)
    CONSOLE.print(f"{out}: written")


@app.command(epilog="Example: hpc-jepa shards reshard shards/ucf101/train --out shards/ucf101-long --min-frames 64")
def reshard(
    folder: Folder,
    out: shards_build.Out,
    classes: Annotated[list[str] | None, typer.Option("--class", help="Keep this class; may be repeated.")] = None,
    codecs: Annotated[list[str] | None, typer.Option("--codec", help="Keep this codec; may be repeated.")] = None,
    min_frames: Annotated[int, typer.Option(min=0, help="Keep videos of so many frames or more.")] = 0,
    keys: Annotated[Path | None, typer.Option(help="Keep the samples this file names, one key a line.")] = None,
    samples_per_shard: shards_build.PerShard = 500,
    shard_size: Annotated[int, typer.Option(min=1, help="MiB at which a tar ends early.")] = 1024,
    workers: shards_build.Workers = None,
) -> None:
    """Write the same samples, or some of them, as shards of another size; nothing is encoded anew."""
    named = frozenset(keys.read_text(encoding="utf-8").split()) if keys else frozenset()
    kept = SampleFilter(classes=tuple(classes or ()), codecs=tuple(codecs or ()), shortest=min_frames, keys=named)
    source = reshard_source(folder, kept)
    original = read_manifest(folder).recipe
    size = {"samples_per_shard": samples_per_shard, "shard_size": shard_size * shards_build.MIB, "shuffle_seed": None}
    recipe = original.model_copy(update={"settings": dict(source.settings), **size})
    shards_build.build_all([source], [recipe], out, workers)


def _manifests(folder: Path) -> dict[Path, ShardManifest]:
    """The manifest of a shard folder, or those of all splits below it."""
    splits = sorted(path.parent for path in folder.glob(f"*/{MANIFEST_NAME}"))
    places = [folder] if (folder / MANIFEST_NAME).is_file() or not splits else splits
    return {place: read_manifest(place) for place in places}


def _as_published(place: Path, manifest: ShardManifest) -> str:
    """A line that says so. Raises DataError where the counts differ, InputError where there is nothing to compare."""
    dataset, split = manifest.recipe.dataset, manifest.recipe.split
    expected = PUBLISHED_COUNTS.get(dataset, {}).get(split)
    if expected is None:
        known = ", ".join(f"{name} {part}" for name, parts in PUBLISHED_COUNTS.items() for part in parts)
        raise InputError(f"{place}: no published count of {dataset} {split}; known are {known}")
    if manifest.samples != expected:
        dropped = f", {manifest.dropped} were left out (ledger.jsonl says why)" if manifest.dropped else ""
        raise DataError(f"{place}: {manifest.samples} samples, {expected} are published{dropped}")
    return f"{place}: {expected:,} samples, as published"


def _table(folder: Path, manifest: ShardManifest) -> Table:
    recipe, encoding = manifest.recipe, manifest.recipe.encoding
    table = Table(title=str(folder), title_justify="left", show_header=False)
    rows = {
        "data set": f"{recipe.dataset}, {recipe.split}",
        "content": summary(manifest),
        "bytes": f"{manifest.size:,}",
        "hours": f"{manifest.seconds / 3600:.2f}",
        "frames": f"{manifest.shortest} to {manifest.longest} per video",
        "classes": _classes(manifest.classes),
        "codecs": _counts(manifest.codecs),
        "stored": _counts(manifest.stored),
        "settings": ", ".join(f"{name} {value}" for name, value in recipe.settings.items()),
        "encoding": ", ".join(f"{name} {value}" for name, value in encoding.model_dump().items()),
        "software": ", ".join(f"{name} {version}" for name, version in manifest.software.items()),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _classes(names: tuple[str, ...]) -> str:
    if not names:
        return "none"
    more = ", ..." if len(names) > SHOWN_CLASSES else ""
    return f"{len(names)}: {', '.join(names[:SHOWN_CLASSES])}{more}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items())
