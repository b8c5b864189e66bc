"""The band explorer's picture: a frame, the frame put together again with its bands changed, the
wavelet that split it, and its bands. Drawn pixel by pixel, quickly enough to follow a slider.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ppfer.show import canvas
from ppfer.show.canvas import Canvas
from ppfer.wavelets import NAMES, BandSplit, analysis_matrix

DETAILS = "all details"
WIDTH, HEIGHT = 900, 960  # pixels at 144 dpi, whatever is drawn: nothing jumps
TILE, PLOT, LEFT = 216, 130, 118  # side of the upper pictures, height of the plots, row labels


@dataclass(frozen=True)
class Setting:
    """How a clip is split and what happens to its bands.

    Attributes:
        frame: which one is looked at.
        wavelet, mode, level, form, axes: `BandSplit`'s.
        gains: name → factor of coefficients. A name is a band's ("vertical_2"), a kind's at all
            levels ("vertical"), or "all details"; the narrowest counts, 1 where there is none.
        threshold: details are brought nearer to 0 by this much (soft thresholding).
        noise: standard deviation of the noise added to the clip first, always the same noise.
        shown: "all bands", or one band, larger.
        one_scale: one scale of colours for all levels instead of one for each.
    """

    frame: int = 0
    wavelet: str = "haar"
    mode: str = "symmetric"
    level: int = 1
    form: str = "subband"
    axes: str = "hw"
    gains: Mapping[str, float] = field(default_factory=dict)
    threshold: float = 0.0
    noise: float = 0.0
    shown: str = "all bands"
    one_scale: bool = False

    def gain(self, name: str) -> float:
        """The factor of one band."""
        wider = () if name == "approximation" else (kind(name), DETAILS)
        return next((self.gains[key] for key in (name, *wider) if key in self.gains), 1.0)

    def split(self, level: int | None = None) -> BandSplit:
        return BandSplit(self.wavelet, level or self.level, self.mode, self.form, self.axes)


class Bands(NamedTuple):
    """A clip, taken apart and put together again.

    Attributes:
        seen, changed: the clip or its one frame (1, t, 3, H, W), before and after.
        at: the frame looked at.
        parts: name → coefficients (t_j, 3, h_j, w_j), of details those that pass the threshold.
        energy: name → % of the squares of all coefficients, before any change.
    """

    seen: Tensor
    changed: Tensor
    at: int
    parts: dict[str, Tensor]
    energy: dict[str, float]


def kind(name: str) -> str:
    """What a band is called at every level: "vertical" of "vertical_2"."""
    return name.rstrip("_0123456789")


def analyse(clip: Tensor, how: Setting) -> Bands:
    """Split a clip, change its bands, merge them.

    Args:
        clip: (1, T, 3, H, W) in [0, 1].
    """
    frame = min(how.frame, clip.shape[1] - 1)
    seen = clip if "t" in how.axes else clip[:, frame : frame + 1]
    if how.noise:
        noise = torch.randn(seen.shape, generator=torch.Generator().manual_seed(0))
        seen = seen + how.noise * noise
    split = how.split()
    low, high = split.split(seen)
    parts = split.coefficients(low, high, like=seen)
    squares = {name: float(x.square().sum()) for name, x in parts.items()}

    # zero detail is 0.5 and both bands are affine in the coefficients: factors around it do
    changed = high.clone()
    for name, detail in split.details(changed, seen).items():  # views: this changes `changed`
        kept = (1 - how.threshold / parts[name].abs().clamp_min(1e-9)).clamp_min(0)
        parts[name] = parts[name] * kept
        detail.sub_(0.5).mul_(how.gain(name) * kept).add_(0.5)
    factor = how.gain("approximation")
    if factor != 1:
        nothing = split.split(torch.zeros_like(seen))[0]
        low = nothing + factor * (low - nothing)
    merged = split.merge(low, changed, like=seen)
    total = sum(squares.values()) or 1.0
    energy = {name: 100 * x / total for name, x in squares.items()}
    return Bands(seen, merged, frame if "t" in how.axes else 0, parts, energy)


def band_picture(clip: Tensor, title: str, how: Setting) -> tuple[Image.Image, str]:
    """What the band explorer shows of a clip, and its description.

    Args:
        clip: (1, T, 3, H, W) in [0, 1].
        title: what the clip is called.

    Returns:
        A picture with a transparent background, readable on light and on dark paper.

    Raises:
        PpferError: the clip cannot be split in this way.
    """
    drawing = Canvas(WIDTH, HEIGHT)
    with warnings.catch_warnings():  # PyWavelets': an axis is short for so many levels
        warnings.simplefilter("ignore", UserWarning)
        found = analyse(clip, how)
        _frames(drawing, found, title, how)
        _wavelet(drawing, found, how)
        _bands(drawing, found, how)
    words = ", ".join(f"{name} {share:.2f} %" for name, share in found.energy.items())
    gains = {name: how.gain(name) for name in found.parts if how.gain(name) != 1}
    moved = ", ".join(f"{name} × {gain:g}" for name, gain in gains.items()) or "no band changed"
    return drawing.image, f"{title}, frame {how.frame}, {how.wavelet}: {moved}; energy {words}"


def _frames(drawing: Canvas, found: Bands, title: str, how: Setting) -> None:
    """The upper row: original, changed, the difference, and the changed frame's spectrum."""
    original, changed = found.seen[0, found.at], found.changed[0, found.at]
    change = (changed - original).mean(0)
    top = float(change.abs().max())
    spectrum = torch.fft.fftshift(torch.fft.fft2(changed.mean(0) - changed.mean()))
    grey = (spectrum.abs() / spectrum[0].numel()).clamp_min(1e-4).log10() / 4 + 1
    noisy = f", noise {how.noise:g}" if how.noise else ""
    merged, words = changed, "put together again"
    if how.gain("approximation") == 0:  # what is left is signed
        merged, words = changed + 0.5, "details alone, 0 is grey"
    tiles = {
        title + noisy: canvas.rgb(original),
        words: canvas.rgb(merged),
        f"change, red +{top:.2g}, blue −{top:.2g}" if top > 1e-6 else "no change": canvas.diverging(
            change, top
        ),
        "its spectrum, 0 in the middle": canvas.rgb((grey / grey.max()).expand(3, -1, -1)),
    }
    for i, (words, pixels) in enumerate(tiles.items()):
        x = i * (WIDTH - TILE) // 3
        drawing.text((x + TILE // 2, 10), words, TILE + 8, "mm")
        drawing.tile((x, 22, TILE, TILE), pixels)


def _wavelet(drawing: Canvas, found: Bands, how: Setting) -> None:
    """The row of plots: the wavelet, its filters, its matrix, and the energy of each band."""
    x = [i * (WIDTH - TILE) // 3 for i in range(4)]
    y = TILE + 56
    names = [f"{how.wavelet}, {canvas.family(how.wavelet)}", "|H(f)|, cycles per pixel"]
    names[1] = "|H(f)|, cycles per frame" if how.axes == "t" else names[1]
    names += ["its matrix, along " + ("time" if how.axes == "t" else "a row"), "energy, log scale"]
    for left, words in zip(x, names):
        drawing.text((left + TILE // 2, y - 12), words, TILE + 8, "mm")
    drawing.curves((x[0], y, TILE, PLOT), canvas.shapes(how.wavelet), ("scaling φ", "wavelet ψ"))
    drawing.curves((x[1], y, TILE, PLOT), canvas.responses(how.wavelet), ("low", "high"), "0", "½")
    length = found.seen.shape[1] if how.axes == "t" else found.seen.shape[-1]
    matrix = analysis_matrix(length, how.wavelet, how.level, how.mode)
    drawing.tile((x[2], y, TILE, PLOT + 14), canvas.diverging(matrix, float(matrix.abs().max())))
    drawing.bars((x[3], y, TILE, PLOT), found.energy)


def _bands(drawing: Canvas, found: Bands, how: Setting) -> None:
    """The lower part: a row of bands for each level, the deepest first."""
    rows = _rows(found, how)
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
            low = name == "approximation"
            # the mean of a band's patch, so that an approximation has the frame's colours
            unit = 2 ** (level * len(how.axes) / 2) if how.form == "subband" else 1
            pixels = canvas.rgb(x / unit) if low else canvas.diverging(x.mean(0), top)
            drawing.tile((at, y + 22, side, side), pixels)


def _rows(found: Bands, how: Setting) -> list[dict[str, Tensor]]:
    """What is drawn of each level, name → (3, h, w), or the one band that is shown."""
    parts = {name: _moment(x, found) for name, x in found.parts.items()}
    if how.shown in parts:
        return [{how.shown: parts[how.shown]}]
    if how.form == "image":
        return [parts]
    rows, suffix = [], "_{}" if how.level > 1 else ""
    for level in range(how.level, 0, -1):
        row = {"approximation": parts["approximation"]}
        if level < how.level:
            split = how.split(level)
            low, high = split.split(found.seen)
            low = split.coefficients(low, high, like=found.seen)["approximation"]
            row = {"approximation": _moment(low, found)}
        names = (kind + suffix.format(level) for kind in NAMES[how.axes].values())
        rows.append(row | {name: parts[name] for name in names})
    return rows


def _moment(x: Tensor, found: Bands) -> Tensor:
    """The (3, h, w) of a band's frames that belongs to the frame looked at."""
    return x[min(found.at * len(x) // found.seen.shape[1], len(x) - 1)]
