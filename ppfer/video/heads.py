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
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ppfer.protect import VideoProtector, protect_all
from ppfer.video import Frame
from ppfer.video.face_log import FaceLog
from ppfer.video.faces import Finder, Head, Tracker, head_square
from ppfer.video.protect_options import ProtectOptions
from ppfer.video.scene import (
    GREY,
    SOFT,
    Square,
    blurred,
    compose,
    cover,
    cut,
    paste,
    resized,
    without_edge,
)

T = TypeVar("T")


@dataclass
class Tally:
    """What was counted on the way.

    Attributes:
        frames: frames that went through; faceless: those in which no face was found.
        tracks: faces followed; one who leaves and comes back counts twice.
        faces: where they were.
    """

    frames: int = 0
    faceless: int = 0
    tracks: set[int] = field(default_factory=set)
    faces: FaceLog = field(default_factory=FaceLog)


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
        ground: what is composed onto, (h, w, 3) uint8: the picture, a few cells of it if it will be
            blurred, or one black pixel.
        cells: what figures stand before where the ground is the picture, (h, w, 3) uint8.
        squares: what is hidden, by track; places: what the protected squares fill, the same unless
            they are figures; crops: (3, S, S) uint8 by track.
    """

    frame: Picture
    shape: tuple[int, int]
    ground: np.ndarray
    cells: np.ndarray
    squares: dict[int, Square]
    places: dict[int, Square]
    crops: dict[int, Tensor]


def protected_frames(
    protector: VideoProtector,
    frames: Iterable[Frame],
    options: ProtectOptions,
    finder: Finder | None,
    rate: float,
    tally: Tally,
    name: str = "",
    known: FaceLog | None = None,
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
        known: where the faces are, of a first pass; they are not looked for again then.
    """
    shots = _shots(protector, frames, options, finder, rate, tally, known)
    return _ahead(_protected(protector, _ahead(shots, 4), options, tally, name), 2)


def first_pass(
    protector: VideoProtector,
    frames: Iterable[Frame],
    options: ProtectOptions,
    finder: Finder | None,
    rate: float,
    tally: Tally,
    name: str = "",
) -> Iterator[int]:
    """Show a protector's ``first_pass`` all of a video, as `protected_frames` will show it again;
    yields how many frames went by.
    """
    looking = replace(protector, apply=protector.first_pass, figure_square=None)
    plain = replace(options, preview=False)
    shots = _ahead(_shots(looking, frames, plain, finder, rate, tally, None, shown=False), 4)
    with contextlib.closing(shots):
        for window, group in _windows(shots, plain.chunk, looking.context):
            _patches(looking, window, plain, name)
            tally.frames += len(group)
            yield tally.frames


def _shots(
    protector: VideoProtector,
    frames: Iterable[Frame],
    options: ProtectOptions,
    finder: Finder | None,
    rate: float,
    tally: Tally,
    known: FaceLog | None,
    shown: bool = True,
) -> Iterator[Shot]:
    pictures = _ahead((Picture(f.pixels, f.time, f.duration) for f in frames), 4)
    if options.frame == "whole":
        return _whole_shots(pictures, options)
    if known:
        followed = zip(pictures, itertools.chain(known, itertools.repeat([])), strict=False)
    else:
        tracker = Tracker(finder, rate, sure=options.threshold)
        followed = itertools.chain.from_iterable(map(tracker.push, pictures))
        followed = itertools.chain(followed, _at_last(tracker))
    return _face_shots(pictures, followed, options, tally, protector, shown)


def _at_last(tracker: Tracker) -> Iterator[tuple[Picture, list[Head]]]:
    """What a tracker gives out once all was pushed."""
    yield from tracker.finish()


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
            yield _shot(picture, {0: centre}, {0: centre}, {0: centre}, options)


def _face_shots(
    pictures: Iterator[Picture],
    followed: Iterable[tuple[Picture, list[Head]]],
    options: ProtectOptions,
    tally: Tally,
    protector: VideoProtector,
    shown: bool,
) -> Iterator[Shot]:
    with contextlib.closing(pictures):
        for picture, heads in followed:
            sure = {head.track for head in heads if head.sure}
            tally.tracks |= sure
            tally.faceless += not sure
            tally.faces.add(float(picture.time), heads)
            # Where the rest is kept, nothing else hides a face that was seen badly.
            everything = sure and options.outside == "keep"
            boxes = {head.track: head.box for head in heads if head.sure or everything}
            squares = {t: _square(box, options.mask_scale) for t, box in boxes.items()}
            seen, places = (
                {track: _whole_pixels(of(box)) for track, box in boxes.items()} if of else squares
                for of in (protector.view_square, protector.figure_square)
            )
            yield _shot(picture, squares, seen, places, options, shown)


def _square(box: np.ndarray, scale: float) -> Square:
    """Left, top and side of what is hidden: the head, `scale` times, and the soft edge round it."""
    left, top, right, _ = head_square(box).tolist()
    side = max(2, math.ceil(scale * (right - left) / (1 - 2 * SOFT)))
    margin = (side - (right - left)) / 2
    return round(left - margin), round(top - margin), side


def _whole_pixels(square: np.ndarray) -> Square:
    """Left, top and side of a square (4,) that goes from pixel to pixel."""
    left, top, right, _ = square.tolist()
    return round(left), round(top), max(2, round(right - left))


def _shot(
    picture: Picture,
    squares: dict[int, Square],
    seen: dict[int, Square],
    places: dict[int, Square],
    options: ProtectOptions,
    shown: bool = True,
) -> Shot:
    """What is kept of a picture. Without a square, nothing of it is shown.

    Args:
        squares: what is hidden, by track.
        seen: what the protector is shown of each.
        places: what its results fill; figures fill others than what is hidden.
        shown: whether a picture will be composed at all.
    """
    pixels = picture.pixels
    height, width = pixels.shape[:2]
    crops = {
        track: resized(cut(pixels, *square), options.size, options.size).permute(2, 0, 1)
        for track, square in seen.items()
    }  # (3, S, S) each
    ground = cells = np.zeros((1, 1, 3), np.uint8)
    hidden = [without_edge(square) for square in squares.values()] if places is not squares else []
    if not (shown and squares) or options.frame == "whole":
        pass
    elif options.outside == "keep":
        ground = pixels
        cells = blurred(pixels, hidden) if hidden else cells
    elif options.outside == "blur":
        ground = blurred(pixels, hidden)
    kept = pixels if options.preview else np.empty((0, 0, 3), np.uint8)
    frame = Picture(kept, picture.time, picture.duration)
    return Shot(frame, (height, width), ground, cells, squares, places, crops)


# --- protected and pasted -------------------------------------------------------------------------


def _protected(
    protector: VideoProtector,
    shots: Iterator[Shot],
    options: ProtectOptions,
    tally: Tally,
    name: str,
) -> Iterator[Picture]:
    """Frames as they are written; `chunk` at a time are protected, one clip for each track."""
    with contextlib.closing(shots):
        for window, group in _windows(shots, options.chunk, protector.context):
            made = _patches(protector, window, options, name)
            for i, shot in enumerate(group):
                pixels = _composed(shot, {track: made[track][i] for track in shot.crops}, options)
                tally.frames += 1
                yield Picture(pixels, shot.frame.time, shot.frame.duration)


def _windows(
    shots: Iterator[Shot], chunk: int, context: int
) -> Iterator[tuple[list[Shot | None], list[Shot]]]:
    """`chunk` frames with `context` on either side, None where there is none, and the frames
    without it.
    """
    before, ahead = [], []
    while group := ahead + list(itertools.islice(shots, chunk - len(ahead))):
        ahead = list(itertools.islice(shots, context))
        window = [*before, *group, *[None] * (chunk - len(group)), *ahead]
        window = [None] * (context - len(before)) + window + [None] * (context - len(ahead))
        yield window, group
        before = group[len(group) - context :]


def _patches(
    protector: VideoProtector, window: list[Shot | None], options: ProtectOptions, name: str
) -> dict[int, Tensor]:
    """The protected squares of each track, (chunk, S, S, 3) uint8, or 4 channels of figures.

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
        channels=4 if protector.figure_square else 3,
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
        pixels = _alone(patches[0])
    else:
        kept = shot.ground.shape[:2] == shot.shape
        pixels = shot.ground.copy() if kept else resized(shot.ground, *shot.shape).numpy()
        figures = [track for track, patch in patches.items() if patch.shape[-1] == 4]
        for track in figures if kept else ():
            cover(pixels, shot.squares[track], shot.cells)
        for track, patch in patches.items():
            put = compose if track in figures else paste
            put(pixels, shot.places[track], patch)
    if not options.preview:
        return pixels
    original = shot.frame.pixels
    if options.frame == "whole":
        original = resized(cut(original, *shot.squares[0]), *pixels.shape[:2]).numpy()
    return np.concatenate([original, pixels], axis=1)


def _alone(patch: Tensor) -> np.ndarray:
    """A protected square (S, S, 3), or a figure before grey, as a picture."""
    if patch.shape[-1] == 3:
        return patch.contiguous().numpy()
    drawn = patch.float()
    return (drawn[..., :3] + GREY * (1 - drawn[..., 3:] / 255)).round().byte().numpy()
