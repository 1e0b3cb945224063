"""A small UCF-101 whose AVIs have packed B-frames, from the build to training and evaluation."""

import io
import json

import av
import numpy as np
import pytest
from corpus_files import packed
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.shards.manifest import read_manifest
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.evaluation.evaluator import evaluate
from hpc_jepa.training.loop import train

NAMES = ("ApplyEyeMakeup", "Archery")
FRAMES = 29
GREYS = np.linspace(20, 230, FRAMES).round()


def clip(shift: int) -> bytes:
    """Greys that rise with each frame beside a square at ``shift``; MPEG-4 with packed B-frames in AVI."""
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as output:
        stream = output.add_stream("mpeg4", rate=25, options={"bf": "1", "b_strategy": "0", "g": "12", "qmax": "2"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for grey in GREYS:
            picture = np.full((48, 64, 3), grey, np.uint8)
            picture[:8, shift : shift + 8] = 255 - grey
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())
    return packed(file.getvalue())


@pytest.fixture(scope="module")
def ucf101(tmp_path_factory):
    root = tmp_path_factory.mktemp("ucf101")
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(NAMES, 1)))
    for split, groups in (("train", (8, 9)), ("test", (1,))):
        lines = []
        for label, name in enumerate(NAMES, 1):
            for group in groups:
                file = f"{name}/v_{name}_g{group:02d}_c01.avi"
                (root / "videos" / name).mkdir(parents=True, exist_ok=True)
                (root / "videos" / file).write_bytes(clip(group * 5 + label))
                lines.append(f"{file} {label}" if split == "train" else file)
        (lists / f"{split}list01.txt").write_text("\n".join(lines))
    return root


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["copy", "transcode"])
def test_packed_ucf101_from_build_to_evaluation(mode, ucf101, tmp_path, configure):
    out = tmp_path / "shards"
    sources = ("--videos", ucf101 / "videos", "--annotations", ucf101 / "ucfTrainTestlist")
    call("shards", "build", "ucf101", *sources, "--out", out, "--mode", mode, "--workers", "1")
    manifest = read_manifest(out / "train")
    assert manifest.samples == 4
    assert list(manifest.stored) == ["remuxed: packed B-frames" if mode == "copy" else "transcoded: requested"]
    for split in ("train", "test"):
        call("shards", "verify", out / split, "--decode")
    shards = ShardFolder(out / "train")
    for index in range(len(shards)):
        video, info = shards.read(index)
        assert (info.frames, info.fps) == (FRAMES, 25)
        greys = decode_frames(video, range(FRAMES))[:, 16:].mean((1, 2, 3))
        np.testing.assert_allclose(greys, GREYS, atol=3)
    bench = ("--frames", "4", "--size", "16", "--batches", "2", "--threads", "1", "--json")
    assert json.loads(call("shards", "bench", out / "train", *bench))["decoders"]

    config = configure(
        data={"sources": {"ucf101": {"shards": str(out / "train")}}, "clip": {"frames": 8, "stride": 2, "size": 32}},
        schedule={"steps": 2, "lr": 1e-3, "ema_start": 0.9, "ema_final": 0.99},
        checkpoint={"every": 2, "keep": 1},
    )
    assert train(config, lambda record: None) == "done"
    protocol = {
        "train": str(out / "train"),
        "test": str(out / "test"),
        "clip": {"sampling": "leading", "frames": 8, "stride": 2, "size": 32},
        "probes": {"linear": {"kind": "logistic", "pooling": "mean"}},
        "probe_seeds": [0],
        "batch_size": 2,
    }
    benchmark = {"name": "ucf101", "title": "UCF", "classes": 2, "protocols": {"standard": protocol}}
    record = evaluate(config.folder, BenchmarkConfig.model_validate(benchmark), "standard", ["target"])
    assert len(record.results) == 1
