"""A small picture of each notebook: one pair of tiles that tells what it is about, from a run."""

from __future__ import annotations

import json

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ppfer.base.errors import PpferError
from ppfer.measure import as_rate
from ppfer.method.networks import band_split
from ppfer.run.run import Run
from ppfer.show.plots import font, pixels
from ppfer.study.attacks.recovery import undo

SIDE, GAP, WORDS = 96, 4, 18  # pixels: of a tile, between tiles, of the caption below
Tile = tuple[str, Image.Image]  # caption, picture


def picture(frame: Tensor) -> Image.Image:
    """A frame (3, H, W) or (H, W) as a tile."""
    return Image.fromarray(pixels(frame)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def bar(share: float, colour: str) -> Image.Image:
    """A share in [0, 1] as a bar with its percentage."""
    tile = Image.new("RGB", (SIDE, SIDE), "white")
    pen, top = ImageDraw.Draw(tile), WORDS + (1 - share) * (SIDE - WORDS)
    pen.rectangle((SIDE // 4, top, 3 * SIDE // 4, SIDE - 1), colour)
    pen.text((SIDE // 2, top - 3), f"{100 * share:.0f} %", "black", font(13), anchor="mb")
    return tile


def beside(tiles: list[Tile]) -> Image.Image:
    """Tiles in a row, their captions below."""
    width = len(tiles) * (SIDE + GAP) - GAP
    sheet = Image.new("RGB", (width, SIDE + WORDS), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (words, tile) in enumerate(tiles):
        x = i * (SIDE + GAP)
        sheet.paste(tile, (x, 0))
        size = next((s for s in range(12, 7, -1) if font(s).getlength(words) <= SIDE), 7)
        at = (x + SIDE // 2, SIDE + WORDS // 2)
        pen.text(at, words, "black", font(size), anchor="mm")
    return sheet


FRAMES = {  # of the middle test clip: notebook, caption → store
    "04": {"V": "clips", "copy": "protected/copies", "G": "protected/enhanced"},
    "05": {"G": "protected/enhanced", "C": "protected/ppfer"},
    "08": {"blur": "protected/blur1", "flow": "protected/flow"},
    "11": {"a face": "clips", "its donor": "protected/codebook"},
    "12": {"filmed": "clips", "codebook": "protected/codebook", "PPFER": "protected/ppfer"},
}
BARS = {  # notebook: colour, table, caption → its row and column
    "06": (
        *("#0173b2", "main"),
        {
            "read of V": ("No privacy preservation", "acc_retrained"),
            "read of C": ("PPFER (C)", "acc_retrained"),
        },
    ),
    "07": (
        *("#d55e00", "main"),
        {"V_pl as trained": ("PPFER (C)", "plr"), "retrained": ("PPFER (C)", "plr_retrained")},
    ),
    "10": (
        *("#029e73", "table4"),
        {
            "without F_fc": ("Task 5", "acc_retrained"),
            "with F_fc": ("Full method", "acc_retrained"),
        },
    ),
}
BANDS = {
    "01": ("approximation", "horizontal details", 0),
    "02": ("who? in low", "and in high?", -1),
}


def tiles(run: Run, number: str) -> list[Tile]:
    """What a notebook is about, from a run that is finished so far."""
    table, test, middle = run.table, run.parts["test"], run.config.frames // 2
    clip, other = int(test[len(test) // 2]), int(test[-1])
    if number in FRAMES:
        stores = FRAMES[number].items()
        return [(words, picture(run.tensor(store)[clip, middle])) for words, store in stores]
    if number in BARS:
        colour, name, cells = BARS[number]
        rows = json.loads((run.dir / "tables" / f"{name}.json").read_text())
        row_of = {row["approach"]: row for row in rows}
        shares = {words: as_rate(row_of[row][key]) for words, (row, key) in cells.items()}
        return [(words, bar(share.value, colour)) for words, share in shares.items()]
    if number in BANDS:
        frame = run.tensor("clips")[clip, middle][None].float().cpu() / 255
        low, high = band_split(run.config).split(frame)  # (1, 3, h, w), (sub-bands, 3, h, w)
        in_low, in_high, which = BANDS[number]
        detail = 0.5 + 4 * (high[which] - high[which].mean())
        return [(in_low, picture(low[0])), (in_high, picture(detail))]
    if number == "09":
        hidden = run.tensor("protected/ppfer")[clip, middle][None, None].cpu()
        with torch.inference_mode():
            back = undo(run.get("recovery/ppfer"), hidden, run.device)
        return [("C", picture(hidden[0, 0])), ("undone", picture(back[0, 0]))]
    both = table.loc[[clip, other]]
    words = both.actor + (" " + both.emotion if number == "00" else "")
    frames = (run.tensor("clips")[i, middle] for i in (clip, other))
    return list(zip(words, map(picture, frames)))


def drawn(run: Run) -> dict[str, Image.Image]:
    """Number of a notebook → its picture; without those of which the run lacks something."""
    found = {}
    for number in (f"{n:02}" for n in range(13)):
        try:
            found[number] = beside(tiles(run, number))
        except (PpferError, OSError, KeyError, ValueError) as missing:
            print(f"figures/thumbs/{number}.png stays as it is: {missing}")
    return found
