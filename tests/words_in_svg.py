"""Where the words of a drawing are: boxes of the texts of matplotlib's SVG, whose letters are kept
as letters (``svg.fonttype`` none).
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
from PIL import ImageFont

SVG = "{http://www.w3.org/2000/svg}"
SHARED, OUTSIDE = 1.5, 0.5  # points that two boxes may share, and that one may stand out
CAP, DESCENT = 0.73, 0.12  # of a font's size: above and below the baseline, letters without tails


class Words(NamedTuple):
    """One text, and its box in the drawing's points."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    upright: bool  # turned by 0, 90, 180 or 270 degrees: else its box says little

    def meets(self, other: Words) -> bool:
        """Whether the two boxes share more than a hair."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return across > SHARED and down > SHARED


@functools.cache
def font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 100)


def length(text: str, size: float) -> float:
    return font().getlength(text) * size / 100


def matrix(transform: str) -> np.ndarray:
    """The 3 × 3 matrix of a transform attribute."""
    whole = np.eye(3)
    for name, given in re.findall(r"(\w+)\(([^)]*)\)", transform or ""):
        numbers = [float(x) for x in re.split(r"[ ,]+", given.strip())]
        step = np.eye(3)
        if name == "translate":
            step[:2, 2] = (*numbers, 0)[:2]
        elif name == "scale":
            step[0, 0], step[1, 1] = (*numbers, numbers[-1])[:2]
        elif name == "rotate":
            turn = math.radians(numbers[0])
            step[:2, :2] = [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
            if len(numbers) == 3:
                about = np.array(numbers[1:])
                step[:2, 2] = about - step[:2, :2] @ about
        whole = whole @ step
    return whole


def style(node: ElementTree.Element, name: str, default: str) -> str:
    found = re.search(rf"(?:^|;)\s*{name}:\s*([^;]+)", node.get("style", ""))
    return found[1].strip() if found else default


def lines(node: ElementTree.Element) -> Iterator[tuple[str, float, float, float]]:
    """(text, x of its left, y of its baseline, size) of the pieces of a text element."""
    pieces = node.findall(f"{SVG}tspan") or [node]
    for piece in pieces:
        text, size = piece.text or "", float(style(piece, "font-size", "10px").removesuffix("px"))
        shift = {"middle": 0.5, "end": 1.0}.get(style(piece, "text-anchor", "start"), 0.0)
        xs = [float(x) for x in piece.get("x", "0").split()]
        y = float(piece.get("y", "0").split()[0])
        if len(xs) > 1:  # a place for each letter
            yield from ((letter, x, y, size) for letter, x in zip(text, xs))
        else:
            yield text, xs[0] - shift * length(text, size), y, size


def words(svg: str) -> list[Words]:
    """All texts of a drawing, those of one label together."""
    found = []

    def walk(node: ElementTree.Element, place: np.ndarray, label: list | None) -> None:
        place = place @ matrix(node.get("transform", ""))
        if node.get("id", "").startswith("text_"):
            label = []
            found.append(label)
        if node.tag == f"{SVG}text":
            label = found[-1] if label is not None else found.append([]) or found[-1]
            for text, x, y, size in lines(node):
                corners = [(x, y - CAP * size, 1), (x + length(text, size), y + DESCENT * size, 1)]
                ends = [(place @ corner)[:2] for corner in corners]
                straight = min(abs(place[0, 0]), abs(place[0, 1])) < 1e-3
                label.append((text, *np.min(ends, 0), *np.max(ends, 0), straight))
        for child in node:
            walk(child, place, label)

    walk(ElementTree.fromstring(svg), np.eye(3), None)
    texts = []
    for label in filter(None, found):
        text, left, top, right, bottom, straight = zip(*label)
        sides = min(left), min(top), max(right), max(bottom)
        texts.append(Words(" ".join(text), *sides, all(straight)))
    return [w for w in texts if w.text.strip()]


def overlapping(svg: str) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other."""
    upright = [w for w in words(svg) if w.upright]
    return [(a.text, b.text) for a, b in itertools.combinations(upright, 2) if a.meets(b)]


def cut(svg: str) -> list[str]:
    """Texts that stand out of the drawing."""
    x, y, width, height = map(float, ElementTree.fromstring(svg).get("viewBox").split())
    return [
        w.text
        for w in words(svg)
        if min(w.left - x, w.top - y, x + width - w.right, y + height - w.bottom) < -OUTSIDE
    ]


def under_legends(svg: str) -> int:
    """Marks of data that lie under the frame of a legend."""
    root, marks, frames = ElementTree.fromstring(svg), [], []

    def walk(node: ElementTree.Element) -> None:
        name = node.get("id", "")
        if name.startswith("legend_"):
            path = node.find(f"{SVG}g/{SVG}path")  # its frame comes first
            if path is not None:
                frames.append(points(path))
            return
        if name.startswith("matplotlib.axis"):
            return
        if node.tag == f"{SVG}use" and node.get("x"):
            marks.append((float(node.get("x")), float(node.get("y"))))
        for child in node:
            walk(child)

    walk(root)
    marks, under = np.array(marks).reshape(-1, 2), 0
    for frame in frames:
        inside = (marks > frame.min(0) + 1) & (marks < frame.max(0) - 1)
        under += int(inside.all(1).sum())
    return under


def points(path: ElementTree.Element) -> np.ndarray:
    """(n, 2) of a path."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", path.get("d", ""))
    return np.array(numbers, float).reshape(-1, 2)
