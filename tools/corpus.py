#!/usr/bin/env python3
"""Video files of every kind through the storage policy, compared frame by frame with the ffmpeg command.

    python tools/corpus.py
    python tools/corpus.py --family order --readers pyav,dali,torchcodec --json
    python tools/corpus.py --videos my/videos

Each file is stored as in a build: copied after decoding it, copied after a probe, and transcoded. Every reader must get
the frames of ffmpeg from what is stored, in its order, by any subset of indices. Exits with 1 if one does not. The
files are generated, unless a folder is given.
"""

import json
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from corpus_cases import cases
from corpus_files import Case, reference, write
from corpus_readers import READERS, Frames, Reader, readers_named
from numpy.typing import NDArray
from timing import one_line_errors

from hpc_jepa.cli.console import progress_bar
from hpc_jepa.data.encode import H264
from hpc_jepa.data.gpu_decoding import colour_refusal
from hpc_jepa.data.shards.manifest import Recipe
from hpc_jepa.data.shards.storage_policy import TarEntry, to_tar_entry
from hpc_jepa.data.sources.source import EncodedFile, Sample
from hpc_jepa.data.timeline import inspect_video
from hpc_jepa.errors import InputError, UndecodableError

SETTINGS: tuple[tuple[Literal["copy", "transcode"], Literal["decode", "probe"]], ...] = (
    ("copy", "decode"),
    ("copy", "probe"),
    ("transcode", "decode"),
)
TOLERANCE = 3
"""Grey levels between the means of frames, per colour."""

ORDER_TOLERANCE = 1.5
"""Grey levels by which a frame may be nearer to another one of ffmpeg than to its own: frames repeat in some videos."""


MAX_SINGLES = 40
"""Frames of a file to read one by one."""


@dataclass
class Outcome:
    """Of one file: how it was stored with each setting, and what was wrong."""

    case: str
    stored: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    not_written: str | None = None


def check_by_title(title: str, readers: Sequence[str]) -> Outcome:
    """Check the case with this title; cases and readers hold functions, which do not go from process to process."""
    case = next(case for case in cases() if case.title == title)
    return check(case, [READERS[name] for name in readers])


def check(case: Case, readers: Sequence[Reader] = (READERS["pyav"],)) -> Outcome:
    """Write the file of a case, store it with every setting, and compare what is stored with ffmpeg's frames."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            path = write(case, Path(scratch))
            expected = reference(path, case.matrix)
        except (subprocess.CalledProcessError, ValueError) as error:
            return Outcome(case.title, not_written=_last_words(error))
        data = path.read_bytes()
    return _compare(case, data, expected if case.interval is None else expected[slice(*case.interval[2:])], readers)


def check_file(path: Path, readers: Sequence[str]) -> Outcome:
    """The same for a file that exists; it may be left out."""
    case = Case("file", path.name, path.suffix.lstrip("."), "", may_be_left_out=True)
    try:
        return _compare(case, path.read_bytes(), reference(path), [READERS[name] for name in readers])
    except (subprocess.SubprocessError, ValueError) as error:
        return Outcome(case.title, not_written=_last_words(error))


def _last_words(error: Exception) -> str:
    text = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else str(error)
    return text.strip()[-200:]


def _compare(case: Case, data: bytes, expected: Frames, readers: Sequence[Reader]) -> Outcome:
    outcome = Outcome(case.title)
    for mode, checked in SETTINGS:
        setting = f"{mode}/{checked}"
        try:
            entry = _store(case, data, mode, checked)
            outcome.stored[setting] = entry.method
            faults = faults_of(case, entry, expected)
            for reader in readers:
                faults += [f"{reader.name}: {fault}" for fault in reader_faults(reader, entry, expected)]
            outcome.faults += [f"{setting}: {fault}" for fault in faults]
        except UndecodableError as error:
            if setting in outcome.stored:
                outcome.faults.append(f"{setting}: stored, but unreadable: {error}")
            else:
                outcome.stored[setting] = f"left out: {error}"
                if not case.may_be_left_out:
                    outcome.faults.append(f"{setting}: left out: {error}")
        except Exception as error:  # noqa: BLE001  a traceback is what this looks for
            outcome.faults.append(f"{setting}: {type(error).__name__}: {error}")
    return outcome


def _store(case: Case, data: bytes, mode: Literal["copy", "transcode"], check: Literal["decode", "probe"]) -> TarEntry:
    encoding = H264.model_copy(update={"crf": 8, "short_side": 4096})
    recipe = Recipe(dataset="d", split="s", settings={}, encoding=encoding, samples_per_shard=1, mode=mode, check=check)
    start, end = (None, None) if case.interval is None else case.interval[:2]
    return to_tar_entry(Sample(EncodedFile(data, start, end), label=None), "file", (), recipe)


def faults_of(case: Case, entry: TarEntry, expected: Frames) -> list[str]:
    """What is wrong with the metadata of a stored sample."""
    info, faults = entry.info, []
    if info.frames != len(expected):
        faults.append(f"{info.frames} frames, ffmpeg has {len(expected)}")
    if case.fps is not None and abs(info.fps - case.fps) > 0.02 * case.fps:
        faults.append(f"{info.fps:g} frames per second, {case.fps:g} in truth")
    if not info.is_image and not 0 < info.fps <= 1000:
        faults.append(f"{info.fps:g} frames per second")
    verified = inspect_video(entry.video)
    for name in ("frames", "width", "height", "codec"):
        if getattr(verified, name) != getattr(info, name):
            faults.append(f"verify finds {name} {getattr(verified, name)}, metadata says {getattr(info, name)}")
    return faults


def reader_faults(reader: Reader, entry: TarEntry, expected: Frames) -> list[str]:
    """How frames that a reader gets from a stored sample differ from those of ffmpeg."""
    if entry.info.is_image or (reader.codecs is not None and entry.info.codec not in reader.codecs):
        return []
    frames = reader.read(entry.video, None)
    if len(frames) != len(expected):
        return [f"{len(frames)} frames, ffmpeg has {len(expected)}"]
    if frames.shape[1:3] != (entry.info.height, entry.info.width):
        return [f"frames of {frames.shape[1:3]}, metadata says {(entry.info.height, entry.info.width)}"]
    unused = reader.name == "dali" and colour_refusal(entry.info.colour)  # PyAV decodes these colours
    faults = _differences(frames, expected, None if unused else reader.tolerance)
    return faults + _random_access(reader, entry.video, frames)


def _differences(frames: Frames, expected: Frames, tolerance: int | None) -> list[str]:
    """Order and, with a ``tolerance`` for blocks, colours."""
    if max(abs(a - b) for a, b in zip(frames.shape[1:3], expected.shape[1:3], strict=True)) > 1:  # sides become even
        return [f"frames of {frames.shape[1:3]}, ffmpeg has {expected.shape[1:3]}"]
    ours, theirs = _blocks(frames), _blocks(expected)
    distances = np.array([np.abs(theirs - frame).mean((1, 2, 3)) for frame in ours])
    wrong = int((np.diagonal(distances) > distances.min(1) + ORDER_TOLERANCE).sum())
    faults = [f"{wrong} of {len(frames)} frames are nearer to another frame of ffmpeg"] if wrong else []
    if tolerance is None:
        return faults
    means = np.abs(ours.mean((1, 2)) - theirs.mean((1, 2))).max()
    if means > TOLERANCE:
        faults.append(f"means differ by {means:.1f}")
    if frames.shape == expected.shape and (blocks := np.abs(ours - theirs).max()) > tolerance:
        faults.append(f"blocks differ by {blocks:.1f}")
    return faults


def _blocks(frames: Frames) -> NDArray[np.float32]:
    """Means of blocks of 8 by 8 pixels, without a remainder at the edges."""
    count, height, width = len(frames), frames.shape[1] // 8, frames.shape[2] // 8
    blocks = frames[:, : height * 8, : width * 8].reshape(count, height, 8, width, 8, 3)
    means: NDArray[np.float32] = blocks.mean((2, 4), dtype=np.float32)
    return means


def _random_access(reader: Reader, video: bytes, frames: Frames) -> list[str]:
    """Frames one by one, and some at once, against those of the reader in order."""
    random = np.random.default_rng(len(video))
    singles = random.permutation(len(frames))[:MAX_SINGLES]
    subsets = [[int(index)] for index in singles]
    subsets += [random.choice(len(frames), size=min(5, len(frames)), replace=False).tolist() for _ in range(5)]
    for subset in subsets:
        if not np.array_equal(reader.read(video, subset), frames[subset]):
            return [f"frames {subset} alone differ"]
    return []


def sample(family: str, count: int) -> list[Case]:
    """``count`` cases of a family, spread over it."""
    members = [case for case in cases() if case.family == family]
    return members[:: max(1, len(members) // count)][:count]


def run(selected: Sequence[Case] | Sequence[Path], readers: Sequence[str], workers: int) -> list[Outcome]:
    """Check cases or files, in their order, with progress."""
    outcomes: dict[str, Outcome] = {}
    titles = [f"file/{item.name}" if isinstance(item, Path) else item.title for item in selected]
    with ProcessPoolExecutor(workers) as pool, progress_bar("corpus", len(selected)) as advance:
        tasks = (
            partial(check_file, item) if isinstance(item, Path) else partial(check_by_title, item.title)
            for item in selected
        )
        for done in as_completed([pool.submit(task, readers) for task in tasks]):
            outcome = done.result()
            outcomes[outcome.case] = outcome
            advance(1)
    return [outcomes[title] for title in titles]


def main(
    family: Annotated[list[str] | None, typer.Option(help="Only these families.")] = None,
    name: Annotated[str, typer.Option(help="Only files with this in their name.")] = "",
    videos: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Check the files below it.")] = None,
    readers: Annotated[str, typer.Option(help=f"Names separated by commas: {', '.join(READERS)}.")] = "pyav",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    keep: Annotated[Path | None, typer.Option(help="Write the files here and do nothing else.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the corpus, or the videos of a folder."""
    with one_line_errors():
        if shutil.which("ffmpeg") is None:
            raise InputError("the ffmpeg command is not installed")
        wanted = readers_named(readers)
        selected = _selected_cases(family, name) if videos is None else _selected_files(videos, name)
    if keep is not None:
        _write_all(selected, keep)
        return
    installed = [reader.name for reader in wanted if reader.installed]
    started = time.perf_counter()
    outcomes = run(selected, installed, workers)
    missing = [reader.name for reader in wanted if not reader.installed]
    if as_json:
        typer.echo(json.dumps(_summary(outcomes) | {"readers": installed, "readers_not_installed": missing}))
    else:
        _show(outcomes, time.perf_counter() - started)
        typer.echo(f"readers: {', '.join(installed)}" + (f"; not installed: {', '.join(missing)}" if missing else ""))
    raise typer.Exit(int(any(outcome.faults for outcome in outcomes)))


def _selected_cases(families: Sequence[str] | None, name: str) -> list[Case]:
    selected = [case for case in cases() if (not families or case.family in families) and name in case.title]
    if not selected:
        raise InputError(f"no such case; families: {', '.join(dict.fromkeys(case.family for case in cases()))}")
    return selected


def _selected_files(folder: Path, name: str) -> list[Path]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and name in path.name]
    if not files:
        raise InputError(f"{folder}: no files; choose a folder of videos")
    return files


def _write_all(selected: Sequence[Case] | Sequence[Path], target: Path) -> None:
    for case in selected:
        if isinstance(case, Case):
            folder = target / case.title
            folder.mkdir(parents=True, exist_ok=True)
            write(case, folder)


def _summary(outcomes: Sequence[Outcome]) -> dict[str, object]:
    written = [outcome for outcome in outcomes if outcome.not_written is None]
    return {
        "files": len(written),
        "wrong": sum(bool(outcome.faults) for outcome in written),
        "methods": Counter(method.split(":")[0] for outcome in written for method in outcome.stored.values()),
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }


def _show(outcomes: Sequence[Outcome], seconds: float) -> None:
    for outcome in outcomes:
        if outcome.not_written is not None:
            typer.echo(f"ffmpeg fails: {outcome.case}: {outcome.not_written}")
        for fault in outcome.faults:
            typer.echo(f"{outcome.case}: {fault}  ({outcome.stored})")
    summary = _summary(outcomes)
    methods = summary["methods"]
    assert isinstance(methods, Counter)
    counts = ", ".join(f"{count} {method}" for method, count in methods.items())
    typer.echo(f"{summary['files']} files, {summary['wrong']} wrong; {counts}; {seconds:.0f} s")


if __name__ == "__main__":
    typer.run(main)
