"""Explorers of the notebooks: a face's bands, and what approaches trade for what."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.transforms import Bbox
from PIL import Image

from ppfer.measure import as_rate
from ppfer.run.names import synthetic
from ppfer.run.run import Run
from ppfer.show import notebook, plots, sources
from ppfer.show.band_panel import CLIP, BandPanel, clip_of
from ppfer.show.band_picture import DETAILS, Setting, band_picture
from ppfer.show.canvas import on_white
from ppfer.show.tradeoff import ATTACKERS, figure


def bands(run: Run, cases: Sequence[dict] = ({},)) -> None:
    """The band explorer: a frame, the frame put together again with its bands made stronger or
    weaker, the wavelet that split it, and the bands with their energy.

    With a person there, every control of `BandPanel`, beginning with the first case.

    Args:
        cases: settings that differ from the run's own, each a static picture where nobody can move
            a control: picture (one of `ppfer.show.sources.CARDS`, or clips of the run), actor,
            expression, and those of `band_picture.Setting`. Where clips may be of people, a test
            card is drawn instead: what a notebook saves shows nobody.
    """
    ours = run.config.bands
    start = {"picture": CLIP, "actor": run.classes("actor")[0]}
    start |= {"expression": run.classes("emotion")[0], "frame": run.config.frames // 2}
    start |= {"wavelet": ours.wavelet, "mode": ours.mode, "level": ours.level, "form": ours.form}
    start |= {"axes": ours.axes, "gains": {DETAILS: 0.0}, "threshold": 0.0, "noise": 0.0}
    start |= {"one_scale": False}
    cases = [start | case for case in cases]
    if notebook.interactive():
        return notebook.with_controls(BandPanel(run, cases[0]), *static_bands(run, cases[0]))
    for case in cases:
        notebook.picture(*static_bands(run, case))


def static_bands(run: Run, case: dict) -> tuple[Image.Image, str]:
    """What a notebook saves of one setting, on white paper, and its description."""
    how, config = dict(case), run.config
    picture, actor, expression = (how.pop(name) for name in ("picture", "actor", "expression"))
    drawn = config.generate or synthetic(config.data, config.wild)
    if picture == CLIP and drawn:
        clip, title = clip_of(run, actor, expression)
    else:
        title = "chirp" if picture == CLIP else picture
        clip = sources.card(title, config.frames)
    image, words = band_picture(clip, title, Setting(**how))
    return on_white(image), words


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

    placed: list[Bbox] = []  # the axes: their layout is worked out once, a third of the time

    def draw(approach: str, compared: tuple, attacker: str, measure: str) -> tuple:
        names = titles[approach], {*compared, approach}
        return tradeoff_picture(run, rows, *names, approach, attacker, measure, placed)

    many = notebook.several(titles)
    controls = {"approach": list(titles), "compared": many, "attacker": attackers}
    controls["measure"] = ["acc_retrained", "acc"]
    cases = [start, start | {"approach": list(titles)[0], "attacker": "plr", "measure": "acc"}]
    notebook.explore(draw, cases, **controls)


def tradeoff_picture(
    run: Run, rows: Sequence[dict], name: str, compared: set, approach: str, attacker: str,
    measure: str, placed: list[Bbox],
) -> tuple[Image.Image, str]:  # fmt: skip
    """What the trade-off explorer shows for one setting, and its description.

    Args:
        placed: where the axes were drawn before, or nothing; they are put there again.
    """
    how = {"attacker": attacker, "utilities": (measure,), "shown": compared, "chosen": approach}
    drawing = figure(rows, **how)
    if placed:
        drawing.set_layout_engine("none")
        drawing.axes[0].set_position(placed[0])
    canvas = plots.drawn(drawing)
    placed[:] = [drawing.axes[0].get_position()]
    test = run.parts["test"][0]
    at = torch.linspace(0, run.config.frames - 1, 6).long()
    clips = [run.tensor(f"protected/{kind}")[int(test)].cpu()[at] for kind in ("none", name)]
    strip = plots.image_grid(clips, ["original", approach], cell=1.1)
    picked = next(row for row in rows if row["approach"] == approach)
    named, read = (as_rate(picked[key]) for key in (attacker, measure))
    words = f"{approach}: identity named {named}, expressions read {read}"
    return stacked(canvas, strip), f"{words}; {len(compared)} approaches compared"
