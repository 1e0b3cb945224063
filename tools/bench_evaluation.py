#!/usr/bin/env python3
"""CPU time of evaluating several runs: one pass over the clips for all of them against one pass for each.

    python tools/bench_evaluation.py                       four runs of a small encoder, clips of 16 x 224 px
    python tools/bench_evaluation.py --width 384 --depth 12 --heads 6 --patch 16 --json

The videos are those of tools/bench_data.py: H.264 with distant key frames, as cameras and web sites make them. Both
sides alternate in one process, so its start counts for neither, and every record of one side must be that of the other.
The limit is what the evaluations would reach if the clips of all runs but one were free.
"""

import json
import statistics
import struct
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from bench_data import real_videos
from rich.console import Console
from rich.table import Table
from timing import one_line_errors

from hpc_jepa.checkpoint.rank_file import TensorShard
from hpc_jepa.checkpoint.writer import CheckpointWriter
from hpc_jepa.config import loading
from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.data.evaluation_clips import EvaluationClips
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.sources.source import EncodedFile, Sample, SampleOrigin, SettingValue
from hpc_jepa.distributed import set_ds_accelerator
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.evaluation.evaluator import RunEvaluation, evaluate_runs
from hpc_jepa.models.video_jepa import VideoJEPA
from hpc_jepa.runs.run_dir import RunDir

BATCH = 8
SPLITS = {"train": 2, "test": 1}
"""Shares of the videos."""


@dataclass(frozen=True)
class Numbered:
    """A video in copies that differ in an MP4 box without content, of two classes."""

    video: bytes
    split: str
    numbers: range

    dataset = "bench"
    classes: tuple[str, ...] = ("even", "odd")

    @property
    def settings(self) -> Mapping[str, SettingValue]:
        """Numbers of the copies."""
        return {"first": self.numbers.start, "count": len(self.numbers)}

    def __len__(self) -> int:
        return len(self.numbers)

    def origin(self, index: int) -> SampleOrigin:
        """Named by number."""
        return SampleOrigin(f"video-{self.numbers[index]:04d}", "copy")

    def load(self, index: int) -> Sample:
        """One copy."""
        number = self.numbers[index]
        return Sample(EncodedFile(self.video + struct.pack(">I4sI", 12, b"free", number)), label=number % 2)


def build_benchmark(folder: Path, videos: int, clip: dict[str, int]) -> BenchmarkConfig:
    """Shards of both splits, and a nearest-neighbour probe on them."""
    video, first = real_videos(quick=False).files[1][1], 0
    for split, share in SPLITS.items():
        source = Numbered(video, split, range(first, first + share * videos // 3))
        build_shards(source, folder / split, make_recipe(source, 100), 0, lambda samples: None)
        first += len(source)
    protocol = {
        **{split: folder / split for split in SPLITS},
        "clip": {"sampling": "leading", **clip},
        "probes": {"knn": {"kind": "knn", "k": [1]}},
        "batch_size": BATCH,
    }
    values = {"name": "bench", "title": "Bench", "classes": 2, "protocols": {"standard": protocol}}
    return BenchmarkConfig.model_validate(values)


def make_run(folder: Path, seed: int, clip: dict[str, int], encoder: dict[str, object]) -> Path:
    """A run with a checkpoint of its initial weights."""
    set_ds_accelerator("cpu")
    from hpc_jepa.training.checkpoint_state import checkpoint_info  # imports DeepSpeed

    config = RunConfig.model_validate(
        {
            "regime": "bench",
            "seed": seed,
            "runs": folder,
            "model": {"encoder": encoder, "predictor": {"width": 32, "depth": 1, "heads": 1}},
            "data": {"sources": {"bench": {"shards": "unused"}}, "clip": clip},
            "schedule": {"steps": 1},
            "engine": {"precision": "fp32", "device": "cpu"},
        }
    )
    config.folder.mkdir(parents=True)
    RunDir(config.folder).config_file.write_text(loading.dump_config(config))
    torch.manual_seed(seed)
    state = VideoJEPA(config.model, config.engine.precision).state_dict()
    weights = [TensorShard(name, tuple(w.shape), 0, w.flatten()) for name, w in state.items()]
    with CheckpointWriter(config.folder, config.checkpoint) as writer:
        writer.save(checkpoint_info(config, 1, {}, {}), weights)
    return config.folder


def evaluate_groups(groups: Sequence[Sequence[Path]], benchmark: BenchmarkConfig) -> tuple[float, list[bytes]]:
    """CPU seconds of evaluating each group of runs in one pass, and the records."""
    started, folders = time.process_time(), [folder for group in groups for folder in group]
    for group in groups:
        wanted = [RunEvaluation(folder, ("target",)) for folder in group]
        for outcome in evaluate_runs(wanted, benchmark, "standard", force=True):
            if outcome.error is not None:
                raise outcome.error
    seconds = time.process_time() - started
    return seconds, [RunDir(folder).record_file("bench", "standard").read_bytes() for folder in folders]


def clip_seconds(benchmark: BenchmarkConfig) -> float:
    """CPU seconds of reading, decoding, resizing and cropping all clips once."""
    config, started = benchmark.protocols["standard"], time.process_time()
    for split in (config.train, config.test):
        for _ in EvaluationClips(split, config.clip, BATCH, threads=torch.get_num_threads()):
            pass
    return time.process_time() - started


def main(
    runs: Annotated[int, typer.Option(help="Runs to evaluate.", min=2)] = 4,
    videos: Annotated[int, typer.Option(help="Videos of both splits.", min=12)] = 48,
    size: Annotated[int, typer.Option(help="Side of the clips, pixels.")] = 224,
    frames: Annotated[int, typer.Option(help="Frames of a clip.")] = 16,
    stride: Annotated[int, typer.Option(help="Frames of the video between those of the clip.")] = 2,
    width: Annotated[int, typer.Option(help="Width of the encoder.")] = 64,
    depth: Annotated[int, typer.Option(help="Blocks of the encoder.")] = 2,
    heads: Annotated[int, typer.Option(help="Attention heads of the encoder.")] = 2,
    patch: Annotated[int, typer.Option(help="Side of a patch, pixels.")] = 32,
    rounds: Annotated[int, typer.Option(help="Rounds of both sides.", min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare both sides and print their CPU seconds and the limit."""
    encoder = {"width": width, "depth": depth, "heads": heads, "patch": patch, "levels": sorted({1, depth})}
    separate, together, clips = [], [], []
    with one_line_errors(), tempfile.TemporaryDirectory() as path:
        shape = {"frames": frames, "stride": stride, "size": size}
        benchmark = build_benchmark(Path(path) / "shards", videos, shape)
        folders = [
            make_run(Path(path) / "runs", seed, {"frames": frames, "size": size}, encoder) for seed in range(runs)
        ]
        sides = {"separate": [[folder] for folder in folders], "together": [folders]}
        evaluate_groups([folders[:1]], benchmark)
        for number in range(rounds):
            found = {side: evaluate_groups(sides[side], benchmark) for side in sorted(sides, reverse=number % 2 == 0)}
            if found["separate"][1] != found["together"][1]:
                raise HpcJepaError("records differ between the sides")
            separate.append(found["separate"][0])
            together.append(found["together"][0])
            clips.append(clip_seconds(benchmark))
    share = statistics.median(runs * own / all_of for own, all_of in zip(clips, separate, strict=True))
    ratios = [own / shared for own, shared in zip(separate, together, strict=True)]
    result = {
        "runs": runs,
        "clips": videos,
        "cpu_seconds": {"separate": statistics.median(separate), "together": statistics.median(together)},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "share_of_clips": share,
        "limit": 1 / (1 - share * (1 - 1 / runs)),
        "records": "equal to the byte",
    }
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("", "value")
    for name, value in result.items():
        table.add_row(name, str(value))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
