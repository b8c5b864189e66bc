"""A video file before anything is decoded: its name, its faults, its streams, packets and clock."""

import contextlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from ppfer.base.errors import PpferError
from ppfer.base.files import LFS_MAGIC

VIDEO_SUFFIXES = tuple(
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .m2t .m2ts .m2v .m4v .mkv .mov .mp4 .mpe .mpeg .mpg "
    ".mts .mxf .nut .ogg .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv .y4m .h264 .hevc "
    ".3gpp .gif .insv .ivf .lrv .m2p .mjpeg .mod .tod .wtv".split()
)
WHOLE = 0.75  # a video that covers less of the duration its header declares counts as truncated
FOREIGN = {
    LFS_MAGIC: "is a Git-LFS pointer; run: git lfs pull",
    b"\x00\x05\x16\x07\x00": "is a Mac's note beside a file (AppleDouble), no video; delete it",
    b"<!DOCTYPE": "is a web page, no video; download it again",
    b"<html": "is a web page, no video; download it again",
}
HEADLESS = ("mpeg", "mpegts", "h264", "hevc", "m4v", "mpegvideo")  # nothing says how long they are
UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".dng", ".cr2", ".nef", ".arw")  # photos of others
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
RESTARTS = ("mpeg", "mpegts")  # formats in which the clock may start again midway
NO_PICTURE = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


def is_video(path: str | Path, suffixes: tuple[str, ...] = VIDEO_SUFFIXES) -> bool:
    """Whether a name is a video's: by its suffix, and not hidden (a Mac leaves ._X beside X)."""
    path = Path(path)
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def is_photo(path: str | Path) -> bool:
    """The same of a photo."""
    return is_video(path, PHOTO_SUFFIXES)


def file_fault(path: str | Path) -> str | None:
    """What is wrong with a file before any decoder sees it, completing "<path> ...", or None."""
    path = Path(path)
    try:
        if not path.exists():
            return "does not exist"
        if not path.is_file():
            return "is a folder, no video" if path.is_dir() else "is no regular file"
        if path.stat().st_size == 0:
            return "is empty (0 bytes)"
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return next((fault for magic, fault in FOREIGN.items() if head.startswith(magic)), None)


def comment(path: str | Path) -> str:
    """The comment in a file's header; "" where there is none, or no header."""
    try:
        with av.open(os.path.abspath(path), metadata_errors="ignore") as container:
            return container.metadata.get("comment", "")
    except (av.FFmpegError, OSError, ValueError):
        return ""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The open container and the video stream to show, whatever previews lie beside it; a
    `PpferError` where the file cannot be opened or holds no video.
    """
    if fault := file_fault(path):
        raise PpferError(f"{path} {fault}")
    try:  # an absolute path, since FFmpeg takes what stands before a colon for a protocol
        container = av.open(os.path.abspath(path), metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise PpferError(f"{path} cannot be decoded: it is damaged or no video") from error
    with container:
        films = [film for film in container.streams.video if not film.disposition & NO_PICTURE]
        if not films:
            content = "only sound" if container.streams.audio else "no moving picture"
            raise PpferError(f"{path} holds no video, {content}")
        known = [film for film in films if film.codec_context is not None]
        if not known:
            raise PpferError(f"{path} cannot be decoded: FFmpeg does not know its video's codec")
        yield container, max(known, key=_prominence)


def _prominence(stream: av.VideoStream) -> tuple[bool, bool, int]:
    area = stream.codec_context.width * stream.codec_context.height
    return stream.frames != 1, bool(stream.disposition & Disposition.default), area


def frame_rate(stream: av.VideoStream) -> Fraction:
    """Frames per second on average; 25 where the file does not say, or what it says cannot be."""
    # where the pace varies, what is not an average is often 1000
    guessed = stream.codec_context.framerate, stream.guessed_rate
    said = (stream.average_rate, 1000), *((rate, 120) for rate in guessed)
    return Fraction(next((r for r, most in said if r and Fraction(1, 100_000) <= r <= most), 25))


def declared_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Seconds that the header promises; 0 where there is no header to promise anything."""
    if container.format.name in HEADLESS:
        return 0.0
    if stream.duration and stream.duration > 0:
        return float(stream.duration * stream.time_base)
    if clock := re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")):
        return 3600 * int(clock[1]) + 60 * int(clock[2]) + float(clock[3])  # Matroska
    return max(0, container.duration or 0) / av.time_base


def packet_end(packet: av.Packet) -> Fraction | None:
    """The file's clock at the end of a packet, in seconds."""
    stamp = packet.dts if packet.dts is not None else packet.pts
    return None if stamp is None else (stamp + (packet.duration or 0)) * packet.time_base


def cut_short(present: float, declared: float, whole: float = 0.9) -> str:
    """ "1.2 of 3.0 s" where less than a share of the declared seconds is present, else ""."""
    short = present < whole * declared and declared - present > 0.3
    return f"{present:.1f} of {declared:.1f} s" if short else ""


def clip_fault(pictures: int, present: float, declared: float) -> str | None:
    """What makes a video useless for training, completing "<path> ...", or None."""
    if short := cut_short(present, declared, WHOLE):
        return f"is truncated: it holds {short}"
    return "has one frame only" if pictures == 1 else None


@dataclass(frozen=True)
class Survey:
    """What the packets of a file say, none of them decoded."""

    pictures: int  # packets that should show one; only decoding tells which do
    seconds: float  # from the first picture to the end of the last
    present: float  # the same, to the end of picture and sound
    declared: float  # seconds that the header promises, 0 if it does not
    variable: bool  # whether the pace of the pictures varies
    rate: float  # pictures a second: on average or, where the pace varies, at most times


def survey(path: str | Path) -> Survey:
    """Looks at every packet of a file; a `PpferError` where it cannot be opened."""
    times, pictures, lasts = [], 0, {}
    with opened(Path(path)) as (container, stream):
        declared, rate = declared_seconds(container, stream), frame_rate(stream)
        with contextlib.suppress(av.FFmpegError, OSError):  # what is there is counted
            for packet in container.demux(stream, *container.streams.audio[:1]):
                if not packet.size:
                    continue
                lasts[packet.stream_index] = packet
                if packet.stream_index == stream.index:
                    pictures += not packet.is_discard
                    times.append(packet.pts if packet.pts is not None else packet.dts)
        unit = float(stream.time_base)
        end = max((packet_end(packet) or 0 for packet in lasts.values()), default=0)
    stamps = np.array([time for time in times if time is not None], float) * unit
    gaps = np.diff(np.unique(stamps))
    if not len(gaps):
        seconds = float(pictures / rate)
        return Survey(pictures, seconds, seconds, declared, False, float(rate))
    usual = float(np.median(gaps))
    # a container that counts in milliseconds rounds every gap by one of them
    variable = bool(np.mean(np.abs(gaps - usual) > max(1.01 * unit, 0.1 * usual)) > 0.02)
    seconds = float(stamps.max() - stamps.min()) + usual
    if np.any(np.diff(stamps) < -1):  # the clock starts again: parts put together
        seconds = pictures * usual
    present = max(seconds, float(end) - float(stamps.min()))
    pace = 1 / usual if variable else float(rate)
    return Survey(pictures, seconds, present, declared, variable, pace)


def sample_positions(count: int, frames: int) -> list[int]:
    """Mid-points of `frames` equal segments of `count` frames; a shorter clip repeats frames."""
    return [(2 * i + 1) * count // (2 * frames) for i in range(frames)]


class Clock:
    """Times since the first picture, from stamps that may be missing, go back or start again; in
    ticks, the stream's own unit of time. A picture without a stamp may fall between two.
    """

    def __init__(self, container: str, stream: av.VideoStream) -> None:
        self.rate = frame_rate(stream)
        self.pace, second = 1 / self.rate / stream.time_base, 1 / stream.time_base
        # AVI knows no order of showing; what FFmpeg makes up for it is wrong with B-frames
        self.ordered = container != "avi"
        # a step back is a slip of the clock, or another part of the recording if it is longer
        restarts = container in RESTARTS
        self.back, self.ahead = (second / 10, 10 * second) if restarts else (second, math.inf)
        self.slip = min(self.pace, second / 1000) if self.ordered else self.pace
        self.longest = math.ceil(60 * second)
        self.origin = self.last = None
        self.offset = 0

    def __call__(self, picture: av.VideoFrame) -> tuple[int | Fraction, int | Fraction]:
        """The time and the duration of the next picture shown."""
        # when it says that it is shown, or where that cannot be trusted, when it was decoded
        stamp, other = picture.pts, picture.dts
        if stamp is None or (other is not None and not self.ordered):
            stamp = other
        # a step too far back or ahead begins another part of the recording
        if self.origin is None:
            self.origin, time = stamp or 0, 0
        elif self.last is None:  # the first after a jump
            time = 0 if stamp is None else stamp - self.origin
        elif stamp is None:
            time = self.last + self.pace
        else:
            time = stamp - self.origin + self.offset
            gone = time - self.last
            if 0 < gone <= self.ahead:
                self.pace = gone
            elif -self.back < gone <= 0:
                time = self.last + self.slip
            else:
                self.offset += self.pace - gone
                time = self.last + self.pace
        self.last = time
        return time, picture.duration if 0 < picture.duration < self.longest else self.pace
