"""What privacy costs: how many people an attacker names against what is left of the expression."""

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import Bbox

from ppfer.base.files import atomic
from ppfer.measure import Rate, as_rate
from ppfer.show.plots import MARKERS

ALT = "How many people the worst attack on each approach names, against what is left to be read"
FIGURE1 = (
    "Leakage against accuracy: filled marks the worst attack, circles the frozen validator, grey "
    "crosses the paper's numbers"
)
ATTACKERS = {  # columns of a table, the strongest first, as an axis says them
    "plr_worst": "named by the worst attack tried, %",
    "plr_retrained": "named, validator retrained, %",
    "plr": "named, validator as trained, %",
}
UTILITY = {
    "acc": "expression read, F_u as trained",
    "acc_retrained": "expression read, F_u retrained",
    "actions_r2": "R² of facial actions",
}


# --- rows ---------------------------------------------------------------------


def rows_of(folder: Path) -> list[dict]:
    """The rows of ``table1.json``, ``live.json`` and ``dials.json``, which has approaches under
    other settings, in a folder, those of one approach as one; of several seeds the first seed's.
    """
    found: dict[str, dict] = {}
    for path in (folder / f"{name}.json" for name in ("table1", "live", "dials")):
        for row in json.loads(path.read_text("utf-8")) if path.exists() else ():
            known = found.setdefault(row["approach"], {})
            known |= {key: cell for key, cell in row.items() if key not in known}
    return list(found.values())


def points(
    rows: Sequence[Mapping], utility: str, attacker: str = "plr_worst"
) -> list[tuple[str, float, float]]:
    """(approach, share named by the attacker, utility) of the rows that have both."""
    found = []
    for row in (row for row in rows if attacker in row and utility in row):
        share = as_rate(row[utility])
        left = share.value if isinstance(share, Rate) else float(row[utility])
        found.append((row["approach"], as_rate(row[attacker]).value, left))
    return found


def hypervolume(rows: Sequence[Mapping], utility: str) -> float:
    """Area between 0 and 1 that some row dominates: share not named by the worst attack × utility;
    1 were an approach that names nobody and loses nothing.
    """
    area, height = 0.0, 0.0
    for _, named, left in sorted(points(rows, utility), key=lambda point: point[1]):
        area += max(0.0, left - height) * (1 - named)
        height = max(height, left)
    return area


# --- the drawing --------------------------------------------------------------


def figure(
    rows: Sequence[Mapping],
    chance: float | None = None,
    *,
    attacker: str = "",
    utilities: Sequence[str] = tuple(UTILITY),
    frozen: bool = False,
    published: Mapping[str, Mapping[str, float]] | None = None,
    shown: Collection[str] = (),
    chosen: str = "",
) -> Figure:
    """A panel per utility that the rows have, a point per approach, the number of its place in the
    legend beside it; the best corner is the upper left.

    Args:
        rows: of Table 1 or of notebook 11; those without numbers are left out.
        chance: of naming somebody by guessing, dashed.
        attacker: one of `ATTACKERS`; "" is the strongest that the rows have.
        frozen: add a circle where the frozen validator puts each approach, and a line to it.
        published: approach → "plr" and "acc" in percent, grey crosses beside "acc_retrained".
        shown: approaches that have a point; () for all.
        chosen: the approach whose point is larger.
    """
    # what is drawn, and which number each approach has
    attacker = attacker or next(key for key in ATTACKERS if any(key in row for row in rows))
    rows = [row for row in rows if attacker in row]
    numbers = {row["approach"]: i for i, row in enumerate(rows, 1)}
    panels = [key for key in utilities if points(rows, key, attacker)]
    beside = len(panels) == 1  # the legend: beside one panel, below several
    height = 4.4 if beside else 4.3 + 0.2 * -(-len(rows) // len(panels))
    size = (4.2 * len(panels) + 3 * beside, height)
    drawn, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    visible = [row for row in rows if not shown or row["approach"] in {*shown, chosen}]

    # a panel per utility: the attacker's points above what they are compared with
    for axis, key in zip(axes[0], panels, strict=True):
        spots, small, marks = [], [], []  # (share named, utility, number) of labels and of marks
        if frozen:
            marks += _from_frozen(axis, visible, key, attacker)
        for name, named, left in points(visible, key, attacker):
            axis.plot(100 * named, left, **_mark(numbers[name]), ms=13 if name == chosen else 8)
            spots.append((named, left, numbers[name]))
        if published and key == "acc_retrained":
            theirs = {numbers[n]: c for n, c in published.items() if n in numbers}
            small = [(c["plr"] / 100, c["acc"] / 100, number) for number, c in theirs.items()]
            for x, y, _ in small:
                axis.plot(100 * x, y, **CROSS)
        _label(axis, spots, small, marks)
        if chance is not None:
            axis.axvline(100 * chance, color="0.5", linestyle="--", linewidth=1)
        axis.set(xlabel=ATTACKERS[attacker], ylabel=UTILITY[key], xlim=(-6, 126))
        axis.set(xticks=range(0, 101, 20), ylim=(min(0, axis.get_ylim()[0]), 1.03))
        if key != "actions_r2":
            axis.yaxis.set_major_formatter(PercentFormatter(1, 0))

    # the legend: what each number stands for, then what the other marks are
    marks = [plt.Line2D([], [], linestyle="", **_mark(number)) for number in numbers.values()]
    titles = [f"{number} {name}" for name, number in numbers.items()]
    others = {
        "ours, V_pl as trained": (frozen, CIRCLE),
        "the paper's, on CREMA-D": (published, CROSS),
    }
    for title, (there, style) in others.items():
        if there:
            marks.append(plt.Line2D([], [], linestyle="", **style))
            titles.append(title)
    if chance is not None:
        marks.append(plt.Line2D([], [], color="0.5", linestyle="--", linewidth=1))
        titles.append(f"chance, {100 * chance:.1f} %")
    place = "outside right upper" if beside else "outside lower center"
    drawn.legend(marks, titles, fontsize=8, ncols=len(panels), loc=place)
    return drawn


CIRCLE = {"marker": "o", "mfc": "white", "mec": "0.3", "ms": 6}
CROSS = {"marker": "x", "color": "0.45", "ms": 6}


def _mark(number: int) -> dict:
    """Form and colour of an approach."""
    return {"marker": MARKERS[(number - 1) % len(MARKERS)], "color": f"C{(number - 1) % 10}"}


def _from_frozen(
    axis: Axes, rows: Sequence[Mapping], utility: str, attacker: str
) -> list[tuple[float, float, int]]:
    """Where the frozen validator puts each approach, and a line to where the attacker does."""
    before = {name: named for name, named, _ in points(rows, utility, "plr")}
    found = []
    for name, named, left in points(rows, utility, attacker):
        if name in before:
            axis.plot([100 * before[name], 100 * named], [left, left], color="0.6", linewidth=0.8)
            axis.plot(100 * before[name], left, **CIRCLE)
            found.append((before[name], left, 0))
    return found


SCALE = (210, 240)  # points (1/72 inch) on paper of a share of 1, across and up: a narrow panel's
AROUND = ((8, 0), (7, 9), (7, -9), (-8, 0), (-7, 9), (-7, -9), (0, 13), (0, -13), (16, 0))


def _label(axis: Axes, spots: Sequence, small: Sequence, marks: Sequence) -> None:
    """Numbers beside our points (share named, utility, number), one label where points lie close,
    and small ones beside the paper's, each where it covers no mark and no other number.
    """
    taken = [_box(x, y, 10, 10, (0, 0)) for x, y, _ in (*spots, *small, *marks)]
    taken.append(_box(0.5, 1.14, 1000, 48, (0, 0)))  # above the panel
    plain = {"fontsize": 9, "zorder": 5}
    grey = {"fontsize": 8, "color": "0.45", "style": "italic"}
    groups = [(group, plain) for group in grouped(spots, 0.06)] + [([*s], grey) for s in small]
    for (x, y, *numbers), look in groups:
        text = "\n".join(numbered(numbers[i : i + 3]) for i in range(0, len(numbers), 3))
        lines = text.split("\n")
        size = 0.6 * look["fontsize"] * max(map(len, lines)), 1.3 * look["fontsize"] * len(lines)
        boxes = {at: _box(x, y, *size, at) for at in AROUND}
        free = (at for at, box in boxes.items() if not any(map(box.fully_overlaps, taken)))
        at = next(free, AROUND[0])
        taken.append(boxes[at])
        side = "left" if at[0] > 0 else "right" if at[0] < 0 else "center"
        how = {"ha": side, "va": "center", "textcoords": "offset points", "linespacing": 1.1}
        axis.annotate(text, (100 * x, y), at, **how, **look)


def _box(x: float, y: float, width: float, height: float, at: tuple) -> Bbox:
    """In points on paper, what stands `at` a place's side."""
    x, y = x * SCALE[0] + at[0], y * SCALE[1] + at[1]
    left = x - width * (0 if at[0] > 0 else 1 if at[0] < 0 else 0.5)
    return Bbox.from_bounds(left, y - height / 2, width, height)


def grouped(spots: Sequence[tuple], reach: float) -> list[list]:
    """Points (x, y, number) within `reach` of a first → [the greatest x, mean y, number, …]."""
    groups: list[list[tuple]] = []
    for spot in sorted(spots):
        near = (g for g in groups if all(abs(a - b) < reach for a, b in zip(spot[:2], g[0])))
        if group := next(near, None):
            group.append(spot)
        else:
            groups.append([spot])
    found = (tuple(zip(*group, strict=True)) for group in groups)
    return [[max(across), sum(up) / len(up), *sorted(which)] for across, up, which in found]


def numbered(numbers: Sequence[int]) -> str:
    """Ascending numbers as one prints them: "1, 3, 15–19"."""
    parts: list = []
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        parts += run if len(run) < 3 else [f"{run[0]}–{run[-1]}"]
    return ", ".join(map(str, parts))


def figure1(rows: Sequence[Mapping]) -> Figure:
    """The paper's Figure 1, of Table 1's rows: ours under the worst attack and under the frozen
    validator, and the paper's points. Accuracy is F_u's, trained on what it is shown.
    """
    from ppfer.study import paper  # explorers of bands need none of the paper's numbers

    return figure(rows, utilities=("acc_retrained",), frozen=True, published=paper.TABLE1)


def save_figure1(folder: Path) -> None:
    """Draw ``figure1.svg`` beside the ``table1.json`` of a folder."""
    drawn = figure1(json.loads((folder / "table1.json").read_text("utf-8")))
    with atomic(folder / "figure1.svg") as partial:
        drawn.savefig(partial)
    plt.close(drawn)
