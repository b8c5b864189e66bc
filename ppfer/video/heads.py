"""The frames of one video on their way through a protector: cut out, protected, pasted back.

What is read, looked at, protected and written flows through threads, a few frames at a time, so
that memory does not grow with the length of a video. Whatever is not shown in the end is dropped at
once: of a frame whose rest is blurred, only a few cells and the squares round the heads are kept.
"""

import contextlib
import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ppfer.base.errors import PpferError
from ppfer.base.files import digest
from ppfer.protect import NamedApply, VideoProtector, protect_all
from ppfer.video import Frame, scene
from ppfer.video.faces import SURE, FaceLog, Finder, Head, Tracker, head_square
from ppfer.video.scene import GREY, SOFT, Square

T = TypeVar("T")


@dataclass(frozen=True)
class ProtectOptions:
    """How videos are protected."""

    size: int  # side of the squares that the protector was trained at, pixels
    device: torch.device
    # "face": each head is protected and pasted back into the full picture. "alone": the largest is
    # and, wherever it was, is the result, `size` pixels wide. "whole": the centre square is
    frame: str = "face"
    outside: str = "blur"  # with "face", what becomes of the rest: "blur", "black" or "keep"
    start: float | None = None  # seconds; None is the beginning
    end: float | None = None
    quality: int = 18  # see `ppfer.video.writer.Writer`, crf
    exact: bool = False  # the same
    preview: bool = False  # the original to the left of the protected picture
    keep_audio: bool = False
    overwrite: bool = False  # replace older results
    chunk: int = 16  # frames the protector sees at once
    batch: int = 4  # clips per pass
    precision: str = "auto"  # see `ppfer.base.device.autocast`
    report: bool = False  # write beside each result, as ``.json``, where faces were
    mask_scale: float = 1.0  # with "face", times the square of a head with hair, ears and chin
    threshold: float = SURE  # least score in (0, 1) of a face that is surely one
    protector: str = ""  # tells it from others, whose results are not taken for its own

    def __post_init__(self) -> None:
        if self.frame not in ("face", "alone", "whole"):
            raise PpferError(f"frame is face, alone or whole, not '{self.frame}'")
        if self.outside not in ("blur", "black", "keep"):
            raise PpferError(f"outside is blur, black or keep, not '{self.outside}'")
        start, end = self.start or 0, math.inf if self.end is None else self.end
        if not 0 <= start < end:
            raise PpferError(f"there is nothing from second {start:g} to second {end:g}")
        if not 0.5 <= self.mask_scale <= 4:
            raise PpferError(f"a mask's scale is from 0.5 to 4, not {self.mask_scale:g}")
        if not 0 < self.threshold < 1:
            raise PpferError(f"a threshold is between 0 and 1, not {self.threshold:g}")
        if not 0 <= self.quality <= 51:
            raise PpferError(f"quality is from 0 (best) to 51 (smallest), not {self.quality}")

    def settings(self) -> str:
        """A short digest of all that changes a result."""
        aside = ("device", "overwrite", "batch", "report")
        return digest({key: value for key, value in vars(self).items() if key not in aside})


@dataclass
class Picture:
    """A frame whose picture is converted: (H, W, 3) uint8, RGB."""

    pixels: np.ndarray
    time: Fraction
    duration: Fraction


@dataclass
class Shot:
    """What is kept of a frame until its protected squares are there."""

    frame: Picture  # its times; its pixels only where a preview shows them
    shape: tuple[int, int]  # height and width
    # what is composed onto, (h, w, 3) uint8: the picture, a few cells of it, or one black pixel
    ground: np.ndarray
    cells: np.ndarray  # what figures stand before where the ground is the picture, (h, w, 3) uint8
    squares: dict[int, Square]  # what is hidden, by track
    places: dict[int, Square]  # what the protected squares fill: the same, unless they are figures
    crops: dict[int, Tensor]  # (3, S, S) uint8, by track


@dataclass
class Passage:
    """One video's way through a protector, which is asked for `ProtectOptions.chunk` frames at a
    time; `rate`, frames per second, may be a guess, and `name` tells this video from others.
    """

    protector: VideoProtector
    options: ProtectOptions
    finder: Finder | None
    rate: float
    name: str
    known: FaceLog | None = None  # where faces are, once a first pass has looked for them
    tally: FaceLog = field(default_factory=FaceLog)  # grows as the frames go by

    def first(self, frames: Iterable[Frame]) -> Iterator[int]:
        """Show the protector's ``first_pass`` all of a video; yields how many frames went by."""
        shots = _ahead(self._shots(frames, shown=False), 4)
        with contextlib.closing(shots):
            for window, group in self._windows(shots):
                self._patches(self.protector.first_pass, window, channels=3)
                self.tally.frames += len(group)
                yield self.tally.frames
        self.known, self.tally = self.tally, FaceLog()

    def protected(self, frames: Iterable[Frame]) -> Iterator[Picture]:
        """Every frame as it is to be written, in order; close it if it is left early."""
        return _ahead(self._made(_ahead(self._shots(frames), 4)), 2)

    # --- cut out ----------------------------------------------------------------------------------

    def _shots(self, frames: Iterable[Frame], shown: bool = True) -> Iterator[Shot]:
        """What is kept of each frame; `shown`: whether a picture will be composed at all."""
        pictures = _ahead((Picture(f.pixels, f.time, f.duration) for f in frames), 4)
        with contextlib.closing(pictures):
            if self.options.frame == "whole":
                for picture in pictures:
                    height, width = picture.pixels.shape[:2]
                    side = min(height, width)
                    centre = {0: ((width - side) // 2, (height - side) // 2, side)}
                    yield self._shot(picture, centre, centre, centre, shown)
                return
            if self.known:
                followed = zip(pictures, itertools.chain(self.known, itertools.repeat([])))
            else:
                tracker = Tracker(self.finder, self.rate, sure=self.options.threshold)
                followed = tracker.follow(pictures)
            for picture, heads in followed:
                self.tally.add(float(picture.time), heads)
                yield self._shot(picture, *self._squares(heads), shown)

    def _squares(self, heads: list[Head]) -> Iterator[dict[int, Square]]:
        """By track: what is hidden, what the protector is shown, and what its results fill."""
        hidden = [head for head in heads if head.sure]
        if hidden and self.options.outside == "keep":  # nothing else hides a face seen badly
            hidden = heads
        squares = {head.track: _square(head.box, self.options.mask_scale) for head in hidden}
        yield squares
        for of in (self.protector.view_square, self.protector.figure_square):
            yield {head.track: _whole_pixels(of(head.box)) for head in hidden} if of else squares

    def _shot(
        self,
        picture: Picture,
        squares: dict[int, Square],
        seen: dict[int, Square],
        places: dict[int, Square],
        shown: bool,
    ) -> Shot:
        """What is kept of a picture. Without a square, nothing of it is shown."""
        pixels, options, size = picture.pixels, self.options, (self.options.size,) * 2
        crops = {
            track: scene.resized(scene.cut(pixels, *square), *size).permute(2, 0, 1)
            for track, square in seen.items()
        }  # (3, S, S) each
        ground = cells = np.zeros((1, 1, 3), np.uint8)
        if shown and squares and options.frame == "face":
            figures = places is not squares
            hidden = [scene.without_edge(square) for square in squares.values()] if figures else []
            if options.outside == "keep":
                ground = pixels
                cells = scene.blurred(pixels, hidden) if hidden else cells
            elif options.outside == "blur":
                ground = scene.blurred(pixels, hidden)
        kept = pixels if options.preview and shown else np.empty((0, 0, 3), np.uint8)
        frame = Picture(kept, picture.time, picture.duration)
        return Shot(frame, pixels.shape[:2], ground, cells, squares, places, crops)

    # --- protected and pasted ---------------------------------------------------------------------

    def _made(self, shots: Iterator[Shot]) -> Iterator[Picture]:
        """Frames as they are written; `chunk` at a time are protected, one clip for each track."""
        channels = 4 if self.protector.figure_square else 3
        with contextlib.closing(shots):
            for window, group in self._windows(shots):
                made = self._patches(self.protector.apply, window, channels)
                for i, shot in enumerate(group):
                    patches = {track: made[track][i] for track in shot.crops}
                    pixels = _composed(shot, patches, self.options)
                    self.tally.frames += 1
                    yield Picture(pixels, shot.frame.time, shot.frame.duration)

    def _windows(self, shots: Iterator[Shot]) -> Iterator[tuple[list[Shot | None], list[Shot]]]:
        """`chunk` frames, with `context` around them (None beyond the ends) and without."""
        chunk, context = self.options.chunk, self.protector.context
        before, ahead = [], []
        while group := ahead + list(itertools.islice(shots, chunk - len(ahead))):
            ahead = list(itertools.islice(shots, context))
            window = [*before, *group, *[None] * (chunk - len(group)), *ahead]
            window = [None] * (context - len(before)) + window + [None] * (context - len(ahead))
            yield window, group
            before = group[len(group) - context :]

    def _patches(
        self, apply: NamedApply, window: list[Shot | None], channels: int
    ) -> dict[int, Tensor]:
        """The protected squares of each track, (chunk, S, S, channels) uint8."""
        asked = slice(self.protector.context, len(window) - self.protector.context)
        tracks = sorted({track for shot in filter(None, window[asked]) for track in shot.crops})
        if not tracks:
            return {}
        clips = torch.stack([_clip(window, track) for track in tracks])  # (tracks, window, 3, S, S)
        how = {key: getattr(self.options, key) for key in ("device", "batch", "precision")}
        how |= {"name": "the protector", "names": [f"{self.name} {track}" for track in tracks]}
        parts = protect_all(apply, clips, channels=channels, **how)
        done = torch.cat([part.cpu() for part in parts])[:, asked]
        return dict(zip(tracks, done.permute(0, 1, 3, 4, 2), strict=True))


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


def _clip(window: list[Shot | None], track: int) -> Tensor:
    """The crops of a track, (window, 3, S, S), the nearest where it has none."""
    there = [i for i, shot in enumerate(window) if shot and track in shot.crops]
    nearest = [min(there, key=lambda k: abs(k - i)) for i in range(len(window))]
    return torch.stack([window[i].crops[track] for i in nearest])


def _composed(shot: Shot, patches: dict[int, Tensor], options: ProtectOptions) -> np.ndarray:
    """The picture that is written, (H, W, 3) uint8; twice as wide for a preview."""
    shown = max(patches, key=lambda track: shot.squares[track][2], default=None)  # the nearest
    if options.frame != "face":
        pixels = _alone(patches[shown]) if patches else np.zeros(2 * [options.size] + [3], np.uint8)
    else:
        kept = shot.ground.shape[:2] == shot.shape
        pixels = shot.ground.copy() if kept else scene.resized(shot.ground, *shot.shape).numpy()
        figures = [track for track, patch in patches.items() if patch.shape[-1] == 4]
        for track in figures if kept else ():
            scene.cover(pixels, shot.squares[track], shot.cells)
        for track, patch in patches.items():
            put = scene.compose if track in figures else scene.paste
            put(pixels, shot.places[track], patch)
    if not options.preview:
        return pixels
    original = shot.frame.pixels
    if options.frame != "face":
        there = shot.squares.get(shown, (0, 0, min(shot.shape)))
        original = scene.resized(scene.cut(original, *there), *pixels.shape[:2]).numpy()
    return np.concatenate([original, pixels], axis=1)


def _alone(patch: Tensor) -> np.ndarray:
    """A protected square (S, S, 3), or a figure before grey, as a picture."""
    if patch.shape[-1] == 3:
        return patch.contiguous().numpy()
    drawn = patch.float()
    return (drawn[..., :3] + GREY * (1 - drawn[..., 3:] / 255)).round().byte().numpy()
