"""Frame order and times: what is stored gives the frames of a sequential decode, in order, by any subset."""

import io
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from hpc_jepa.cli.shards import app
from hpc_jepa.config.data import ClipConfig
from hpc_jepa.data import random_access
from hpc_jepa.data.decode import UndecodableError, decode_frames, decode_run, open_video
from hpc_jepa.data.encode import Encoding
from hpc_jepa.data.frame_sampling import training_frames
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.shards.manifest import Recipe, SampleInfo
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.shards.storage_policy import to_tar_entry
from hpc_jepa.data.sources.source import EncodedFile, PackedSample, Sample
from hpc_jepa.data.timeline import establish
from hpc_jepa.data.track import read_track
from hpc_jepa.errors import DataError

FRAMES = 30
GREYS = np.arange(FRAMES) * 8 + 4
VOP, USER_DATA = b"\x00\x00\x01\xb6", b"\x00\x00\x01\xb2"
B_FRAMES = {
    "libx264": {"x264-params": "keyint=10:bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0", "crf": "1"},
    "mpeg4": {"bf": "1", "g": "10", "qmin": "2", "qmax": "2", "b_strategy": "0"},
}


@dataclass(frozen=True)
class Piece:
    """A compressed frame."""

    data: bytes
    pts: int
    dts: int
    key: bool


def flat(greys=GREYS, height=64, width=64):
    return [np.full((height, width, 3), grey, np.uint8) for grey in greys]


def compressed(codec, pictures=None, times=None, **options):
    """An open encoder and the frames of ``pictures`` in decoding order."""
    pictures = flat() if pictures is None else pictures
    encoder = av.CodecContext.create(codec, "w")
    encoder.height, encoder.width = pictures[0].shape[:2]
    encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, 25), Fraction(25)
    encoder.options = B_FRAMES.get(codec, {}) | options
    packets = []
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = number if times is None else times[number], encoder.time_base
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return encoder, [Piece(bytes(packet), packet.pts, packet.dts, packet.is_keyframe) for packet in packets]


def muxed(codec, pieces, container, tick=Fraction(1, 25), size=(64, 64), options=None):
    """A file with these packets."""
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=options or {}) as output:
        stream = output.add_mux_stream(codec, rate=25, width=size[1], height=size[0], pix_fmt="yuv420p")
        stream.time_base = tick
        for piece in pieces:
            packet = av.Packet(piece.data)
            packet.pts, packet.dts, packet.time_base = piece.pts, piece.dts, tick
            packet.is_keyframe, packet.stream = piece.key, stream
            output.mux(packet)
    return file.getvalue()


def pack(pieces):
    """Put each B-frame into the packet of the frame before it, as XviD and DivX do for AVI.

    An empty VOP takes the place of the B-frame; user data before the first VOP tells of it.
    """
    headers, first = pieces[0].data.split(VOP, 1)
    packed = [Piece(headers + USER_DATA + b"DivX503b1393p" + VOP + first, 0, 0, True)]
    for piece, following in zip(pieces[1:], [*pieces[2:], None], strict=True):
        if piece.pts < packed[-1].pts:
            packed.append(Piece(VOP + empty_vop(piece.pts % 25), piece.dts, piece.dts, False))
        else:
            extra = following.data if following is not None and following.pts < piece.pts else b""
            packed.append(Piece(piece.data + extra, piece.pts, piece.dts, piece.key))
    return [Piece(piece.data, number, number, piece.key) for number, piece in enumerate(packed)]


def empty_vop(increment):
    """P-VOP that is not coded: type 01, no full second, marker, 5 bits of time, marker, not coded, stuffing."""
    bits = f"0101{increment:05b}10" + "01111"
    return int(bits, 2).to_bytes(2, "big")


def in_decoding_order(pieces):
    """Times as of AVI: each packet one step after the one before it."""
    return [Piece(piece.data, number, number, piece.key) for number, piece in enumerate(pieces)]


def avi_of(codec):
    return muxed(codec, in_decoding_order(compressed(codec)[1]), "avi")


def packed_avi():
    return muxed("mpeg4", pack(compressed("mpeg4")[1]), "avi")


def encoded(codec, container, pictures=None, times=None, options=None):
    """A file as FFmpeg's encoder and muxer write it."""
    pictures = flat() if pictures is None else pictures
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=B_FRAMES.get(codec, {}) if options is None else options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25 if times is None else 1000)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = 40 * number if times is None else times[number], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def remuxed(data, container, move):
    """The packets of a file, copied into another container; ``move`` gives their times, or None to leave one out."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format=container) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            times = move(number, packet) if packet.size else None
            if times is not None:
                packet.pts, packet.dts = times
                packet.stream = stream
                output.mux(packet)
    return file.getvalue()


def equal_times_mp4():
    return remuxed(avi_of("mpeg4"), "mp4", lambda number, packet: (packet.dts, packet.dts))


def edit_list_mp4(hidden):
    """A stream copy from frame ``hidden`` on: the edit list hides the frames before it."""

    def earlier(number, packet):
        shift = int(Fraction(hidden, 25) / packet.time_base)
        return packet.pts - shift, packet.dts - shift

    return remuxed(encoded("libx264", "mp4"), "mp4", earlier)


KINDS = {
    "packed": (packed_avi, "remuxed: packed B-frames"),
    "mpeg4 in avi": (lambda: avi_of("mpeg4"), "remuxed: B-frames in AVI"),
    "h264 in avi": (lambda: avi_of("libx264"), "remuxed: B-frames in AVI"),
    "pts equal dts": (equal_times_mp4, "remuxed: presentation times out of order"),
}


def stored(data, mode="copy", check="decode", start=None, end=None):
    recipe = Recipe(
        dataset="d", split="s", settings={}, encoding=Encoding(crf=10), samples_per_shard=1, mode=mode, check=check
    )
    return to_tar_entry(Sample(EncodedFile(data, start, end), label=None), "file", (), recipe)


def call(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def assert_frames(entry, greys, tolerance=3):
    """The frames have these greys, all at once and one by one."""
    frames = decode_frames(entry.video, range(entry.info.frames))
    assert len(frames) == len(greys)
    np.testing.assert_allclose(frames.mean((1, 2, 3)), greys, atol=tolerance)
    for index in range(len(greys)):
        np.testing.assert_array_equal(decode_frames(entry.video, [index])[0], frames[index])


SETTINGS = pytest.mark.parametrize("settings", [("copy", "decode"), ("copy", "probe"), ("transcode", "decode")])


@SETTINGS
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_container_times_do_not_change_the_order(kind, settings):
    make, method = KINDS[kind]
    entry = stored(make(), *settings)
    assert_frames(entry, GREYS)
    assert entry.info.fps == 25
    assert entry.method == (method if settings[0] == "copy" else "transcoded: requested")
    assert establish(entry.video).fault is None


@SETTINGS
@pytest.mark.parametrize("hidden", [3, 10])
def test_frames_hidden_by_an_edit_list_are_left_out(hidden, settings):
    entry = stored(edit_list_mp4(hidden), *settings)
    assert_frames(entry, GREYS[hidden:])
    assert entry.info.fps == 25
    methods = {3: "transcoded: edit list", 10: "copied"}  # from frame 10, a key frame, readers see no other packets
    assert entry.method == (methods[hidden] if settings[0] == "copy" else "transcoded: requested")


@SETTINGS
@pytest.mark.parametrize(
    "case", [("libx264", "mp4"), ("libx264", "matroska"), ("libvpx-vp9", "webm"), ("mpeg4", "mp4")]
)
def test_right_container_times_are_kept(case, settings):
    file = encoded(*case)
    entry = stored(file, *settings)
    assert_frames(entry, GREYS)
    assert entry.method == ("copied" if settings[0] == "copy" else "transcoded: requested")
    assert settings[0] == "transcode" or entry.video == file
    assert "times" not in entry.json.decode()


@SETTINGS
def test_hidden_reference_frames_of_vp8_are_no_frames(settings):
    pieces = compressed("libvpx", crf="4", b="1M")[1]
    hidden = bytes([pieces[10].data[0] & ~16]) + pieces[10].data[1:]  # the bit that shows a frame
    pieces[10] = Piece(hidden, pieces[10].pts, pieces[10].dts, key=False)
    entry = stored(muxed("libvpx", pieces, "webm"), *settings)
    assert_frames(entry, np.delete(GREYS, 10), tolerance=4)
    assert settings[0] == "transcode" or entry.method == "transcoded: frames without picture"


@SETTINGS
def test_equal_times_are_spaced(settings):
    times = [40 * number for number in range(FRAMES)]
    times[10] = times[11]

    def equal(number, packet):
        return (times[number], times[number])

    file = remuxed(encoded("libx264", "matroska", options={"x264-params": "bframes=0"}), "matroska", equal)
    entry = stored(file, *settings)
    assert_frames(entry, GREYS)
    assert entry.info.fps == pytest.approx(25, rel=0.01)
    assert settings[0] == "transcode" or entry.method == "remuxed: equal presentation times"


@SETTINGS
@pytest.mark.parametrize("case", [("libx264", "mp4"), ("libvpx-vp9", "webm")])
def test_a_change_of_the_frame_size_is_transcoded(case, settings):
    codec, container = case
    options = {"libx264": {"x264-params": "repeat-headers=1"}}.get(codec, {})
    pieces = compressed(codec, flat(GREYS[:10]), **options)[1]
    for piece in compressed(codec, flat(GREYS[10:], 48, 96), **options)[1]:
        pieces.append(Piece(piece.data, piece.pts + 10, piece.dts + 10, piece.key))
    file = muxed(codec, pieces, container)
    with pytest.raises(UndecodableError):
        decode_frames(file, [0, 29])
    entry = stored(file, *settings)
    assert_frames(entry, GREYS)
    assert (entry.info.height, entry.info.width) == (64, 64)
    assert settings[0] == "transcode" or entry.method == "transcoded: frame size changes"


@SETTINGS
def test_gaps_in_avi_lower_the_rate(settings):
    shown = [number for number in range(40) if number % 4 != 3]
    encoder_output = compressed("libx264", flat(GREYS))[1]
    pieces = [Piece(piece.data, shown[n], shown[n], piece.key) for n, piece in enumerate(encoder_output)]
    entry = stored(muxed("libx264", pieces, "avi"), *settings)
    assert_frames(entry, GREYS)
    assert entry.info.fps == pytest.approx(29 / 38 * 25, rel=0.03)


@SETTINGS
def test_the_rate_of_a_variable_rate_is_that_of_the_times(settings):
    times = [0, 66, 67, 68, *range(102, 102 + 60 * 26, 60)]
    entry = stored(encoded("libx264", "matroska", times=times), *settings)
    assert_frames(entry, GREYS)
    assert entry.info.fps == pytest.approx(29000 / times[-1], rel=0.001)
    assert entry.info.times == pytest.approx([time / 1000 for time in times], abs=0.002)


@pytest.mark.parametrize("container", ["mpegts", "mpeg", "avi", "mp4", "matroska"])
@pytest.mark.parametrize("interval", [(None, 0.2), (0.52, None), (0.36, 0.76), (0.04, 1.0)])
def test_cuts_begin_at_their_frame(container, interval):
    codec = {"mpeg": "mpeg2video", "avi": "mpeg4"}.get(container, "libx264")
    options = B_FRAMES.get(codec, {"bf": "2", "g": "12", "qmin": "2", "qmax": "2"})
    entry = stored(encoded(codec, container, options=options), start=interval[0], end=interval[1])
    first, last = (None if seconds is None else round(25 * seconds) for seconds in interval)
    assert_frames(entry, GREYS[first:last], tolerance=4)
    assert entry.info.fps == 25


def test_cuts_of_a_stream_without_true_key_frames_are_decoded_from_the_start():
    refreshed = {"x264-params": "keyint=8:intra-refresh=1:bframes=0:scenecut=0", "crf": "1"}
    file = encoded("libx264", "mp4", options=refreshed)
    assert_frames(stored(file, start=0.6), GREYS[15:])
    assert_frames(stored(file), GREYS)


def test_sound_is_removed_from_packed_frames():
    video = packed_avi()
    file = io.BytesIO()
    with av.open(io.BytesIO(video)) as source, av.open(file, "w", format="avi") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        sound = output.add_stream("mp3", rate=16000, layout="mono")
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16p", "mono")
        frame.sample_rate = 16000
        output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    for check in ("decode", "probe"):
        entry = stored(file.getvalue(), check=check)
        assert entry.method == "remuxed: packed B-frames"
        assert_frames(entry, GREYS)


def test_clips_of_a_given_rate_follow_the_times():
    clip = ClipConfig(frames=4, fps=5)
    times = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.6, 2.6, 3.6, 4.6]
    assert training_frames(11, 10 / 4.6, clip, 0.0).tolist() == [0, 1, 2, 3]
    assert training_frames(11, 10 / 4.6, clip, 0.0, times).tolist() == [0, 4, 6, 6]
    even = np.arange(40) / 25
    assert training_frames(40, 25.0, clip, 0.3, even).tolist() == training_frames(40, 25.0, clip, 0.3).tolist()


def test_verify_finds_samples_of_earlier_builds_and_reshard_repairs_them(listed, tmp_path):
    size_change = compressed("libvpx-vp9", flat(GREYS[:10]))[1]
    for piece in compressed("libvpx-vp9", flat(GREYS[10:], 48, 96))[1]:
        size_change.append(Piece(piece.data, piece.pts + 10, piece.dts + 10, piece.key))
    files = {
        "avi": (packed_avi(), "mpeg4", 25.0),
        "mp4": (encoded("libx264", "mp4"), "h264", 25.0),
        "mkv": (encoded("libx264", "matroska"), "h264", 600.0),
        "webm": (muxed("libvpx-vp9", size_change, "webm"), "vp9", 25.0),
    }
    samples = [
        PackedSample(SampleInfo(frames=30, fps=fps, width=64, height=64, codec=codec, label=1).to_json(), data, kind)
        for kind, (data, codec, fps) in files.items()
    ]
    source = listed(tuple(samples))
    build_shards(source, tmp_path / "train", make_recipe(source, 10), 0, lambda sample: None)
    with pytest.raises(DataError, match=r"\(and 2 more\).* --repair"):
        call("verify", tmp_path / "train", "--decode")
    call("reshard", tmp_path / "train", "--out", tmp_path / "new", "--repair", "--workers", "1")
    call("verify", tmp_path / "new" / "train", "--decode")
    folder = ShardFolder(tmp_path / "new" / "train")
    repaired = [folder.read(index) for index in sorted(range(len(folder)), key=folder.key)]
    assert [video.info.stored for video in repaired] == ["remuxed", None, "copied", "transcoded"]
    assert repaired[1].data == files["mp4"][0]
    for video in repaired:
        assert (video.info.frames, video.info.fps, video.info.label) == (30, 25, 1)
        np.testing.assert_allclose(decode_frames(video.data, range(30)).mean((1, 2, 3)), GREYS, atol=3)


def with_sizes(codec, container, sizes, **options):
    """Ten frames of each size, one size after the other in one stream."""
    pieces = []
    for number, size in enumerate(sizes):
        part = compressed(codec, flat(GREYS[10 * number : 10 * number + 10], *size), **options)[1]
        pieces += [Piece(piece.data, piece.pts + 10 * number, piece.dts + 10 * number, piece.key) for piece in part]
    return muxed(codec, pieces, container, tick=Fraction(1, 25), size=sizes[0])


@pytest.mark.parametrize(
    "case",
    [
        ("libx264", "mp4", {"x264-params": "repeat-headers=1:bframes=0", "crf": "1"}),
        ("libx264", "matroska", {"x264-params": "repeat-headers=1:bframes=2", "crf": "1"}),
        ("libx265", "mp4", {"x265-params": "repeat-headers=1:bframes=0:log-level=none", "crf": "1"}),
        ("libvpx-vp9", "webm", {"crf": "4", "b": "0"}),
        ("libvpx", "webm", {"crf": "4", "b": "1M"}),
        ("mpeg4", "mp4", {"bf": "0", "qmin": "2", "qmax": "2"}),
        ("mjpeg", "matroska", {"qmin": "2", "qmax": "2", "strict": "-2"}),
    ],
    ids=lambda case: f"{case[0]} {case[1]}",
)
@pytest.mark.parametrize("check", ["decode", "probe"])
def test_another_size_in_the_middle_is_found(case, check):
    codec, container, options = case
    same = stored(with_sizes(codec, container, [(64, 64)] * 3, **options), check=check)
    assert same.method == "copied"
    entry = stored(with_sizes(codec, container, [(64, 64), (48, 96), (64, 64)], **options), check=check)
    assert entry.method == "transcoded: frame size changes"
    assert_frames(entry, GREYS, tolerance=4)


def test_leading_frames_are_compared_at_random(monkeypatch):
    """A decoder that gives another picture for leading frames if it starts at the key frame before them."""
    open_groups = {"x264-params": "keyint=10:min-keyint=10:open-gop=1:bframes=1:b-adapt=0:scenecut=0", "crf": "1"}
    file = encoded("libx264", "mp4", options=open_groups)
    with open_video(file) as (container, stream):
        packets = read_track(container, stream).packets
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        leading = {packet.pts for packet in packets[keys[1] :] if packet.pts < packets[keys[1]].pts}
    assert len(keys) == 3 and leading and establish(file).fault is None

    def wrong(stream, run, requested=None):
        last = None
        for frame in decode_run(stream, run, requested):
            if frame.pts in leading and last is not None:
                last.pts = frame.pts
                frame = last
            yield frame
            last = frame

    monkeypatch.setattr(random_access, "decode_run", wrong)
    assert establish(file).fault == "frames differ if decoding starts at their key frame"


@pytest.mark.parametrize("check", ["decode", "probe"])
def test_open_groups_whose_end_old_decoders_lose_are_transcoded(check):
    params = "keyint=10:min-keyint=10:bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0"
    for end, method in ((":open-gop=1", "transcoded: open group at the end"), ("", "copied")):
        entry = stored(encoded("libx264", "mp4", options={"x264-params": params + end, "crf": "1"}), check=check)
        assert entry.method == method
        assert_frames(entry, GREYS)
