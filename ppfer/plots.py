"""Figures: one look for all notebooks. Every function returns the matplotlib Figure and needs no
global state but `theme`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ppfer.measure import Rate, as_rate
from ppfer.method.parts import band_split
from ppfer.run import Run

WIDE, NARROW = 6.4, 3.2  # inches
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # as well as colours: the palette has light entries


def theme() -> None:
    """The project's look; called once by `ppfer.notebook.start`."""
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette="colorblind",
        rc={"figure.dpi": 66, "savefig.dpi": 66},
    )


def _picture(image: Tensor | np.ndarray) -> np.ndarray:
    """(3, H, W) or (H, W), uint8 or float, to what imshow takes."""
    image = torch.as_tensor(image).detach().cpu()
    image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    return (
        image.permute(1, 2, 0).clamp(0, 1).numpy() if image.ndim == 3 else image.numpy()
    )  # (H, W, 3)


def image_grid(
    rows: Sequence[Sequence[Tensor]],
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    *,
    cell: float = 1.0,
) -> Figure:
    """Pictures in rows and columns.

    Args:
        rows: rows of (3, H, W) pictures, uint8 or float in [0, 1].
        row_titles, column_titles: labels on the left and on top.
        cell: inches per picture; the figure never gets wider than 10 inches.
    """
    count = max(len(row) for row in rows)
    cell = min(cell, 10 / count)
    margin = 0.08 * max((len(t) for t in row_titles), default=0)
    figure, axes = plt.subplots(
        len(rows), count, figsize=(cell * count + margin, cell * len(rows) + 0.3), squeeze=False
    )
    for i, row in enumerate(rows):
        for j in range(count):
            axes[i, j].set(xticks=[], yticks=[])
            axes[i, j].grid(False)
            for side in axes[i, j].spines.values():
                side.set_visible(False)
            if j < len(row):
                axes[i, j].imshow(
                    _picture(row[j]), interpolation="nearest", cmap="gray", vmin=0, vmax=1
                )
        if i < len(row_titles):
            axes[i, 0].set_ylabel(row_titles[i], rotation=0, ha="right", va="center", fontsize=9)
    for j, title in enumerate(column_titles[:count]):
        axes[0, j].set_title(title, fontsize=9)
    figure.subplots_adjust(
        left=margin / (cell * count + margin),
        right=1,
        bottom=0,
        top=1 - 0.3 / (cell * len(rows) + 0.3),
        wspace=0.04,
        hspace=0.04,
    )
    return figure


def image_row(images: Sequence[Tensor], titles: Sequence[str] = (), *, cell: float = 1.4) -> Figure:
    """One row of (3, H, W) pictures."""
    return image_grid([images], column_titles=titles, cell=cell)


def bands(
    coefficients: Sequence[Mapping[str, Tensor]],
    row_titles: Sequence[str] = (),
    *,
    cell: float = 1.5,
) -> Figure:
    """Signed sub-bands: the approximation in grey, details on a diverging map centred at 0, one
    scale per row.

    Args:
        coefficients: per row, sub-band name → (3, h, w), as `BandSplit.coefficients` gives for one
            frame; colours are averaged.
        row_titles: labels on the left.
    """
    names = list(coefficients[0])
    figure, axes = plt.subplots(
        len(coefficients),
        len(names),
        figsize=(cell * len(names) + 0.8, cell * len(coefficients) + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for i, row in enumerate(coefficients):
        grey = {
            n: torch.as_tensor(x).detach().cpu().float().mean(0).numpy() for n, x in row.items()
        }
        top = max((np.abs(x).max() for n, x in grey.items() if n != names[0]), default=1.0) or 1.0
        for j, name in enumerate(names):
            axes[i, j].set(xticks=[], yticks=[])
            axes[i, j].grid(False)
            if j == 0:
                axes[i, j].imshow(grey[name], cmap="gray")
                axes[i, j].set_ylabel(row_titles[i] if i < len(row_titles) else "", fontsize=9)
            else:
                shown = axes[i, j].imshow(grey[name], cmap="RdBu_r", vmin=-top, vmax=top)
            if i == 0:
                axes[i, j].set_title(name, fontsize=9)
        if len(names) > 1:
            figure.colorbar(shown, ax=list(axes[i]), shrink=0.8)
    return figure


def curves(
    runs: Mapping[str, Sequence[dict]],
    keys: Sequence[str],
    *,
    reference: Mapping[str, float] | None = None,
) -> Figure:
    """Training curves from ``metrics.jsonl`` rows.

    Args:
        runs: label → rows with "step".
        keys: one panel each; rows without the key are skipped.
        reference: key → value of a dashed line (e.g. chance).
    """
    figure, axes = plt.subplots(
        1, len(keys), figsize=(NARROW * len(keys), 2.6), squeeze=False, layout="constrained"
    )
    for axis, key in zip(axes[0], keys, strict=True):
        for i, (label, rows) in enumerate(
            runs.items()
        ):  # a run keeps its colour where another has no such key
            points = [(r["step"], r[key]) for r in rows if key in r]
            style = {"marker": MARKERS[i % len(MARKERS)], "color": f"C{i}", "markersize": 4}
            axis.plot(*zip(*points, strict=True), label=label, **style) if points else None
        if reference and key in reference:
            axis.axhline(reference[key], color="0.3", linestyle="--", linewidth=1)
        axis.set(xlabel="step", title=key)
    if len(runs) > 1:
        axes[0, 0].legend(fontsize=8)
    return figure


def rates(
    groups: Mapping[str, Mapping[str, Rate]], *, xlabel: str, reference: float | None = None
) -> Figure:
    """Shares with their 95 % intervals, as points: one row per name, one marker per series.

    Args:
        groups: series label → name → Rate.
        reference: a dashed vertical line in [0, 1] (e.g. chance).
    """
    names = list(dict.fromkeys(name for series in groups.values() for name in series))
    figure, axis = plt.subplots(figsize=(WIDE, 0.32 * len(names) + 1.2), layout="constrained")
    for i, (marker, (label, series)) in enumerate(zip(MARKERS, groups.items(), strict=False)):
        offset = (i - (len(groups) - 1) / 2) * 0.16
        kept = [n for n in names if n in series]
        x = np.array([100 * series[n].value for n in kept])
        spread = (
            np.array([[100 * abs(v - series[n].value) for v in series[n].interval] for n in kept])
            .reshape(-1, 2)
            .T
        )
        axis.errorbar(
            x,
            [names.index(n) + offset for n in kept],
            xerr=spread,
            fmt=marker,
            markersize=6,
            capsize=2,
            linewidth=1,
            label=label,
        )
    if reference is not None:
        axis.axvline(
            100 * reference,
            color="0.3",
            linestyle="--",
            linewidth=1,
            label=f"chance {100 * reference:.1f} %",
        )
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel=xlabel, xlim=(-2, 102))
    axis.invert_yaxis()
    axis.legend(fontsize=8, loc="best")
    return figure


def compared(rows: Sequence[Mapping]) -> Figure:
    """Runs side by side: a panel per measure, a line per run or combination of settings, a colour
    per approach; every share in % with its 95 % interval, other numbers as they are.

    Args:
        rows: as `ppfer.publish.side_by_side` gives them; means over seeds are left out, since each
            seed has its point.
    """
    points = []
    for row in rows:
        at = list(row).index("approach")
        rest = [f"{k.split('.')[-1]}={row[k]}" for k in list(row)[1:at] if k != "seed"]
        for key in list(row)[at + 1 :]:
            share, spread = as_rate(row[key]), [row[key]] * 3
            if isinstance(share, Rate):
                key, spread = f"{key}, %", [100 * v for v in (share.value, *share.interval)]
            if share is None or isinstance(share, Rate):
                points.append((", ".join(rest) or row["run"], row["approach"], key, *spread))
    table = pd.DataFrame(points, columns=["run", "approach", "measure", "value", "low", "high"])
    lines, named = list(table.run.unique()), list(table.approach.unique())
    shift = table.approach.map(named.index) - (len(named) - 1) / 2
    table["line"] = table.run.map(lines.index) + 0.6 * shift / max(1, len(named))
    grid = sns.relplot(
        table,
        x="value",
        y="line",
        hue="approach",
        style="approach",
        col="measure",
        col_wrap=2,
        height=1.6 + 0.3 * len(lines),
        aspect=3.2 / (1.6 + 0.3 * len(lines)),
        facet_kws={"sharex": False},
    )
    for name, axis in grid.axes_dict.items():
        own = table[table.measure == name]
        axis.hlines(own.line, own.low, own.high, color="0.6", linewidth=1, zorder=0)
        axis.set_xlim((-2, 102) if name.endswith("%") else None)
    grid.set(yticks=range(len(lines)), yticklabels=lines, xlabel="", ylabel="")
    grid.set_titles("{col_name}")
    grid.axes.flat[0].invert_yaxis()
    return grid.figure


def confusion(matrices: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Confusion matrices side by side: rows are the truth and sum to 100 %."""
    figure, axes = plt.subplots(
        1,
        len(matrices),
        figsize=(NARROW * len(matrices), 3.1),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis, (title, counts) in zip(axes[0], matrices.items(), strict=True):
        share = 100 * np.asarray(counts) / np.maximum(1, np.asarray(counts).sum(1, keepdims=True))
        sns.heatmap(
            share,
            ax=axis,
            annot=True,
            fmt=".0f",
            cmap="Greys",
            vmin=0,
            vmax=100,
            cbar=False,
            square=True,
            xticklabels=names,
            yticklabels=names,
            annot_kws={"size": 7},
        )
        axis.set(title=title, xlabel="recognised as")
        axis.tick_params(labelsize=7)
    axes[0, 0].set_ylabel("true expression, %")
    return figure


def confusion_counts(predicted: Tensor | np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) counts, rows the truth."""
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (np.asarray(truth), np.asarray(predicted)), 1)
    return counts


def overview(run: Run, *, count: int = 8) -> dict[str, Figure]:
    """The README's pictures, from a finished run on synthetic clips: "bands", "protected" and two
    of training curves.

    "bands": one frame of two actors, split. "protected": V, both enhanced bands merged (G) and
    compensated (C) for the apex-side middle frame of `count` test clips, the first of each (actor,
    expression) pair in turn. "curves_protection": Algorithms 1 and 2 under the frozen controllers.
    "curves_readers": F_u and V_pl, each learning to read V, G and C.
    """
    split = band_split(run.config)
    table, test = run.table, run.parts["test"]
    turn = table.loc[test].groupby("actor").cumcount()
    chosen = turn.sort_values(kind="stable").index[:count].to_numpy()
    stores = {
        "V original": run.tensor("clips"),
        "G protected": run.tensor("protected/enhanced"),
        "C compensated": run.tensor("protected/ppfer"),
    }
    middle = run.config.frames // 2
    rows = [[pixels[i, middle] for i in chosen] for pixels in stores.values()]
    labels = [f"{table.actor[i]} {table.emotion[i]}" for i in chosen]
    pictures = {"protected": image_grid(rows, list(stores), labels, cell=1.1)}
    if "t" not in run.config.bands.axes:
        faces = (
            torch.stack([stores["V original"][i, middle] for i in chosen[:2]]).float().cpu() / 255
        )
        parts = split.coefficients(*split.split(faces), like=faces)
        pictures["bands"] = bands(
            [{n: x[i] for n, x in parts.items()} for i in range(2)], labels[:2]
        )
    chance = 1 / len(run.classes("actor"))
    pictures["curves_protection"] = curves(
        {"Algorithm 1": run.metrics("privacy"), "Algorithm 2": run.metrics("compensation")},
        ("val_plr", "val_l1", "val_accuracy"),
        reference={"val_plr": chance},
    )
    readers = {
        f"{kind} on {short}": run.metrics(f"{stage}/{name}")
        for stage, kind in (("recognizer", "F_u"), ("attack", "V_pl"))
        for name, short in (("none", "V"), ("enhanced", "G"), ("ppfer", "C"))
        if run.has(f"{stage}/{name}")
    }
    pictures["curves_readers"] = curves(
        readers, ("loss", "val_accuracy", "val_all_frames"), reference={"val_all_frames": chance}
    )
    return pictures
