"""deface, the tool most people would take: its blur, mosaic or box over the face it finds.

Where no face is found deface shows the frame as it was, and so do these rows: they say in how many.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ppfer.device import Progress
from ppfer.faces import Finder, finder_missing
from ppfer.run import Run
from ppfer.stage import Protector, Stage, stage

LEAST = 160  # smaller pictures are enlarged to this side before a face is looked for
THRESHOLD, MASK = 0.2, 1.3  # deface's defaults: least score, size of the mask in boxes
WAYS = {"blur": "Deface", "mosaic": "Deface, mosaic", "solid": "Deface, box"}


def enlarged(clips: Tensor) -> np.ndarray:
    """Clips (B, T, 3, S, S) in [0, 1] → (B, T, L, L, 3) uint8 with L at least `LEAST`."""
    side = max(LEAST, clips.shape[-1])
    big = F.interpolate(clips.flatten(0, 1), (side, side), mode="bicubic", align_corners=False)
    pixels = big.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).contiguous()
    return pixels.cpu().numpy().reshape(*clips.shape[:2], side, side, 3)


@stage("deface_faces", needs=("clips",), notebook="08", study=True, alone=True)
class FoundFaces(Stage):
    """The surest face of every frame, (N, T, 5): left, top, right, bottom in shares of the picture
    and its score; NaN where none was found.
    """

    def make(self, folder: Path) -> dict:
        clips, finder = self.run.tensor("clips"), Finder(threshold=THRESHOLD)
        found = np.full((*clips.shape[:2], 5), np.nan, np.float32)
        progress = Progress(self.name, len(clips))
        for row, clip in enumerate(clips):
            for t, picture in enumerate(enlarged(clip[None].float().cpu() / 255)[0]):
                faces = finder.find(picture)
                if len(faces):
                    best = faces[faces[:, 4].argmax()]
                    found[row, t] = [*best[:4] / picture.shape[0], best[4]]
            progress.update(row + 1)
        np.save(folder / "faces.npy", found)
        return {
            "frames": found.shape[0] * found.shape[1],
            "without": int(np.isnan(found[..., 0]).sum()),
        }

    def load(self, folder: Path) -> np.ndarray:
        return np.load(folder / "faces.npy")


def build(run: Run, way: str) -> Callable[[Tensor, range], Tensor]:
    """Clips (B, T, 3, S, S) and their rows → the same, defaced."""
    from deface.deface import anonymize_frame  # an extra, and slow to import

    found = run.get("deface_faces")

    def apply(clips: Tensor, rows: range) -> Tensor:
        big = enlarged(clips)
        for pictures, faces in zip(big, found[list(rows)], strict=True):
            for picture, face in zip(pictures, faces, strict=True):
                if not np.isnan(face[0]):
                    box = np.array([[*face[:4] * picture.shape[0], face[4]]])
                    anonymize_frame(box, picture, MASK, way, True, False, None, 20)
        pixels = torch.from_numpy(big).permute(0, 1, 4, 2, 3).flatten(0, 1).float() / 255
        small = F.interpolate(pixels, clips.shape[-2:], mode="area")
        return small.view(clips.shape).to(clips.device)

    return apply


def _said(run: Run, way: str) -> str:
    made = run.summary("deface_faces")
    return (
        f"deface 1.5's {way} on the face it finds; none found in {made['without']:,} of "
        f"{made['frames']:,} frames, which stay as they were"
    )


PROTECTORS = tuple(
    Protector(
        f"deface_{way}",
        title,
        lambda run, way=way: build(run, way),
        lambda run, way=way: _said(run, way),
        needs=("deface_faces",),
        rows=True,
        missing=lambda run: finder_missing(),
    )
    for way, title in WAYS.items()
)
