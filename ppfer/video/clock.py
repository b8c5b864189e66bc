"""When the pictures of a video are shown, and which of them a clip keeps."""

import math
from fractions import Fraction

import av

from ppfer.video.file import frame_rate

RESTARTS = ("mpeg", "mpegts")  # formats in which the clock may start again midway


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
