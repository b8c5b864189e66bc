"""The frames of one video on their way through a protector: cut out, protected, pasted back.

What is read, looked at, protected and written flows through threads, a few frames at a time, so
that memory does not grow with the length of a video. Whatever is not shown in the end is dropped at
once: of a frame whose rest is blurred, only a few cells and the squares round the heads are kept.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ppfer.base.errors import PpferError
from ppfer.base.files import digest
from ppfer.protect import VideoProtector, protect_all
from ppfer.video import Frame
from ppfer.video.faces import Finder, Tracker, head_square

SOFT = 0.06  # share of a pasted square, at each edge, over which it fades; it lies outside the head
CELLS = (
    12  # cells that a blurred picture keeps along its shorter side: a head becomes a few of them
)
T = TypeVar("T")


@dataclass(frozen=True)
class ProtectOptions:
    """How videos are protected.

    Attributes:
        size: side of the squares that the protector was trained at, pixels.
        device: where the protector runs.
        frame: "face": each head is protected and pasted back into the full picture. "whole": the
            picture's centre square is protected and is the result, `size` pixels wide.
        outside: with "face", what becomes of the rest: "blur", "black" or "keep".
        start, end: seconds; None is the beginning or the end.
        quality: x264's crf; smaller is better and larger.
        exact: colour keeps its full resolution, which fewer players show.
        preview: the original to the left of the protected picture, written as ``name.preview.mp4``.
        keep_audio: copy the sound.
        overwrite: replace older results.
        chunk: frames the protector sees at once.
        batch: clips per pass.
        precision: see `ppfer.base.device.autocast`.
        protector: what tells this protector from others, such as a digest of its weights; a result
            made with another one is not taken for this one's.
    """

    size: int
    device: torch.device
    frame: str = "face"
    outside: str = "blur"
    start: float | None = None
    end: float | None = None
    quality: int = 18
    exact: bool = False
    preview: bool = False
    keep_audio: bool = False
    overwrite: bool = False
    chunk: int = 16
    batch: int = 4
    precision: str = "auto"
    protector: str = ""

    def __post_init__(self) -> None:
        if self.frame not in ("face", "whole"):
            raise PpferError(f"frame is face or whole, not '{self.frame}'")
        if self.outside not in ("blur", "black", "keep"):
            raise PpferError(f"outside is blur, black or keep, not '{self.outside}'")
        start, end = self.start or 0, math.inf if self.end is None else self.end
        if not 0 <= start < end:
            raise PpferError(f"there is nothing from second {start:g} to second {end:g}")
        if not 0 <= self.quality <= 51:
            raise PpferError(f"quality is from 0 (best) to 51 (smallest), not {self.quality}")

    def settings(self) -> str:
        """A short digest of all that changes a result."""
        aside = ("device", "overwrite", "batch")
        return digest({key: value for key, value in vars(self).items() if key not in aside})


@dataclass
class Tally:
    """What was counted on the way.

    Attributes:
        frames: frames that went through; faceless: those in which no face was found.
        tracks: faces followed; one who leaves and comes back counts twice.
    """

    frames: int = 0
    faceless: int = 0
    tracks: set[int] = field(default_factory=set)


@dataclass
class Picture:
    """A frame whose picture is converted: (H, W, 3) uint8, RGB."""

    pixels: np.ndarray
    time: Fraction
    duration: Fraction


@dataclass
class Shot:
    """What is kept of a frame until its protected squares are there.

    Attributes:
        frame: its times; its pixels only where a preview shows them.
        shape: height and width.
        ground: what the squares are pasted onto, (h, w, 3) uint8: the picture, a few cells of it if
            it will be blurred, or one black pixel.
        squares: left, top and side in pixels by track; crops: (3, S, S) uint8 by track.
    """

    frame: Picture
    shape: tuple[int, int]
    ground: np.ndarray
    squares: dict[int, tuple[int, int, int]]
    crops: dict[int, Tensor]


def protected_frames(
    protector: VideoProtector,
    frames: Iterable[Frame],
    options: ProtectOptions,
    finder: Finder | None,
    rate: float,
    tally: Tally,
    name: str = "",
) -> Iterator[Picture]:
    """Every frame of a video as it is to be written, in order; close it if it is left early.

    Args:
        protector: as it protects this video; it is asked for `ProtectOptions.chunk` frames at a
            time. If it has a ``first_pass``, that was shown all of the video before.
        frames: as `ppfer.video.read_frames` gives them.
        finder: finds faces, with `ProtectOptions.frame` "face".
        rate: frames per second, about.
        tally: counts as the frames go by.
        name: tells this video from others.
    """
    pictures = _ahead((Picture(f.pixels, f.time, f.duration) for f in frames), 4)
    shots = _whole_shots(pictures, options)
    if options.frame == "face":
        shots = _face_shots(pictures, options, Tracker(finder, rate), tally, protector.view_square)
    return _ahead(_protected(protector, _ahead(shots, 4), options, tally, name), 2)


def _ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """The same items, made in a thread of their own that runs ahead by at most `count`.

    Whoever takes from it closes it: the thread has stopped then, and what it took from is closed
    too, so that a file is not closed while another thread still reads it.
    """
    end, pool = object(), ThreadPoolExecutor(1)
    waiting = deque(pool.submit(next, items, end) for _ in range(count))
    try:
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
        items.close()


# --- cut out --------------------------------------------------------------------------------------


def _whole_shots(pictures: Iterator[Picture], options: ProtectOptions) -> Iterator[Shot]:
    with contextlib.closing(pictures):
        for picture in pictures:
            height, width = picture.pixels.shape[:2]
            side = min(height, width)
            centre = (width - side) // 2, (height - side) // 2, side
            yield _shot(picture, {0: centre}, {0: centre}, options)


def _face_shots(
    pictures: Iterator[Picture],
    options: ProtectOptions,
    tracker: Tracker,
    tally: Tally,
    view_square: Callable[[np.ndarray], np.ndarray] | None,
) -> Iterator[Shot]:
    with contextlib.closing(pictures):
        followed = itertools.chain.from_iterable(map(tracker.push, pictures))
        for picture, heads in itertools.chain(followed, tracker.finish()):
            sure = {head.track for head in heads if head.sure}
            tally.tracks |= sure
            tally.faceless += not sure
            # Where the rest is kept, nothing else hides a face that was seen badly.
            everything = sure and options.outside == "keep"
            boxes = {head.track: head.box for head in heads if head.sure or everything}
            squares = {track: _square(box) for track, box in boxes.items()}
            seen = squares
            if view_square:
                seen = {track: _whole_pixels(view_square(box)) for track, box in boxes.items()}
            yield _shot(picture, squares, seen, options)


def _square(box: np.ndarray) -> tuple[int, int, int]:
    """Left, top and side of what is protected: the head and the soft edge round it."""
    left, top, right, _ = head_square(box).tolist()
    side = max(2, math.ceil((right - left) / (1 - 2 * SOFT)))
    margin = (side - (right - left)) / 2
    return round(left - margin), round(top - margin), side


def _whole_pixels(square: np.ndarray) -> tuple[int, int, int]:
    """Left, top and side of a square (4,) that goes from pixel to pixel."""
    left, top, right, _ = square.tolist()
    return round(left), round(top), max(2, round(right - left))


def _shot(
    picture: Picture,
    squares: dict[int, tuple[int, int, int]],
    seen: dict[int, tuple[int, int, int]],
    options: ProtectOptions,
) -> Shot:
    """What is kept of a picture. Without a square, nothing of it is shown.

    Args:
        squares: what is pasted over, by track.
        seen: what the protector is shown of each.
    """
    pixels = picture.pixels
    height, width = pixels.shape[:2]
    crops = {
        track: resized(_cut(pixels, *square), options.size, options.size).permute(2, 0, 1)
        for track, square in seen.items()
    }  # (3, S, S) each
    if options.frame == "whole" or options.outside == "black" or not squares:
        ground = np.zeros((1, 1, 3), np.uint8)
    elif options.outside == "keep":
        ground = pixels
    else:
        cell = min(height, width) / CELLS
        ground = resized(pixels, math.ceil(height / cell), math.ceil(width / cell)).numpy()
    kept = pixels if options.preview else np.empty((0, 0, 3), np.uint8)
    return Shot(
        Picture(kept, picture.time, picture.duration), (height, width), ground, squares, crops
    )


def _cut(pixels: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    """A square of a picture, (side, side, 3); beyond the picture, its edge goes on."""
    height, width = pixels.shape[:2]
    if 0 <= left <= width - side and 0 <= top <= height - side:
        return pixels[top : top + side, left : left + side]
    rows = np.arange(top, top + side).clip(0, height - 1)
    columns = np.arange(left, left + side).clip(0, width - 1)
    return pixels[rows[:, None], columns]


def resized(picture: np.ndarray | Tensor, height: int, width: int) -> Tensor:
    """A picture (h, w, 3) uint8 at another size, (height, width, 3) uint8, without aliasing."""
    pixels = torch.as_tensor(picture).permute(2, 0, 1)[
        None
    ]  # (1, 3, h, w), channels last in memory
    made = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return made[0].permute(1, 2, 0).contiguous()


# --- protected and pasted -------------------------------------------------------------------------


def _protected(
    protector: VideoProtector,
    shots: Iterator[Shot],
    options: ProtectOptions,
    tally: Tally,
    name: str,
) -> Iterator[Picture]:
    """Frames as they are written; `chunk` at a time are protected, one clip for each track."""
    context, before, ahead = protector.context, [], []
    with contextlib.closing(shots):
        while group := ahead + list(itertools.islice(shots, options.chunk - len(ahead))):
            ahead = list(itertools.islice(shots, context))
            window = [*before, *group, *[None] * (options.chunk - len(group)), *ahead]
            window = [None] * (context - len(before)) + window + [None] * (context - len(ahead))
            made = _patches(protector, window, options, name)
            for i, shot in enumerate(group):
                pixels = _composed(shot, {track: made[track][i] for track in shot.crops}, options)
                tally.frames += 1
                yield Picture(pixels, shot.frame.time, shot.frame.duration)
            before = group[len(group) - context :]


def _patches(
    protector: VideoProtector, window: list[Shot | None], options: ProtectOptions, name: str
) -> dict[int, Tensor]:
    """The protected squares of each track, (chunk, S, S, 3) uint8.

    Args:
        window: `chunk` frames and the protector's `context` on either side of them; None where
            there is none.
        name: of the video.
    """
    asked = slice(protector.context, len(window) - protector.context)
    group = window[asked]
    tracks = sorted({track for shot in filter(None, group) for track in shot.crops})
    if not tracks:
        return {}
    parts = protect_all(
        protector.apply,
        torch.stack([_clip(window, track) for track in tracks]),  # (tracks, window, 3, S, S)
        device=options.device,
        batch=options.batch,
        name="the protector",
        names=[f"{name} {track}" for track in tracks],
        precision=options.precision,
    )
    done = torch.cat([part.cpu() for part in parts])[:, asked]
    return dict(zip(tracks, done.permute(0, 1, 3, 4, 2), strict=True))


def _clip(window: list[Shot | None], track: int) -> Tensor:
    """The crops of a track, (window, 3, S, S), the nearest where it has none."""
    there = [i for i, shot in enumerate(window) if shot and track in shot.crops]
    nearest = [min(there, key=lambda k: abs(k - i)) for i in range(len(window))]
    return torch.stack([window[i].crops[track] for i in nearest])


def _composed(shot: Shot, patches: dict[int, Tensor], options: ProtectOptions) -> np.ndarray:
    """The picture that is written, (H, W, 3) uint8; twice as wide for a preview."""
    if options.frame == "whole":
        pixels = patches[0].contiguous().numpy()
    elif shot.ground.shape[:2] == shot.shape:
        pixels = _pasted(shot.ground.copy(), shot.squares, patches)
    else:
        pixels = _pasted(resized(shot.ground, *shot.shape).numpy(), shot.squares, patches)
    if not options.preview:
        return pixels
    original = shot.frame.pixels
    if options.frame == "whole":
        original = resized(_cut(original, *shot.squares[0]), *pixels.shape[:2]).numpy()
    return np.concatenate([original, pixels], axis=1)


def _pasted(
    picture: np.ndarray, squares: dict[int, tuple[int, int, int]], patches: dict[int, Tensor]
) -> np.ndarray:
    """The picture with every patch (S, S, 3) in its square, at that size, its edges fading."""
    height, width = picture.shape[:2]
    for track, patch in patches.items():
        left, top, side = squares[track]
        rows, inner_rows = _overlap(top, side, height)
        columns, inner_columns = _overlap(left, side, width)
        inside = np.s_[inner_rows, inner_columns]
        new = resized(patch, side, side).numpy()[inside].astype(np.int16)
        old = picture[rows, columns]
        picture[rows, columns] = old + ((new - old) * _weights(side)[inside][..., None] >> 7)
    return picture


def _overlap(start: int, side: int, length: int) -> tuple[slice, slice]:
    """Which part of a picture's axis a square covers, and which part of the square that is."""
    first = min(max(start, 0), length)
    last = max(first, min(start + side, length))
    return slice(first, last), slice(first - start, last - start)


def _weights(side: int) -> np.ndarray:
    """How much a pasted square covers, (side, side): 128 over the head, falling to 0 at the edges.

    Whole numbers: a product with a difference of bytes fits 16 bits then, a third faster.
    """
    place = np.arange(side) + 0.5
    ramp = (np.minimum(place, side - place) / max(1.0, SOFT * side)).clip(0, 1)
    ramp = np.rint(128 * ramp).astype(np.int16)
    return np.minimum.outer(ramp, ramp)
