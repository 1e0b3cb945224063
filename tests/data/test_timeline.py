"""Frame order and times: what is stored gives the frames of a sequential decode, in order, by any subset."""

import io
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import pytest

from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.encode import Encoding
from hpc_jepa.data.shards.manifest import Recipe
from hpc_jepa.data.shards.storage_policy import to_tar_entry
from hpc_jepa.data.sources.source import EncodedFile, Sample
from hpc_jepa.data.timeline import establish

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


def remuxed(data, container, time=lambda packet: packet.pts, kept=lambda number, packet: True):
    """The packets of a file, copied into another container with presentation times ``time``."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format=container) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and kept(number, packet):
                packet.pts, packet.stream = time(packet), stream
                output.mux(packet)
    return file.getvalue()


def equal_times_mp4():
    return remuxed(avi_of("mpeg4"), "mp4", lambda packet: packet.dts)


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


def assert_frames(entry, greys, tolerance=3):
    """The frames have these greys, all at once and one by one."""
    frames = decode_frames(entry.video, range(entry.info.frames))
    assert len(frames) == len(greys)
    np.testing.assert_allclose(frames.mean((1, 2, 3)), greys, atol=tolerance)
    for index in range(len(greys)):
        np.testing.assert_array_equal(decode_frames(entry.video, [index])[0], frames[index])


@pytest.mark.parametrize("settings", [("copy", "decode"), ("copy", "probe"), ("transcode", "decode")])
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_container_times_do_not_change_the_order(kind, settings):
    make, method = KINDS[kind]
    entry = stored(make(), *settings)
    assert_frames(entry, GREYS)
    assert entry.info.fps == 25
    assert entry.method == (method if settings[0] == "copy" else "transcoded: requested")
    assert establish(entry.video).fault is None
