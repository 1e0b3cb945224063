"""Colours and orientation: what is read and what is transcoded equals the output of the ``ffmpeg`` command."""

import io
import math
import shutil
import struct
import subprocess
from collections import Counter
from dataclasses import replace
from functools import partial

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from PIL import Image

from hpc_jepa.config.data import AugmentationConfig, ClipConfig, DataConfig, SourceConfig
from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.encode import ENCODINGS, H264, Encoding, encode
from hpc_jepa.data.gpu_decoding import DALI_ON_CPU, DaliDecoder, DecoderChoice, gpu_refusal, probe_colour
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.shards.container import probe_container
from hpc_jepa.data.shards.manifest import Recipe, SampleInfo
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.shards.storage_policy import to_tar_entry
from hpc_jepa.data.shards.transcode import transcode
from hpc_jepa.data.shards.verify import find_decode_errors
from hpc_jepa.data.sources.source import EncodedFile, PackedSample, Sample

MUTED = [(0, 0, 180), (172, 0, 0), (173, 0, 183), (12, 220, 2), (13, 209, 185), (186, 199, 3), (187, 189, 189)]
FULL = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (16, 64, 240)]
BARS = np.array(MUTED + FULL, dtype=np.uint8)
BAR = 8
PLAYED = {None: 5, 1: 1, 2: 5, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
"""For matrices as tagged: the one that FFmpeg converts with, as a Colorspace."""

MIRRORS = [(x, y, swapped) for swapped in (False, True) for x in (1, -1) for y in (1, -1)]


def bars(height: int = len(BARS) * BAR, width: int = 64) -> np.ndarray:
    """Coloured rows; the grey on the right is lighter below, so that no two orientations are alike."""
    picture = BARS.repeat(BAR, axis=0)[:height, None].repeat(width, axis=1)
    picture[:, width - 16 :] = np.linspace(20, 230, height).astype(np.uint8)[:, None, None]
    return picture


def video(
    picture: np.ndarray,
    codec: str = "libx264",
    container: str = "mp4",
    pixel_format: str = "yuv420p",
    matrix: int | None = None,
    full: bool = False,
    frames: int = 3,
    **options: str,
) -> bytes:
    """Equal frames of the picture with the colours that the tags state."""
    file = io.BytesIO()
    options |= {"libx264": {"crf": "4", "preset": "veryfast"}, "libvpx-vp9": {"crf": "4", "b": "0"}}.get(codec, {})
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], pixel_format
        color_range = ColorRange.JPEG if full else ColorRange.MPEG
        context = stream.codec_context
        context.thread_count = 1
        context.colorspace, context.color_range = 2 if matrix is None else matrix, color_range if full else 0
        frame = VideoFrame.from_ndarray(picture, format="rgb24")
        converted = VideoReformatter().reformat(
            frame, format=pixel_format, dst_colorspace=Colorspace(PLAYED.get(matrix, 5)), dst_color_range=color_range
        )
        converted.colorspace, converted.color_range = context.colorspace, context.color_range
        for number in range(frames):
            converted.pts = number
            output.mux(stream.encode(converted))
        output.mux(stream.encode())
    return file.getvalue()


def with_display_matrix(mp4: bytes, matrix: tuple[float, float, float, float]) -> bytes:
    """The file with another matrix (a, b, c, d) in its track header: players show x, y at ax + cy, bx + dy."""
    (a, b, c, d), at = matrix, mp4.index(b"tkhd") + 44
    fixed = [round(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0)]
    return mp4[:at] + struct.pack(">9i", *fixed, 1 << 30) + mp4[at + 36 :]


def transcoded(file: bytes) -> np.ndarray:
    data, info = transcode(file, H264.model_copy(update={"crf": 4}))[:2]
    return decode_frames(data, range(info.frames)).astype(int)


def by_ffmpeg(file: bytes, folder) -> np.ndarray:
    """Bytes of all frames from the ``ffmpeg`` command."""
    (folder / "input").write_bytes(file)
    command = ["ffmpeg", "-v", "error", "-i", folder / "input", "-vsync", "passthrough", "-pix_fmt", "rgb24"]
    done = subprocess.run([*command, "-f", "rawvideo", "-"], capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8).astype(int)


def inside(frames: np.ndarray) -> np.ndarray:
    """Pixels in the middle of every bar, [F, bars, 3]; subsampled colours blur only the borders."""
    return frames[:, BAR // 2 :: BAR, 24].astype(int)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [None, 1, 4, 5, 6, 7, 9])
@pytest.mark.parametrize(
    ("codec", "container", "pixel_format"),
    [("libx264", "mp4", "yuv420p"), ("libx264", "matroska", "yuv444p"), ("libvpx-vp9", "webm", "yuv420p")],
)
def test_colours_follow_the_tags_in_both_modes(codec, container, pixel_format, matrix, full):
    if codec == "libvpx-vp9" and matrix == 4:
        matrix = 5  # VP9 has no tag for 4
    file = video(bars(), codec, container, pixel_format, matrix, full)
    expected = inside(bars()[None])
    assert np.abs(inside(decode_frames(file, range(3))) - expected).max() <= 4
    assert np.abs(inside(transcoded(file)) - expected).max() <= 6
    assert np.abs(transcoded(file).mean((1, 2)) - decode_frames(file, range(3)).mean((1, 2))).max() <= 2


def test_transcoded_colours_are_those_that_all_decoders_know():
    for matrix, full in ((None, False), (5, False), (1, False), (9, True), (None, True)):
        with av.open(io.BytesIO(transcode(video(bars(), matrix=matrix, full=full), H264)[0])) as container:
            frame = next(container.decode(video=0))
        assert frame.color_range != ColorRange.JPEG
        assert frame.colorspace == (6 if full else {None: 2, 5: 5}.get(matrix, 6))


@pytest.mark.parametrize("matrix", [0, 3, 8, 10, 12, 14])
def test_a_matrix_that_ffmpeg_does_not_convert_is_read_like_its_replacement(matrix):
    file = video(bars(), matrix=matrix)
    expected = inside(bars()[None])
    assert np.abs(inside(decode_frames(file, range(3))) - expected).max() <= 4
    assert np.abs(inside(transcoded(file)) - expected).max() <= 6


def test_rgb_video_keeps_black_and_white():
    file = video(bars(), "libx264rgb", "mp4", "rgb24")
    assert np.abs(inside(transcoded(file)) - inside(bars()[None])).max() <= 6


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p10le"])
@pytest.mark.parametrize(("x", "y", "swapped"), MIRRORS)
def test_every_orientation_is_turned_upright(x, y, swapped, pixel_format):
    picture = bars(96, 64)
    matrix = (0, x, y, 0) if swapped else (x, 0, 0, y)
    file = with_display_matrix(video(picture, pixel_format=pixel_format, matrix=1), matrix)
    assert probe_container(file).rotated == (matrix != (1, 0, 0, 1))
    # Independently: x' = ax + cy, y' = bx + dy.
    shown = picture.swapaxes(0, 1) if swapped else picture
    across, down = (y, x) if swapped else (x, y)
    expected = shown[::down, ::across].astype(int)
    frames = transcoded(file)
    assert frames.shape == (3, *expected.shape)
    assert np.abs(frames - expected).mean() < 8


def test_an_odd_rotation_keeps_the_size_and_is_not_squeezed():
    picture = np.full((96, 128, 3), 90, np.uint8)
    picture[40:56, 56:72] = (200, 40, 40)
    turn = math.cos(math.pi / 4)
    frames = transcoded(with_display_matrix(video(picture), (turn, -turn, turn, turn)))
    assert frames.shape == (3, 96, 128, 3)
    assert frames[:, (2, 2, -3, -3), (2, -3, 2, -3)].max() < 12
    assert np.abs(frames[:, 48, 64] - (200, 40, 40)).max() < 16
    assert np.abs(frames[:, 48, 96] - 90).max() < 8


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (1, 0.004, -0.004, 1)])
def test_no_rotation_worth_the_name_is_none(matrix):
    file = with_display_matrix(video(bars()), matrix)
    assert not probe_container(file).rotated
    assert np.abs(transcoded(file) - bars()).mean() < 8


def test_exif_tags_turn_the_frames_of_motion_jpeg():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    picture, file = io.BytesIO(), io.BytesIO()
    Image.fromarray(bars(96, 64)).save(picture, "JPEG", exif=exif, quality=98)
    with av.open(file, "w", format="avi") as output:
        stream = output.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 64, "yuvj420p"
        for number in range(3):
            packet = av.Packet(picture.getvalue())
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            output.mux(packet)
    assert probe_container(file.getvalue()).rotated
    assert np.abs(transcoded(file.getvalue()) - np.rot90(bars(96, 64), -1)).mean() < 8


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg command is not installed")
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [None, 1, 9])
def test_turned_videos_equal_the_ffmpeg_command(matrix, full, tmp_path):
    orientations = [(0, -1, 1, 0), (0, 1, 1, 0), (-1, 0, 0, 1), (-1, 0, 0, -1), (0.8, -0.6, 0.6, 0.8)]
    for orientation in orientations:
        file = with_display_matrix(video(bars(96, 64), matrix=matrix, full=full), orientation)
        frames = transcoded(file)
        expected = by_ffmpeg(file, tmp_path).reshape(frames.shape)
        assert np.abs(frames.mean((1, 2)) - expected.mean((1, 2))).max() <= 3
        assert np.abs(frames - expected).mean() <= 3


@pytest.fixture(scope="module")
def vp9_shards(listed, built, tmp_path_factory):
    """One video for each matrix and range; VP9 and MJPEG, which DALI decodes on a CPU too."""
    files = [video(bars(), "libvpx-vp9", "webm", matrix=matrix) for matrix in (None, 5, 1, 7, 9)]
    files += [video(bars(), "mjpeg", "matroska", full=True, qmin="1", qmax="1") for _ in range(2)]
    return ShardFolder(built(listed(tuple(map(EncodedFile, files))), tmp_path_factory.mktemp("colours") / "train"))


def test_shards_state_colours_that_not_every_decoder_knows(vp9_shards):
    infos = [vp9_shards.info(index) for index in range(len(vp9_shards))]
    assert {info.stored for info in infos} == {"copied"}
    expected = {None: 2, "bt709": 1, "smpte240m": 1, "bt2020nc": 1, "full range": 2}
    assert Counter(info.colour for info in infos) == expected
    recipe = Recipe(dataset="d", split="s", settings={}, encoding=H264, samples_per_shard=1, mode="transcode")
    entry = to_tar_entry(Sample(EncodedFile(video(bars(), matrix=1))), "a file", (), recipe)
    assert b'"colour"' not in entry.json


def test_full_range_that_torchcodec_takes_for_limited_range_is_transcoded():
    recipe = Recipe(dataset="d", split="s", settings={}, encoding=Encoding(crf=4), samples_per_shard=1)
    file = video(bars(), "libvpx-vp9", "webm", full=True)
    entry = to_tar_entry(Sample(EncodedFile(file)), "a file", (), recipe)
    assert entry.method == "transcoded: full range" and entry.info.colour is None
    difference = decode_frames(entry.video, [1]).mean((0, 2)) - decode_frames(file, [1]).mean((0, 2))
    assert abs(difference[4::BAR]).max() < 8 and abs(difference).mean() < 3


def test_dali_gives_the_colours_of_pyav(vp9_shards):
    data = DataConfig(
        sources={"colours": SourceConfig(shards=str(vp9_shards.path))},
        clip=ClipConfig(frames=2, stride=1, size=64),
        augmentation=AugmentationConfig(mean=(0, 0, 0), std=(1, 1, 1), horizontal_flip=0.0),
    )
    pyav, dali = (
        ClipLoader(
            data, seed=1, batch_size=48, rank=0, world_size=1, device=torch.device("cpu"), decoder=decoder
        ).batch(0)
        for decoder in (None, DALI_ON_CPU)
    )
    assert torch.equal(pyav.samples, dali.samples) and len(set(pyav.samples.tolist())) == 7
    difference = 255 * (pyav.pixels - dali.pixels)
    assert difference.mean((2, 3, 4)).abs().max() <= 3
    assert difference.abs().flatten(1).median(dim=1).values.max() <= 3  # borders of colours differ more


TAGS = [(matrix, full) for matrix in (None, 1, 4, 5, 6, 7, 9) for full in (False, True)]
CONVERTED_BY_DALI = [(None, False), (5, False), (6, False)]
PATCH = 16


def colour_cube() -> np.ndarray:
    """Flat patches of 4 levels per channel, corners of the cube included."""
    levels = np.array([0, 85, 170, 255], np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(8, 8, 3)
    return colours.repeat(PATCH, axis=0).repeat(PATCH, axis=1)


def in_patches(picture: np.ndarray) -> np.ndarray:
    """The 4 x 4 pixels in the middle of every patch: [8, 4, 8, 4, 3]."""
    middle = slice(PATCH // 2 - 2, PATCH // 2 + 2)
    return picture.reshape(8, PATCH, 8, PATCH, 3)[:, middle, :, middle]


def as_in_release_01(file: bytes) -> PackedSample:
    """A sample whose metadata do not state colours, so that VP9 of full range is in a shard too."""
    side = len(colour_cube())
    return PackedSample(SampleInfo(frames=3, fps=25.0, width=side, height=side, codec="vp9").to_json(), file, "webm")


@pytest.fixture(scope="module")
def tagged_cubes(listed, built, tmp_path_factory):
    """Shards with the colour cube in VP9, which DALI decodes on a CPU too, and the files in their order."""
    tags = [(matrix, full) for matrix, full in TAGS if matrix != 4]  # VP9 has no tag for 4
    files = [video(colour_cube(), "libvpx-vp9", "webm", matrix=matrix, full=full) for matrix, full in tags]
    folder = built(listed(tuple(map(as_in_release_01, files))), tmp_path_factory.mktemp("cubes") / "train", len(files))
    shards = ShardFolder(folder)
    order = [files.index(shards.read(index).data) for index in range(len(files))]
    return folder, [tags[at] for at in order], [files[at] for at in order]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg command is not installed")
@pytest.mark.parametrize("decoder", [None, DALI_ON_CPU], ids=["pyav", "dali"])
def test_saturated_colours_of_clips_are_those_of_the_ffmpeg_command(decoder, tagged_cubes, tmp_path):
    folder, tags, files = tagged_cubes
    side = len(colour_cube())
    data = DataConfig(
        sources={"colours": SourceConfig(shards=str(folder))},
        clip=ClipConfig(frames=2, stride=1, size=side),
        augmentation=AugmentationConfig(area=(1, 1), aspect=(1, 1), horizontal_flip=0.0, mean=(0, 0, 0), std=(1, 1, 1)),
    )
    loader = ClipLoader(data, seed=1, batch_size=48, rank=0, world_size=1, device=torch.device("cpu"), decoder=decoder)
    batch = loader.batch(0)
    loader.close()
    samples = batch.samples.tolist()
    assert set(samples) == set(range(len(tags)))
    for sample, pixels in zip(samples, 255 * batch.pixels[:, :, 0].permute(0, 2, 3, 1).numpy(), strict=True):
        expected = by_ffmpeg(files[sample], tmp_path).reshape(-1, side, side, 3)[0]
        assert np.abs(in_patches(pixels) - in_patches(expected)).max() <= 3, tags[sample]
    left_to_pyav = sum(tags[sample] not in CONVERTED_BY_DALI for sample in samples)
    assert loader.cpu_decoded == {"colours": 0 if decoder is None else left_to_pyav}


def on_a_gpu(folder) -> Counter[str | None]:
    """Samples by the reason for which a GPU does not decode them; None: it does."""
    shards = ShardFolder(folder)
    choice = DecoderChoice(DaliDecoder("mixed", partial(gpu_refusal, capability=(9, 0))), [len(shards)])
    return Counter(choice.decide(0, index, shards.read(index)) for index in range(len(shards)))


def test_a_gpu_decodes_copies_of_its_one_matrix_and_all_transcoded_videos(listed, tmp_path):
    files = [video(colour_cube(), matrix=matrix, full=full) for matrix, full in TAGS]
    refusals = {}
    for mode in ("copy", "transcode"):
        source = listed(tuple(map(EncodedFile, files)))
        recipe = make_recipe(source, len(files)).model_copy(update={"mode": mode})
        build_shards(source, tmp_path / mode, recipe, 0, lambda samples: None)
        refusals[mode] = on_a_gpu(tmp_path / mode)
    assert refusals["transcode"] == {None: len(TAGS)}
    assert refusals["copy"][None] == len(CONVERTED_BY_DALI)
    named = Counter({"bt709": 1, "fcc": 1, "smpte240m": 1, "bt2020nc": 1})
    assert {name: sum(name in str(reason) for reason in refusals["copy"]) for name in named} == named
    assert all(probe_colour(encode(colour_cube()[None], 25, encoding)) is None for encoding in ENCODINGS.values())


def test_verify_finds_a_mirrored_video_and_repair_turns_it_and_states_colours(listed, built, tmp_path):
    recipe = Recipe(dataset="d", split="s", settings={}, encoding=H264, samples_per_shard=1)
    mirrored, tagged = with_display_matrix(video(bars()), (1, 0, 0, -1)), video(bars(), matrix=1)
    height, width = bars().shape[:2]
    info = SampleInfo(frames=3, fps=25.0, width=width, height=height, codec="h264", label=4, stored="copied")
    kept = tuple(PackedSample(info.to_json(), file, "mp4") for file in (mirrored, tagged))
    folder = built(listed(kept), tmp_path / "earlier")
    assert len(find_decode_errors(folder, [0, 1], 1, lambda: None)) == 1
    stored = [replace(sample, repair=True) for sample in kept]
    first, second = (to_tar_entry(Sample(sample), "a file", (), recipe) for sample in stored)
    assert (first.info.stored, first.info.label, second.info.stored) == ("transcoded", 4, "copied")
    assert np.abs(decode_frames(first.video, [0])[0] - bars()[::-1].astype(int)).mean() < 8
    assert (second.info.colour, second.video) == ("bt709", tagged)
