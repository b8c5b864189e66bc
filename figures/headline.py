"""The first screen of figures/README.md: five rows of 91 people, ten real people, one figure, and
what it means; read from the tables that lie in figures/twin and figures/real.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppfer.cli.compare import over_seeds
from ppfer.measure import Rate, as_rate, write_table
from ppfer.show import plots
from ppfer.study.protectors.codebook import bound

PEOPLE, SYMBOLS = 91, 96  # of profile twin; of the shipped codebook
CODEBOOK = "Re-enactment by a codebook"
SEEN = {  # approach: what one sees of it
    "No privacy preservation": "the person",
    "PPFER (C)": "the person, in strange colours",
    "Live controllers": "noise",
    "Re-enactment": "a donor who does what the face did",
    CODEBOOK: "one of 96 performances of the donor's own",
}
UNKNOWN, SHIPPED = "expression, unknown people", f"{CODEBOOK}, as shipped"
BEST = "Codebook of names, in videos, MediaPipe's reader"
REAL = {  # row of ten real people: approach, reader, whom the encoder learned from
    SHIPPED: (f"{CODEBOOK}, {SYMBOLS} symbols", "regressor", "unknown"),
    "Codebook of names, in videos": ("Codebook of names, in videos", "regressor", "unknown"),
    BEST: ("Codebook of names, in videos", "mediapipe", "unknown"),
}
ONE, SIXTEEN = "named from one clip", "named from sixteen clips"
LEFT = "expression read"
TRAINED, RETRAINED = "expression read, F_u as trained", "expression read, F_u retrained"
ALT = (
    "Left, how many of 91 people are named behind five approaches, from one clip and from sixteen; "
    "middle, how many expressions are read; right, the share of people that no attacker names "
    "more of behind a codebook, against how many people there are"
)


def read(path: Path) -> list[dict]:
    """Rows of a table."""
    return json.loads(path.read_text())


def worst(rates: Iterable[Rate]) -> Rate | None:
    """The greatest share; None of none."""
    most = max(rates, key=lambda rate: rate.value, default=None)
    return most and Rate(most.k, most.n)


def of_people(folder: Path) -> list[dict]:
    """Five approaches: the most that any attack in any seed named of 91 people from one clip, on
    pixels or from within, and from sixteen; and what is read of the expression, over seeds.
    """
    seeds = {row["approach"]: row for row in read(folder / "seeds.json")}
    tried, inside = read(folder / "within.json"), read(folder / "within_worst.json")
    rows = []
    for name, seen in SEEN.items():
        columns, of = {1: "plr_worst", 16: "plr_worst_16"}, seeds.get(name, {})
        named = {n: [*getattr(as_rate(of.get(key)), "rates", ())] for n, key in columns.items()}
        for row in tried:
            if row["approach"] == name and row["clips"] in named:
                named[row["clips"]].append(Rate(row["k"], row["n"]))
        read_of = seeds.get(name) or over_seeds([[r] for r in inside if r["approach"] == name])[0]
        row = {"approach": name, "a person sees": seen}
        row |= {ONE: worst(named[1]), SIXTEEN: worst(named[16]) or "not tried"}
        rows.append(row | {TRAINED: read_of["acc"], RETRAINED: read_of["acc_retrained"]})
    return rows


def of_real_people(folder: Path) -> list[dict]:
    """What is named and read of ten real people: without protection, re-enacted, by the shipped
    codebook, and by codebooks of names that five others of them taught.
    """
    live = {row["approach"]: row for row in read(folder / "live.json")}
    within = read(folder / "within_worst.json")
    inside = {(row["approach"], row["reader"], row["people"]): row for row in within}
    rows = []
    for name in ("No privacy preservation", "Re-enactment"):
        known = inside[name, "regressor", "known"]
        tried = live[name]["plr_worst"], known["1 clip"]
        named, sixteen = worst(map(as_rate, tried)), worst([as_rate(known["16 clips"])])
        left = as_rate(live[name]["acc_retrained"])
        rows.append({"approach": name, ONE: named, SIXTEEN: sixteen, LEFT: left})
    for title, place in REAL.items():
        one, sixteen, left = (
            as_rate(inside[place][key]) for key in ("1 clip", "16 clips", UNKNOWN)
        )
        outside = [as_rate(live[CODEBOOK]["plr_worst"])] if title == SHIPPED else []
        cells = worst([one, *outside]), worst([sixteen]), worst([left])
        rows.append({"approach": title} | dict(zip((ONE, SIXTEEN, LEFT), cells)))
    return rows


# --- in words -------------------------------------------------------------------


def meaning(
    people: Sequence[Mapping],
    real: Sequence[Mapping],
    main: Sequence[Mapping],
    videos: Sequence[Mapping],
) -> str:
    """What rows of `of_people` and `of_real_people`, of the 91's ``main.json`` and of the ten's
    ``videos.json`` mean for a student, for a researcher and for a practitioner.
    """
    row = {r["approach"]: r for r in people}
    ppfer = next(r for r in main if r["approach"] == "PPFER (C)")
    donor, book = row["Re-enactment"], row[CODEBOOK]
    crowd = 10_000
    share, of_few = 100 * bound(crowd, SYMBOLS), 100 * bound(PEOPLE, SYMBOLS)
    known = {r["approach"]: r for r in real}
    shipped, names = known[SHIPPED], known[BEST]
    return (
        f"- **A student** sees why one number is not enough: behind PPFER the frozen validator, "
        f"which is what the paper prints, names {short(ppfer['plr'])} of 91 people's clips, and "
        f"the same network trained on protected clips {short(ppfer['plr_retrained'])}. "
        "[Notebook 07](../notebooks/07_leakage.ipynb) shows where the names went.\n"
        f"- **A researcher** asks an attacker who has read the page and holds many clips: behind "
        f"re-enactment he names at most {short(donor[ONE])} of single clips and "
        f"{short(donor[SIXTEEN])} of people from sixteen, behind the codebook "
        f"{short(book[ONE])} and {short(book[SIXTEEN])}. "
        f"Only the codebook has a bound: from one of its {SYMBOLS} performances nobody, whatever "
        f"he knows, names more than {SYMBOLS} in K people. Of {PEOPLE} that is {of_few:.0f} %, no "
        f"promise at all; of {crowd:,} it is {share:.1f} %. "
        "[Notebook 11](../notebooks/11_attackers.ipynb) attacks.\n"
        f"- **A practitioner** cannot have both on real faces: behind re-enactment "
        f"{short(known['Re-enactment'][ONE])} of ten people's clips are named, and behind the "
        f"shipped codebook {short(shipped[ONE])} (guessing 10 %), but then {short(shipped[LEFT])} "
        "of their expressions are read (guessing 16.7 %). A codebook of names, learned from "
        f"labelled clips of other people, names {short(names[ONE])} "
        f"and leaves {short(names[LEFT])}. A video shows more than faces: where heads are and a "
        f"blurred room name {short(videos[0]['1 clip'])}, unless `--frame alone` leaves them "
        "out. None is anonymity for people who are known by name. "
        "[Notebook 12](../notebooks/12_protect.ipynb) protects a video.\n"
    )


def short(cell: object) -> str:
    """A share without its interval."""
    return as_rate(cell).short


# --- the figure -----------------------------------------------------------------


def figure(rows: Sequence[Mapping]) -> Figure:
    """Names, expressions, and the codebook's bound, of rows of `of_people`: a panel each."""
    how = {"figsize": (11, 4.2), "layout": "constrained", "width_ratios": (1, 1, 0.9)}
    drawn, (names, read_of, most) = plt.subplots(1, 3, **how)
    series = ((ONE, "o", "C3"), (SIXTEEN, "D", "C1"))
    _shares(names, rows, series, "people named, %")
    names.axvline(100 / PEOPLE, color="0.4", linestyle="--", linewidth=1)
    series = ((RETRAINED, "s", "C0"), (TRAINED, "^", "C2"))
    _shares(read_of, rows, series, "expressions read, %")
    read_of.axvline(100 / 6, color="0.4", linestyle="--", linewidth=1)
    names.set_yticks(range(len(rows)), [row["approach"] for row in rows])
    read_of.set_yticks(range(len(rows)), [""] * len(rows))
    _bounds(most, rows)
    names.text(100 / PEOPLE + 2, -0.3, "guessing", fontsize=8, color="0.3")
    for axis in (names, read_of, most):
        handles, labels = axis.get_legend_handles_labels()
        labels = [re.sub("^(named|expression read,) ", "", label) for label in labels]
        where = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "frameon": False}
        axis.legend(handles, labels, fontsize=8, ncols=1 + (axis is most), **where)
    return drawn


def _shares(axis: Axes, rows: Sequence[Mapping], series: Sequence[tuple], label: str) -> None:
    """A row per approach: shares in % with 95 % intervals, of several seeds a mark for each."""
    for i, (key, marker, color) in enumerate(series):
        offset = 0.28 * (i - 0.5)
        for y, row in enumerate(rows):
            share = as_rate(row[key])
            if isinstance(share, Rate):
                interval = [[100 * edge] for edge in share.interval]
                axis.hlines(y + offset, *interval, color=color, linewidth=1.5)
            for rate in getattr(share, "rates", [share] if share else []):
                axis.plot(
                    100 * rate.value, y + offset, marker, color=color, markersize=6, alpha=0.8
                )
        axis.plot([], [], marker, color=color, label=key)
    axis.set(xlabel=label, xlim=(-3, 103), ylim=(len(rows) - 0.5, -0.5))


def _bounds(axis: Axes, rows: Sequence[Mapping]) -> None:
    """What nobody passes, against the number of people, and what was measured of 91."""
    people = np.geomspace(10, 1e6, 60)
    for symbols, style, color in ((SYMBOLS, "-", "C4"), (6, "-.", "C5"), (1, "--", "0.4")):
        said = "guessing" if symbols == 1 else f"bound, {symbols} symbols"
        least = [100 * bound(k, symbols) for k in people]
        axis.plot(people, least, style, color=color, label=said)
    for name, marker in (("Re-enactment", "v"), (CODEBOOK, "P")):
        one = next(as_rate(row[ONE]) for row in rows if row["approach"] == name)
        said = name.removeprefix("Re-enactment by a ")
        axis.plot(PEOPLE, 100 * one.value, marker, color="C3", label=said)
    axis.set(xscale="log", yscale="log", xlabel="how many people there are", ylim=(1e-4, 150))
    axis.set_yticks([100, 1, 0.01], ["100", "1", "0.01"])
    axis.set_ylabel("named from one clip, %")


def publish(folder: Path) -> None:
    """Write all of it below a folder that has ``twin`` and ``real``."""
    twin, real = folder / "twin", folder / "real"
    people, ten, main = of_people(twin), of_real_people(real), read(twin / "main.json")
    videos = read(real / "videos.json")
    write_table(people, twin, "headline")
    write_table(ten, real, "headline")
    (folder / "meaning.md").write_text(meaning(people, ten, main, videos))
    plots.theme()
    (folder / "headline.svg").write_text(plots.svg(figure(people), ALT))
    plt.close("all")
