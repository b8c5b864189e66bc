"""The files people bring: pictures that carry their number, in every container and codec."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CORNERS = {
    (0, 0): (220, 30, 30),
    (0, 3): (30, 200, 30),
    (3, 0): (30, 30, 220),
    (3, 3): (250, 250, 250),
}
PLACES = [(r, c) for r in range(4) for c in range(4) if (r, c) not in CORNERS]  # a bit in each
SIZE = 96, 64


def paint(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W, 3) uint8: `number` as twelve blocks; corners red, green, blue, white."""
    grid = np.zeros((4, 4, 3), np.uint8)
    for place, colour in CORNERS.items():
        grid[place] = colour
    for bit, place in enumerate(PLACES):
        grid[place] = 235 if number >> bit & 1 else 20
    rows, columns = np.arange(size[1]) * 4 // size[1], np.arange(size[0]) * 4 // size[0]
    return grid[rows][:, columns]


def blocks(picture: np.ndarray) -> np.ndarray:
    """(4, 4, 3): mean colour of the middle of each block of a picture (H, W, 3)."""
    height, width = picture.shape[:2]
    grid = np.empty((4, 4, 3))
    for r in range(4):
        for c in range(4):
            rows = slice(int((r + 0.3) * height / 4), int((r + 0.7) * height / 4) + 1)
            columns = slice(int((c + 0.3) * width / 4), int((c + 0.7) * width / 4) + 1)
            grid[r, c] = picture[rows, columns].reshape(-1, 3).mean(0)
    return grid


def number(picture: np.ndarray) -> int:
    """The number painted into a picture (H, W, 3)."""
    grid = blocks(picture).mean(-1)
    return sum(int(grid[place] > 128) << bit for bit, place in enumerate(PLACES))


def corners(picture: np.ndarray) -> str:
    """Colours of the corners: top left, top right, bottom left, bottom right; "rgbw" is upright."""
    grid, letters = blocks(picture), ""
    for place in CORNERS:
        distance = {
            n: abs(grid[place] - c).sum() for n, c in zip("rgbw", CORNERS.values(), strict=True)
        }
        letters += min(distance, key=distance.get)
    return letters


def encode(
    path: Path,
    codec: str = "libx264",
    count: int = 24,
    *,
    size: tuple[int, int] = SIZE,
    rate: Fraction | int = 30,
    pix: str = "yuv420p",
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    fmt: str | None = None,
    times: list[int] | None = None,
    unit: Fraction | None = None,
    first: int = 0,
    flags: int = 0,
    before: Callable[[av.VideoStream], None] = lambda stream: None,
    frame: Callable[[av.VideoFrame], None] = lambda frame: None,
    sound: str | None = None,
    draw: Callable[[int, tuple[int, int]], np.ndarray] = paint,
) -> Path:
    """Writes `count` numbered pictures, at `times` in `unit` if given, and a second of a hum."""
    with av.open(str(path), "w", format=fmt, options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt, stream.options = pix, options or {}
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= flags
        if unit:
            stream.time_base = stream.codec_context.time_base = unit
        before(stream)
        hum = container.add_stream(sound, rate=48_000) if sound else None
        for k in range(count):
            picture = av.VideoFrame.from_ndarray(draw(k + first, size), format="rgb24").reformat(
                format=pix
            )
            if times:
                picture.pts, picture.time_base = times[k], unit
            frame(picture)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        if hum is not None:
            wave = np.sin(np.arange(48_000) * 0.05).astype(np.float32)
            samples = np.stack([wave, wave])
            for start in range(0, 48_000, 960):
                piece = av.AudioFrame.from_ndarray(
                    samples[:, start : start + 960].copy(), "fltp", "stereo"
                )
                piece.sample_rate, piece.pts = 48_000, start
                container.mux(hum.encode(piece))
            container.mux(hum.encode())
    return path


def naively(path: Path) -> list[np.ndarray]:
    """Every picture as FFmpeg decodes them in order, (H, W, 3) each."""
    with av.open(str(path)) as container:
        return [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]


_CLOSED = {"g": "8", "bf": "0"}
_B = {"g": "12", "bf": "3"}
_OPEN = {"g": "8", "bf": "3", "x264-params": "open-gop=1"}
_X265 = {"x265-params": "keyint=8:log-level=0:pools=none:frame-threads=1", "preset": "ultrafast"}
_VP9 = {"cpu-used": "8", "deadline": "realtime", "g": "8"}
_ALT = {"auto-alt-ref": "1", "lag-in-frames": "8", "cpu-used": "4"}
_AV1 = {"preset": "12", "crf": "10", "svtav1-params": "lp=1"}

KINDS: dict[str, dict] = {
    **{
        f"h264_closed.{s}": {"options": _CLOSED}
        for s in ("mp4", "mov", "mkv", "flv", "avi", "ts", "3gp", "mpg", "m4v", "vob")
    },
    **{
        f"h264_b.{s}": {"options": _B}
        for s in ("mp4", "mov", "mkv", "flv", "avi", "ts", "mts", "nut")
    },
    **{f"h264_open.{s}": {"options": _OPEN} for s in ("mp4", "mkv", "avi", "ts", "flv")},
    **{f"h264_default.{s}": {} for s in ("mp4", "avi", "h264")},
    **{
        f"hevc.{s}": {"codec": "libx265", "options": _X265}
        for s in ("mp4", "mkv", "ts", "mov", "hevc")
    },
    **{f"mpeg4.{s}": {"codec": "mpeg4", "options": _CLOSED} for s in ("mp4", "avi", "3gp", "mkv")},
    **{
        f"mpeg4_b.{s}": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}}
        for s in ("mp4", "avi", "mkv", "mov", "ts")
    },
    **{f"mpeg1.{s}": {"codec": "mpeg1video"} for s in ("mpg", "avi", "ts")},
    **{
        f"mpeg2_b.{s}": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}}
        for s in ("mpg", "ts", "vob", "mkv", "mxf", "avi")
    },
    **{
        f"vp8.{s}": {"codec": "libvpx", "options": {"cpu-used": "8"}}
        for s in ("webm", "mkv", "avi")
    },
    "vp8_hidden.webm": {"codec": "libvpx", "options": _ALT},
    **{f"vp9.{s}": {"codec": "libvpx-vp9", "options": _VP9} for s in ("webm", "mp4", "mkv")},
    "vp9_hidden.webm": {"codec": "libvpx-vp9", "options": _ALT},
    "vp8_recorder.webm": {"codec": "libvpx", "muxer": {"live": "1"}},
    **{f"av1.{s}": {"codec": "libsvtav1", "options": _AV1} for s in ("mp4", "webm", "mkv")},
    **{f"mjpeg.{s}": {"codec": "mjpeg", "pix": "yuvj420p"} for s in ("avi", "mov", "mkv", "mp4")},
    **{f"wmv2.{s}": {"codec": "wmv2"} for s in ("wmv", "asf", "avi")},
    "wmv1.wmv": {"codec": "wmv1"},
    **{f"flv1.{s}": {"codec": "flv", "options": {"g": "12"}} for s in ("flv", "avi")},
    **{f"msmpeg4.{s}": {"codec": "msmpeg4"} for s in ("avi", "asf", "wmv")},
    "h263.3gp": {"codec": "h263", "size": (176, 144)},
    "dv.avi": {"codec": "dvvideo", "size": (720, 576), "rate": 25, "count": 4},
    "prores.mov": {"codec": "prores_ks", "pix": "yuv422p10le"},
    "dnxhr.mov": {
        "codec": "dnxhd",
        "size": (256, 128),
        "pix": "yuv422p",
        "options": {"profile": "dnxhr_sq"},
    },
    **{f"ffv1.{s}": {"codec": "ffv1"} for s in ("mkv", "avi")},
    "huffyuv.avi": {"codec": "huffyuv", "pix": "yuv422p"},
    "png.mov": {"codec": "png", "pix": "rgb24"},
    "qtrle.mov": {"codec": "qtrle", "pix": "rgb24"},
    "cinepak.avi": {"codec": "cinepak", "pix": "rgb24", "count": 8},
    "raw.avi": {"codec": "rawvideo"},
    "h264_444.mp4": {"pix": "yuv444p"},
    "h264_10bit.mkv": {"pix": "yuv420p10le"},
    "h264_full_range.mp4": {"pix": "yuvj420p"},
    "h264_fragments.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}, "options": _B},
    "h264_faststart.mp4": {"muxer": {"movflags": "faststart"}, "options": _B},
    "h264_sound.mp4": {"options": _B, "sound": "aac"},
    "h264_sound.ts": {"options": _B, "sound": "aac"},
    "vp9_sound.webm": {"codec": "libvpx-vp9", "options": _VP9, "sound": "libopus"},
    **{
        f"rate_{n}_{d}.mp4": {"rate": Fraction(n, d)}
        for n, d in ((1, 1), (15, 1), (24000, 1001), (60000, 1001), (1000, 1))
    },
    **{
        f"rate_{n}_{d}.mkv": {"rate": Fraction(n, d)}
        for n, d in ((1, 1), (12, 1), (30000, 1001), (120, 1))
    },
}
