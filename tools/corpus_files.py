"""How the files of the corpus are written by the ``ffmpeg`` command, and which frames it decodes from them."""

import io
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH, FRAMES = 48, 64, 20
BARS = ((12, 40, 180), (170, 20, 30), (30, 180, 60), (190, 180, 40), (160, 40, 170), (190, 190, 190))
VOP, USER_DATA = b"\x00\x00\x01\xb6", b"\x00\x00\x01\xb2"
Matrix = tuple[int, int, int, int]


@dataclass(frozen=True)
class Remux:
    """One more ffmpeg command without encoding: options before the input and after it, and the extension it writes."""

    suffix: str
    after: str = ""
    before: str = ""


Step = Remux | Callable[[bytes], bytes]


@dataclass(frozen=True)
class Case:
    """A file: how it is written, and the properties that must be found.

    steps: what is done to the encoded file; interval: seconds to cut it to, with the frames that must be left;
    matrix: orientation in the track header; fps: that must be found, None if it is not constant; may_be_left_out: the
    file may also be left out of the shards, with a reason.
    """

    family: str
    name: str
    suffix: str
    encoder: str
    steps: tuple[Step, ...] = ()
    rate: Fraction = Fraction(25)
    height: int = HEIGHT
    width: int = WIDTH
    fps: float | None = None
    interval: tuple[float, float, int, int] | None = None
    matrix: Matrix | None = None
    may_be_left_out: bool = False

    @property
    def title(self) -> str:
        """Family and name."""
        return f"{self.family}/{self.name}"


@cache
def pictures(height: int = HEIGHT, width: int = WIDTH, frames: int = FRAMES) -> NDArray[np.uint8]:
    """RGB frames [F, H, W, 3]: a grey that rises with each frame, beside coloured bars that stay and a moving square.

    The grey identifies the frames, the bars show wrong colours, and no two orientations are alike.
    """
    video = np.empty((frames, height, width, 3), np.uint8)
    for number, picture in enumerate(video):
        picture[:] = 20 + round(number * 210 / max(frames - 1, 1))
        picture[:, width // 2 :] = np.array(BARS, np.uint8).repeat(-(-height // len(BARS)), 0)[:height, None]
        top = 4 + number * (height - 16) // frames
        picture[top : top + 8, 4:12] = (200, 60, 40)
    return video


def write(case: Case, folder: Path) -> Path:
    """Write the file of a case. Raises CalledProcessError if ffmpeg fails."""
    path = folder / f"0.{case.suffix}"
    video = pictures(case.height, case.width)
    size = ["-s", f"{case.width}x{case.height}", "-r", str(case.rate)]
    _ffmpeg(["-f", "rawvideo", "-pix_fmt", "rgb24", *size, "-i", "-", *case.encoder.split(), path], video.tobytes())
    for number, step in enumerate(case.steps, start=1):
        if isinstance(step, Remux):
            following = folder / f"{number}.{step.suffix}"
            _ffmpeg([*step.before.split(), "-i", path, "-c", "copy", *step.after.split(), following])
            path = following
        else:
            path.write_bytes(step(path.read_bytes()))
    if case.matrix:
        path.write_bytes(with_display_matrix(path.read_bytes(), case.matrix))
    return path


def _ffmpeg(arguments: Sequence[object], data: bytes = b"") -> bytes:
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-threads", "1", *map(str, arguments)]
    if data:
        command.remove("-nostdin")
    return subprocess.run(command, input=data, capture_output=True, check=True, timeout=60).stdout


def reference(path: Path, matrix: Matrix | None = None) -> NDArray[np.uint8]:
    """Frames as the ffmpeg command decodes them, upright, in the size of the first.

    With ``matrix`` they are turned here, not by ffmpeg. Raises CalledProcessError or ValueError if ffmpeg fails.
    """
    source = ["-noautorotate"] * (matrix is not None) + ["-i", path, "-map", "0:V:0", "-pix_fmt", "rgb24"]
    picture = _ffmpeg([*source, "-frames:v", "1", "-f", "image2pipe", "-c:v", "pam", "-"])
    header = dict(line.split(b" ", 1) for line in picture.split(b"ENDHDR")[0].splitlines() if b" " in line)
    if not header:
        raise ValueError("ffmpeg decodes no frame")
    raw = _ffmpeg([*source, "-vsync", "passthrough", "-f", "rawvideo", "-"])
    frames = np.frombuffer(raw, np.uint8).reshape(-1, int(header[b"HEIGHT"]), int(header[b"WIDTH"]), 3)
    return frames if matrix is None else _shown(frames, matrix)


def _shown(frames: NDArray[np.uint8], matrix: Matrix) -> NDArray[np.uint8]:
    """Pixel x, y is shown at ax + cy, bx + dy."""
    a, b, c, d = matrix
    if a == 0:
        return frames.swapaxes(1, 2)[:, :: b or 1, :: c or 1]
    return frames[:, ::d, ::a]


def with_display_matrix(mp4: bytes, matrix: Matrix) -> bytes:
    """The file with another matrix in the header of its first track."""
    (a, b, c, d), at = matrix, mp4.index(b"tkhd") + 44
    fixed = [value * 65536 for value in (a, b, 0, c, d, 0, 0, 0)]
    return mp4[:at] + struct.pack(">9i", *fixed, 1 << 30) + mp4[at + 36 :]


def packed(avi: bytes) -> bytes:
    """MPEG-4 in AVI with each B-frame in the packet of the frame before it, as XviD and DivX write it.

    An empty VOP takes the place of the B-frame; user data before the first VOP announces it.
    """
    file = io.BytesIO()
    with av.open(io.BytesIO(avi), "r") as source, av.open(file, "w", format="avi") as output:
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for number, (data, is_key) in enumerate(_packed_packets([p for p in source.demux(stream) if p.size])):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.time_base, packet.is_keyframe, packet.stream = (
                1 / (stream.average_rate or Fraction(25)),
                is_key,
                copy,
            )
            output.mux(packet)
    return file.getvalue()


def _packed_packets(packets: Sequence["av.Packet[av.video.stream.VideoStream]"]) -> Iterator[tuple[bytes, bool]]:
    """Packet data and whether it is a key frame."""
    pieces = [(bytes(packet), packet.is_keyframe) for packet in packets]
    is_b = [data[data.index(VOP) + 4] >> 6 == 2 for data, _ in pieces]
    filler = VOP + int("0101" + "00000" + "10" + "01111", 2).to_bytes(2, "big")
    for number, (data, is_key) in enumerate(pieces):
        if is_b[number] and not is_b[number - 1]:
            yield filler, False
            continue
        if number == 0:
            headers, first = data.split(VOP, 1)
            data = headers + USER_DATA + b"DivX503b1393p" + VOP + first
        following = number + 1
        extra = pieces[following][0] if following < len(pieces) and is_b[following] and not is_b[number] else b""
        yield data + extra, is_key


def without_first(count: int) -> Callable[[bytes], bytes]:
    """Drop the first transport stream packets, as a recording that starts anywhere."""
    return lambda data: data[188 * count :]


def followed_by(case: Case) -> Callable[[bytes], bytes]:
    """The bytes, and after them those of another case."""

    def joined(data: bytes) -> bytes:
        return data + _encoded(case)

    return joined


def ivf_followed_by(case: Case) -> Callable[[bytes], bytes]:
    """The same for IVF files: without the second header, and with its times moved on."""

    def joined(data: bytes) -> bytes:
        rest, at, number = _encoded(case), 32, FRAMES
        result = data
        while at < len(rest):
            length = struct.unpack_from("<I", rest, at)[0]
            result += struct.pack("<IQ", length, number) + rest[at + 12 : at + 12 + length]
            at, number = at + 12 + length, number + 1
        return result

    return joined


def _encoded(case: Case) -> bytes:
    size = ["-s", f"{case.width}x{case.height}", "-r", str(case.rate)]
    video = pictures(case.height, case.width).tobytes()
    options = [*case.encoder.split(), "-f", {"mpg": "mpeg"}.get(case.suffix, case.suffix), "-"]
    return _ffmpeg(["-f", "rawvideo", "-pix_fmt", "rgb24", *size, "-i", "-", *options], video)
