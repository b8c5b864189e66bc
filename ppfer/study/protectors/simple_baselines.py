"""What people reach for first: mosaic, a drawing of landmarks, the motion alone; and one picture
for everybody, the control that must score chance.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ppfer.protect import Apply, NamedApply
from ppfer.run.clips import by_clip
from ppfer.run.run import Run
from ppfer.run.stage import Protector
from ppfer.study.attacks.recovery import mean_image
from ppfer.study.protectors.live import motion_only
from ppfer.study.protectors.swap import swap_missing
from ppfer.video.scene import COVERS, TILES

FINE = 4  # landmarks are drawn this much larger and shrunk
# Of the 68 landmarks in iBUG's order, first and last.
LINES = ((0, 16), (17, 21), (22, 26), (27, 30), (31, 35))  # jaw, brows, nose and below it
LOOPS = ((36, 41), (42, 47), (48, 59), (60, 67))  # eyes, lips


def drawing(points: np.ndarray, size: int) -> np.ndarray:
    """Landmarks (68, 2), shares of width and height, as white lines on black: (size, size) in
    [0, 1]; grey if there are none.
    """
    if np.isnan(points).any():
        return np.full((size, size), 0.5, np.float32)
    canvas = Image.new("L", (FINE * size, FINE * size))
    pen, places = ImageDraw.Draw(canvas), [tuple(p) for p in (points * FINE * size).tolist()]
    for first, last in (*LINES, *LOOPS):
        line = places[first : last + 1]
        closed = (first, last) in LOOPS
        pen.line(line + line[:1] * closed, fill=255, width=FINE)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX), np.float32) / 255


def build_landmarks(run: Run) -> NamedApply:
    """Clips (B, T, 3, H, W) and their names → drawings of their landmarks, of the same shape."""
    found = by_clip(run, run.get("landmarks").numpy())  # (T, 68, 2) each

    def drawn(clips: Tensor, names: Sequence[str]) -> Tensor:
        pictures = [[drawing(points, clips.shape[-1]) for points in found[name]] for name in names]
        lines = torch.from_numpy(np.array(pictures)).to(clips.device)  # (B, T, H, W)
        return lines[:, :, None].expand_as(clips)

    return drawn


def build_mean(run: Run) -> Apply:
    """Clips → the mean training image in every frame."""
    picture = mean_image(run).to(run.device)
    return lambda clips: picture.expand_as(clips)


PROTECTORS = (
    Protector("mosaic", "Mosaic", lambda run: COVERS["mosaic"], f"{TILES} × {TILES} tiles"),
    Protector(
        "landmarks",
        "Landmarks",
        build_landmarks,
        "68 facial landmarks as lines, nothing else",
        needs=("landmarks",),
        named=True,
        missing=swap_missing,
    ),
    Protector("motion", "Motion alone", lambda run: motion_only, "x − mean over the clip's time"),
    Protector(
        "mean",
        "Mean image (control)",
        build_mean,
        "one picture for every frame: whatever is read from it is chance",
        needs=("split",),
    ),
)
