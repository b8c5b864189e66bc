"""The pictures of a video, one by one, in the order and in the way in which a player shows them.

Upright, with square pixels, whole pictures instead of half ones, without what an edit list cuts
away. Damage costs only what it hit: what could be decoded is used, and `Frames.faults` says what is
missing.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ppfer.base.errors import PpferError
from ppfer.video.file import Clock, cut_short, declared_seconds, opened, packet_end, survey
from ppfer.video.picture import HDR_TRANSFERS, View, deinterlaced

SMALL = 50_000_000  # bytes; a file up to this size is looked through where that helps
INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # formats with an index of moments


@dataclass(frozen=True)
class Video:
    """What a file's header and its first picture say."""

    width: int  # as shown in pixels, after rotation and with square pixels
    height: int
    rate: Fraction  # frames per second, on average; 25 where the file says nothing that can be
    duration: float  # seconds that the file says it lasts
    frames: int  # how many that makes, about
    rotation: int = 0  # degrees by which players turn its pictures clockwise: 0, 90, 180, 270
    mirrored: bool = False  # whether players mirror its pictures
    interlaced: bool = False  # whether a picture is two half ones, taken one after the other
    hdr: bool = False  # whether its colours are made for HDR screens (PQ or HLG)
    sound: bool = False
    start: Fraction = Fraction(0)  # the file's own clock at the first frame shown, in seconds


def probe(path: str | Path) -> Video:
    """What a video is like; raises as `Frames` does."""
    with Frames(path) as frames:
        return frames.video


@dataclass(frozen=True)
class Frame:
    """One picture of a video."""

    time: Fraction  # seconds since the video's first frame
    duration: Fraction  # seconds for which it is shown; the pace where the file does not say
    _picture: av.VideoFrame
    _view: View

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8, RGB; only now converted, so that frames passed over cost little."""
        try:
            return self._view(self._picture)
        except av.FFmpegError as error:
            raise PpferError(
                f"{self._view.name} cannot be read: FFmpeg does not know how to show its pictures, "
                f"of format {self._picture.format.name}"
            ) from error


class Frames(contextlib.AbstractContextManager):
    """The frames of a video, one by one, in order and once; memory does not grow with its length.
    A context manager that closes the file.

    Args:
        path: any file FFmpeg reads.
        start, end: the first moment wanted, and the first that is not, in seconds since the first
            frame, from which times of frames count all the same.

    Raises:
        PpferError: the file is missing, no video, or no frame of it can be decoded.
    """

    def __init__(
        self, path: str | Path, start: float | None = None, end: float | None = None
    ) -> None:
        self.path, self.start = Path(path), _moment(start or 0)
        self.end = None if end is None else _moment(end)
        self.faults = []  # what is missing, in words; complete once the last frame was read
        self.broken = self.damaged = 0  # packets that could not be decoded, frames, so far
        # seconds of picture and sound found, once all was read, and that the header promises or 0
        self.present = self.declared = 0.0
        self._open()
        try:
            first = next(self._pictures, None)
            if first is None:
                raise PpferError(
                    f"{path} cannot be decoded: " + (self._losses() or "it holds no frame")
                )
            self.view = View(first[0], self.stream)
            self.video = self._describe(first[0])
            if self.start > 10 and self.container.format.name in INDEXED:
                first = self._jump(first)
        except BaseException:
            self.close()
            raise
        self._first = first

    def _open(self) -> None:
        self._stack = contextlib.ExitStack()
        self.container, self.stream = self._stack.enter_context(opened(self.path))
        self.stream.thread_count, self.stream.thread_type = 1, "SLICE"
        self._heard = None  # the last packet of sound
        self._clock = Clock(self.container.format.name, self.stream)
        self._interlaced = False  # so far
        self._pictures = deinterlaced(self._timed(), self.stream.time_base)

    def _jump(self, first: tuple) -> tuple:
        """Goes to the key frame before the start; stays where it is if that fails."""
        unit = self.stream.time_base
        with contextlib.suppress(av.FFmpegError):
            self.container.seek(int((self.video.start + self.start) / unit), stream=self.stream)
            self._clock.last = None  # the next picture may come from anywhere
            self._pictures = deinterlaced(self._timed(), unit)
            landed = next(self._pictures, None)
            if landed and landed[1] * unit <= self.start:
                return landed
        self.close()
        self._open()
        return next(self._pictures, first)

    def _packets(self) -> Iterator[av.Packet]:
        """The packets; a reader that stumbles is helped up, but not twice at the same place."""
        stumbled = False
        while True:
            try:
                for packet in self.container.demux(self.stream, *self.container.streams.audio[:1]):
                    stumbled = False
                    if packet.stream is self.stream:
                        yield packet
                    elif packet.size:
                        self._heard = packet
                return
            except (av.FFmpegError, OSError):
                self.broken += 1
                if stumbled:
                    return
                stumbled = True

    def _timed(self) -> Iterator[tuple[av.VideoFrame, int | Fraction, int | Fraction]]:
        """Pictures as decoded, in the order shown, with their time and duration in ticks."""
        for packet in self._packets():
            try:
                pictures = packet.decode()
            except MemoryError:
                raise
            except (av.FFmpegError, ValueError):
                self.broken += 1
                continue
            for picture in pictures:
                self.damaged += picture.is_corrupt
                self._interlaced |= picture.interlaced_frame
                yield picture, *self._clock(picture)

    def __iter__(self) -> Iterator[Frame]:
        item, unit, last = self._first, self.stream.time_base, 0
        start = math.ceil(self.start / unit)
        end = math.inf if self.end is None else math.ceil(self.end / unit)
        while item is not None:
            picture, time, duration = item
            if time >= end:
                self.close()
                return
            if time >= start:
                yield Frame(time * unit, duration * unit, picture, self.view)
            last, item = time + duration, next(self._pictures, None)
        heard = self._heard and packet_end(self._heard)
        self.present = float(max(last * unit, (heard or 0) - self.video.start))
        if losses := self._losses():
            self.faults.append(losses)
        if short := cut_short(self.present, self.declared):
            self.faults.append(f"ends early: {short}")
        self.close()

    def _losses(self) -> str:
        parts = []
        if self.broken:
            parts.append(f"{self.broken} packet{'s' * (self.broken > 1)} could not be decoded")
        if self.damaged:
            parts.append(f"{self.damaged} frame{'s are' if self.damaged > 1 else ' is'} damaged")
        return ", ".join(parts)

    def _describe(self, picture: av.VideoFrame) -> Video:
        container, stream, view = self.container, self.stream, self.view
        # how long it is: by its header, else by its packets where that is quick
        self.declared = declared_seconds(container, stream)
        seconds = self.declared or (container.duration or 0) / av.time_base
        if not self.declared and (not seconds or container.size < SMALL):  # better than a guess
            seconds = survey(self.path).seconds
        return Video(
            width=view.width,
            height=view.height,
            rate=self._clock.rate,
            duration=seconds,
            frames=stream.frames or max(1, round(seconds * self._clock.rate)),
            rotation=view.rotation,
            mirrored=view.mirrored,
            interlaced=self._interlaced,
            hdr=picture.color_trc in HDR_TRANSFERS,
            sound=bool(container.streams.audio),
            start=self._clock.origin * stream.time_base if self._clock.ordered else Fraction(0),
        )

    def close(self) -> None:
        """Closes the file."""
        self._stack.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def _moment(seconds: float) -> Fraction:
    """The moment meant by a decimal fraction: 0.8 is 4/5, not a hair more."""
    return Fraction(seconds).limit_denominator(1_000_000)
