"""Transcoding: decode, cut, scale and re-encode a video; or remux its video stream only."""

import io
from itertools import chain

import av
from av.container import InputContainer
from av.video.frame import VideoFrame

from hpc_jepa.data.decode import VideoInfo, open_video
from hpc_jepa.data.encode import MAX_RATE_DENOMINATOR, Encoding, encode_frames
from hpc_jepa.data.shards.container import MAX_FRAME_PIXELS
from hpc_jepa.data.shards.frame_conversion import convert, stored_colour, upright
from hpc_jepa.data.timeline import Timeline
from hpc_jepa.data.track import PACKED_FLAG, frames_between, read_track, variable_times
from hpc_jepa.errors import UndecodableError

BITEXACT = {"fflags": "bitexact"}


def transcode(
    video: bytes, encoding: Encoding, start: float | None = None, end: float | None = None
) -> tuple[bytes, VideoInfo]:
    """Re-encode the frames with ``start`` <= time < ``end`` (seconds), upright, scaled to ``encoding.short_side``.

    No frame is dropped or repeated; times follow the average rate. Nothing is enlarged, sides become even. Raises
    UndecodableError if a frame is damaged.
    """
    if start is None:
        return _transcode(video, encoding, start, end, seek=False)
    try:
        return _transcode(video, encoding, start, end, seek=True)
    except UndecodableError:  # some key frames are none, as with periodic intra refresh
        return _transcode(video, encoding, start, end, seek=False)


def _transcode(
    video: bytes, encoding: Encoding, start: float | None, end: float | None, seek: bool
) -> tuple[bytes, VideoInfo]:
    with open_video(video) as (container, stream):
        track = read_track(container, stream)
        times, selected = frames_between(stream, track, start, end, seek)
        rate = track.rate(times, stream)
        frames = upright(selected)
        first = next(frames, None)
        if first is None:
            raise UndecodableError(_no_frames_message(container, start, end))
        width, height = _scaled_size(first, encoding.short_side)
        scaled = convert(chain([first], frames), width, height, encoding.pixel_format)
        data, count = encode_frames(scaled, width, height, rate, encoding, stored_colour(first))
        variable = variable_times(times, track.tick) if len(times) == count else None
        fps = float(rate.limit_denominator(MAX_RATE_DENOMINATOR))
        return data, VideoInfo(count, fps, width, height, encoding.decoder, variable)


def keep_video_stream(video: bytes, extension: str) -> bytes:
    """Remux the video stream only, without sound, cover pictures and subtitles; frames are not re-encoded."""
    file = io.BytesIO()
    with open_video(video) as (container, stream):
        muxer = "matroska" if extension == "mkv" else extension
        with av.open(file, "w", format=muxer, options=BITEXACT) as output:
            output_stream = output.add_stream_from_template(stream)
            for packet in container.demux(stream):
                if packet.size:
                    packet.stream = output_stream
                    output.mux(packet)
    return file.getvalue()


def remux_in_order(video: bytes, timeline: Timeline, extension: str) -> bytes:
    """Remux the packets that give the frames of ``timeline``, one each, with its times; nothing is re-encoded.

    Decoding times are the presentation times, shifted so that no frame is shown before it is decoded.
    """
    file = io.BytesIO()
    times = _distinct_times(timeline)
    frames = {position: number for number, position in enumerate(timeline.order)}
    decoding_order = sorted(frames)
    delay = max(decoded - frames[position] for decoded, position in enumerate(decoding_order))
    step = max(times[-1] // len(times), 1)
    with open_video(video) as (container, stream):
        packets = read_track(container, stream).packets
        with av.open(file, "w", format="matroska" if extension == "mkv" else extension, options=BITEXACT) as output:
            output_stream = output.add_stream_from_template(stream)
            if stream.codec_context.extradata:
                output_stream.codec_context.extradata = PACKED_FLAG.sub(rb"\1\0", stream.codec_context.extradata)
            for decoded, position in enumerate(decoding_order):
                packet = packets[position]
                packet.pts = times[frames[position]]
                packet.dts = times[decoded - delay] if decoded >= delay else (decoded - delay) * step
                packet.time_base = timeline.tick
                packet.stream = output_stream
                output.mux(packet)
    return file.getvalue()


def _distinct_times(timeline: Timeline) -> list[int]:
    """Times from 0; equally spaced if two frames have the same."""
    if len(set(timeline.times)) == len(timeline.times):
        return [time - timeline.times[0] for time in timeline.times]
    return [round(number / (timeline.info.fps * timeline.tick)) for number in range(len(timeline.times))]


def _no_frames_message(container: InputContainer, start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return "has no frames"
    duration = "" if container.duration is None else f"; it lasts {container.duration / av.time_base:.1f} s"
    return f"no frames from {start or 0:g} s to {'its end' if end is None else f'{end:g} s'}{duration}"


def _scaled_size(frame: VideoFrame, short_side: int) -> tuple[int, int]:
    """Width and height, even, at most the original size."""
    if frame.width * frame.height > MAX_FRAME_PIXELS:
        raise UndecodableError(f"has frames of {frame.width}x{frame.height}, more than {MAX_FRAME_PIXELS} pixels")
    scale = min(1.0, short_side / min(frame.width, frame.height))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
    return width, height
