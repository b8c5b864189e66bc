"""The notebooks' explorer of what approaches trade for what."""

from collections.abc import Sequence

import torch
from matplotlib.transforms import Bbox
from PIL import Image

from ppfer.measure import as_rate
from ppfer.run.run import Run
from ppfer.show import notebook, plots
from ppfer.show.tradeoff import ATTACKERS, figure

APART = 12  # pixels between two pictures


def stacked(*images: Image.Image) -> Image.Image:
    """Pictures under each other."""
    size = max(i.width for i in images), sum(i.height + APART for i in images)
    canvas, y = Image.new("RGB", size, "white"), 0
    for image in images:
        canvas.paste(image, (0, y))
        y += image.height + APART
    return canvas


def explore_tradeoff(run: Run, rows: Sequence[dict], names: Sequence[str]) -> None:
    """The trade-off explorer: identity named against expression read, one point per approach, rows
    of Table 1 in the order of the protectors' `names`; the chosen one shows its clip beside the
    original.
    """
    titles = {row["approach"]: name for row, name in zip(rows, names, strict=True)}
    placed: list[Bbox] = []  # the axes: their layout is worked out once, a third of the time

    def draw(approach: str, compared: tuple, attacker: str, measure: str) -> tuple:
        """The picture of one setting, and its description."""
        how = {"attacker": attacker, "utilities": (measure,), "shown": {*compared, approach}}
        drawing = figure(rows, chosen=approach, **how)
        if placed:
            drawing.set_layout_engine("none")
            drawing.axes[0].set_position(placed[0])
        canvas = plots.drawn(drawing)
        placed[:] = [drawing.axes[0].get_position()]

        test, at = int(run.parts["test"][0]), torch.linspace(0, run.config.frames - 1, 6).long()
        stores = (run.tensor(f"protected/{kind}") for kind in ("none", titles[approach]))
        strip = [store[test].cpu()[at] for store in stores]
        image = stacked(canvas, plots.image_grid(strip, ["original", approach], cell=1.1))
        picked = next(row for row in rows if row["approach"] == approach)
        named, read = (as_rate(picked[key]) for key in (attacker, measure))
        words = f"{approach}: identity named {named}, expressions read {read}"
        words += f"; {len(how['shown'])} approaches compared"
        return image, words if approach in compared else f"{words}; the chosen one always is"

    ours = [title for title, name in titles.items() if name == "ppfer"] or list(titles)
    attackers = [key for key in ATTACKERS if key in rows[0]]
    start = {"approach": ours[0], "compared": tuple(titles), "attacker": attackers[0]}
    start |= {"measure": "acc_retrained"}
    cases = [start, start | {"approach": list(titles)[0], "attacker": "plr", "measure": "acc"}]
    controls = {"attacker": attackers, "measure": ["acc_retrained", "acc"]}
    compared = notebook.several(titles)
    notebook.explore(draw, cases, approach=list(titles), compared=compared, **controls)
