"""What a protected picture is composed of: a blurred scene, and what is put into it.

A protected square is pasted, its edges fading. A *figure*, a head that is drawn with its coverage
and has no ground of its own, is composed before the scene as it would be without the person's head:
of the pixels that a head covers nothing is kept, not even their colour.
"""

import functools
import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Square = tuple[int, int, int]  # left, top and side, pixels

SOFT = 0.06  # share of a pasted square, at each edge, over which it fades; it lies outside the head
CELLS = 12  # along the shorter side of a blurred picture: a head becomes a few of them
KNOWN = 0.25  # share of a cell outside heads from which it counts whole; below, others fill it
NEARER = 3  # of a cell that is filled, others count by their distance to this power
GREY = 112  # behind a figure where nothing of the scene is to be seen
ENOUGH = 0.1  # share of a picture outside heads below which its scene fades to grey, by degrees
FOOT = 0.14  # share of a figure, at the bottom, over which its neck fades


def blurred(pixels: np.ndarray, hidden: Iterable[Square] = ()) -> np.ndarray:
    """A picture (H, W, 3) uint8 as a few cells, about `CELLS` along its shorter side. Of `hidden`
    squares nothing may be seen: cells are of what lies outside them, and where nothing does, they
    continue what lies around.
    """
    height, width = pixels.shape[:2]
    cell = min(height, width) / CELLS
    rows, columns = math.ceil(height / cell), math.ceil(width / cell)
    hidden = list(hidden)
    if not hidden:
        return resized(pixels, rows, columns).numpy()
    outside = np.full((height, width, 1), 255, np.uint8)
    for left, top, side in hidden:
        outside[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
    seen = resized(np.minimum(pixels, outside), rows, columns).numpy().astype(np.float32)
    share = resized(outside, rows, columns).numpy()[..., 0] / np.float32(255)
    if not share.any():
        return np.full((1, 1, 3), GREY, np.uint8)
    cells = seen / np.maximum(share, 1e-3)[..., None]
    known = (share / KNOWN).clip(0, 1)  # not from one frame to the next: heads move
    here, there = np.argwhere(known < 1), np.argwhere(known > 0)  # (n, 2), (m, 2)
    apart = np.linalg.norm(here[:, None] - there, axis=-1)
    apart[apart == 0] = np.inf
    weights = apart**-NEARER * known[known > 0]  # (n, m), Shepard 1968
    around = weights @ cells[known > 0] / np.maximum(weights.sum(1, keepdims=True), 1e-9)
    cells[known < 1] = around + (cells[known < 1] - around) * known[known < 1][:, None]
    # by degrees, too: where heads fill the picture, a sliver of scene comes and goes
    cells = GREY + (cells - GREY) * min(1.0, share.mean() / ENOUGH)
    return np.rint(cells).clip(0, 255).astype(np.uint8)


def cut(pixels: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    """A square of a picture, (side, side, 3); beyond the picture, its edge goes on."""
    height, width = pixels.shape[:2]
    if 0 <= left <= width - side and 0 <= top <= height - side:
        return pixels[top : top + side, left : left + side]
    rows = np.arange(top, top + side).clip(0, height - 1)
    columns = np.arange(left, left + side).clip(0, width - 1)
    return pixels[rows[:, None], columns]


def without_edge(square: Square) -> Square:
    """A pasted square without the edge over which it fades: the head itself."""
    left, top, side = square
    edge = math.floor(SOFT * side)
    return left + edge, top + edge, side - 2 * edge


def resized(picture: np.ndarray | Tensor, height: int, width: int) -> Tensor:
    """A picture (h, w, C) uint8 at another size, (height, width, C) uint8, without aliasing."""
    pixels = torch.as_tensor(picture).permute(2, 0, 1)[None]  # (1, C, h, w), channels last
    made = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return made[0].permute(1, 2, 0).contiguous()


def paste(picture: np.ndarray, square: Square, patch: np.ndarray | Tensor) -> None:
    """Put a patch (S, S, 3) uint8 into its square of a picture (H, W, 3), its edges fading."""
    (there, inside), side = _overlap(square, picture), square[2]
    new = resized(patch, side, side).numpy()[inside].astype(np.int16)
    old = picture[there]
    picture[there] = old + ((new - old) * _weights(side)[inside][..., None] >> 7)


def compose(picture: np.ndarray, square: Square, figure: np.ndarray | Tensor) -> None:
    """Put a figure (S, S, 4) uint8, colour times coverage, and coverage, into its square of a
    picture (H, W, 3) uint8, its foot fading.
    """
    (there, inside), side = _overlap(square, picture), square[2]
    drawn = resized(figure, side, side).numpy()[inside].astype(np.float32)
    from_below = side - np.arange(side, dtype=np.float32) - 0.5
    drawn *= (from_below / max(1.0, FOOT * side)).clip(0, 1)[inside[0], None, None]
    behind = picture[there] * (1 - drawn[..., 3:] / 255)
    picture[there] = np.rint(drawn[..., :3] + behind).clip(0, 255)


def cover(picture: np.ndarray, square: Square, cells: np.ndarray) -> None:
    """Put into a square of a picture (H, W, 3) what a blurred one, (h, w, 3) cells, shows there."""
    paste(picture, square, cut(resized(cells, *picture.shape[:2]).numpy(), *square))


def _overlap(square: Square, picture: np.ndarray) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Which part of a picture a square covers, and which part of the square that is."""
    (left, top, side), there, inside = square, (), ()
    for start, length in zip((top, left), picture.shape):
        first = min(max(start, 0), length)
        last = max(first, min(start + side, length))
        there += (slice(first, last),)
        inside += (slice(first - start, last - start),)
    return there, inside


def _weights(side: int) -> np.ndarray:
    """How much a pasted square covers, (side, side): 128 over the head, falling to 0 at the edges.

    Whole numbers: a product with a difference of bytes fits 16 bits then, a third faster.
    """
    place = np.arange(side) + 0.5
    ramp = (np.minimum(place, side - place) / max(1.0, SOFT * side)).clip(0, 1)
    ramp = np.rint(128 * ramp).astype(np.int16)
    return np.minimum.outer(ramp, ramp)


SIDE = 128  # pixels at which squares are covered
TILES = 8  # along the side of the square round a head


def tiled(clips: Tensor, mode: str) -> Tensor:
    """Clips (B, T, 3, S, S) as `TILES` × `TILES` means, enlarged again by `F.interpolate`."""
    frames = clips.flatten(0, 1)
    small = F.adaptive_avg_pool2d(frames, TILES)
    return F.interpolate(small, frames.shape[-2:], mode=mode).clamp(0, 1).view_as(clips)


COVERS: dict[str, Callable[[Tensor], Tensor]] = {
    "blur": functools.partial(tiled, mode="bicubic"),  # smooth steps between the means
    "mosaic": functools.partial(tiled, mode="nearest"),
    "solid": torch.zeros_like,  # black
}
