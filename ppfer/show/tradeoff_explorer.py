"""The notebooks' explorer of what approaches trade for what."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.transforms import Bbox
from PIL import Image

from ppfer.measure import as_rate
from ppfer.run.run import Run
from ppfer.show import notebook, plots
from ppfer.show.tradeoff import ATTACKERS, figure


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


def explore_tradeoff(run: Run, rows: Sequence[dict], names: Sequence[str]) -> None:
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
        image, words = tradeoff_picture(run, rows, *names, approach, attacker, measure, placed)
        return image, words if approach in compared else f"{words}; the chosen one always is"

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
