"""Figures: one look for all notebooks.

Grids of pictures are put together pixel by pixel (a PIL image, quick enough to redraw while a
control moves); lines and bars are matplotlib's. `ppfer.show.notebook.picture` shows either.
"""

import io
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ppfer.measure import Rate
from ppfer.run.run import Run

WIDE, NARROW = 6.4, 3.2  # inches
DPI, GAP = 144, 6  # of picture grids: pixels per inch, pixels between pictures
RED_BLUE = torch.tensor(matplotlib.colormaps["RdBu_r"](np.arange(256))[:, :3]).float()  # (256, 3)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # as well as colours: the palette has light entries
WORDS = {  # what a training curve shows
    "loss": "training loss",
    "val_loss": "loss on validation",
    "val_l1": "distortion (L1)",
    "val_plr": "identity named (PLR)",
    "val_plr_clips": "identity named, whole clips",
    "val_all_frames": "identity named, all frames",
    "val_accuracy": "expressions read (accuracy)",
}


def theme() -> None:
    """The project's look; called once by `ppfer.show.notebook.start`."""
    quiet = {"figure.dpi": 72, "savefig.dpi": DPI, "svg.fonttype": "none", "svg.hashsalt": "ppfer"}
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", rc=quiet)


def png(image: Image.Image) -> bytes:
    """A picture grid as a small file: 255 colours, a third of the bytes, no difference to see."""
    file = io.BytesIO()
    image.quantize(255, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def svg(figure: Figure, alt: str) -> str:
    """Lines as SVG, with words for those who can't see them; the figure is left open."""
    file, about = io.StringIO(), {"Date": None, "Creator": None, "Title": alt}
    figure.savefig(file, format="svg", metadata=about)
    return file.getvalue().replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)


def drawn(figure: Figure) -> Image.Image:
    """A figure's pixels, at 144 dpi; it is closed."""
    canvas, figure.dpi = FigureCanvasAgg(figure), DPI
    canvas.draw()  # once; `savefig` draws twice, and writes a file
    plt.close(figure)
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


# --- grids of pictures ----------------------------------------------------------


def pixels(image: Tensor | np.ndarray) -> np.ndarray:
    """(3, H, W) or (H, W), uint8 or float in [0, 1], to (H, W, 3) uint8."""
    image = torch.as_tensor(image).detach().cpu()
    if image.dtype != torch.uint8:
        image = (255 * image.float().clamp(0, 1)).round().to(torch.uint8)
    image = image if image.ndim == 3 else image.expand(3, -1, -1)
    return image.permute(1, 2, 0).numpy()  # (H, W, 3)


def signed(values: Tensor, top: float | None = None) -> Tensor:
    """(H, W) or (3, H, W), colours averaged, to a picture (3, H, W): red positive, blue negative,
    white 0, `top` (or the greatest there is) full red.
    """
    values = torch.as_tensor(values).detach().cpu().float()
    values = values.mean(0) if values.ndim == 3 else values
    top = float(values.abs().max()) if top is None else top
    shade = (127.5 + 127.5 * values / (top or 1.0)).round().clamp(0, 255)
    return RED_BLUE[shade.long()].permute(2, 0, 1)


def laid_over(face: Tensor, weight: Tensor) -> Tensor:
    """A map (h, w) of any size over a face (3, H, W) in [0, 1]: grey where the map is 0, red where
    it is positive, blue where it is negative, scaled to its greatest.
    """
    grey = face.detach().cpu().float().mean(0).expand(3, -1, -1)
    weight = weight.detach().cpu().float()[None, None]
    weight = torch.nn.functional.interpolate(weight, grey.shape[-2:], mode="bilinear")[0, 0]
    strength = (weight.abs() / weight.abs().max().clamp_min(1e-12)).sqrt()
    return (1 - 0.8 * strength) * (0.3 + 0.7 * grey) + 0.8 * strength * signed(weight)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The one font of picture grids."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def fitted(text: str, width: float) -> tuple[str, ImageFont.FreeTypeFont]:
    """A title in lines no wider than `width`, in a smaller font if a word needs it."""
    words = [line.split(" ") for line in text.split("\n")]
    longest = max((word for line in words for word in line), key=len)
    size = next((s for s in range(18, 9, -1) if font(s).getlength(longest) <= width), 9)
    lines = []
    for line in words:
        lines.append(line[0])
        for word in line[1:]:
            if font(size).getlength(f"{lines[-1]} {word}") <= width:
                lines[-1] += f" {word}"
            else:
                lines.append(word)
    return "\n".join(lines), font(size)


def _resized(array: np.ndarray, room: float) -> np.ndarray:
    """(h, w, 3) as large as `room` allows: whole multiples, so that every pixel stays a square."""
    height, width = array.shape[:2]
    scale = room / max(height, width)
    if scale >= 1:
        return array.repeat(round(scale), 0).repeat(round(scale), 1)
    return np.asarray(Image.fromarray(array).resize((int(scale * width), int(scale * height))))


def image_grid(
    rows: Sequence[Sequence[Tensor]],
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    *,
    cell: float = 1.0,
) -> Image.Image:
    """Rows of pictures (3, H, W) or (H, W), uint8 or float in [0, 1], at 144 dpi.

    Args:
        row_titles, column_titles: labels on the left and on top, broken into lines where long.
        cell: inches per picture; the pictures never get wider than 10 inches together.
    """
    count = max(len(row) for row in rows)

    # pictures and titles first: they say how large the canvas is
    room = DPI * min(cell, 10 / count)
    arrays = [[_resized(pixels(picture), room) for picture in row] for row in rows]
    height, width = (max(a.shape[side] for row in arrays for a in row) for side in (0, 1))
    left = [fitted(title, 230) for title in row_titles]
    over = [fitted(title, width - 4) for title in column_titles[:count]]
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = [[pen.multiline_textbbox((0, 0), *label) for label in side] for side in (left, over)]

    # the canvas, with room for titles on the left and on top
    x0 = max((int(box[2]) + 3 * GAP for box in boxes[0]), default=0)
    y0 = max((int(box[3]) + 2 * GAP for box in boxes[1]), default=0)
    size = (x0 + count * (width + GAP) - GAP, y0 + len(rows) * (height + GAP) - GAP)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for i, row in enumerate(arrays):
        for j, array in enumerate(row):
            x = x0 + j * (width + GAP) + (width - array.shape[1]) // 2
            canvas.paste(Image.fromarray(array), (x, y0 + i * (height + GAP)))

    # titles beside their rows and above their columns
    for i, (text, font) in enumerate(left):
        at = (x0 - 2 * GAP, y0 + i * (height + GAP) + height // 2)
        pen.multiline_text(at, text, "black", font, anchor="rm", align="right")
    for j, (text, font) in enumerate(over):
        at = (x0 + j * (width + GAP) + width // 2, y0 - GAP)
        pen.multiline_text(at, text, "black", font, anchor="md", align="center")
    return canvas


def image_row(
    images: Sequence[Tensor], titles: Sequence[str] = (), *, cell: float = 1.4
) -> Image.Image:
    """One row of pictures."""
    return image_grid([images], column_titles=titles, cell=cell)


def bands(
    coefficients: Sequence[Mapping[str, Tensor]], row_titles: Sequence[str] = ()
) -> Image.Image:
    """Signed sub-bands: the approximation in grey, details red and blue around white, one scale per
    row, which stands in its title.

    Args:
        coefficients: per row, sub-band name → (3, h, w), as `BandSplit.coefficients` gives for one
            frame; colours are averaged.
    """
    rows, titles = [], []
    for i, row in enumerate(coefficients):
        low, *details = (torch.as_tensor(x).detach().cpu().float().mean(0) for x in row.values())
        top = max((float(x.abs().max()) for x in details), default=0.0)
        low = (low - low.min()) / (low.max() - low.min()).clamp_min(1e-9)
        rows.append([low, *(signed(x, top) for x in details)])
        title = row_titles[i] if i < len(row_titles) else ""
        titles.append(f"{title}\nred +{top:.2g}\nblue −{top:.2g}".strip())
    return image_grid(rows, titles, list(coefficients[0]), cell=1.5)


# --- lines ----------------------------------------------------------------------


def curves(
    run: Run,
    stages: Mapping[str, str],
    keys: Sequence[str],
    *,
    decided: Sequence[str] = (),
    chance: Mapping[str, float] | None = None,
) -> Figure:
    """Training curves of stages, label → stage, one panel for each key of their ``metrics.jsonl``.

    Args:
        decided: keys by which the kept step was chosen; it is marked there with a ring.
        chance: key → value of a dashed line.
    """
    size = (NARROW * len(keys), 2.6 + 0.3 * (len(stages) > 1))
    figure, axes = plt.subplots(1, len(keys), figsize=size, squeeze=False, layout="constrained")
    for axis, key in zip(axes[0], keys, strict=True):
        for i, (label, stage) in enumerate(stages.items()):  # a stage keeps its colour everywhere
            points = {row["step"]: row[key] for row in run.metrics(stage) if key in row}
            style = {"marker": MARKERS[i % len(MARKERS)], "color": f"C{i}", "markersize": 4}
            if points:
                axis.plot(list(points), list(points.values()), label=label, **style)
            kept = run.summary(stage).get("best_step")
            if key in decided and kept in points:
                ring = {"marker": "o", "markersize": 12, "fillstyle": "none", "color": "black"}
                axis.plot(kept, points[kept], linestyle="", **ring)
        if chance and key in chance:
            axis.axhline(chance[key], color="0.3", linestyle="--", linewidth=1)
        axis.set(xlabel="step")
        axis.set_title(WORDS.get(key, key), fontsize=10)
    if len(stages) > 1:
        handles = {h.get_label(): h for axis in axes[0] for h in axis.get_lines()}
        labels = [label for label in stages if label in handles]
        _legend(figure, [handles[label] for label in labels], labels)
    return figure


def rates(
    groups: Mapping[str, Mapping[str, Rate]], *, xlabel: str, chance: float | None = None
) -> Figure:
    """Shares with their 95 % intervals, as points: one row per name, one marker per series.

    Args:
        groups: series label → name → Rate; what is no Rate has no interval, and no point.
        chance: a dashed vertical line in [0, 1], of the label that every series is about.
    """
    cells = ((label, series.items()) for label, series in groups.items())
    groups = {label: {n: r for n, r in cell if isinstance(r, Rate)} for label, cell in cells}
    names = list(dict.fromkeys(name for series in groups.values() for name in series))
    figure, axis = plt.subplots(figsize=(WIDE, 0.32 * len(names) + 1.4), layout="constrained")
    for i, (marker, (label, series)) in enumerate(zip(MARKERS, groups.items(), strict=False)):
        offset = (i - (len(groups) - 1) / 2) * 0.16
        shares = np.array([[r.value, *r.interval] for r in series.values()]).reshape(-1, 3) * 100
        y = [names.index(n) + offset for n in series]
        reach = np.abs(shares[:, 1:] - shares[:, :1]).T
        style = {"fmt": marker, "markersize": 6, "capsize": 2, "linewidth": 1}
        axis.errorbar(shares[:, 0], y, xerr=reach, label=label, **style)
    if chance is not None:
        style = {"color": "0.3", "linestyle": "--", "linewidth": 1}
        axis.axvline(100 * chance, label=f"chance {100 * chance:.1f} %", **style)
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel=xlabel, xlim=(-2, 102))
    axis.set_ylim(len(names) - 0.5, -0.5)
    _legend(figure, *axis.get_legend_handles_labels())
    return figure


def answers(said: Mapping[str, np.ndarray], truth: np.ndarray, names: Sequence[str]) -> Figure:
    """How often each name is the answer, right or wrong, beside how often it is the truth: a panel
    of (n,) answers each, to the same clips.
    """
    size, how = (WIDE, 2.9), {"squeeze": False, "sharey": True}
    figure, axes = plt.subplots(1, len(said), figsize=size, layout="constrained", **how)
    at, few = np.arange(len(names)), len(names) <= 12
    for axis, (title, answer) in zip(axes[0], said.items(), strict=True):
        counted = (truth[answer == truth], answer, truth)
        right, given, there = (np.bincount(x, minlength=len(names)) for x in counted)
        axis.bar(at, right, color="C0", label="the right answer")
        axis.bar(at, given - right, bottom=right, color="C1", hatch="///", label="a wrong one")
        axis.step(at, there, where="mid", color="0.2", linewidth=1, label="clips there are")
        axis.set_title(title, fontsize=10)
        axis.set_xticks(at if few else [], names if few else [], rotation=90, fontsize=8)
        axis.set_xlabel("" if few else f"{len(names)} names")
        axis.grid(visible=False, axis="x")
    axes[0, 0].set_ylabel("clips given this name")
    _legend(figure, *axes[0, 0].get_legend_handles_labels())
    return figure


def scattered(features: Mapping[str, Tensor], labels: Mapping[str, np.ndarray]) -> Figure:
    """Features (n, d) in the plane in which they vary most (PCA) and its share of their variance: a
    column for each set of them, a row for each way to colour them, by (n,) names, with a legend
    where these are few.
    """
    shape, size = (len(labels), len(features)), (WIDE + 1, 2.4 * len(labels))
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained")
    for column, (title, x) in zip(axes.T, features.items(), strict=True):
        u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        xy, share = (u * s)[:, :2].numpy(), float(s[:2].square().sum() / s.square().sum())
        for axis, (what, names) in zip(column, labels.items(), strict=True):
            kinds = sorted(set(names))
            colours = sns.color_palette("husl" if len(kinds) > 10 else "colorblind", len(kinds))
            for i, (kind, colour) in enumerate(zip(kinds, colours, strict=True)):
                look = {"color": [colour], "marker": MARKERS[i % len(MARKERS)], "label": kind}
                axis.scatter(*xy[names == kind].T, s=10, linewidths=0, **look)
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{title}, by {what}", fontsize=9)
            if axis in axes[:, -1] and len(kinds) <= 12:
                place = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "handletextpad": 0}
                axis.legend(fontsize=7, markerscale=1.6, **place)
        column[-1].set_xlabel(f"{100 * share:.0f} % of the variance", fontsize=8)
    return figure


def _legend(figure: Figure, handles: Sequence, labels: Sequence[str]) -> None:
    """Above the axes, in as many columns as the longest label leaves room for."""
    columns = int(figure.get_figwidth() / (0.065 * max(map(len, labels)) + 0.55))
    place = {"fontsize": 8, "loc": "outside upper center", "ncols": max(1, min(4, columns))}
    figure.legend(handles, labels, **place)


def confusion(matrices: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Confusion matrices side by side: rows are the truth and sum to 100 %."""
    size, how = (NARROW * len(matrices), 3.1), {"squeeze": False, "sharey": True}
    figure, axes = plt.subplots(1, len(matrices), figsize=size, layout="constrained", **how)
    for axis, (title, counts) in zip(axes[0], matrices.items(), strict=True):
        share = 100 * np.asarray(counts) / np.maximum(1, np.asarray(counts).sum(1, keepdims=True))
        look = {"annot": True, "fmt": ".0f", "annot_kws": {"size": 7}, "cmap": "Greys"}
        look |= {"vmin": 0, "vmax": 100, "cbar": False, "square": True}
        sns.heatmap(share, ax=axis, xticklabels=names, yticklabels=names, **look)
        axis.set(title=title, xlabel="recognised as")
        axis.tick_params(labelsize=7)
    axes[0, 0].set_ylabel("true expression, %")
    return figure
