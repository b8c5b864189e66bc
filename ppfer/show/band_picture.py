"""The band explorer's picture: a frame, the frame put together again with its bands changed, the
wavelet that split it, and its bands. Drawn pixel by pixel, quickly enough to follow a slider.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import pywt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ppfer.show import canvas
from ppfer.show.canvas import Canvas
from ppfer.show.plots import signed
from ppfer.wavelets import AXES, NAMES, BandSplit, along, analysis_matrix, synthesis_matrix

DETAILS = "all details"
WIDTH, HEIGHT = 900, 960  # pixels at 144 dpi, whatever is drawn: nothing jumps
TILE, PLOT, LEFT = 216, 130, 118  # side of the upper pictures, height of the plots, row labels


@dataclass(frozen=True)
class Setting:
    """How a clip is split and what happens to its bands."""

    frame: int = 0  # which one is looked at
    wavelet: str = "haar"  # this and the next four are `BandSplit`'s
    mode: str = "symmetric"
    level: int = 1
    form: str = "subband"
    axes: str = "hw"
    # name → factor of coefficients. A name is a band's ("vertical_2"), a kind's at all levels
    # ("vertical"), or "all details"; the narrowest counts, 1 where there is none
    gains: Mapping[str, float] = field(default_factory=dict)
    threshold: float = 0.0  # by which details are brought nearer to 0 (soft thresholding)
    noise: float = 0.0  # standard deviation of what is added to the clip first, always the same
    shown: str = "all bands"  # or one band, larger
    one_scale: bool = False  # of colours for all levels, instead of one for each

    def gain(self, name: str) -> float:
        """The factor of one band."""
        wider = () if name == "approximation" else (kind(name), DETAILS)
        return next((self.gains[key] for key in (name, *wider) if key in self.gains), 1.0)

    def split(self) -> BandSplit:
        return BandSplit(self.wavelet, self.level, self.mode, self.form, self.axes)

    def level_of(self, name: str) -> int:
        """How often a band's frames were split: 2 of "vertical_2"."""
        digits = name.rpartition("_")[2]
        return int(digits) if digits.isdigit() else self.level


class Apart(NamedTuple):
    """A clip and its bands, before any change."""

    seen: Tensor  # the clip, or its one frame (1, t, 3, H, W)
    parts: dict[str, Tensor]  # name → coefficients (t_j, 3, h_j, w_j), as `BandSplit.names`
    averages: dict[int, Tensor]  # level → its approximation, of which the next level is made
    energy: dict[str, float]  # name → % of the squares of all coefficients


class Bands(NamedTuple):
    """What is drawn of a clip."""

    original: Tensor  # the frame looked at (3, H, W)
    changed: Tensor  # the same, put together again
    # a level each, the deepest first: name → (3, h_j, w_j) of that moment, of details those that
    # pass the threshold; or the one band that is shown
    rows: list[dict[str, Tensor]]
    length: int  # of the axis whose matrix is drawn
    energy: dict[str, float]  # as in `Apart`


def kind(name: str) -> str:
    """What a band is called at every level: "vertical" of "vertical_2"."""
    return name.rstrip("_0123456789")


@lru_cache(maxsize=2)  # nothing is split again while gains, threshold or scale move
def take_apart(
    clip: Tensor, frame: int | None, wavelet: str, mode: str, level: int, form: str, axes: str,
    noise: float,
) -> Apart:  # fmt: skip
    """Split a clip (1, T, 3, H, W), or one frame of it."""
    seen = clip if frame is None else clip[:, frame : frame + 1]
    if noise:
        noisy = torch.randn(seen.shape, generator=torch.Generator().manual_seed(0))
        seen = seen + noise * noisy

    # a level is split out of the one before: the deeper, the less there is to do
    steps, deep = (1, level) if form == "image" else (level, 1)
    split = BandSplit(wavelet, deep, mode, form, axes)
    averages, details, x = {}, {}, seen
    for step in range(1, steps + 1):
        averages[step], *found = split.coefficients(*split.split(x), like=x).values()
        names = (name + (f"_{step}" if steps > 1 else "") for name in split.names[1:])
        details = dict(zip(names, found)) | details
        x = averages[step][None]
    parts = {"approximation": averages[steps]} | details
    squares = {name: float(x.square().sum()) for name, x in parts.items()}
    total = sum(squares.values()) or 1.0
    return Apart(seen, parts, averages, {name: 100 * x / total for name, x in squares.items()})


def analyse(clip: Tensor, how: Setting) -> Bands:
    """Split a clip (1, T, 3, H, W), change its bands, put the frame looked at together again."""
    frame, timed = min(how.frame, clip.shape[1] - 1), "t" in how.axes
    options = how.wavelet, how.mode, how.level, how.form, how.axes, how.noise
    apart = take_apart(clip, None if timed else frame, *options)
    at, length = (frame, clip.shape[1]) if timed else (0, 1)

    def moment(name: str, x: Tensor) -> Tensor:
        """(t, 3, h, w) to the (3, h, w) that belongs to the frame looked at."""
        return _passed(name, x[min(at * len(x) // length, len(x) - 1)], how)

    if how.shown in apart.parts:
        rows = [{how.shown: moment(how.shown, apart.parts[how.shown])}]
    else:
        rows = [{"approximation": moment("approximation", x)} for x in apart.averages.values()]
        for name, x in apart.parts.items():
            level = how.level_of(name) if how.form == "subband" else 1
            if name != "approximation":
                rows[level - 1][name] = moment(name, x)
        rows.reverse()
    length = length if how.axes == "t" else clip.shape[-1]
    return Bands(apart.seen[0, at], _frame_again(apart, how, at), rows, length, apart.energy)


def _passed(name: str, x: Tensor, how: Setting) -> Tensor:
    """Coefficients, brought nearer to 0 if they are details."""
    return F.softshrink(x, how.threshold) if how.threshold and name != "approximation" else x


def _frame_again(apart: Apart, how: Setting, at: int) -> Tensor:
    """The frame (3, H, W) at `at`, put together of changed bands: of the matrix over time only the
    row that makes it.
    """
    total = torch.zeros_like(apart.seen[:, 0])
    letters = {word: key for key, word in NAMES[how.axes].items()}
    for name, x in apart.parts.items():
        if how.gain(name) == 0:
            continue
        x = _passed(name, x[at : at + 1] if how.form == "image" else x, how)[None]
        if how.form == "subband":
            for dim, letter in zip(AXES[how.axes], letters.get(kind(name), "aaa")):
                options = how.wavelet, how.level_of(name), how.mode
                matrix = synthesis_matrix(apart.seen.shape[dim], *options).to(x)
                average, detail, *_ = matrix.split(x.shape[dim], 1)  # columns of this level
                matrix = average if letter == "a" else detail
                x = along(matrix[at : at + 1] if dim == 1 else matrix, x, dim)
        total += how.gain(name) * x[:, 0]
    return total[0]


def band_picture(clip: Tensor, title: str, how: Setting) -> tuple[Image.Image, str]:
    """What the band explorer shows of a clip (1, T, 3, H, W) in [0, 1], readable on light and on
    dark paper, and its description; a `PpferError` where it cannot be split in this way.
    """
    drawing = Canvas(WIDTH, HEIGHT)
    with warnings.catch_warnings():  # PyWavelets': an axis is short for so many levels
        warnings.simplefilter("ignore", UserWarning)
        found = analyse(clip, how)
        _frames(drawing, found, title, how)
        _wavelet(drawing, found, how)
        _bands(drawing, found, how)
    words = ", ".join(f"{name} {share:.2f} %" for name, share in found.energy.items())
    gains = {name: how.gain(name) for name in found.energy if how.gain(name) != 1}
    moved = [f"{name} × {gain:g}" for name, gain in gains.items()]
    moved += [f"{what} {x:g}" for what in ("noise", "threshold") if (x := getattr(how, what))]
    moved = ", ".join(moved) or "no band changed"
    return drawing.image, f"{title}, frame {how.frame}, {how.wavelet}: {moved}; energy {words}"


def _frames(drawing: Canvas, found: Bands, title: str, how: Setting) -> None:
    """The upper row: original, changed, the difference, and the changed frame's spectrum."""
    original, changed = found.original, found.changed
    change = (changed - original).mean(0)
    top = float(change.abs().max())
    top = top if top > 1e-6 else 0.0  # rounding
    spectrum = torch.fft.fftshift(torch.fft.fft2(changed.mean(0) - changed.mean()))
    grey = (spectrum.abs() / spectrum[0].numel()).clamp_min(1e-4).log10() / 4 + 1
    noisy = f", noise {how.noise:g}" if how.noise else ""
    merged, words = changed, "put together again"
    if how.gain("approximation") == 0:  # what is left is signed
        merged, words = changed + 0.5, "details alone, 0 is grey"
    grey = (grey / grey.max().clamp_min(1e-9)).expand(3, -1, -1)
    difference = f"change, red +{top:.2g}, blue −{top:.2g}" if top else "no change"
    tiles = {title + noisy: original, words: merged, difference: signed(change, top)}
    tiles["the new frame's spectrum"] = grey
    for i, (words, picture) in enumerate(tiles.items()):
        x = i * (WIDTH - TILE) // 3
        drawing.text((x + TILE // 2, 10), words, TILE + 8, "mm")
        drawing.tile((x, 22, TILE, TILE), picture)


def _wavelet(drawing: Canvas, found: Bands, how: Setting) -> None:
    """The row of plots: the wavelet, its filters, its matrix, and the energy of each band."""
    x = [i * (WIDTH - TILE) // 3 for i in range(4)]
    y = TILE + 56
    names = [f"{how.wavelet}, {pywt.Wavelet(how.wavelet).family_name}", "|H(f)|, cycles per pixel"]
    names[1] = "|H(f)|, cycles per frame" if how.axes == "t" else names[1]
    names += ["its matrix, along " + ("time" if how.axes == "t" else "a row"), "energy, log scale"]
    for left, words in zip(x, names):
        drawing.text((left + TILE // 2, y - 12), words, TILE + 8, "mm")
    drawing.curves((x[0], y, TILE, PLOT), canvas.shapes(how.wavelet), ("scaling φ", "wavelet ψ"))
    drawing.curves((x[1], y, TILE, PLOT), canvas.responses(how.wavelet), ("low", "high"), "0", "½")
    matrix = analysis_matrix(found.length, how.wavelet, how.level, how.mode)
    drawing.tile((x[2], y, TILE, PLOT + 14), signed(matrix))
    drawing.bars((x[3], y, TILE, PLOT), found.energy)


def _bands(drawing: Canvas, found: Bands, how: Setting) -> None:
    """The lower part: a row of bands for each level, the deepest first."""
    rows = found.rows
    details = [[x.mean(0) for n, x in row.items() if n != "approximation"] for row in rows]
    tops = [max((float(x.abs().max()) for x in row), default=0.0) for row in details]
    tops = [max(tops)] * len(rows) if how.one_scale else tops
    y0, columns = TILE + PLOT + 92, max(map(len, rows))
    wide, high = (WIDTH - LEFT) // columns, (HEIGHT - y0 - 20) // len(rows)
    side = min(wide - 6, high - 24)
    step = min(wide, side + 24)
    for i, (row, top) in enumerate(zip(rows, tops)):
        y, level = y0 + 20 + i * high, how.level - i
        label = f"level {level}\n" if columns > 1 and how.form == "subband" else ""
        if details[i]:
            label += f"red +{top:.2g}\nblue −{top:.2g}"
        drawing.text((0, y + 24), label, LEFT - 8, "la")
        for j, (name, x) in enumerate(row.items()):
            at, split_again = LEFT + j * step, name == "approximation" and i > 0
            if i == 0:
                called = kind(name) if columns > 1 else name
                called = called.replace("temporal_", "temporal\n")
                drawing.text((at + side // 2, y), called, step - 4, "md")
            gain = f" × {how.gain(name):g}" if how.gain(name) != 1 else ""
            words = "was split again" if split_again else f"{found.energy[name]:.2f} %{gain}"
            drawing.text((at + side // 2, y + 11), words, step - 4, "mm")
            # the mean of a band's patch, so that an approximation has the frame's colours
            unit = 2 ** (level * len(how.axes) / 2) if how.form == "subband" else 1
            picture = x / unit if name == "approximation" else signed(x, top)
            drawing.tile((at, y + 22, side, side), picture)
