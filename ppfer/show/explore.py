"""Explorers of the notebooks: a face's bands, and what approaches trade for what."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from ppfer.measure import as_rate
from ppfer.run.run import Run
from ppfer.show import notebook, plots
from ppfer.show.tradeoff import ATTACKERS, figure
from ppfer.wavelets import BandSplit, analysis_matrix

WAVELETS = ("haar", "db2", "db4", "sym4", "sym5", "bior2.2", "bior4.4")
BANDS = ("all details", "approximation", "horizontal", "vertical", "diagonal", "temporal")


def bands(run: Run, cases: Sequence[dict] = ({},)) -> None:
    """The band explorer: the original frame, its bands with their energy, the frame put together
    again with one band made stronger or weaker, and the matrix that did it.

    Args:
        cases: settings that differ from the run's own, each a static picture where nobody can move
            a control: actor, expression, frame, wavelet, level, form, axes, band, gain.
    """
    ours, frames = run.config.bands, run.config.frames
    actors, expressions = run.classes("actor"), run.classes("emotion")
    start = {"actor": actors[0], "expression": expressions[0], "frame": frames // 2}
    start |= {"wavelet": ours.wavelet, "level": ours.level, "form": ours.form, "axes": ours.axes}
    start |= {"band": "all details", "gain": 0.0}
    wavelets = list(dict.fromkeys([ours.wavelet, *WAVELETS]))
    controls = {"actor": actors, "expression": expressions, "frame": (0, frames - 1)}
    controls |= {"wavelet": wavelets, "level": (1, 3), "form": ["subband", "image"]}
    controls |= {"axes": ["hw", "t", "thw"], "band": list(BANDS), "gain": (0.0, 4.0, 0.25)}

    def draw(**values: object) -> tuple[Image.Image, str]:
        return band_picture(run, **values)

    notebook.explore(draw, [start | case for case in cases], **controls)


def band_picture(
    run: Run, actor: str, expression: str, frame: int, wavelet: str, level: int, form: str,
    axes: str, band: str, gain: float,
) -> tuple[Image.Image, str]:  # fmt: skip
    """What the band explorer shows for one setting, and its description."""
    table = run.table
    mine = table.index[(table.actor == actor) & (table.emotion == expression)]
    clip = run.tensor("clips")[int([*mine, *table.index[table.actor == actor]][0])][None]
    clip = clip.cpu().float() / 255  # (1, T, 3, H, W)
    seen = clip if "t" in axes else clip[:, frame : frame + 1]
    at = min(frame, seen.shape[1] - 1)
    split = BandSplit(wavelet, level, run.config.bands.mode, form, axes)
    low, high = split.split(seen)

    # what the chosen band adds to the frame: the frame without it tells
    names = [n for n in split.names[1:] if band in ("all details", n.rstrip("_0123456789"))]
    names = list(split.names[1:]) if form == "image" and band != "approximation" else names
    rest, without = high.clone(), low
    for name in split.names[1:] if band == "approximation" else names:
        split.details(rest, seen)[name].fill_(0.5)  # a view of one clip: this changes `rest`
    added = split.merge(without, rest, like=seen)
    added = added if band == "approximation" else seen - added
    changed = seen + (gain - 1) * added

    parts = split.coefficients(low, high, like=seen)
    squares = {name: float(x.square().sum()) for name, x in parts.items()}
    energy = {name: 100 * x / sum(squares.values()) for name, x in squares.items()}
    matrix = analysis_matrix(seen.shape[1] if axes == "t" else seen.shape[-1], wavelet, level)
    top = [seen[0, at], changed[0, at], 0.5 + (changed - seen)[0, at] / 2]
    called = "all details" if form == "image" and band != "approximation" else band
    called = called if names or band == "approximation" else f"no {band} band"
    titles = ("original", f"{called} × {gain:g}", "change", f"matrix, {wavelet}")
    upper = plots.image_row([*top, plots.signed(matrix)], titles, cell=1.9)

    # a row for each level, the deepest first: what its approximation was split into
    rows, titles, wide = [], [], 1 + (len(parts) - 1) // (level if form == "subband" else 1)
    for deep in range(level, 0, -1):
        one = BandSplit(wavelet, deep, run.config.bands.mode, form, axes)
        row = list(one.coefficients(*one.split(seen), like=seen).items())[:wide]
        share = sum(x for name, x in energy.items() if name.endswith(f"_{deep}"))
        titles.append(
            f"{actor} {expression}\nlevel {deep}" + (f": {share:.2f}\u00a0%" if share else "")
        )
        rows.append({})
        for name, x in row:
            share = f" {energy[name]:.2f}\u00a0%" if level == 1 else ""
            title = name.rstrip("_0123456789").replace("_", " ") + share
            rows[-1][title] = x[min(at * len(x) // seen.shape[1], len(x) - 1)]
    lower = plots.bands(rows, titles, cell=min(1.5 if level == 1 else 1.1, 6.4 / wide))
    words = ", ".join(f"{name} {share:.2f} %" for name, share in energy.items())
    return stacked(upper, lower), f"{actor} {expression}, frame {frame}: energy {words}"


def stacked(*images: Image.Image) -> Image.Image:
    """Pictures under each other, 12 pixels apart."""
    canvas = Image.new(
        "RGB", (max(i.width for i in images), sum(i.height + 12 for i in images)), "white"
    )
    y = 0
    for image in images:
        canvas.paste(image, (0, y))
        y += image.height + 12
    return canvas


def tradeoff(run: Run, rows: Sequence[dict], names: Sequence[str]) -> None:
    """The trade-off explorer: identity named against expression read, one point per approach; the
    chosen point shows its clip beside the original.

    Args:
        rows: of Table 1, in the order of `names`.
        names: protectors.
    """
    titles = {row["approach"]: name for row, name in zip(rows, names, strict=True)}
    attackers = [key for key in ATTACKERS if key in rows[0]]
    ours = [title for title, name in titles.items() if name == "ppfer"] or list(titles)
    start = {"approach": ours[0], "compared": tuple(titles), "attacker": attackers[0]}
    start["measure"] = "acc_retrained"

    def draw(approach: str, compared: tuple, attacker: str, measure: str) -> tuple:
        names = titles[approach], {*compared, approach}
        return tradeoff_picture(run, rows, *names, approach, attacker, measure)

    many = notebook.several(titles)
    controls = {"approach": list(titles), "compared": many, "attacker": attackers}
    controls["measure"] = ["acc_retrained", "acc"]
    cases = [start, start | {"approach": list(titles)[0], "attacker": "plr", "measure": "acc"}]
    notebook.explore(draw, cases, **controls)


def tradeoff_picture(
    run: Run, rows: Sequence[dict], name: str, compared: set, approach: str, attacker: str,
    measure: str,
) -> tuple[Image.Image, str]:  # fmt: skip
    """What the trade-off explorer shows for one setting, and its description."""
    how = {"attacker": attacker, "utilities": (measure,), "shown": compared, "chosen": approach}
    canvas = plots.drawn(figure(rows, **how))
    test = run.parts["test"][0]
    at = torch.linspace(0, run.config.frames - 1, 6).long()
    clips = [run.tensor(f"protected/{kind}")[int(test)].cpu()[at] for kind in ("none", name)]
    strip = plots.image_grid(clips, ["original", approach], cell=1.1)
    picked = next(row for row in rows if row["approach"] == approach)
    named, read = (as_rate(picked[key]) for key in (attacker, measure))
    words = f"{approach}: identity named {named}, expressions read {read}"
    return stacked(canvas, strip), f"{words}; {len(compared)} approaches compared"
