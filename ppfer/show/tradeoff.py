"""What privacy costs: each approach's worst attack against what is left of the expression."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ppfer.measure import Rate, as_rate
from ppfer.show.plots import MARKERS
from ppfer.study.paper import grouped, numbered

ALT = "How many people the worst attack on each approach names, against what is left to be read"
UTILITY = {  # columns of a table, as an axis says them
    "acc": "expression read, F_u as trained",
    "acc_retrained": "expression read, F_u retrained",
    "actions_r2": "R² of facial actions",
}


def rows_of(folder: Path) -> list[dict]:
    """The rows of ``table1.json``, ``live.json`` and ``dials.json``, which has approaches under
    other settings, in a folder, those of one approach as one; of several seeds the first seed's.
    """
    found: dict[str, dict] = {}
    for path in (folder / f"{name}.json" for name in ("table1", "live", "dials")):
        for row in json.loads(path.read_text()) if path.exists() else ():
            known = found.setdefault(row["approach"], {})
            known |= {key: cell for key, cell in row.items() if key not in known}
    return list(found.values())


def points(rows: Sequence[Mapping], utility: str) -> list[tuple[str, float, float]]:
    """(approach, share named by the worst attack, utility) of the rows that have both."""
    found = []
    for row in rows:
        if "plr_worst" in row and utility in row:
            share = as_rate(row[utility])
            kept = share.value if isinstance(share, Rate) else float(row[utility])
            found.append((row["approach"], as_rate(row["plr_worst"]).value, kept))
    return found


def hypervolume(rows: Sequence[Mapping], utility: str) -> float:
    """Area between 0 and 1 that some row dominates: share not named by the worst attack × utility.

    1 were an approach that names nobody and loses nothing; it grows only by rows that no other one
    beats on both.
    """
    area, height = 0.0, 0.0
    for _, named, kept in sorted(points(rows, utility), key=lambda point: point[1]):
        area += max(0.0, kept - height) * (1 - named)
        height = max(height, kept)
    return area


def figure(rows: Sequence[Mapping], chance: float) -> Figure:
    """A panel per utility that the rows have, a point per approach, the number of its place in the
    legend beside it; the best corner is the upper left.

    Args:
        rows: of Table 1 or of notebook 11, with ``plr_worst``.
        chance: of naming somebody by guessing, dashed.
    """
    panels = [key for key in UTILITY if points(rows, key)]
    names = list(dict.fromkeys(row["approach"] for row in rows if "plr_worst" in row))
    drawn, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 4.4), layout="constrained", squeeze=False
    )
    for axis, key in zip(axes[0], panels, strict=True):
        spots = [(named, kept, names.index(name)) for name, named, kept in points(rows, key)]
        for named, kept, place in spots:
            mark = MARKERS[place % len(MARKERS)]
            axis.plot(100 * named, kept, mark, color=f"C{place % 10}", markersize=8)
        for named, kept, *places in grouped(spots, 0.06):
            where = {"xytext": (-7, 0), "ha": "right"} if named > 0.5 else {"xytext": (7, 0)}
            text, at = numbered([place + 1 for place in places]), (100 * named, kept)
            axis.annotate(text, at, va="center", textcoords="offset points", **where)
        axis.axvline(100 * chance, color="0.5", linestyle="--", linewidth=1)
        axis.set(xlabel="identity named by the worst attack tried, %", ylabel=UTILITY[key])
        axis.set(xlim=(-5, 105), ylim=(min(0, axis.get_ylim()[0]), 1))
    axes[0][0].text(100 * chance + 1, 0.02, "chance", color="0.4")
    marks = [
        plt.Line2D([], [], marker=MARKERS[i % len(MARKERS)], color=f"C{i % 10}", linestyle="")
        for i in range(len(names))
    ]
    titles = [f"{i + 1} {name}" for i, name in enumerate(names)]
    drawn.legend(marks, titles, loc="outside lower center", ncols=3, fontsize=8)
    return drawn
