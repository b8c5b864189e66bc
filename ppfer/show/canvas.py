"""Pictures, curves and words on a transparent sheet, readable on light and on dark paper."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pywt
from PIL import Image, ImageDraw
from torch import Tensor

from ppfer.show.plots import font, pixels

INK = (120, 120, 120)  # contrast 4.4 on white, 4.3 on JupyterLab's dark paper
COLOURS = ((66, 133, 214), (217, 95, 75))  # of curves: what is low, what is high
Box = tuple[int, int, int, int]  # left, top, width, height


# --- of wavelets ----------------------------------------------------------------


@cache
def shapes(wavelet: str) -> list[np.ndarray]:
    """The scaling function and the wavelet that take apart, as points (2, n)."""
    *functions, x = pywt.Wavelet(wavelet).wavefun(level=6)
    return [np.stack([x, values]) for values in functions[:2]]


@cache
def responses(wavelet: str) -> list[np.ndarray]:
    """|H(f)| of the filters that take apart, as points (2, n), f in cycles per sample."""
    filters = pywt.Wavelet(wavelet)
    f = np.linspace(0, 0.5, 129)
    return [np.stack([f, np.abs(np.fft.rfft(h, 256))]) for h in (filters.dec_lo, filters.dec_hi)]


# --- the sheet ------------------------------------------------------------------


class Canvas:
    """A sheet of a fixed size; places are in pixels at 144 dpi."""

    def __init__(self, width: int, height: int):
        self.image = Image.new("RGBA", (width, height), (*INK, 0))
        self.pen = ImageDraw.Draw(self.image)

    def text(self, at: tuple[int, int], words: str, width: float, anchor: str) -> None:
        """Words in one line, or the lines that they have, smaller where they are too long."""
        align = {"l": "left", "m": "center", "r": "right"}[anchor[0]]
        longest = max(words.split("\n"), key=len)
        size = next((s for s in range(17, 10, -1) if font(s).getlength(longest) <= width), 10)
        self.pen.multiline_text(at, words, INK, font(size), anchor=anchor, align=align)

    def tile(self, box: Box, picture: Tensor) -> None:
        """A picture (3, H, W) as large as the box allows; enlarged pixels stay squares."""
        (x, y, *room), (height, width) = box, picture.shape[1:]
        scale = min(room[0] / width, room[1] / height)
        size = max(1, round(scale * width)), max(1, round(scale * height))
        how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
        tile = Image.fromarray(np.ascontiguousarray(pixels(picture))).resize(size, how)
        self.image.paste(tile, (x + (room[0] - size[0]) // 2, y))

    def curves(
        self, box: Box, curves: Sequence[np.ndarray], names: Sequence[str], *ends: str
    ) -> None:
        """Curves, each points (2, n), over a line at 0, their names below, and the axis' ends."""
        x0, y0, width, height = box
        low = min(0.0, *(float(c[1].min()) for c in curves))
        high = max(float(c[1].max()) for c in curves)
        first, last = curves[0][0][0], curves[0][0][-1]

        def place(points: np.ndarray) -> list[float]:
            across = x0 + (points[0] - first) / (last - first) * width
            return np.stack([across, y0 + (high - points[1]) / (high - low) * height], 1).ravel()

        self.pen.line(list(place(np.array([[first, last], [0, 0]]))), INK, 1)
        for curve, colour in zip(curves, COLOURS):
            self.pen.line(list(place(curve)), colour, 2, joint="curve")
        for name, colour, x in zip(names, COLOURS, (0.3, 0.7)):
            at = (x0 + x * width, y0 + height + 12)
            self.pen.text(at, name, colour, font(14), anchor="mm")
        for end, x, anchor in zip(ends, (0, width), "lr"):
            self.pen.text((x0 + x, y0 + height + 12), end, INK, font(14), anchor=f"{anchor}m")

    def bars(self, box: Box, shares: Mapping[str, float]) -> None:
        """Shares in %, bars over a log scale from 0.001 to 100; a level's bars together."""
        x0, y0, width, height = box
        names, step = list(shares), (width - 44) / len(shares)  # beside the scale
        for power in (2, 0, -2):  # 100, 1 and 0.01 %
            y = y0 + (2 - power) / 5 * height
            self.pen.line([x0, y, x0 + width, y], (*INK, 110), 1)
            self.pen.text((x0 + width, y + 1), f"{10.0**power:g} %", INK, font(12), anchor="ra")
        for i, name in enumerate(names):
            reach = np.clip((np.log10(max(shares[name], 1e-9)) + 3) / 5, 0.01, 1)
            level = int(name[-1]) if name[-1].isdigit() else 1
            colour = COLOURS[0] if i == 0 else tuple(int(c / level**0.4) for c in COLOURS[1])
            box = [x0 + i * step, y0 + (1 - reach) * height, x0 + (i + 0.8) * step, y0 + height]
            self.pen.rectangle(box, colour)
        words = f"{names[0]}, then {names[1].replace('_', ' ')} …"
        self.text((x0 + width // 2, y0 + height + 12), words, width, "mm")


def on_white(image: Image.Image) -> Image.Image:
    """A sheet on white paper, for a notebook's saved output."""
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image.getchannel("A"))
    return paper
