"""The files people bring: pictures that carry their number, in every container and codec."""

from __future__ import annotations

import contextlib
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
    """(H, W, 3) uint8: in the centred square, which is what training and protection look at,
    `number` as twelve blocks and corners in red, green, blue, white; grey beside it.
    """
    grid = np.zeros((4, 4, 3), np.uint8)
    for place, colour in CORNERS.items():
        grid[place] = colour
    for bit, place in enumerate(PLACES):
        grid[place] = 235 if number >> bit & 1 else 20
    picture = np.full((*size[::-1], 3), 128, np.uint8)
    rows = np.arange(min(size)) * 4 // min(size)
    middle(picture)[:] = grid[rows][:, rows]
    return picture


def middle(picture: np.ndarray) -> np.ndarray:
    """The centred square of a picture (H, W, 3)."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]


def blocks(picture: np.ndarray) -> np.ndarray:
    """(4, 4, 3): mean colour of the middle of each block of a picture (H, W, 3)."""
    square = middle(picture)
    inner = [slice(int((k + 0.3) * len(square) / 4), int((k + 0.7) * len(square) / 4) + 1)
             for k in range(4)]  # fmt: skip
    means = [square[rows, columns].reshape(-1, 3).mean(0) for rows in inner for columns in inner]
    return np.array(means).reshape(4, 4, 3)


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


def new_stream(
    container: av.container.OutputContainer,
    codec: str = "libx264",
    size: tuple[int, int] = SIZE,
    pix: str = "yuv420p",
    rate: Fraction | int = 30,
) -> av.VideoStream:
    """A stream of a file that is being written."""
    stream = container.add_stream(codec, rate=rate)
    stream.width, stream.height = size
    stream.pix_fmt, stream.codec_context.thread_count = pix, 1
    return stream


def encoded(stream: av.VideoStream, picture: np.ndarray) -> av.VideoFrame:
    """A picture (H, W, 3) as a stream takes it."""
    return av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)


def hum(container: av.container.OutputContainer, stream: av.AudioStream, gap: bool = False) -> None:
    """Writes a second of a hum, all of a file's sound; with a gap for a sixth of it."""
    rate, layout = stream.codec_context.sample_rate, stream.codec_context.layout
    wave = np.sin(np.arange(rate) * 0.05).astype(np.float32)
    for start in range(0, rate, rate // 50):
        if not (gap and rate // 3 < start < rate // 2):
            part = np.tile(wave[start : start + rate // 50], (layout.nb_channels, 1))
            piece = av.AudioFrame.from_ndarray(part, "fltp", layout.name)
            piece.sample_rate, piece.pts = rate, start
            with contextlib.suppress(ValueError):  # an encoder that takes no gap
                container.mux(stream.encode(piece))
    container.mux(stream.encode())


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
    about: dict[str, str] | None = None,
    times: list[int] | None = None,
    unit: Fraction | None = None,
    first: int = 0,
    flags: int = 0,
    before: Callable[[av.VideoStream], None] = lambda stream: None,
    frame: Callable[[av.VideoFrame], None] = lambda frame: None,
    sound: str | None = None,
    layout: str = "stereo",
    hertz: int = 48_000,
    gap: bool = False,
    draw: Callable[[int, tuple[int, int]], np.ndarray] = paint,
) -> Path:
    """Writes `count` numbered pictures, at `times` in `unit` if given, and a second of a hum."""
    with av.open(str(path), "w", format=fmt, options=muxer or {}) as container:
        container.metadata.update(about or {})
        stream = new_stream(container, codec, size, pix, rate)
        stream.options = options or {}
        stream.codec_context.flags |= flags
        if unit:
            stream.time_base = stream.codec_context.time_base = unit
        before(stream)
        heard = container.add_stream(sound, rate=hertz, layout=layout) if sound else None
        for k in range(count):
            picture = encoded(stream, draw(k + first, size))
            if times:
                picture.pts, picture.time_base = times[k], unit
            frame(picture)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        if heard:
            hum(container, heard, gap)
    return path


def naively(path: Path) -> list[np.ndarray]:
    """Every picture as FFmpeg decodes them in order, (H, W, 3) each."""
    with av.open(str(path)) as container:
        return [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]


_CLOSED = {"g": "8", "bf": "0"}
_B, _B2 = {"g": "12", "bf": "3"}, {"g": "12", "bf": "2"}
_OPEN = {"g": "8", "bf": "3", "x264-params": "open-gop=1"}
_X265 = {"x265-params": "keyint=8:log-level=0:pools=none:frame-threads=1", "preset": "ultrafast"}
_VP9 = {"cpu-used": "8", "deadline": "realtime", "g": "8"}
_ALT = {"auto-alt-ref": "1", "lag-in-frames": "8", "cpu-used": "4"}
_HR = {"profile": "dnxhr_sq"}
_AV1 = {"preset": "8", "crf": "10", "svtav1-params": "lp=1"}

_TABLE: list[tuple[str, str, dict]] = [  # name, suffixes, how `encode` makes it
    ("h264_closed", "mp4 mov mkv flv avi ts 3gp mpg m4v vob", {"options": _CLOSED}),
    ("h264_b", "mp4 mov mkv flv avi ts mts nut", {"options": _B}),
    ("h264_open", "mp4 mkv avi ts flv", {"options": _OPEN}),
    ("h264_default", "mp4 avi h264", {}),
    ("hevc", "mp4 mkv ts mov hevc", {"codec": "libx265", "options": _X265}),
    ("mpeg4", "mp4 avi 3gp mkv", {"codec": "mpeg4", "options": _CLOSED}),
    ("mpeg4_b", "mp4 avi mkv mov ts", {"codec": "mpeg4", "options": _B2}),
    ("mpeg1", "mpg avi ts", {"codec": "mpeg1video"}),
    ("mpeg2_b", "mpg ts vob mkv mxf avi", {"codec": "mpeg2video", "options": _B2}),
    ("vp8", "webm mkv avi", {"codec": "libvpx", "options": {"cpu-used": "8"}}),
    ("vp8_hidden", "webm", {"codec": "libvpx", "options": _ALT}),
    ("vp9", "webm mp4 mkv", {"codec": "libvpx-vp9", "options": _VP9}),
    ("vp9_hidden", "webm", {"codec": "libvpx-vp9", "options": _ALT}),
    ("vp8_recorder", "webm", {"codec": "libvpx", "muxer": {"live": "1"}}),
    ("av1", "mp4 webm mkv", {"codec": "libsvtav1", "options": _AV1}),
    ("mjpeg", "avi mov mkv mp4", {"codec": "mjpeg", "pix": "yuvj420p"}),
    ("wmv2", "wmv asf avi", {"codec": "wmv2"}),
    ("wmv1", "wmv", {"codec": "wmv1"}),
    ("flv1", "flv avi", {"codec": "flv", "options": {"g": "12"}}),
    ("msmpeg4", "avi asf wmv", {"codec": "msmpeg4"}),
    ("h263", "3gp", {"codec": "h263", "size": (176, 144)}),
    ("dv", "avi", {"codec": "dvvideo", "size": (720, 576), "rate": 25, "count": 4}),
    ("prores", "mov", {"codec": "prores_ks", "pix": "yuv422p10le"}),
    ("dnxhr", "mov", {"codec": "dnxhd", "size": (256, 128), "pix": "yuv422p", "options": _HR}),
    ("ffv1", "mkv avi", {"codec": "ffv1"}),
    ("huffyuv", "avi", {"codec": "huffyuv", "pix": "yuv422p"}),
    ("png", "mov", {"codec": "png", "pix": "rgb24"}),
    ("qtrle", "mov", {"codec": "qtrle", "pix": "rgb24"}),
    ("cinepak", "avi", {"codec": "cinepak", "pix": "rgb24", "count": 8}),
    ("raw", "avi", {"codec": "rawvideo"}),
    ("h264_444", "mp4", {"pix": "yuv444p"}),
    ("h264_10bit", "mkv", {"pix": "yuv420p10le"}),
    ("h264_full_range", "mp4", {"pix": "yuvj420p"}),
    ("h264_fragments", "mp4", {"muxer": {"movflags": "frag_keyframe+empty_moov"}, "options": _B}),
    ("h264_faststart", "mp4", {"muxer": {"movflags": "faststart"}, "options": _B}),
    ("h264_sound", "mp4 ts", {"options": _B, "sound": "aac"}),
    ("vp9_sound", "webm", {"codec": "libvpx-vp9", "options": _VP9, "sound": "libopus"}),
]
_RATES = {"mp4": "1/1 15/1 24000/1001 60000/1001 1000/1", "mkv": "1/1 12/1 30000/1001 120/1"}
KINDS = {f"{name}.{end}": how for name, ends, how in _TABLE for end in ends.split()} | {
    f"rate_{rate.replace('/', '_')}.{end}": {"rate": Fraction(rate)}
    for end, rates in _RATES.items()
    for rate in rates.split()
}
