"""The map of the method (paper Figure 2), for the README and on top of every notebook."""

from __future__ import annotations

from collections.abc import Collection

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ppfer.show.diagram import box, join

MAP = {  # box: where its middle is, what it says, how it is drawn
    "V": (0.0, 0.0, "original\n(V)", "plain"),
    "split": (1.55, 0.0, "split into\nbands", "plain"),
    "F_hpr": (3.25, 0.5, "high enhancer\n($F_{hpr}$)", "learns"),
    "F_lpr": (3.25, -0.5, "low enhancer\n($F_{lpr}$)", "learns"),
    "C_hpr": (3.25, 1.35, "identity\ncontroller ($C_{hpr}$)", "frozen"),
    "C_lpr": (3.25, -1.35, "identity\ncontroller ($C_{lpr}$)", "frozen"),
    "merge": (4.95, 0.0, "merge\nbands", "plain"),
    "G": (6.35, 0.0, "protected\n(G)", "plain"),
    "F_fc": (7.9, 0.0, "compensator\n($F_{fc}$)", "learns"),
    "C_fc": (7.9, 1.35, "expression\ncontroller ($C_{fc}$)", "frozen"),
    "C": (9.5, 0.0, "compensated\n(C)", "plain"),
    "F_u": (11.25, 0.5, "recognizer ($F_u$):\nwhat expression?", "learns"),
    "V_pl": (11.25, -0.5, "leakage validator\n($V_{pl}$): who?", "frozen"),
}
ARROWS = (
    "V split, split F_hpr, split F_lpr, F_hpr merge, F_lpr merge, merge G, G F_fc, F_fc C, C F_u, "
    "C V_pl"
)
SHARED = "one network:\n$C_{hpr}$ = $C_{lpr}$ = $V_{pl}$"
LOSSES = "C_hpr F_hpr, C_lpr F_lpr, C_fc F_fc"  # dashed: a frozen network says which way to go
TODAY = {  # notebook: what it is about
    "00": ("V",),
    "01": ("split", "merge"),
    "02": ("split",),
    "03": ("C_hpr", "C_lpr", "V_pl"),
    "04": ("F_hpr", "F_lpr", "merge", "G"),
    "05": ("F_fc", "C_fc", "C"),
    "06": ("F_u",),
    "07": ("V_pl",),
    "08": ("V", "C"),
    "09": ("C",),
    "10": ("split", "C_hpr", "C_lpr", "F_fc", "C_fc"),
    "11": ("C_hpr", "C_lpr", "V_pl"),
    "12": ("V", "C"),
}


def method(today: Collection[str] = ()) -> Figure:
    """The map of the method (paper Figure 2): light boxes learn, dark ones are frozen: controllers,
    of which dashed arrows carry the loss, and the validator, which measures; the boxes named by
    `today` are yellow.
    """
    figure, axis = plt.subplots(figsize=(12, 3.1), layout="constrained")
    axis.set(xlim=(-0.6, 12.1), ylim=(-1.75, 1.75))
    axis.axis("off")
    halves = {k: (0.5 if kind == "plain" else 0.74, 0.26) for k, (*_, kind) in MAP.items()}
    for name, (x, y, text, kind) in MAP.items():
        box(axis, (x, y), text, "today" if name in today else kind, halves[name])
    axis.text(11.25, -1.2, SHARED, ha="center", va="center", fontsize=8)
    for pairs, dashed in ((ARROWS, False), (LOSSES, True)):
        for a, b in (pair.split() for pair in pairs.split(", ")):
            join(axis, MAP[a][:2], MAP[b][:2], (halves[a], halves[b]), dashed=dashed)
    return figure
