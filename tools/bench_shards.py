#!/usr/bin/env python3
"""Speed of building and verifying shards, compared with tar, ffmpeg and sha256sum.

    python tools/bench_shards.py --quick

Both sides process the same files in turn, several times, with fsync; medians are compared. Copying is measured with the
files on disk only, as for a data set larger than memory, and with the files in memory, where tar has almost nothing to
do. Transcoding is compared in CPU seconds.

Starting the workers takes about a second, which dominates the quick form: its 100 files are a functional test.
"""

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from timing import one_line_errors, quick_option, require_writable

from hpc_jepa.cli.console import progress_bar
from hpc_jepa.data.encode import H264, Encoding, encode
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.shards.transcode import transcode
from hpc_jepa.data.shards.verify import find_shard_errors
from hpc_jepa.data.sources import class_folders as folder_layout
from hpc_jepa.errors import InputError
from hpc_jepa.io.atomic import fsync

LONG_GROUPS = Encoding(gop=250, preset="ultrafast", tune="zerolatency", crf=12)


class Pair(NamedTuple):
    """Seconds of both sides in every round."""

    name: str
    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> float:
        """Speed ratio ours / theirs."""
        return statistics.median(self.theirs) / statistics.median(self.ours)

    def as_json(self) -> dict[str, Any]:
        """All rounds, with units."""
        return {"name": self.name, "ours_s": self.ours, "theirs_s": self.theirs, "speed_ratio": self.ratio}


def write_clips(folder: Path, count: int, frames: int, height: int, width: int) -> int:
    """Write ``count`` different clips of drifting noise, which compresses like film grain; returns their bytes."""
    folder.mkdir(parents=True)
    base = np.random.default_rng(0).integers(0, 256, (height + 64, width + 64, 3), dtype=np.uint8)
    pixels = np.stack([base[shift % 64 :][:height, shift % 64 :][:, :width] // 2 + 64 for shift in range(frames)])
    size = 0
    for number in range(count):
        data = encode(np.roll(pixels, number, axis=2), 25.0, LONG_GROUPS)
        (folder / f"clip-{number:05d}.mp4").write_bytes(data)
        size += len(data)
    return size


def seconds(work: Callable[[], object]) -> float:
    """Duration of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def evict(folder: Path) -> None:
    """Drop files from the page cache, as for a data set larger than memory."""
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare_copies(clips: Path, scratch: Path, check: str, workers: int, rounds: int, cached: bool) -> Pair:
    """Copy mode and ``tar cf``, with files in memory or on disk only."""
    source = folder_layout.list_class_folders(clips).sources()[0]
    recipe = make_recipe(source, 100).model_copy(update={"check": check})

    def ours() -> None:
        build_shards(source, scratch / "ours", recipe, workers, lambda samples: None)

    def theirs() -> None:
        subprocess.run(["tar", "cf", scratch / "theirs.tar", "-C", clips, "."], check=True)
        fsync(scratch / "theirs.tar")  # as our build does

    def clean() -> None:
        shutil.rmtree(scratch / "ours", ignore_errors=True)
        (scratch / "theirs.tar").unlink(missing_ok=True)

    location = "memory" if cached else "disk"
    pair = Pair(f"copy from {location}, check {check}, {workers} workers / tar cf", [], [])
    for _ in range(rounds):
        for side, work in ((pair.ours, ours), (pair.theirs, theirs)):
            if not cached:
                evict(clips)
            side.append(seconds(work))
        clean()
    return pair


def compare_verification(clips: Path, scratch: Path, rounds: int) -> Pair:
    """Verification without decoding, in one thread, and ``sha256sum``."""
    source = folder_layout.list_class_folders(clips).sources()[0]
    build_shards(
        source, scratch / "verified", make_recipe(source, 100).model_copy(update={"check": "probe"}), 1, lambda n: None
    )
    tars = sorted((scratch / "verified").glob("*.tar"))
    pair = Pair("verify, 1 thread / sha256sum", [], [])
    for _ in range(rounds):
        pair.ours.append(seconds(lambda: find_shard_errors(scratch / "verified", 1, lambda: None)))
        pair.theirs.append(seconds(lambda: subprocess.run(["sha256sum", *tars], check=True, capture_output=True)))
    return pair


def compare_transcoding(clips: Path, scratch: Path, rounds: int) -> Pair:
    """Transcoding and ``ffmpeg`` with the same settings, in CPU seconds."""
    if shutil.which("ffmpeg") is None:
        raise InputError("ffmpeg is not installed, but transcoding is compared with it: apt-get install ffmpeg")
    file = sorted(clips.glob("*.mp4"))[0]
    x264 = "keyint=8:min-keyint=8:scenecut=0:open-gop=0:bframes=0:threads=1:lookahead-threads=1:mbtree=0"
    encoder = ["-c:v", "libx264", "-crf", str(H264.crf), "-preset", H264.preset, "-tune", H264.tune]
    size = ["-vf", "scale=-2:256:flags=area", "-pix_fmt", H264.pixel_format, "-filter_threads", "1"]
    command = ["ffmpeg", "-y", "-v", "error", "-threads", "1", "-i", str(file), "-an", *size, *encoder]
    command += ["-x264-params", x264, str(scratch / "theirs.mp4")]
    pair = Pair("transcode / ffmpeg, CPU seconds", [], [])
    for _ in range(rounds):
        pair.ours.append(_own_seconds(lambda: transcode(file.read_bytes(), H264)))
        pair.theirs.append(_child_seconds(lambda: subprocess.run(command, check=True)))
    return pair


def _own_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _child_seconds(work: Callable[[], object]) -> float:
    before = os.times()
    work()
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def pairs(scratch: Path, clips: int, kilobytes: int, rounds: int, workers: int) -> Iterator[Pair]:
    """All comparisons, on ``clips`` files of about ``kilobytes`` kB."""
    small, long = scratch / "small", scratch / "long"
    write_clips(small, 8, max(4, kilobytes // 22), 240, 320)
    originals = sorted(small.iterdir())
    for number in range(8, clips):
        data = originals[number % 8].read_bytes()
        mark = hashlib.sha256(str(number).encode()).digest()
        (small / f"clip-{number:05d}.mp4").write_bytes(data + b"\0\0\0\x28free" + mark)
    write_clips(long, 1, 150, 480, 640)
    yield compare_copies(small, scratch, "probe", workers, rounds, cached=False)
    yield compare_copies(small, scratch, "probe", workers, rounds, cached=True)
    yield compare_copies(small, scratch, "decode", workers, max(1, rounds // 3), cached=False)
    yield compare_transcoding(long, scratch, rounds)
    yield compare_verification(small, scratch, rounds)


def main(
    folder: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Disk to write to; files are removed afterwards.",
            show_default="temporary folder",
        ),
    ] = None,
    clips: Annotated[int, typer.Option(min=8, help="Number of files.")] = 400,
    kilobytes: Annotated[int, typer.Option(min=10, help="Approximate size of a file.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes.", show_default="one per core")] = None,
    quick: Annotated[bool, quick_option("100 files, 3 rounds.", clips=100, rounds=3)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare copying with tar, transcoding with ffmpeg and verifying with sha256sum."""
    processes = workers or len(os.sched_getaffinity(0))
    results: list[Pair] = []
    with one_line_errors():
        parent = None if folder is None else require_writable(folder)
        with tempfile.TemporaryDirectory(dir=parent) as scratch, progress_bar("bench", 5) as advance:
            for pair in pairs(Path(scratch), clips, kilobytes, rounds, processes):
                results.append(pair)
                advance()
    device = f"CPU, {os.cpu_count()} hardware threads"
    if as_json:
        rows = [pair.as_json() for pair in results]
        typer.echo(json.dumps({"pairs": rows, "files": clips, "workers": processes, "device": device}))
        return
    table = Table("comparison", "ours s", "theirs s", "speed ratio")
    for pair in results:
        ours, theirs = (f"{statistics.median(side):.3f}" for side in (pair.ours, pair.theirs))
        table.add_row(pair.name, ours, theirs, f"{pair.ratio:.2f}")
    Console().print(table)
    ratios = (f"{pair.name.partition('/')[0].strip()} {pair.ratio:.2f}" for pair in results)
    typer.echo(f"speed ratios: {', '.join(ratios)}; {device}")


if __name__ == "__main__":
    typer.run(main)
