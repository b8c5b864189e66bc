"""Image swapping (paper §4.3): one donor face outside the data set, warped piecewise onto every
face and blended.

The paper uses MobileFaceSwap. This is a landmark-driven substitute: 68 landmarks (iBUG's order) of
every frame carry the donor's picture triangle by triangle, so that mouth and eyes move. The twin
knows its landmarks from the head model; on other video dlib finds them (extra ``landmarks``). The
donor is synthetic everywhere. Stage: landmarks.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.tri import Triangulation
from torch import Tensor, nn

from ppfer import twin
from ppfer.base.errors import PpferError
from ppfer.base.progress import Progress
from ppfer.run.clips import by_clip, twin_origin
from ppfer.run.run import Run
from ppfer.run.stage import Protector, Stage, stage
from ppfer.study.protectors.blur import GaussianBlur
from ppfer.twin import raster
from ppfer.twin.people import DONOR
from ppfer.video import sample_positions

DETECTION_SIDE = 288  # dlib's detector wants faces of 80 pixels or more


def donor(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The donor's face, a synthetic one: picture (3, size, size) in [0, 1] and landmarks (68, 2) as
    shares of it.

    Of a spoken clip the frame is taken in which mouth and eyes are widest open: closing them in a
    warp is easy, opening is not.
    """
    spec = twin.ClipSpec("donor", twin.Actor(DONOR), "WSI", "neutral", difficulty=0)
    points = twin.landmarks(spec)  # (T, 68, 2)
    gap = [
        np.linalg.norm(points[:, a] - points[:, b], axis=-1)
        for a, b in ((62, 66), (37, 41), (44, 46))
    ]
    best = int((gap[0] * np.minimum(gap[1], gap[2])).argmax())
    picture = twin.render_clips([spec], size, device)[0, best].float() / 255
    return picture, torch.from_numpy(points[best]).float().to(device)


def triangles(points: Tensor) -> Tensor:
    """Delaunay triangulation of points (L, 2): (M, 3) int64 corners."""
    return torch.from_numpy(
        Triangulation(*points.cpu().double().numpy().T).triangles.astype(np.int64)
    ).to(points.device)


class FaceSwap(nn.Module):
    """Every face replaced by one donor's, warped piecewise affinely to the clip's landmarks and
    blended inside their hull.

    Args:
        picture: the donor, (3, h, w) in [0, 1].
        points: the donor's landmarks (L, 2), shares of its width and height.
        landmarks: (T, L, 2) of each clip by its name, same order; NaN in frames where no face was
            found, which turn grey.
    """

    def __init__(self, picture: Tensor, points: Tensor, landmarks: Mapping[str, Tensor]):
        super().__init__()
        self.picture, self.points, self.landmarks, self.faces = (
            picture,
            points,
            landmarks,
            triangles(points),
        )

    def forward(self, clips: Tensor, names: Sequence[str]) -> Tensor:
        """Clips (B, T, 3, H, W) in [0, 1] and their names → the same shape in [0, 1]."""
        size, frames = clips.shape[-1], clips.flatten(0, 1)  # (n, 3, H, W)
        points = torch.cat([self.landmarks[name] for name in names]).to(clips.device)  # (n, L, 2)
        found = ~points.isnan().flatten(1).any(1)

        # which triangle of the face each pixel lies in: (n, L, 3) in pixels, all at one depth
        corners = F.pad(points.nan_to_num() * size, (0, 1))
        where, face, weights = raster.rasterize(
            corners,
            self.faces,
            size,
            double=torch.ones(len(self.faces), dtype=torch.bool, device=clips.device),
        )
        # from where in the donor's picture it takes its colour
        source = raster.interpolate(
            self.points.expand(len(frames), -1, -1), self.faces, where // size**2, face, weights
        )  # (P, 2)
        lookup = (
            torch.zeros(len(frames) * size**2, 2, device=clips.device)
            .index_copy(0, where, source)
            .view(-1, size, size, 2)
        )
        covered = (
            torch.zeros(len(frames) * size**2, device=clips.device)
            .index_fill(0, where, 1)
            .view(-1, 1, size, size)
        )
        warped = F.grid_sample(
            self.picture.expand(len(frames), -1, -1, -1),
            2 * lookup - 1,
            "bilinear",
            "border",
            align_corners=False,
        )

        # no edge shows: the donor fades in, 0 at the hull, 1 well inside
        blend = (2 * GaussianBlur(size / 32)(covered) - 1).clamp(0, 1) * covered
        swapped = torch.lerp(frames, warped, blend)
        return torch.where(found.view(-1, 1, 1, 1), swapped, 0.5).view_as(clips)


# --- Where the landmarks come from --------------------------------------------


def twin_spec(name: str, origin: dict) -> twin.ClipSpec:
    """What a twin clip shows, by its name and `twin_origin`."""
    return _specs(int(name.split("_")[0]), **origin)[name]


@functools.cache
def _specs(actor: int, frames: int, seed: int, difficulty: float) -> dict[str, twin.ClipSpec]:
    """All clips of a twin's actor by their names."""
    return {s.name: s for s in twin.actor_specs(twin.Actor(actor, seed), frames, difficulty)}


def dlib_model() -> Path | None:
    """dlib's 68-landmark model, which the package face-recognition-models carries; None without it
    or dlib.
    """
    found = importlib.util.find_spec("face_recognition_models")
    if not found or not importlib.util.find_spec("dlib"):
        return None
    return (
        Path(found.submodule_search_locations[0])
        / "models"
        / "shape_predictor_68_face_landmarks.dat"
    )


def found_landmarks(clip: Tensor, detector, predictor) -> np.ndarray:
    """Landmarks of the largest face in each frame of a clip, by dlib.

    A frame without a face takes the nearest frame's that has one.

    Args:
        clip: (T, 3, H, W) uint8.

    Returns:
        (T, 68, 2) shares of width and height; all NaN where no frame has a face.
    """
    big = (
        F.interpolate(
            clip.float(), (DETECTION_SIDE, DETECTION_SIDE), mode="bicubic", align_corners=False
        )
        .clamp(0, 255)
        .byte()
    )
    out = np.full((len(clip), 68, 2), np.nan, np.float32)
    for t, picture in enumerate(big.permute(0, 2, 3, 1).contiguous().numpy()):
        faces = detector(picture, 0)
        if faces:
            shape = predictor(picture, max(faces, key=lambda box: box.area()))
            out[t] = [
                ((p.x + 0.5) / DETECTION_SIDE, (p.y + 0.5) / DETECTION_SIDE) for p in shape.parts()
            ]
    seen = np.flatnonzero(~np.isnan(out[:, 0, 0]))
    return (
        out[seen[np.abs(seen[None] - np.arange(len(out))[:, None]).argmin(1)]] if len(seen) else out
    )


def swap_missing(run: Run) -> str:
    """What image swapping cannot do without."""
    if twin_origin(run.config) or dlib_model():
        return ""
    return (
        "image swapping needs facial landmarks; for real video install the extra: pip install "
        "-e '.[landmarks]'"
    )


@stage("landmarks", needs=("clips",), notebook="08", study=True, alone=True)
class Landmarks(Stage):
    """68 landmarks of every frame of every clip, (N, T, 68, 2)."""

    def settings(self) -> dict:
        return {"twin": twin_origin(self.config)}

    def find(self) -> list[np.ndarray]:
        """(T, 68, 2) of each clip, from the head model or by dlib."""
        run, progress = self.run, Progress("landmarks", len(self.run.table), "clips")
        origin, found = twin_origin(self.config), []
        if origin is None:
            if why := swap_missing(run):
                raise PpferError(why)
            import dlib  # an extra: only real video needs it

            detector = dlib.get_frontal_face_detector()
            predictor = dlib.shape_predictor(str(dlib_model()))
        for row, name in enumerate(run.table["clip"]):
            if origin:
                at = sample_positions(origin["frames"], self.config.frames)  # as the store does
                known = twin.landmarks(twin_spec(name, origin))[at]
            else:
                known = found_landmarks(run.tensor("clips")[row].cpu(), detector, predictor)
            found.append(known)
            progress.update(row + 1)
        return found

    def make(self, folder: Path) -> dict:
        found = np.stack(self.find()).astype(np.float32)
        np.save(folder / "landmarks.npy", found)
        by = "the twin's head model" if twin_origin(self.config) else "dlib"
        return {"by": by, "without_face": int(np.isnan(found[:, 0, 0, 0]).sum())}

    def load(self, folder: Path) -> Tensor:
        return torch.from_numpy(np.load(folder / "landmarks.npy"))


def build_swap(run: Run) -> FaceSwap:
    """The swap of a run's clips, called with their names."""
    landmarks = by_clip(run, run.get("landmarks"))
    return FaceSwap(*donor(2 * run.config.size, run.device), landmarks)


def swap_what(run: Run) -> str:
    """What ran, with the clips in which no face was found."""
    summary = run.summary("landmarks")
    lost = (
        f"; no face found in {summary['without_face']} clips, which are grey"
        if summary["without_face"]
        else ""
    )
    return (
        f"one synthetic donor, piecewise affine to 68 landmarks by {summary['by']}, instead of "
        f"MobileFaceSwap{lost}"
    )


PROTECTOR = Protector(
    "swap",
    "Image swapping",
    build_swap,
    swap_what,
    needs=("landmarks",),
    named=True,
    missing=swap_missing,
)
