"""What the cases of files people really have share: numbered pictures, and what became of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import making_videos
import numpy as np
import torch

from ppfer.base.errors import PpferError
from ppfer.protect import no_privacy
from ppfer.video import decode_clip
from ppfer.video.heads import ProtectOptions
from ppfer.video.protect_files import Outcome, protect_files

CPU = torch.device("cpu")


def paint(number: int, size: tuple[int, int] = (160, 120)) -> np.ndarray:
    """(H, W, 3) uint8: the number in the centred square, which is what training and protection
    look at; grey beside it.
    """
    side = min(size)
    picture = np.full((*size[::-1], 3), 128, np.uint8)
    middle(picture)[:] = making_videos.paint(number, (side, side))
    return picture


def middle(picture: np.ndarray) -> np.ndarray:
    """The centred square of a picture (H, W, 3)."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]


def number(picture: np.ndarray) -> int:
    """The number painted into a picture (H, W, 3)."""
    return making_videos.number(middle(picture))


def corners(picture: np.ndarray) -> str:
    """The corners' colours, from the top left; "rgbw" is upright."""
    return making_videos.corners(middle(picture))


def encode(path: Path, codec: str = "libx264", count: int = 40, **how: object) -> Path:
    """A file of numbered pictures, 160x120 and 30 a second unless told otherwise."""
    return making_videos.encode(path, codec, count, **{"size": (160, 120), "draw": paint, **how})


def clip(path: Path, frames: int = 16) -> list[int] | str:
    """What training gets from a file: the numbers of its frames, or the sentence."""
    try:
        return [number(picture.transpose(1, 2, 0)) for picture in decode_clip(path, frames, 64)]
    except PpferError as error:
        return str(error)


def wanted(count: int, frames: int = 16) -> list[int]:
    """What training should get from a file whose frames are numbered."""
    return [(2 * i + 1) * count // (2 * frames) for i in range(frames)]


def outcomes(source: Path, out: Path) -> list[Outcome]:
    """`ppfer protect` with the protector that changes nothing: only reading and writing show."""
    return protect_files(
        no_privacy, source, out, ProtectOptions(size=64, device=CPU, frame="whole")
    )


def protect(source: Path, out: Path) -> list[Path] | str:
    """The results of protecting; a sentence where a video failed or was left out."""
    try:
        became = outcomes(source, out)
    except PpferError as error:
        return str(error)
    bad = "; ".join(str(outcome) for outcome in became if not outcome.ok)
    return bad or [outcome.result for outcome in became if outcome.result]


def facts(path: Path) -> tuple[list[int], float]:
    """(numbers of the frames, seconds) of a video file, by PyAV."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        numbers = [number(f.to_ndarray(format="rgb24")) for f in container.decode(stream)]
        length = stream.duration and stream.duration * stream.time_base
        return numbers, float(length or Fraction(container.duration, av.time_base))
