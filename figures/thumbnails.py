"""A small picture of each notebook: one pair of tiles that tells what it is about, from a run."""

from __future__ import annotations

import json
from collections.abc import Callable

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


class Pairs:
    """What the pairs are made of.

    Args:
        run: finished as far as the pairs are to be drawn.
    """

    def __init__(self, run: Run):
        self.run, test = run, run.parts["test"]
        self.clip, self.other = int(test[len(test) // 2]), int(test[-1])
        self.bands = band_split(run.config)

    def frame(self, store: str, clip: int | None = None) -> Image.Image:
        """The middle frame of a clip of a store."""
        clip = self.clip if clip is None else clip
        return picture(self.run.tensor(store)[clip, self.run.config.frames // 2])

    def split(self) -> tuple[Tensor, Tensor]:
        """The low band (1, 3, h, w) and the high bands of a frame."""
        frame = self.run.tensor("clips")[self.clip, self.run.config.frames // 2]
        return self.bands.split(frame[None].float().cpu() / 255)

    def shares(self, table: str, row: str, *keys: str) -> list[float]:
        """Shares in a row of a table."""
        rows = json.loads((self.run.dir / "tables" / f"{table}.json").read_text())
        (found,) = (r for r in rows if r["approach"] == row)
        return [as_rate(found[key]).value for key in keys]

    # --- a pair for each notebook -------------------------------------------------

    def nb00(self) -> list[Tile]:
        table, other = self.run.table, self.other
        labels = [f"{table.actor[i]} {table.emotion[i]}" for i in (self.clip, other)]
        return [(labels[0], self.frame("clips")), (labels[1], self.frame("clips", other))]

    def nb01(self) -> list[Tile]:
        low, high = self.split()
        detail = 0.5 + 4 * (high[0] - high[0].mean())
        return [("approximation", picture(low[0])), ("horizontal details", picture(detail))]

    def nb02(self) -> list[Tile]:
        low, high = self.split()
        detail = 0.5 + 4 * (high[-1] - high[-1].mean())
        return [("who? in low", picture(low[0])), ("and in high?", picture(detail))]

    def nb03(self) -> list[Tile]:
        names = [str(self.run.table.actor[i]) for i in (self.clip, self.other)]
        return [(names[0], self.frame("clips")), (names[1], self.frame("clips", self.other))]

    def nb04(self) -> list[Tile]:
        stores = {"V": "clips", "copy": "protected/copies", "G": "protected/enhanced"}
        return [(words, self.frame(store)) for words, store in stores.items()]

    def nb05(self) -> list[Tile]:
        return [("G", self.frame("protected/enhanced")), ("C", self.frame("protected/ppfer"))]

    def nb06(self) -> list[Tile]:
        rows = {"read of V": "No privacy preservation", "read of C": "PPFER (C)"}
        found = {words: self.shares("main", row, "acc_retrained")[0] for words, row in rows.items()}
        return [(words, bar(share, "#0173b2")) for words, share in found.items()]

    def nb07(self) -> list[Tile]:
        trained, again = self.shares("main", "PPFER (C)", "plr", "plr_retrained")
        return [("V_pl as trained", bar(trained, "#d55e00")), ("retrained", bar(again, "#d55e00"))]

    def nb08(self) -> list[Tile]:
        return [("blur", self.frame("protected/blur1")), ("flow", self.frame("protected/flow"))]

    def nb09(self) -> list[Tile]:
        middle = self.run.config.frames // 2
        hidden = self.run.tensor("protected/ppfer")[self.clip, middle][None, None].cpu()
        with torch.inference_mode():
            back = undo(self.run.get("recovery/ppfer"), hidden, self.run.device)
        return [("C", picture(hidden[0, 0])), ("undone", picture(back[0, 0]))]

    def nb10(self) -> list[Tile]:
        rows = {"without F_fc": "Task 5", "with F_fc": "Full method"}
        found = {w: self.shares("table4", row, "acc_retrained")[0] for w, row in rows.items()}
        return [(words, bar(share, "#029e73")) for words, share in found.items()]

    def nb11(self) -> list[Tile]:
        return [("a face", self.frame("clips")), ("its donor", self.frame("protected/codebook"))]

    def nb12(self) -> list[Tile]:
        stores = {"filmed": "clips", "codebook": "protected/codebook", "PPFER": "protected/ppfer"}
        return [(words, self.frame(store)) for words, store in stores.items()]


def drawn(run: Run) -> dict[str, Image.Image]:
    """Number of a notebook → its picture; without those of which the run lacks something."""
    pairs, found = Pairs(run), {}
    for name in sorted(name for name in dir(Pairs) if name.startswith("nb")):
        tiles: Callable[[], list[Tile]] = getattr(pairs, name)
        try:
            found[name[2:]] = beside(tiles())
        except (PpferError, OSError, KeyError, ValueError) as missing:
            print(f"figures/thumbs/{name[2:]}.png stays as it is: {missing}")
    return found
