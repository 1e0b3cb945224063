"""Headers of compressed frames, read without decoding: the frame size they state, and whether a decoder restarts.

Sources: ITU-T H.264 7.3.1 and H.265 7.3.1 (NAL units), ISO/IEC 14496-15 (length prefixes), the VP9 bitstream
specification 6.2 and Annex B, RFC 6386 9.1 (VP8), the AV1 specification 5.3, ISO/IEC 14496-2 6.2.3 (VOL).
"""

import re
from collections.abc import Iterable, Iterator
from typing import TypeAlias

Header: TypeAlias = bytes | tuple[int, int]

H264_IDR, H264_SPS = 5, 7
HEVC_SKIPPED_LEADING, HEVC_RESTARTS, HEVC_SPS = (8, 9), range(16, 21), 33
AV1_SEQUENCE_HEADER = 1
RGB_MATRIX = 7
MPEG4_VOL = re.compile(rb"\x00\x00\x01[\x20-\x2f].*?(?=\x00\x00\x01)", re.DOTALL)
JPEG_SIZE = re.compile(rb"\xff[\xc0-\xc2]\x00[\x0b-\x14].(.{4})", re.DOTALL)


def restarts(codec: str, key_frame: bytes, extradata: bytes) -> bool:
    """Whether no decoder keeps anything over this key frame, as the standard of the codec requires."""
    match codec:
        case "h264" | "hevc":
            types = (_nal_type(codec, unit) for unit in nal_units(codec, key_frame, extradata))
            return any(kind == H264_IDR if codec == "h264" else kind in HEVC_RESTARTS for kind in types)
        case "vp8":
            return not key_frame[0] & 1
        case "vp9":
            return _Bits(key_frame).is_vp9_key
        case _:
            return codec in ("mpeg4", "mjpeg")


def is_skipped_leading(codec: str, frame: bytes, extradata: bytes) -> bool:
    """Whether this is a leading frame of HEVC that decoders drop if they start at its key frame (RASL)."""
    units = nal_units(codec, frame, extradata) if codec == "hevc" else ()
    return any(_nal_type(codec, unit) in HEVC_SKIPPED_LEADING for unit in units)


def one_size(codec: str, packets: Iterable[tuple[bytes, bool]], extradata: bytes) -> bool:
    """Whether all frames state the same size; ``packets``: data, and whether it is a key frame.

    Other frames than key frames state a size only in VP9. Other differences of the headers count as well. Not seen are
    frames of AV1 that override the size of their sequence.
    """
    stated: set[Header] = set()
    for data, is_key in packets:
        if is_key or codec == "vp9":
            stated.update(header for header in _headers(codec, data, extradata))
    unknown = [header for header in stated if not isinstance(header, bytes) or header not in extradata]
    return len(unknown) <= (len(unknown) == len(stated))


def _headers(codec: str, data: bytes, extradata: bytes) -> Iterator[Header]:
    """Headers of a packet that state the size: as bytes, or as width and height."""
    match codec:
        case "h264" | "hevc":
            sps = H264_SPS if codec == "h264" else HEVC_SPS
            units = nal_units(codec, data, extradata)
            yield from (unit.rstrip(b"\0") for unit in units if _nal_type(codec, unit) == sps)
        case "vp8":
            yield data[6:10]
        case "vp9":
            yield from filter(None, map(_vp9_size, _vp9_frames(data)))
        case "av1":
            yield from (content for kind, content in _av1_units(data) if kind == AV1_SEQUENCE_HEADER)
        case "mpeg4":
            yield from MPEG4_VOL.findall(data)
        case "mjpeg":
            yield from JPEG_SIZE.findall(data)[:1]


def nal_units(codec: str, data: bytes, extradata: bytes) -> Iterator[bytes]:
    """NAL units of a packet of H.264 or HEVC, with length prefixes or, if the extradata state none, start codes."""
    if len(extradata) < 23 * (codec == "hevc") + 5 or extradata[:3] in (b"\0\0\0", b"\0\0\1"):
        yield from (unit for unit in data.split(b"\0\0\1")[1:] if unit)
        return
    prefix = (extradata[21 if codec == "hevc" else 4] & 3) + 1
    at = 0
    while at + prefix < len(data):
        end = at + prefix + int.from_bytes(data[at : at + prefix])
        if end > at + prefix:
            yield data[at + prefix : end]
        at = end


def _nal_type(codec: str, unit: bytes) -> int:
    return unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63


class _Bits:
    """Reads the first bytes of a frame bit by bit."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data[:40]), 8 * len(data[:40])

    def take(self, count: int) -> int:
        """The next bits; 0 beyond the end."""
        self._left -= count
        return self._value >> max(self._left, 0) & ((1 << count) - 1)

    @property
    def is_vp9_key(self) -> bool:
        """Whether a VP9 frame is a key frame; consumes the bits up to that."""
        profile = self.vp9_profile()
        return profile is not None and not self.take(1)

    def vp9_profile(self) -> int | None:
        """Profile of a VP9 frame; None if it repeats another frame."""
        self.take(2)
        profile = self.take(1) | self.take(1) << 1
        self.take(int(profile == 3))
        return None if self.take(1) else profile


def _vp9_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height that a VP9 frame states; None if it has those of another frame."""
    bits = _Bits(frame)
    profile = bits.vp9_profile()
    if profile is None:
        return None
    is_inter, is_shown, is_resilient = bits.take(1), bits.take(1), bits.take(1)
    if is_inter:
        is_intra_only = not is_shown and bits.take(1)
        bits.take(0 if is_resilient else 2)
        if not is_intra_only:
            bits.take(8 + 3 * 4)
            if bits.take(1) or bits.take(1) or bits.take(1):
                return None
            return bits.take(16), bits.take(16)
    bits.take(24)
    if not is_inter or profile:
        _skip_vp9_colour(bits, profile)
    bits.take(8 * is_inter)
    return bits.take(16), bits.take(16)


def _skip_vp9_colour(bits: _Bits, profile: int) -> None:
    bits.take(int(profile >= 2))
    subsampled = bits.take(3) != RGB_MATRIX
    bits.take(int(subsampled))
    bits.take(0 if profile in (0, 2) else 3 if subsampled else 1)


def _vp9_frames(data: bytes) -> list[bytes]:
    """Frames of a packet: several if it ends with the index of a superframe."""
    if not data or data[-1] & 0xE0 != 0xC0:
        return [data]
    count, width = (data[-1] & 7) + 1, (data[-1] >> 3 & 3) + 1
    index = data[-(2 + count * width) : -1]
    if len(index) <= count * width or index[0] != data[-1]:
        return [data]
    frames, at = [], 0
    for number in range(count):
        size = int.from_bytes(index[1 + number * width : 1 + (number + 1) * width], "little")
        frames.append(data[at : at + size])
        at += size
    return [frame for frame in frames if frame]


def _av1_units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of the units (OBU) of a packet."""
    at = 0
    while at < len(data):
        header, at = data[at], at + 1 + (data[at] >> 2 & 1)
        size = len(data) - at
        if header & 2:
            size, at = _leb128(data, at)
        yield header >> 3 & 15, data[at : at + size]
        at += size


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits per byte, and the position after it."""
    value = 0
    for count, byte in enumerate(data[at : at + 8]):
        value |= (byte & 127) << 7 * count
        if not byte & 128:
            return value, at + count + 1
    return value, len(data)
