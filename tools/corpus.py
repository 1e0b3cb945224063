#!/usr/bin/env python3
"""Generated video files of every kind through the storage policy, compared frame by frame with the ffmpeg command.

    python tools/corpus.py
    python tools/corpus.py --family order --json

Each file is stored as in a build: copied after decoding it, copied after a probe, and transcoded. The stored frames
must be those of ffmpeg, in its order, by any subset of indices. Exits with 1 if one is not.
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
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from corpus_cases import Case, cases, reference, write
from numpy.typing import NDArray
from timing import one_line_errors

from hpc_jepa.cli.console import progress_bar
from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.encode import H264
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

BLOCK_TOLERANCE = 12
"""The same for blocks of 8 by 8 pixels; re-encoding blurs edges of colour."""


@dataclass
class Outcome:
    """Of one case: how it was stored with each setting, and what was wrong."""

    case: str
    stored: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    not_written: str | None = None


def check_by_title(title: str) -> Outcome:
    """Check the case with this title; cases hold functions, which do not go from process to process."""
    return check(next(case for case in cases() if case.title == title))


def check(case: Case) -> Outcome:
    """Write the file of a case, store it with every setting, and compare what is stored with ffmpeg's frames."""
    outcome = Outcome(case.title)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            path = write(case, Path(scratch))
            size = _first_size(path)
            expected = reference(case, path, size if case.matrix is None or case.matrix[0] else size[::-1])
        except (subprocess.CalledProcessError, ValueError) as error:
            text = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else error
            outcome.not_written = str(text).strip()[-200:]
            return outcome
        data = path.read_bytes()
    for mode, checked in SETTINGS:
        setting = f"{mode}/{checked}"
        try:
            entry = _store(case, data, mode, checked)
            outcome.stored[setting] = entry.method
            outcome.faults += [f"{setting}: {fault}" for fault in faults_of(case, entry, expected)]
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


def _first_size(path: Path) -> tuple[int, int]:
    """Height and width of the first frame: the command scales others to it."""
    done = subprocess.run(
        ["ffmpeg", "-v", "error", "-noautorotate", "-i", path, "-map", "0:V:0", "-frames:v", "1", "-f", "image2pipe",
         "-c:v", "pam", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    header = dict(line.split(b" ", 1) for line in done.stdout.split(b"ENDHDR")[0].splitlines() if b" " in line)
    if not header:
        raise ValueError("ffmpeg decodes no frame")
    return int(header[b"HEIGHT"]), int(header[b"WIDTH"])


def _store(case: Case, data: bytes, mode: Literal["copy", "transcode"], check: Literal["decode", "probe"]) -> TarEntry:
    encoding = H264.model_copy(update={"crf": 8})
    recipe = Recipe(dataset="d", split="s", settings={}, encoding=encoding, samples_per_shard=1, mode=mode, check=check)
    start, end = (None, None) if case.interval is None else case.interval[:2]
    return to_tar_entry(Sample(EncodedFile(data, start, end), label=None), "file", (), recipe)


def faults_of(case: Case, entry: TarEntry, expected: NDArray[np.uint8]) -> list[str]:
    """What is wrong with a stored sample."""
    info, faults = entry.info, []
    if info.frames != len(expected):
        return [f"{info.frames} frames, ffmpeg has {len(expected)}"]
    frames = decode_frames(entry.video, range(info.frames))
    if frames.shape[1:3] != (info.height, info.width):
        faults.append(f"frames of {frames.shape[1:3]}, metadata says {(info.height, info.width)}")
    faults += _differences(frames, expected)
    if case.fps is not None and abs(info.fps - case.fps) > 0.02 * case.fps:
        faults.append(f"{info.fps:g} frames per second, {case.fps:g} in truth")
    if not 0 < info.fps <= 1000:
        faults.append(f"{info.fps:g} frames per second")
    faults += _random_access(entry.video, frames)
    verified = inspect_video(entry.video)
    for name in ("frames", "width", "height", "codec"):
        if getattr(verified, name) != getattr(info, name):
            faults.append(f"verify finds {name} {getattr(verified, name)}, metadata says {getattr(info, name)}")
    return faults


def _differences(frames: NDArray[np.uint8], expected: NDArray[np.uint8]) -> list[str]:
    """Order and colours."""
    if max(abs(a - b) for a, b in zip(frames.shape[1:3], expected.shape[1:3], strict=True)) > 1:  # sides become even
        return [f"frames of {frames.shape[1:3]}, ffmpeg has {expected.shape[1:3]}"]
    ours, theirs = _blocks(frames), _blocks(expected)
    distances = np.abs(ours[:, None] - theirs[None]).mean((2, 3, 4))
    own = np.diagonal(distances)
    wrong = int((own > distances.min(1) + 0.5).sum())
    faults = [f"{wrong} of {len(frames)} frames are nearer to another frame of ffmpeg"] if wrong else []
    means = np.abs(frames.mean((1, 2)) - expected.mean((1, 2))).max()
    if means > TOLERANCE:
        faults.append(f"means differ by {means:.1f}")
    if frames.shape == expected.shape and (blocks := np.abs(ours - theirs).max()) > BLOCK_TOLERANCE:
        faults.append(f"blocks differ by {blocks:.1f}")
    return faults


def _blocks(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Means of blocks of 8 by 8 pixels, without a remainder at the edges."""
    count, height, width = len(frames), frames.shape[1] // 8, frames.shape[2] // 8
    cropped = frames[:, : height * 8, : width * 8].astype(np.float64)
    means: NDArray[np.float64] = cropped.reshape(count, height, 8, width, 8, 3).mean((2, 4))
    return means


def _random_access(video: bytes, frames: NDArray[np.uint8]) -> list[str]:
    """Frames one by one, and some at once."""
    random = np.random.default_rng(len(video))
    subsets = [[index] for index in range(len(frames))]
    subsets += [random.choice(len(frames), size=min(5, len(frames)), replace=False).tolist() for _ in range(5)]
    for subset in subsets:
        if not np.array_equal(decode_frames(video, subset), frames[subset]):
            return [f"frames {subset} alone differ"]
    return []


def sample(family: str, count: int) -> list[Case]:
    """``count`` cases of a family, spread over it."""
    members = [case for case in cases() if case.family == family]
    return members[:: max(1, len(members) // count)][:count]


def run(selected: Sequence[Case], workers: int) -> list[Outcome]:
    """Check cases, in their order, with progress."""
    outcomes: dict[str, Outcome] = {}
    with ProcessPoolExecutor(workers) as pool, progress_bar("corpus", len(selected)) as advance:
        for done in as_completed([pool.submit(check_by_title, case.title) for case in selected]):
            outcome = done.result()
            outcomes[outcome.case] = outcome
            advance(1)
    return [outcomes[case.title] for case in selected]


def main(
    family: Annotated[list[str] | None, typer.Option(help="Only these families.")] = None,
    name: Annotated[str, typer.Option(help="Only cases with this in their name.")] = "",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    keep: Annotated[Path | None, typer.Option(help="Write the files here and do nothing else.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the corpus."""
    with one_line_errors():
        if shutil.which("ffmpeg") is None:
            raise InputError("the ffmpeg command is not installed")
        selected = [case for case in cases() if (not family or case.family in family) and name in case.title]
        if not selected:
            raise InputError(f"no such case; families: {', '.join(dict.fromkeys(case.family for case in cases()))}")
    if keep is not None:
        for case in selected:
            folder = keep / case.title
            folder.mkdir(parents=True, exist_ok=True)
            write(case, folder)
        return
    started = time.perf_counter()
    outcomes = run(selected, workers)
    written = [outcome for outcome in outcomes if outcome.not_written is None]
    wrong = [outcome for outcome in written if outcome.faults]
    methods = Counter(method.split(":")[0] for outcome in written for method in outcome.stored.values())
    if as_json:
        result = {"files": len(written), "wrong": len(wrong), "methods": methods}
        typer.echo(json.dumps(result | {"outcomes": [asdict(outcome) for outcome in outcomes]}))
    else:
        for outcome in outcomes:
            if outcome.not_written is not None:
                typer.echo(f"not written: {outcome.case}: {outcome.not_written}")
        for outcome in wrong:
            for fault in outcome.faults:
                typer.echo(f"{outcome.case}: {fault}  ({outcome.stored})")
        counts = ", ".join(f"{count} {method}" for method, count in methods.items())
        seconds = time.perf_counter() - started
        typer.echo(f"{len(written)} files, {len(wrong)} wrong; {counts}; {seconds:.0f} s")
    raise typer.Exit(int(bool(wrong)))


if __name__ == "__main__":
    typer.run(main)
