"""``hpc-jepa shards``: build, verify and inspect shard folders."""

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from hpc_jepa.cli import shards_build
from hpc_jepa.cli.console import CONSOLE, AsJson, plural, progress_bar, stdout_console
from hpc_jepa.cli.shards_build import summary
from hpc_jepa.data.shards.index import index_path
from hpc_jepa.data.shards.manifest import MANIFEST_NAME, ShardManifest, read_manifest
from hpc_jepa.data.shards.preview import contact_sheet
from hpc_jepa.data.shards.reshard import SampleFilter, reshard_source
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.shards.verify import find_decode_errors, find_shard_errors, random_samples, write_indexes
from hpc_jepa.data.sources.layouts import PUBLISHED_COUNTS
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.io.escape import shell_command

app = typer.Typer(no_args_is_help=True, help="Build, verify and inspect shard folders.")
app.add_typer(
    shards_build.app,
    name="build",
    help="Build shards of a data set: OUT/<split>/. Repeat the command to resume; a complete build is left alone.",
)

SHOWN_CLASSES = 8

Folder = Annotated[Path, typer.Argument(help="Shard folder: SHARDS/<data set>/<split>.")]
Folders = Annotated[Path, typer.Argument(help="Shard folder, or data set folder with one per split.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads.", show_default="one per core")]


@app.command("verify", epilog="Example: hpc-jepa shards verify --sample 100 shards/ucf101/train")
def shards_verify(
    folder: Folder,
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every sample.")] = False,
    sample: Annotated[int, typer.Option(min=0, help="Also decode N random samples.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random samples.")] = 0,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Check a shard folder against its manifest: sizes, checksums, indexes and, if requested, decoded samples."""
    manifest = read_manifest(folder)
    cores = threads or len(os.sched_getaffinity(0))
    with progress_bar(f"verify {folder}", len(manifest.shards)) as advance:
        errors = find_shard_errors(folder, cores, advance)
    indices = random_samples(folder, manifest.samples if decode else sample, seed)
    if indices and not errors:
        with progress_bar(f"decode {folder}", len(indices)) as advance:
            errors = find_decode_errors(folder, indices, cores, advance)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "decoded": len(indices), "errors": errors}, indent=1))
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        command = shell_command("hpc-jepa", "shards", "reshard", folder, "--out", "NEW", "--repair")
        repair = f", or repair samples with: {command}" if indices else ""
        raise DataError(f"{errors[0]}{more}; copy {folder} again or rebuild it{repair}")
    decoded = f", {len(indices)} decoded" if indices else ""
    shards = plural(len(manifest.shards), "shard", "shards")
    CONSOLE.print(f"{folder}: {manifest.samples} samples in {shards}{decoded}, no errors")


@app.command("info", epilog="Example: hpc-jepa shards info shards/ucf101 --expect published")
def shards_info(
    folder: Folders,
    expect: Annotated[
        Literal["published"] | None, typer.Option(help="Fail if sample counts differ from the publications.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the contents of shard folders and how they were built."""
    manifests = _manifests(folder)
    if as_json:
        contents = [manifest.model_dump(mode="json") for manifest in manifests.values()]
        typer.echo(json.dumps(contents[0] if (folder / MANIFEST_NAME).is_file() else contents, indent=1))
    else:
        for folder, manifest in manifests.items():
            stdout_console().print(_table(folder, manifest))
    if expect:
        for folder, manifest in manifests.items():
            CONSOLE.print(_compare_with_published(folder, manifest))


@app.command("index", epilog="Example: hpc-jepa shards index downloads/some-data-set")
def shards_index(
    path: Annotated[Path, typer.Argument(help="A tar, or a folder of tars, from any source.")],
) -> None:
    """Write index files for tars, in the format of DALI's wds2idx."""
    written = write_indexes(path)
    for tar, names in written.items():
        if names:
            CONSOLE.print(
                f"warning: {index_path(tar)}: DALI cannot parse white space in names, here in {len(names):,} members, "
                f"for example {names[0]!r}; rename the members (underscores), or read the tar without an index",
                markup=False,
            )
    CONSOLE.print(f"{path}: {plural(len(written), 'index', 'indexes')} written")


@app.command("preview", epilog="Example: hpc-jepa shards preview shards/motion8-small/train --out motion8.png")
def shards_preview(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("preview.png"),
    samples: Annotated[int, typer.Option(min=1, help="Rows.")] = 12,
    frames: Annotated[int, typer.Option(min=1, help="Frames per row.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random samples.")] = 0,
) -> None:
    """Write a contact sheet of random clips: labels, frames, and a timeline with key frames in red."""
    if out.suffix.lower() != ".png":
        raise InputError(f"--out {out}: not a .png file name")
    contact_sheet(ShardFolder(folder), random_samples(folder, samples, seed), frames).save(out)
    CONSOLE.print(f"{out}: written")


@app.command("reshard", epilog="Example: hpc-jepa shards reshard shards/ucf101/train --out shards/long --min-frames 64")
def shards_reshard(
    folder: Folder,
    out: shards_build.Out,
    classes: Annotated[list[str] | None, typer.Option("--class", help="Keep this class; repeatable.")] = None,
    codecs: Annotated[list[str] | None, typer.Option("--codec", help="Keep this codec; repeatable.")] = None,
    min_frames: Annotated[int, typer.Option(min=0, help="Keep videos with at least N frames.")] = 0,
    keys: Annotated[Path | None, typer.Option(help="File with the keys of samples to keep, one per line.")] = None,
    samples_per_shard: shards_build.PerShard = 500,
    shard_size: Annotated[int, typer.Option(min=1, help="Maximum size of a tar in MiB.")] = 1024,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remux or transcode videos whose frames are not found in order.")
    ] = False,
    workers: shards_build.Workers = None,
) -> None:
    """Write the samples, or some of them, into shards of another size. Nothing is re-encoded without --repair."""
    named = frozenset(keys.read_text(encoding="utf-8").split()) if keys else frozenset()
    kept = SampleFilter(classes=tuple(classes or ()), codecs=tuple(codecs or ()), shortest=min_frames, keys=named)
    source = reshard_source(folder, kept, repair)
    original = read_manifest(folder).recipe
    size = {"samples_per_shard": samples_per_shard, "shard_size": shard_size * shards_build.MIB, "shuffle_seed": None}
    recipe = original.model_copy(update={"settings": dict(source.settings), **size})
    shards_build.build_sources([source], [recipe], out, workers)


def _manifests(folder: Path) -> dict[Path, ShardManifest]:
    """Manifest by folder: of one shard folder, or of all splits below ``folder``."""
    splits = sorted(path.parent for path in folder.glob(f"*/{MANIFEST_NAME}"))
    folders = [folder] if (folder / MANIFEST_NAME).is_file() or not splits else splits
    return {path: read_manifest(path) for path in folders}


def _compare_with_published(folder: Path, manifest: ShardManifest) -> str:
    """A confirmation. Raises DataError if the counts differ, InputError if no count is published."""
    dataset, split = manifest.recipe.dataset, manifest.recipe.split
    expected = PUBLISHED_COUNTS.get(dataset, {}).get(split)
    if expected is None:
        known = ", ".join(f"{name} {part}" for name, parts in PUBLISHED_COUNTS.items() for part in parts)
        raise InputError(f"{folder}: no published count for {dataset} {split}; known: {known}")
    if manifest.samples != expected:
        dropped = f"; {manifest.dropped} were skipped (see ledger.jsonl)" if manifest.dropped else ""
        raise DataError(f"{folder}: {manifest.samples} samples, published are {expected}{dropped}")
    return f"{folder}: {expected:,} samples, as published"


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
        "clusters": _clusters(manifest),
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


def _clusters(manifest: ShardManifest) -> str:
    shared = manifest.shared_clusters
    return manifest.known_clusters + (f", {shared:,} of them in other splits too" if shared else "")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items())
