"""One video out: H.264 that plays everywhere, at the times it is given, whole or not at all."""

import contextlib
import errno
import math
import os
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import torch
from av.codec.context import Flags as CodecFlags
from av.container.core import Flags as ContainerFlags
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from ppfer.base.errors import PpferError
from ppfer.base.files import atomic
from ppfer.base.pixels import as_uint8
from ppfer.video.clips import squared
from ppfer.video.reader import Frames

BT709 = 1  # H.273's number of BT.709, for primaries, transfer and matrix alike
SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")  # containers that hold H.264 and any time


class Writer(contextlib.AbstractContextManager):
    """Writes a video frame by frame; a context manager.

    The file appears under its name when the block ends without an exception; otherwise nothing is
    left. Pictures are H.264 4:2:0, colours are BT.709 and tagged so, the index stands first, and no
    metadata is written but a comment if one is given. 4:2:0 needs even sides: an odd one gets one
    more pixel, at the right or at the bottom, that repeats its neighbour.

    Args:
        path: target; its suffix picks the container (.mp4, .mov, .mkv).
        rate: frames per second for frames that come without a time, and the pace in which times are
            counted, so that 24000/1001 is kept exactly.
        exact: keep colour at full resolution (4:4:4), and odd sides as they are. Fewer players show
            it.
        crf: x264's quality, 0 (lossless) to 51; 18 looks the same to the eye.
        preset: x264's speed; slower makes smaller files.
        audio_from: a video whose sound is taken, from the moment of the first frame written to the
            end of the last.
        comment: what the file's header says of it (`ppfer.video.file.comment`).

    Raises:
        PpferError: the file cannot be made there, or the rate is none.
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        *,
        rate: Fraction | float = 25,
        exact: bool = False,
        crf: int = 18,
        preset: str = "veryfast",
        audio_from: Path | None = None,
        comment: str = "",
    ) -> None:
        self.path, self.size = Path(path), (width, height)
        if self.path.suffix.lower() not in SUFFIXES:
            raise PpferError(
                f"{path} could not be written: its suffix is none of {', '.join(SUFFIXES)}"
            )
        self.rate = _pace(rate)
        self.unit = Fraction(1, _ticks(self.rate))
        self.first = self.sound = None
        self.ticks, self.until = -1, Fraction(0)
        self.reformatter = VideoReformatter()
        with contextlib.ExitStack() as stack, sentences(self.path):
            partial = stack.enter_context(atomic(self.path))
            # a file of Python's: one that av opens by its name stays open where the disk fills up
            file = stack.enter_context(open(os.path.abspath(partial), "wb", buffering=0))
            self.container = av.open(file, "w", options={"movflags": "+faststart"})
            stack.callback(_closed_quietly, self.container)
            self.container.flags |= ContainerFlags.bitexact.value  # no date, no name of the program
            if comment:
                self.container.metadata["comment"] = comment
            self.stream = self._video_stream(exact, crf, preset)
            if audio_from is not None:
                from ppfer.video.sound import Sound  # few keep a voice

                self.sound = stack.enter_context(Sound(audio_from, self.container))
            self.stack = stack.pop_all()

    def _video_stream(self, exact: bool, crf: int, preset: str) -> av.VideoStream:
        stream = self.container.add_stream("libx264", rate=self.rate, time_base=self.unit)
        # B-frames would shift the times of a file whose pace varies, and its length with them;
        # x264's faster macroblock tree reads memory nobody wrote: other bytes, time and again
        same = {"x264-params": "cpu-independent=1"}
        stream.options = {"crf": str(crf), "preset": preset, "bf": "0", **same}
        stream.pix_fmt = "yuv444p" if exact else "yuv420p"
        stream.width, stream.height = (n if exact else n + n % 2 for n in self.size)
        context = stream.codec_context
        context.thread_count = 1  # the bytes depend on it
        context.flags |= CodecFlags.frame_duration  # the last frame's counts
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = ColorRange.MPEG
        return stream

    def write(
        self,
        pixels: np.ndarray,
        time: Fraction | float | None = None,
        duration: Fraction | float = 0,
    ) -> None:
        """Adds a frame (H, W, 3) uint8, RGB; a `PpferError` for another size, or a full disk.

        Args:
            time: when it is to be shown, in seconds; the first frame's time becomes 0. After the
                one before at the given rate, if None.
            duration: for how many seconds it is shown; it matters for the last frame only.
        """
        width, height = self.size
        if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
            raise PpferError(
                f"{self.path} takes frames (H, W, 3) uint8 of {width}x{height}, not {pixels.shape}"
            )
        # the first frame is time 0, of the sound too
        time = self.until if time is None else Fraction(time)
        if self.first is None:
            self.first = time
            if self.sound:
                self.sound.begin(time)
        moment = time - self.first
        self.ticks = max(self.ticks + 1, round(moment / self.unit))  # times rise
        stream = self.stream
        more = (0, stream.height - height), (0, stream.width - width), (0, 0)  # for even sides
        picture = self.reformatter.reformat(
            av.VideoFrame.from_ndarray(np.pad(pixels, more, "edge"), format="rgb24"),
            format=stream.pix_fmt,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.AREA,
            threads=1,
        )
        duration = Fraction(duration) or 1 / self.rate
        picture.pts, picture.time_base, self.until = self.ticks, self.unit, time + duration
        picture.duration = max(1, round(duration / self.unit))
        with sentences(self.path):
            if self.sound:
                self.sound.give(moment)
            self.container.mux(stream.encode(picture))

    def __exit__(self, *failure: object) -> None:
        if failure[0] is not None:
            self.stack.__exit__(*failure)  # removes what was begun
            return
        with sentences(self.path), self.stack:
            if self.first is None:
                raise PpferError(f"{self.path} was not written: there is no frame")
            if self.sound:
                self.sound.give(self.until - self.first)
                self.sound.end()
            self.container.mux(self.stream.encode())
            self.container.close()


def _closed_quietly(container: av.container.OutputContainer) -> None:
    with contextlib.suppress(av.FFmpegError, OSError):
        container.close()  # once only


def _pace(rate: Fraction | float) -> Fraction:
    """A frame rate as a fraction, 30000/1001 where a float means that."""
    if not math.isfinite(rate) or not 1e-6 <= rate <= 100_000:
        raise PpferError(
            f"{rate} is no frame rate; rates are from a frame in eleven days to 100000 a second"
        )
    rate = Fraction(rate)
    near = rate.limit_denominator(1001)
    return near if near and abs(near / rate - 1) < 1e-6 else rate.limit_denominator(1_000_000)


def _ticks(rate: Fraction) -> int:
    """Ticks a second that hold both the rate exactly and times in milliseconds."""
    base = 90_000 if rate > Fraction(1, 100) else 1000
    ticks = math.lcm(base, rate.numerator)
    return ticks if ticks <= 10_000_000 else rate.numerator * -(-base // rate.numerator)


@contextlib.contextmanager
def sentences(path: Path) -> Iterator[None]:
    """Trouble with a file as a sentence."""
    try:
        yield
    except (OSError, ValueError, av.FFmpegError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise PpferError(
                f"{path} was not written: the disk is full; free some and run again"
            ) from error
        reason = getattr(error, "strerror", None) or error
        raise PpferError(f"{path} could not be written: {reason}") from error


def write_video(
    path: str | Path,
    frames: torch.Tensor | np.ndarray,
    fps: float = 25.0,
    *,
    crf: int = 18,
    full_colour: bool = False,
) -> Path:
    """Writes frames (T, 3, H, W), uint8 or float in [0, 1] (clamped), as a video of so many per
    second, whole or not at all; returns its path. Raises as `Writer` does.

    Args:
        full_colour: keep colour at full resolution (4:4:4). The usual 4:2:0 halves it, which eats
            the fine coloured texture of protected frames and with it some of the expression. Not
            every browser plays 4:4:4.
    """
    frames = as_uint8(frames)
    if frames.ndim != 4 or frames.shape[1] != 3 or not len(frames):
        raise PpferError(
            f"a video is frames of shape (T, 3, H, W) with T >= 1, not {tuple(frames.shape)}"
        )
    height, width = frames.shape[2:]
    how = {"rate": fps, "exact": full_colour, "crf": crf, "preset": "medium"}
    with Writer(path, width, height, **how) as writer:
        for frame in frames.transpose(0, 2, 3, 1):  # (H, W, 3)
            writer.write(frame)
    return Path(path)


def read_video(path: str | Path) -> tuple[torch.Tensor, float]:
    """A whole short video at once: frames (T, 3, H, W) uint8, and its frames per second.

    Raises:
        PpferError: as `Frames`, or the frames would not fit the memory.
    """
    with Frames(path) as frames:
        video = frames.video
        needed = video.frames * video.width * video.height * 3
        free = psutil.virtual_memory().available
        if needed > 0.8 * free:
            raise PpferError(
                f"{path} is too long to be held in memory at once: {video.frames} frames of "
                f"{video.width}x{video.height} take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are "
                "free; read it frame by frame"
            )
        pictures = deque(frame.pixels for frame in frames)
    whole = torch.empty(len(pictures), 3, video.height, video.width, dtype=torch.uint8)
    for place in whole:  # one by one, so that memory holds them once, not twice
        place.copy_(torch.from_numpy(pictures.popleft()).permute(2, 0, 1))
    return whole, float(video.rate)


def square(frames: torch.Tensor, size: int) -> torch.Tensor:
    """Every frame of a video (T, 3, H, W) uint8 as `decode_clip` would have it, (T, 3, S, S)."""
    pictures = frames.permute(0, 2, 3, 1).numpy()  # (T, H, W, 3)
    return torch.from_numpy(np.stack([squared(picture, size) for picture in pictures]))
