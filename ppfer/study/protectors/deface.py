"""deface, the tool most people would take: its blur, mosaic or box over the face it finds.

Where no face is found deface shows the frame as it was, and so do these rows: they say in how many.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ppfer.base.device import single_thread_pool
from ppfer.protect import NamedApply
from ppfer.run.clips import by_clip, counted
from ppfer.run.run import Run
from ppfer.run.stage import Protector, Stage, stage
from ppfer.video.faces import Finder, enlarged, finder_missing, surest

CLIPS = 16  # looked at by one thread at a time
MASK = 1.3  # deface's default: size of the mask in boxes
WAYS = {"blur": "Deface", "mosaic": "Deface, mosaic", "solid": "Deface, box"}


@stage("deface_faces", needs=("clips",), notebook="08", alone=True)
class FoundFaces(Stage):
    """The surest face of every frame, (N, T, 5): left, top, right, bottom in shares of the picture
    and its score; NaN where none was found.
    """

    def make(self, folder: Path) -> dict:
        clips, cv2 = self.run.tensor("clips"), Finder().cv2
        with single_thread_pool() as pool:
            cv2.setNumThreads(1)  # OpenCV's own would be in the way of these
            parts = counted(pool.map(surest, clips.split(CLIPS)), self.name, len(clips))
            np.save(folder / "faces.npy", found := np.concatenate([*parts]))
            cv2.setNumThreads(-1)
        return {"frames": found[..., 0].size, "without": int(np.isnan(found[..., 0]).sum())}

    def load(self, folder: Path) -> np.ndarray:
        return np.load(folder / "faces.npy")


def build(run: Run, way: str) -> NamedApply:
    """Clips (B, T, 3, S, S) and their names → the same, defaced."""
    from deface.deface import anonymize_frame  # an extra, and slow to import

    found = by_clip(run, run.get("deface_faces"))

    def apply(clips: Tensor, names: Sequence[str]) -> Tensor:
        big = enlarged(clips)
        for pictures, name in zip(big, names, strict=True):
            for picture, face in zip(pictures, found[name], strict=True):
                if not np.isnan(face[0]):
                    box = np.array([[*face[:4] * picture.shape[0], face[4]]])
                    anonymize_frame(box, picture, MASK, way, True, False, None, 20)
        pixels = torch.from_numpy(big).permute(0, 1, 4, 2, 3).flatten(0, 1).float() / 255
        small = F.interpolate(pixels, clips.shape[-2:], mode="area")
        return small.view(clips.shape).to(clips.device)

    return apply


SAID = (
    "deface 1.5's {way} on the face it finds; none found in {without:,} of {frames:,} frames, "
    "which stay as they were"
)
PROTECTORS = tuple(
    Protector(
        f"deface_{way}",
        title,
        lambda run, way=way: build(run, way),
        lambda run, way=way: SAID.format(way=way, **run.summary("deface_faces")),
        needs=("deface_faces",),
        named=True,
        missing=lambda run: finder_missing(),
    )
    for way, title in WAYS.items()
)
