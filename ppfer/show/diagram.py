"""What is connected to what: the tasks of an ablation, drawn from their switches, and a U-Net."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

if TYPE_CHECKING:
    from ppfer.study.protectors.ablation import Task

FACES = {"learns": "0.92", "frozen": "0.35", "plain": "none", "today": "#ffe08a"}


def box(axis: Axes, at: tuple[float, float], text: str, kind: str, half: tuple) -> tuple:
    x, y, (width, height) = *at, half
    edge = "none" if kind == "plain" else "0.2"
    corner, style = (x - width, y - height), "round,pad=0.03"
    patch = FancyBboxPatch(corner, 2 * width, 2 * height, boxstyle=style, edgecolor=edge)
    patch.set_facecolor(FACES[kind])
    axis.add_patch(patch)
    color = "white" if kind == "frozen" else "black"
    axis.text(x, y, text, ha="center", va="center", fontsize=9, color=color)
    return x, y


def join(axis: Axes, a: tuple, b: tuple, halves: tuple, *, dashed: bool = False) -> None:
    """An arrow from box to box: upright between boxes on top of each other."""
    (from_w, from_h), (to_w, to_h) = halves
    if a[0] == b[0]:
        up = 1 if b[1] > a[1] else -1
        start, end = (a[0], a[1] + up * (from_h + 0.03)), (b[0], b[1] - up * (to_h + 0.03))
    else:
        start, end = (a[0] + from_w + 0.03, a[1]), (b[0] - to_w - 0.03, b[1])
    line = {"arrowstyle": "->", "linestyle": "--" if dashed else "-", "color": "0.2"}
    axis.annotate("", end, start, arrowprops=line)


def diagram(tasks: tuple[Task, ...]) -> Figure:
    """What is connected to what, drawn from the switches (paper Figures 3 and 4), one panel per
    task.

    Light boxes learn, dark boxes are frozen, dashed lines carry the loss back; boxes under one bar
    learn together.
    """
    rows = -(-len(tasks) // 2)
    size = (10, 1.75 * rows)
    figure, axes = plt.subplots(rows, 2, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set(xlim=(-0.6, 6.6), ylim=(-1.6, 1.6))
        axis.axis("off")
    for axis, task in zip(axes.flat, tasks, strict=False):
        _draw(axis, task)
    return figure


def _draw(axis: Axes, task: Task) -> None:
    half = (0.42, 0.17)
    axis.set_title(f"{task.title}: {task.description}", fontsize=8, loc="left")

    # from left to right: what passes the pictures on, of each column text → height
    bands = {"hpr": 0.42, "lpr": -0.42} if task.transform else {"pr": 0.0}
    columns = [{"$V$": 0.0}] + [{"split": 0.0}] * task.transform
    first = len(columns)  # of what learns
    columns += [{f"$F_{{{name}}}$": y for name, y in bands.items()}]
    columns += [{"merge": 0.0}] * task.transform + [{"$F_{fc}$": 0.0}] * task.compensator
    columns += [{"$F_u$": 0.0}]
    placed = []
    for i, column in enumerate(columns):
        kinds = {text: "learns" if text.startswith("$F") else "plain" for text in column}
        placed.append([box(axis, (1.2 * i, y), t, kinds[t], half) for t, y in column.items()])
    for before, behind in itertools.pairwise(placed):
        for a, b in itertools.product(before, behind):
            join(axis, a, b, (half, half))

    # above or below, what they learn from
    judges = []
    if task.controller:
        for (name, y), enhancer in zip(bands.items(), placed[first], strict=True):
            judges.append((enhancer, y + (0.8 if y >= 0 else -0.8), f"$C_{{{name}}}$", "frozen"))
    if task.compensator:
        judge = ("$C_{fc}$", "frozen") if task.compensation_controller else ("MSE", "plain")
        judges.append((placed[-2][0], 0.85, *judge))
    for taught, y, *words in judges:
        join(axis, box(axis, (taught[0], y), *words, half), taught, (half, half), dashed=True)

    # a bar over what learns together
    if not task.controller:
        left, right = 1.2 * first, 1.2 * (len(columns) - 1)
        axis.plot([left - 0.4, right + 0.4], [-1.4, -1.4], color="0.2", linewidth=3)
        words = "trained as a whole" + (", without $F_{fc}$" if task.compensator else "")
        axis.text((left + right) / 2, -1.3, words, ha="center", va="bottom", fontsize=8)


def levels(shapes: Sequence[tuple[int, int, int]], *, residual: bool = False) -> Figure:
    """A U-Net drawn from its levels' shapes: as high as the picture, the deeper the smaller; dashed
    arrows are the skips.

    Args:
        shapes: (channels, height, width) of each level on the way down, then on the way up.
        residual: whether its answer is added to its input: one skip more, around all levels.
    """
    deepest, tallest = len(shapes) // 2, shapes[0][1]
    figure, axis = plt.subplots(figsize=(10, 3.2), layout="constrained")
    axis.set(xlim=(-0.7, len(shapes) - 0.3), ylim=(-0.75, 1.15 if residual else 0.85))
    axis.axis("off")
    bent = {"arrowstyle": "->", "linestyle": "--", "color": "0.4"}
    for i, (channels, height, width) in enumerate(shapes):
        half = (0.22, 0.5 * height / tallest)
        box(axis, (i, 0), "", "learns", half)
        axis.text(i, -half[1] - 0.08, f"{channels}×{height}×{width}", ha="center", va="top")
        if i:
            join(axis, (i - 1, 0), (i, 0), (half, half))
        if i > deepest:
            skip = (2 * deepest - i, half[1] + 0.06), (i, half[1] + 0.06)
            way = {"connectionstyle": "arc3,rad=-0.08"}
            axis.annotate("", skip[1], skip[0], arrowprops=bent | way)
    if residual:  # from before the first level, over all, to behind the last
        before, behind, top = -0.45, len(shapes) - 0.55, 0.95
        axis.plot([before, before, behind], [0, top, top], linestyle="--", color="0.4")
        axis.annotate("", (behind, 0), (behind, top + 0.01), arrowprops=bent)
        words = "the input, added to the answer"
        axis.text((before + behind) / 2, top + 0.03, words, ha="center", va="bottom", color="0.3")
    return figure
