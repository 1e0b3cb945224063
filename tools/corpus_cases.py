"""The corpus: families of small video files of every kind that people have."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from corpus_files import Case, Matrix, Remux, followed_by, ivf_followed_by, packed, without_first


def cases() -> list[Case]:
    """All cases, by family."""
    families = (
        _codecs(), _order(), _packed(), _edit_lists(), _orientations(), _colours(), _rates(), _variable(),
        _size_changes(), _cuts(), _other_streams(), _fragments(), _odd(),
    )  # fmt: skip
    return list(itertools.chain(*families))


X264 = "-c:v libx264 -preset veryfast -crf 8 -pix_fmt yuv420p -x264-params keyint=8:scenecut=0:b-adapt=0:bframes={b}"
X265 = (
    "-c:v libx265 -preset ultrafast -crf 8 -pix_fmt yuv420p "
    "-x265-params log-level=none:keyint=8:min-keyint=8:scenecut=0:b-adapt=0:open-gop={o}:bframes={b}"
)
MPEG4 = "-c:v mpeg4 -q:v 2 -g 8 -b_strategy 0 -bf {b}"
VP9 = "-c:v libvpx-vp9 -crf 10 -b:v 0 -cpu-used 8 -deadline realtime -g 8 -pix_fmt yuv420p -auto-alt-ref {a}"
VP8 = "-c:v libvpx -crf 4 -b:v 4M -cpu-used 8 -g 8 -auto-alt-ref {a} -lag-in-frames 8"


def _encoders(b: int) -> dict[str, str]:
    """Encoders of the codecs that are copied, with ``b`` B-frames."""
    return {
        "h264": X264.format(b=b),
        "h264_open": X264.format(b=b) + ":open-gop=1:b-pyramid=normal",
        "hevc": X265.format(b=b, o=0),
        "hevc_open": X265.format(b=b, o=1),
        "mpeg4": MPEG4.format(b=b),
    }


def _codecs() -> Iterator[Case]:
    """Codec by container, without B-frames."""
    plain = {
        "vp9": VP9.format(a=0), "vp9_alt": VP9.replace("realtime", "good").format(a=1) + " -lag-in-frames 8",
        "vp8": VP8.format(a=0), "vp8_alt": VP8.format(a=1),
        "mjpeg": "-c:v mjpeg -q:v 2 -pix_fmt yuvj420p", "mpeg2": "-c:v mpeg2video -q:v 2 -g 8 -bf 2",
        "mpeg1": "-c:v mpeg1video -q:v 2 -g 8 -bf 2", "xvid": "-c:v libxvid -q:v 2 -g 8 -bf 2",
        "ffv1": "-c:v ffv1 -pix_fmt yuv420p", "huffyuv": "-c:v huffyuv -pix_fmt yuv422p", "png": "-c:v png",
        "raw": "-c:v rawvideo -pix_fmt yuv420p", "prores": "-c:v prores_ks", "h264rgb": "-c:v libx264rgb -crf 4",
        "h264_444": X264.format(b=2).replace("yuv420p", "yuv444p"), "msmpeg4": "-c:v msmpeg4 -q:v 2",
        "h264_422": X264.format(b=2).replace("yuv420p", "yuv422p"), "wmv2": "-c:v wmv2 -q:v 2",
        "h264_10": X264.format(b=2).replace("yuv420p", "yuv420p10le"), "flv1": "-c:v flv -q:v 2",
        "hevc_10": X265.format(b=2, o=0).replace("yuv420p", "yuv420p10le"), "qtrle": "-c:v qtrle",
        "grey": X264.format(b=0).replace("yuv420p", "gray"), "theora": "-c:v libtheora -q:v 10", "vc2": "-c:v vc2",
        "jpeg2000": "-c:v jpeg2000 -pix_fmt yuv420p", "snow": "-c:v snow -q:v 1", "cinepak": "-c:v cinepak",
        "av1_aom": "-c:v libaom-av1 -cpu-used 8 -crf 10 -g 8 -lag-in-frames 8",
        "mjpeg_422": "-c:v mjpeg -q:v 2 -pix_fmt yuvj422p",
    }  # fmt: skip
    homes = {
        "mp4": "vp9 vp9_alt av1_aom mjpeg mpeg2 mpeg1 png h264rgb h264_444 h264_422 h264_10 hevc_10 grey",
        "mov": "mjpeg mjpeg_422 mpeg2 png prores qtrle h264_444 hevc_10 raw jpeg2000",
        "mkv": "vp9 vp9_alt vp8 vp8_alt av1_aom mjpeg mjpeg_422 mpeg2 mpeg1 xvid ffv1 huffyuv png theora h264_10 "
        "hevc_10 grey raw snow",
        "webm": "vp9 vp9_alt vp8 vp8_alt av1_aom",
        "avi": "mjpeg mjpeg_422 mpeg2 mpeg1 ffv1 huffyuv png raw msmpeg4 wmv2 vp8 flv1 cinepak jpeg2000 snow h264_444",
        "ts": "mpeg2 mpeg1 h264_10",
        "mpg": "mpeg2 mpeg1",
        "flv": "flv1",
        "ogv": "theora",
        "wmv": "wmv2 msmpeg4",
        "nut": "ffv1 raw mpeg2 snow",
    }
    for container, codecs in homes.items():
        for codec in codecs.split():
            fps = None if (codec, container) == ("xvid", "mkv") else 25  # XviD leaves a gap where it packs a frame
            yield Case("codec", f"{codec}_{container}", container, plain[codec] + _strict(container), fps=fps)


def _strict(container: str) -> str:
    return " -strict -2" if container in ("mp4", "mov") else ""


def _order() -> Iterator[Case]:
    """B-frames, closed and open groups, in every container; remuxed from one that states no times."""
    everywhere = ("mp4", "mov", "mkv", "avi", "ts", "nut")
    more = {
        "h264": ("3gp", "flv", "mxf"), "h264_open": ("3gp", "flv"), "hevc": (), "hevc_open": (),
        "mpeg4": ("3gp", "m4v"),
    }  # fmt: skip
    for b in (0, 1, 3):
        for codec, encoder in _encoders(b).items():
            for container in everywhere + more[codec]:
                yield Case("order", f"{codec}_b{b}_{container}", container, encoder, fps=25)
    for codec in ("h264", "h264_open", "mpeg4", "hevc"):
        for container in ("mp4", "mkv", "mov"):
            step = Remux(container, before="-fflags +genpts")
            yield Case("remuxed", f"{codec}_{container}", "avi", _encoders(2)[codec], (step,))
    for suffix in ("h264", "hevc", "m4v"):
        codec = "mpeg4" if suffix == "m4v" else suffix
        for container in ("mp4", "mkv", "avi"):
            step = Remux(container, before="-fflags +genpts -r 25")
            yield Case("raw_stream", f"{suffix}_{container}", suffix, _encoders(2)[codec], (step,))


def _packed() -> Iterator[Case]:
    """Packed B-frames as in UCF-101, in AVI and remuxed."""
    for encoder in ("mpeg4", "libxvid"):
        for rate in ("25", "30000/1001", "12"):
            for group in (8, 12, 250):
                options = f"-c:v {encoder} -q:v 2 -bf 1 -g {group}"
                steps = (packed,) if encoder == "mpeg4" else ()  # XviD packs them itself
                name = f"{encoder}_{rate.replace('/', '_')}_{group}"
                case = Case("packed", name, "avi", options, steps, Fraction(rate))
                yield replace(case, fps=float(case.rate))
    for name, step in (("mp4", Remux("mp4")), ("mkv", Remux("mkv", before="-fflags +genpts")), ("avi", Remux("avi"))):
        yield Case("packed", f"remuxed_{name}", "avi", MPEG4.format(b=1), (packed, step))


def _edit_lists() -> Iterator[Case]:
    """Cut by stream copy: the start is hidden by an edit list."""
    for codec in ("h264", "h264_open", "hevc", "mpeg4"):
        for b in (0, 2):
            for container in ("mp4", "mov"):
                for start in ("0.16", "0.4"):
                    name = f"{codec}_b{b}_{container}_{start}"
                    cut = Remux(container, before=f"-ss {start}")
                    yield Case("edit_list", name, container, _encoders(b)[codec], (cut,), fps=25)
    for codec in ("h264_open", "hevc_open"):
        cut = Remux("mkv", before="-ss 0.4")
        yield Case("edit_list", f"{codec}_mkv", "mp4", _encoders(2)[codec], (cut,))
    for codec in ("h264", "hevc"):
        cut = Remux("mp4", "-c:a aac -shortest", "-ss 0.24 -f lavfi -i sine=duration=0.9 -ss 0.24")
        yield Case("edit_list", f"{codec}_sound", "mp4", _encoders(2)[codec], (cut,), fps=25)
        twice = (Remux("mp4", before="-ss 0.16"), Remux("mp4", before="-ss 0.12"))
        yield Case("edit_list", f"{codec}_twice", "mp4", _encoders(2)[codec], twice, fps=25)
        late = (Remux("mp4", "-output_ts_offset 1.5"),)
        yield Case("edit_list", f"{codec}_late", "mp4", _encoders(2)[codec], late, fps=25)
        short = (Remux("mp4", "-t 0.4", "-ss 0.16"),)
        yield Case("edit_list", f"{codec}_part", "mp4", _encoders(2)[codec], short, fps=25)
        to_mkv = (Remux("mp4", before="-ss 0.16"), Remux("mkv"))
        yield Case("edit_list", f"{codec}_to_mkv", "mp4", _encoders(2)[codec], to_mkv, fps=25)


MATRICES: dict[str, Matrix] = {
    "90": (0, 1, -1, 0), "180": (-1, 0, 0, -1), "270": (0, -1, 1, 0), "hflip": (-1, 0, 0, 1), "vflip": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0), "transversed": (0, -1, -1, 0),
}  # fmt: skip


def _orientations() -> Iterator[Case]:
    """Rotated and mirrored."""
    for name, matrix in MATRICES.items():
        for codec in ("h264", "hevc", "mpeg4"):
            yield Case("orientation", f"{codec}_{name}", "mp4", _encoders(2)[codec], matrix=matrix, fps=25)
    for name in ("90", "hflip"):
        for tags in ("bt709 tv", "bt709 pc", "smpte170m pc"):
            encoder = _tagged(*tags.split())
            title = f"{name}_{tags.replace(' ', '_')}"
            yield Case("orientation", title, "mp4", encoder, matrix=MATRICES[name], fps=25)


def _tagged(matrix: str, values: str, pixels: str = "yuv420p", codec: str = "h264") -> str:
    """An encoder with colours in the matrix and range that it states."""
    encoders = _encoders(2) | {"vp9": VP9.format(a=0)}
    encoder = encoders[codec].replace("yuv420p", pixels)
    names = {"bt709": "bt709", "smpte170m": "bt601", "bt470bg": "bt601", "bt2020nc": "bt2020", "smpte240m": "smpte240m"}
    scale = f"scale=out_color_matrix={names[matrix]}:out_range={values}"
    return f"-vf {scale},format={pixels} {encoder} -colorspace {matrix} -color_range {values}"


def _colours() -> Iterator[Case]:
    """Matrix by range by pixel format."""
    for matrix, values in itertools.product(("bt709", "smpte170m", "bt470bg", "bt2020nc", "smpte240m"), ("tv", "pc")):
        for codec, pixels, container in (
            ("h264", "yuv420p", "mp4"), ("h264", "yuv444p", "mkv"), ("h264", "yuv420p10le", "mp4"),
            ("hevc", "yuv420p", "mp4"), ("vp9", "yuv420p", "webm"),
        ):  # fmt: skip
            name = f"{codec}_{pixels}_{matrix}_{values}"
            yield Case("colour", name, container, _tagged(matrix, values, pixels, codec), fps=25)


def _rates() -> Iterator[Case]:
    """Constant rates, with headers that state them well and badly."""
    for rate in ("24", "30000/1001", "24000/1001", "12", "5", "1", "1/2", "50", "60", "120", "15/2"):
        for container, encoder in (("mp4", X264.format(b=2)), ("mkv", X264.format(b=0)), ("webm", VP9.format(a=0))):
            name = f"{container}_{rate.replace('/', '_')}"
            yield Case("rate", name, container, encoder, (), Fraction(rate), fps=float(Fraction(rate)))
    for container, timescale in itertools.product(("mp4", "mov"), ("600", "1000", "90000", "48000", "30")):
        encoder = X264.format(b=2) + f" -video_track_timescale {timescale}"
        yield Case("rate", f"{container}_scale_{timescale}", container, encoder, rate=Fraction(30), fps=30)
    for container in ("avi", "ts", "flv"):
        yield Case("rate", f"{container}_ntsc", container, X264.format(b=0), rate=Fraction(30000, 1001), fps=29.97)


def _variable() -> Iterator[Case]:
    """Variable rates: gaps, pauses, doubled and late frames."""
    filters = {
        "gaps": "select='not(eq(mod(n,5),3))'", "pause": "setpts='PTS+if(gte(N,10),2/TB,0)'",
        "jitter": "setpts='PTS+mod(N*7,3)*0.008/TB'", "slower": "setpts='PTS*(1+N/20)'",
        "late": "setpts='PTS+3/TB'",
    }  # fmt: skip
    for name, text in filters.items():
        for container, encoder in (("mp4", X264), ("mkv", X264), ("webm", VP9), ("mov", X265), ("ts", X264)):
            options = f"-vf {text} -vsync vfr {encoder.format(b=2, a=0, o=0)}"
            if container in ("mp4", "mov"):
                options += " -video_track_timescale 90000"
            yield Case("variable", f"{name}_{container}", container, options)
    for step in (2, 5):
        encoder = f"-vf setpts='N*{step}/1000/TB' -vsync passthrough -enc_time_base 1/1000 {X264.format(b=0)}"
        yield Case("variable", f"{step}_ms_mkv", "mkv", encoder)


def _size_changes() -> Iterator[Case]:
    """Two sizes in one stream."""
    for name, suffix, encoder, container in (
        ("h264", "h264", X264.format(b=0), "mp4"), ("h264", "h264", X264.format(b=0), "mkv"),
        ("h264_b", "h264", X264.format(b=2), "ts"), ("mpeg2", "mpg", "-c:v mpeg2video -q:v 2 -g 8", "mpg"),
        ("h264_avi", "h264", X264.format(b=0), "avi"), ("hevc", "hevc", X265.format(b=0, o=0), "mkv"),
        ("hevc", "hevc", X265.format(b=0, o=0), "mp4"),
    ):  # fmt: skip
        for size in ((32, 96), (64, 48)):
            step = followed_by(Case("", "", suffix, encoder, height=size[0], width=size[1]))
            remux = () if container == suffix else (Remux(container, before="-fflags +genpts -r 25"),)
            title = f"{name}_{container}_{size[0]}"
            yield Case("size_change", title, suffix, encoder, (step, *remux), may_be_left_out=True)
    for size in ((32, 96), (64, 48)):
        step = ivf_followed_by(Case("", "", "ivf", VP9.format(a=0), height=size[0], width=size[1]))
        for container in ("webm", "mp4"):
            yield Case("size_change", f"vp9_{container}_{size[0]}", "ivf", VP9.format(a=0), (step, Remux(container)))


def _cuts() -> Iterator[Case]:
    """Parts by time, from every container."""
    for container, codec in itertools.product(
        ("mp4", "mkv", "avi", "ts", "mpg", "flv", "webm"), ("h264", "mpeg4", "mpeg2", "vp9")
    ):
        fitting = {
            "mpg": ("mpeg2",),
            "flv": ("h264",),
            "webm": ("vp9",),
            "avi": ("h264", "mpeg4"),
            "ts": ("h264", "mpeg2"),
        }
        if codec not in fitting.get(container, ("h264", "mpeg4", "mpeg2")):
            continue
        encoder = {"mpeg2": "-c:v mpeg2video -q:v 2 -g 8 -bf 2", "vp9": VP9.format(a=0)} | _encoders(2)
        for first, end in ((0, 9), (5, 13), (11, 20)):
            interval = (first / 25, end / 25, first, end)
            yield Case("cut", f"{codec}_{container}_{first}", container, encoder[codec], interval=interval, fps=25)
    for first, end in ((5, 13), (11, 20)):
        interval = (first / 25, end / 25, first, end)
        yield Case("cut", f"packed_{first}", "avi", MPEG4.format(b=1), (packed,), interval=interval, fps=25)


SOUND = "-map 0:v -map 1:a -shortest"


def _other_streams() -> Iterator[Case]:
    """Sound, several video streams, subtitles."""
    tone = "-f lavfi -i sine=duration=0.8"
    for container, sound in (("mp4", "aac"), ("mkv", "aac"), ("avi", "mp3"), ("webm", "libopus"), ("mov", "pcm_s16le")):
        encoder = VP9.format(a=0) if container == "webm" else X264.format(b=0 if container == "avi" else 2)
        options = f"{tone} {SOUND} -c:a {sound} {encoder}"
        yield Case("streams", f"sound_{container}", container, options, fps=25)
        options = f"-itsoffset 0.3 {tone} {SOUND} -c:a {sound} {encoder}"
        yield Case("streams", f"late_sound_{container}", container, options, fps=25)
    for container in ("avi", "ts", "mpg"):
        options = f"{tone} {SOUND} -c:a mp2 -c:v mpeg2video -q:v 2 -g 8 -bf 2"
        yield Case("streams", f"sound_mpeg2_{container}", container, options, fps=25)
    for container in ("mkv", "mp4"):
        yield Case("streams", f"two_{container}", container, f"-map 0:v -map 0:v {X264.format(b=2)}", fps=25)


def _fragments() -> Iterator[Case]:
    """Fragmented and streamable files, negative and late times."""
    for flags in (
        "frag_keyframe+empty_moov",
        "faststart",
        "negative_cts_offsets",
        "frag_every_frame+default_base_moof",
    ):
        for b, codec in itertools.product((0, 2), ("h264", "hevc")):
            encoder = f"{_encoders(b)[codec]} -movflags {flags}"
            yield Case("layout", f"{codec}_b{b}_{flags}", "mp4", encoder, fps=25)
    for container in ("mp4", "mkv", "ts", "avi"):
        for offset in ("10", "100000"):
            step = Remux(container, f"-output_ts_offset {offset}")
            encoder = X264.format(b=0 if container == "avi" else 2)
            yield Case("layout", f"offset_{offset}_{container}", container, encoder, (step,))
    for container in ("mp4", "mkv"):
        for count in (3, 30, 60):
            steps = (without_first(count), Remux(container))
            yield Case(
                "layout", f"started_late_{count}_{container}", "ts", X264.format(b=2), steps, may_be_left_out=True
            )


def _odd() -> Iterator[Case]:
    """Odd sizes, interlaced and anamorphic pictures."""
    for height, width in ((49, 65), (50, 66), (18, 34), (16, 128)):
        for container, encoder in (
            ("mp4", X264.format(b=2).replace("yuv420p", "yuv444p")), ("webm", VP9.format(a=0)),
            ("avi", MPEG4.format(b=0)), ("mkv", "-c:v ffv1 -pix_fmt yuv420p"),
        ):  # fmt: skip
            yield Case("odd", f"{height}_{width}_{container}", container, encoder, height=height, width=width, fps=25)
    interlaced = {
        "h264_mp4": ("mp4", X264.format(b=2) + ":tff=1 -flags +ildct+ilme"),
        "mpeg2_ts": ("ts", "-c:v mpeg2video -q:v 2 -g 8 -bf 2 -flags +ildct+ilme -top 1"),
        "mpeg4_avi": ("avi", "-c:v mpeg4 -q:v 2 -g 8 -bf 2 -flags +ildct+ilme"),
        "anamorphic_mp4": ("mp4", X264.format(b=2) + " -aspect 2:1"),
        "one_group": ("mp4", X264.format(b=3).replace("keyint=8", "keyint=250")),
        "intra_refresh": ("mp4", X264.format(b=0) + ":intra-refresh=1"),
        "weighted": ("mkv", X264.format(b=3) + ":weightp=2:b-pyramid=strict"),
    }
    for name, (container, encoder) in interlaced.items():
        yield Case("odd", name, container, encoder, fps=25)
    for codec in ("h264", "hevc"):
        crop = f"-bsf:v {codec}_metadata=crop_left=4:crop_right=4:crop_top=2:crop_bottom=6"
        yield Case("odd", f"cropped_{codec}", "mp4", _encoders(2)[codec], (Remux("mp4", crop),), fps=25)
