"""What is connected to what: drawings of the method made from the switches of an ablation's
tasks.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from ppfer.study.ablation import Task


def diagram(tasks: tuple[Task, ...]) -> Figure:
    """What is connected to what, drawn from the switches (paper Figures 3 and 4), one panel per
    task.

    Light boxes learn, dark boxes are frozen, dashed lines carry the loss back; boxes under one bar
    learn together.
    """

    rows = -(-len(tasks) // 2)
    figure, axes = plt.subplots(
        rows, 2, figsize=(10, 1.75 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set(xlim=(-0.6, 6.6), ylim=(-1.6, 1.6))
        axis.axis("off")

    def box(
        axis, x: float, y: float, text: str, *, frozen: bool = False, plain: bool = False
    ) -> tuple[float, float]:
        face = "none" if plain else "0.35" if frozen else "0.9"
        axis.add_patch(
            FancyBboxPatch(
                (x - 0.42, y - 0.17),
                0.84,
                0.34,
                boxstyle="round,pad=0.03",
                facecolor=face,
                edgecolor="none" if plain else "0.2",
            )
        )
        axis.text(
            x, y, text, ha="center", va="center", fontsize=9, color="white" if frozen else "black"
        )
        return x, y

    def join(axis, a: tuple[float, float], b: tuple[float, float], dashed: bool = False) -> None:
        vertical = a[0] == b[0]
        start = (a[0], a[1] + (0.2 if b[1] > a[1] else -0.2)) if vertical else (a[0] + 0.45, a[1])
        end = (b[0], b[1] - (0.2 if b[1] > a[1] else -0.2)) if vertical else (b[0] - 0.45, b[1])
        axis.annotate(
            "",
            end,
            start,
            arrowprops={"arrowstyle": "->", "linestyle": "--" if dashed else "-", "color": "0.2"},
        )

    for axis, task in zip(axes.flat, tasks, strict=False):
        axis.set_title(f"{task.title}: {task.description}", fontsize=8, loc="left")
        source, x = box(axis, 0, 0, "$V$", plain=True), 1.2
        heights = (0.42, -0.42) if task.transform else (0.0,)
        names = ("high", "low") if task.transform else ("",)
        split = box(axis, x, 0, "split", plain=True) if task.transform else source
        x += 1.2 if task.transform else 0
        if task.transform:
            join(axis, source, split)
        enhancers = []
        for y, name in zip(heights, names, strict=True):
            enhancer = box(
                axis, x, y, {"high": "$F_{hpr}$", "low": "$F_{lpr}$", "": "$F_{pr}$"}[name]
            )
            join(axis, split, enhancer)
            if task.controller:
                at = y + (0.8 if y >= 0 else -0.8)
                controller = box(
                    axis,
                    x,
                    at,
                    {"high": "$C_{hpr}$", "low": "$C_{lpr}$", "": "$C_{pr}$"}[name],
                    frozen=True,
                )
                join(axis, controller, enhancer, dashed=True)
            enhancers.append(enhancer)
        x += 1.2
        last = enhancers[0]
        if task.transform:
            last = box(axis, x, 0, "merge", plain=True)
            for enhancer in enhancers:
                join(axis, enhancer, last)
            x += 1.2
        if task.compensator:
            compensator = box(axis, x, 0, "$F_{fc}$")
            join(axis, last, compensator)
            judge = box(
                axis,
                x,
                0.85,
                "$C_{fc}$" if task.compensation_controller else "MSE",
                frozen=task.compensation_controller,
                plain=not task.compensation_controller,
            )
            join(axis, judge, compensator, dashed=True)
            last, x = compensator, x + 1.2
        utility = box(axis, x, 0, "$F_u$")
        join(axis, last, utility)
        if not task.controller:
            axis.plot(
                [enhancers[0][0] - 0.4, utility[0] + 0.4], [-1.4, -1.4], color="0.2", linewidth=3
            )
            axis.text(
                (enhancers[0][0] + utility[0]) / 2,
                -1.3,
                "trained as a whole"
                if not task.compensator
                else "trained as a whole, without $F_{fc}$",
                ha="center",
                va="bottom",
                fontsize=8,
            )
    return figure
