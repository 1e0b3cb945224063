"""Where clips are decoded. DALI's CPU decoder stands in for the GPU's; one stand-in raises for chosen clips."""

import io
import json
import logging
import sys
from dataclasses import replace
from functools import partial

import av
import numpy as np
import pytest
import torch
from PIL import Image

from hpc_jepa.config.data import AugmentationConfig, ClipConfig, DataConfig, SourceConfig
from hpc_jepa.data import gpu_decoding
from hpc_jepa.data.dali_pipeline import ClipPipeline
from hpc_jepa.data.gpu_decoding import (
    DALI_ON_CPU,
    FAILURES_TO_DISABLE,
    DecoderChoice,
    VideoFormat,
    choose_decoder,
    gpu_refusal,
    probe_format,
)
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.data.shards.manifest import SampleInfo
from hpc_jepa.data.shards.shard_folder import ShardFolder, StoredVideo
from hpc_jepa.data.sources.source import EncodedFile
from hpc_jepa.errors import InputError
from hpc_jepa.runs.run_dir import RunDir

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
V100, T4, A100, A10, L40, H100, B200 = (7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0)
ALL = (V100, T4, A100, A10, L40, H100, B200)
SHARED = ("vp9", "jpeg")
"""Codecs in the shards below that DALI decodes on a CPU."""

QUIET_X265 = {"x265-params": "log-level=none:pools=none:frame-threads=1:wpp=0"}


def size(codec, width, height, pixel_format="yuv420p", **changes):
    return VideoFormat(codec, pixel_format, width, height, **changes)


@pytest.mark.parametrize(
    ("video", "decoded_by"),
    [
        (size("h264", 340, 256), ALL),
        (size("hevc", 340, 256), ALL),
        (size("vp8", 340, 256), ALL),
        (size("vp9", 340, 256), ALL),
        (size("mpeg4", 320, 240), ALL),
        (size("av1", 340, 256), (A10, L40, B200)),
        (size("mpeg2video", 340, 256), ()),
        (size("mjpeg", 340, 256, "yuvj420p"), ()),
        (size("h264", 340, 256, "yuv420p10le"), ()),
        (size("hevc", 340, 256, "yuv420p10le"), ()),
        (size("h264", 340, 256, "yuv422p"), ()),
        (size("hevc", 340, 256, "yuv444p"), ()),
        (size("h264", 340, 256, "yuvj420p"), ()),
        (size("h264", 340, 256, "gray"), ()),
        (size("h264", 340, 256, interlaced=True), ()),
        (size("h264", 340, 256, lossless=True), ()),
        (size("h264", 32, 32), ()),
        (size("h264", 48, 16), ALL),
        (size("h264", 48, 14), ()),
        (size("hevc", 144, 142), ()),
        (size("hevc", 144, 144), ALL),
        (size("vp9", 126, 128), ()),
        (size("av1", 128, 126), ()),
        (size("vp9", 341, 256), ()),
        (size("h264", 4096, 2160), ALL),
        (size("h264", 7680, 4320), (B200,)),
        (size("hevc", 7680, 4320), ALL),
        (size("hevc", 8192, 8194), ()),
        (size("mpeg4", 2032, 2032), ()),
        (size("mpeg4", 1920, 1080), ALL),
        (VideoFormat("jpeg", "RGB", 500, 375), ALL),
        (VideoFormat("jpeg", "L", 501, 375), ALL),
        (VideoFormat("jpeg", "CMYK", 500, 375), ()),
        (VideoFormat("png", "RGB", 500, 375), ()),
    ],
)
def test_what_each_gpu_decodes(video, decoded_by):
    assert tuple(gpu for gpu in ALL if gpu_refusal(video, gpu) is None) == decoded_by


def test_old_gpus_decode_no_video():
    assert gpu_refusal(size("h264", 340, 256), (6, 1)) is not None


def encoded(codec, container, pixel_format, frames, options=None):
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixel_format
        for picture in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())
    return file.getvalue()


def picture(kind, mode="RGB"):
    file = io.BytesIO()
    Image.fromarray(np.arange(48 * 32 * 3, dtype=np.uint8).reshape(32, 48, 3)).convert(mode).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("codec", "container", "pixel_format", "options", "expected"),
    [
        ("libx264", "mp4", "yuv420p", {}, size("h264", 48, 32)),
        ("libx264", "mp4", "yuv420p", {"qp": "0"}, size("h264", 48, 32, lossless=True)),
        ("libx264", "matroska", "yuv422p10le", {}, size("h264", 48, 32, "yuv422p10le")),
        ("libx264", "mp4", "yuv420p", {"flags": "+ilme+ildct", "x264-params": "tff=1"}, None),
        ("libx265", "mp4", "yuv420p10le", QUIET_X265, size("hevc", 64, 64, "yuv420p10le")),
        ("libvpx-vp9", "webm", "yuv444p", {}, size("vp9", 48, 32, "yuv444p")),
        ("libsvtav1", "mp4", "yuv420p", {"svtav1-params": "lp=1"}, size("av1", 64, 64)),
        ("mpeg4", "avi", "yuv420p", {}, size("mpeg4", 48, 32)),
    ],
)
def test_formats_are_read_from_headers(noise, codec, container, pixel_format, options, expected):
    frames = noise(3, 64, 64) if codec in ("libsvtav1", "libx265") else noise(3)
    found = probe_format(encoded(codec, container, pixel_format, frames, options))
    assert found == (expected or size("h264", 48, 32, interlaced=True))


def test_formats_of_images():
    assert probe_format(picture("JPEG")) == VideoFormat("jpeg", "RGB", 48, 32)
    assert probe_format(picture("JPEG", "CMYK")) == VideoFormat("jpeg", "CMYK", 48, 32)
    assert probe_format(picture("PNG", "L")) == VideoFormat("png", "L", 48, 32)


def test_cpu_never_looks_for_a_gpu(monkeypatch):
    monkeypatch.setattr(gpu_decoding, "gpu_problem", lambda device: pytest.fail("looked for a GPU"))
    assert choose_decoder("cpu", CUDA) is None


def test_gpu_where_there_is_none_is_an_input_error_of_one_line():
    with pytest.raises(InputError, match=r"data\.decoder") as error:
        choose_decoder("gpu", CPU)
    assert "\n" not in str(error.value)
    assert choose_decoder("auto", CPU) is None


@pytest.mark.parametrize("missing", [False, True])
def test_a_gpu_decodes_if_the_driver_has_its_video_library(monkeypatch, missing, caplog):
    def load(name):
        assert name == gpu_decoding.NVCUVID
        if missing:
            raise OSError("cannot open shared object file")

    monkeypatch.setattr(gpu_decoding.ctypes, "CDLL", load)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: H100)
    if missing:
        assert choose_decoder("auto", CUDA) is None
        assert gpu_decoding.NVCUVID in caplog.text
        with pytest.raises(InputError, match=gpu_decoding.NVCUVID):
            choose_decoder("gpu", CUDA)
        return
    decoder = choose_decoder("gpu", CUDA)
    assert decoder.device == "mixed" and choose_decoder("auto", CUDA).device == "mixed"
    assert decoder.refusal(size("h264", 340, 256)) is None
    assert decoder.refusal(size("av1", 340, 256)) is not None


def test_a_missing_dali_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(InputError, match=r"DALI.*pip install") as error:
        ClipPipeline(ClipConfig(), AugmentationConfig(), 1)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def mixed(listed, built, noise, tmp_path_factory):
    """VP9 and JPEG, which DALI decodes without a GPU, among files that it does not: H.264, 4:4:4 VP9, PNG."""
    options = {"g": "4", "crf": "10", "deadline": "realtime", "cpu-used": "8"}
    files = []
    for seed in range(4):
        frames = noise(8, seed=seed)
        files += [
            encoded("libvpx-vp9", "webm", "yuv420p", frames, options),
            encoded("libx264", "mp4", "yuv420p", frames),
            encoded("libvpx-vp9", "webm", "yuv444p", frames, options),
        ]
    media = tuple(map(EncodedFile, [*files, picture("JPEG"), picture("PNG")]))
    return built(listed(media), tmp_path_factory.mktemp("mixed") / "train")


def config(folder, rate=0.01):
    return DataConfig(
        sources={"train": SourceConfig(shards=folder)},
        clip=ClipConfig(frames=4, stride=2, size=16),
        undecodable_rate=rate,
    )


def loader(folder, decoder=None, rank=0, world_size=1, batch_size=8):
    return ClipLoader(
        config(folder),
        seed=3,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        device=CPU,
        decoder=decoder,
    )


def is_shared(folder, samples):
    """For each sample, whether DALI decodes it on a CPU."""
    shards = ShardFolder(folder)
    formats = [probe_format(shards.read(index).data) for index in range(len(shards))]
    shared = [video.codec in SHARED and video.pixel_format in ("yuv420p", "RGB") for video in formats]
    return torch.tensor(shared)[samples]


def test_a_mixed_batch_has_its_rows_in_order_and_the_bits_of_each_decoder(mixed):
    pyav, dali = loader(mixed), loader(mixed, DALI_ON_CPU)
    halves = [loader(mixed, DALI_ON_CPU, rank, 2) for rank in (0, 1)]
    left_to_pyav = 0
    for step in range(6):
        ours, theirs = pyav.batch(step), dali.batch(step)
        by_dali = is_shared(mixed, ours.samples)
        assert by_dali.any() and not by_dali.all()
        left_to_pyav += int((~by_dali).sum())
        assert torch.equal(ours.samples, theirs.samples) and torch.equal(ours.static, theirs.static)
        assert torch.equal(ours.pixels[~by_dali], theirs.pixels[~by_dali])
        assert not torch.equal(ours.pixels[by_dali], theirs.pixels[by_dali])
        assert (ours.pixels - theirs.pixels).abs().flatten(1).mean(1).max() < 0.3
        parts = torch.cat([half.batch(step).pixels for half in halves])
        assert torch.equal(theirs.pixels, parts)  # whatever else is in the batch
    assert dali.cpu_decoded == {"train": left_to_pyav}
    assert pyav.cpu_decoded == {"train": 0}
    assert pyav.decode_errors == dali.decode_errors == {"train": 0}


class Choosy(ClipPipeline):
    """Raises for batches with a chosen file, as DALI does for files that the GPU refuses; counts its runs."""

    def __init__(self, *arguments, refused, runs):
        super().__init__(*arguments)
        self.refused, self.runs = refused, runs

    def run(self, videos, views, frames):
        self.runs.append(len(videos))
        if any(bytes(video) in self.refused for video in videos):
            raise RuntimeError(
                "Critical error in pipeline:\nError in MIXED operator `nvidia.dali.fn.decoders.video`,\n"
                '  File "x.py", line 1\n\nencountered:\n\nAssert on "a" failed: Codec configuration not supported\n'
                "C++ context: [x.h:246] \nCurrent pipeline object is no longer valid."
            )
        return super().run(videos, views, frames)


def choosy(refused):
    runs = []
    return replace(DALI_ON_CPU, make_pipeline=partial(Choosy, refused=refused, runs=runs)), runs


def test_clips_that_dali_fails_to_decode_fall_back_to_pyav_and_are_named_once(mixed, tmp_path, caplog):
    shards = ShardFolder(mixed)
    bad = 3
    decoder, _ = choosy({shards.read(bad).data})
    run = RunDir(tmp_path / "run")
    pyav, whole, one = loader(mixed), loader(mixed, DALI_ON_CPU), loader(mixed, decoder)
    one.log_decode_errors_to(run, 0)
    halves = [loader(mixed, decoder, rank, 2) for rank in (0, 1)]
    seen = 0
    for step in range(12):
        batch, by_pyav, by_dali = one.batch(step), pyav.batch(step).pixels, whole.batch(step).pixels
        failed = batch.samples == bad
        seen += int(failed.sum())
        assert torch.equal(batch.pixels[failed], by_pyav[failed])
        assert torch.equal(batch.pixels[~failed], by_dali[~failed])
        assert torch.equal(batch.pixels, torch.cat([half.batch(step).pixels for half in halves]))
    assert seen > 1
    assert one.cpu_decoded["train"] == whole.cpu_decoded["train"] + seen
    assert one.decode_errors == {"train": 0}
    (record,) = map(json.loads, run.gpu_failures_file(0).read_text().splitlines())
    assert (record["key"], record["reason"]) == (shards.key(bad), "Codec configuration not supported")
    assert record["file"] == str(shards.tar(bad))
    assert not run.decode_errors_file(0).exists()
    # One line for each reason and loader, however many clips it concerns.
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert max(map(lines.count, lines)) <= 4
    assert sum("Codec configuration not supported" in line for line in lines) == 1 + len(halves)


def test_a_clip_that_neither_decodes_is_replaced_as_on_a_cpu(listed, built, noise, tmp_path, encoded_with):
    options = {"g": "4", "crf": "10", "deadline": "realtime", "cpu-used": "8"}
    files = [encoded_with(noise(8, seed=seed), "libvpx-vp9", "webm", options) for seed in range(12)]
    folder = built(listed(tuple(map(EncodedFile, files))), tmp_path / "train")
    shards = ShardFolder(folder)
    for index in (4, 7):  # the headers stay intact
        video = shards.read(index).data
        tar = shards.tar(index)
        content = tar.read_bytes()
        start = content.index(video) + len(video) // 3
        end = content.index(video) + len(video)
        tar.write_bytes(content[:start] + bytes(end - start) + content[end:])
    refused = {ShardFolder(folder).read(index).data for index in (4, 7)}
    pyav, dali = loader(folder), loader(folder, choosy(refused)[0])
    again = loader(folder, choosy(refused)[0])
    for step in range(6):
        batch = dali.batch(step)
        assert torch.equal(pyav.batch(step).samples, batch.samples)
    assert torch.equal(batch.pixels, again.batch(5).pixels)  # a resumed run: nothing is known from before
    assert pyav.decode_errors == dali.decode_errors != {"train": 0}


def test_a_decoder_that_decodes_nothing_is_given_up(mixed):
    shards = ShardFolder(mixed)
    decoder, runs = choosy({shards.read(index).data for index in range(len(shards))})
    pyav, dali = loader(mixed), loader(mixed, decoder)
    tried = []
    for step in range(20):
        assert torch.equal(pyav.batch(step).pixels, dali.batch(step).pixels)
        tried.append(len(runs))
    # Fewer samples than FAILURES_TO_DISABLE: each is tried once, and no more.
    assert len(shards) < 2 * FAILURES_TO_DISABLE and tried[-1] == tried[10]


def test_after_some_failures_and_no_success_no_sample_is_tried(listed, built, noise, tmp_path, encoded_with):
    options = {"deadline": "realtime", "cpu-used": "8"}
    files = [encoded_with(noise(4, seed=seed), "libvpx-vp9", "webm", options) for seed in range(30)]
    folder = built(listed(tuple(map(EncodedFile, files))), tmp_path / "train")
    shards = ShardFolder(folder)
    decoder, runs = choosy({shards.read(index).data for index in range(len(shards))})
    dali = loader(folder, decoder, batch_size=4)
    for step in range(12):
        dali.batch(step)
    assert FAILURES_TO_DISABLE <= sum(count == 1 for count in runs) < FAILURES_TO_DISABLE + 4
    assert dali.cpu_decoded == {"train": 48}


def test_failures_beside_decoded_clips_leave_the_decoder_in_use(listed, built, noise, tmp_path, encoded_with):
    options = {"deadline": "realtime", "cpu-used": "8"}
    files = [encoded_with(noise(4, seed=seed), "libvpx-vp9", "webm", options) for seed in range(24)]
    folder = built(listed(tuple(map(EncodedFile, files))), tmp_path / "train")
    shards = ShardFolder(folder)
    refused = set(range(0, len(shards), 2))
    decoder, _ = choosy({shards.read(index).data for index in refused})
    dali, whole = loader(folder, decoder, batch_size=24), loader(folder, DALI_ON_CPU, batch_size=24)
    parts = [loader(folder, decoder, rank, 4, batch_size=24) for rank in range(4)]
    for step in range(2):
        batch, by_dali = dali.batch(step), whole.batch(step).pixels
        good = torch.tensor([int(sample) not in refused for sample in batch.samples])
        assert (~good).sum() >= FAILURES_TO_DISABLE and good.any()  # in the first batch too
        assert torch.equal(batch.pixels[good], by_dali[good])
        assert torch.equal(batch.pixels, torch.cat([part.batch(step).pixels for part in parts]))
    assert dali.cpu_decoded["train"] == sum(part.cpu_decoded["train"] for part in parts)


@pytest.mark.parametrize(
    ("stored", "stated", "refused"), [(None, None, True), ("copied", "bt709", True), ("copied", None, False)]
)
def test_colours_are_read_from_the_file_unless_the_shard_states_them(noise, stored, stated, refused):
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as output:
        stream = output.add_stream("libvpx-vp9", rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.codec_context.colorspace = 32, 48, "yuv420p", 1
        for frame in noise(2):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")))
        output.mux(stream.encode())
    info = SampleInfo(frames=2, fps=25, width=48, height=32, codec="vp9", stored=stored, colour=stated)
    choice = DecoderChoice(DALI_ON_CPU, [1])
    for _ in range(2):
        reason = choice.decide(0, 0, StoredVideo(file.getvalue(), info))
        assert (reason is not None and "bt709" in reason) if refused else reason is None
