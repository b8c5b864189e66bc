"""Image swapping (paper §4.3): one synthetic donor's face in place of every face.

The paper uses MobileFaceSwap. This is a landmark-driven substitute: 68 landmarks (iBUG's order) of
every frame carry the donor's picture triangle by triangle, so that mouth and eyes move. The twin
knows its landmarks from the head model; on other video dlib finds them (extra ``landmarks``).
Stage: landmarks.

The perfect swap is the limit: a twin's clip drawn again with its motion, pose and light on the
donor's head. No method that shows the motion can leak less, so other rows are read against it. Of
real video nobody knows the motion.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.tri import Triangulation
from torch import Tensor, nn

from ppfer import twin
from ppfer.base.errors import PpferError
from ppfer.protect import NamedApply
from ppfer.run.clips import by_clip, counted, twin_origin
from ppfer.run.run import Run
from ppfer.run.stage import Protector, Stage, stage
from ppfer.study.protectors.blur import GaussianBlur
from ppfer.twin import raster
from ppfer.twin.people import DONOR
from ppfer.video import sample_positions

DETECTION_SIDE = 288  # dlib's detector wants faces of 80 pixels or more


def donor(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The donor's face: picture (3, size, size) in [0, 1] and landmarks (68, 2) as shares of it.

    Of a spoken clip the frame is taken in which mouth and eyes are widest open: closing them in a
    warp is easy, opening is not.
    """
    spec = twin.ClipSpec("donor", twin.Actor(DONOR), "WSI", "neutral", difficulty=0)
    points = twin.landmarks(spec)  # (T, 68, 2)
    mouth, *eyes = (
        np.linalg.norm(points[:, a] - points[:, b], axis=-1)
        for a, b in ((62, 66), (37, 41), (44, 46))
    )
    best = int((mouth * np.minimum(*eyes)).argmax())
    picture = twin.render_clips([spec], size, device)[0, best].float() / 255
    return picture, torch.from_numpy(points[best]).float().to(device)


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
        self.picture, self.points, self.landmarks = picture, points, landmarks
        corners = Triangulation(*points.cpu().double().numpy().T).triangles  # Delaunay's, (M, 3)
        self.faces = torch.from_numpy(corners.astype(np.int64)).to(points.device)

    def forward(self, clips: Tensor, names: Sequence[str]) -> Tensor:
        """Clips (B, T, 3, H, W) in [0, 1] and their names → the same shape in [0, 1]."""
        size, frames = clips.shape[-1], clips.flatten(0, 1)  # (n, 3, H, W)
        points = torch.cat([self.landmarks[name] for name in names]).to(clips.device)  # (n, L, 2)
        found = ~points.isnan().flatten(1).any(1)

        # which triangle of the face each pixel lies in: (n, L, 3) in pixels, all at one depth
        corners = F.pad(points.nan_to_num() * size, (0, 1))
        both_sides = torch.ones(len(self.faces), dtype=torch.bool, device=clips.device)
        where, face, weights = raster.rasterize(corners, self.faces, size, double=both_sides)
        # from where in the donor's picture it takes its colour, (P, 2)
        known = self.points.expand(len(frames), -1, -1)
        source = raster.interpolate(known, self.faces, where // size**2, face, weights)
        canvas = clips.new_zeros(len(frames) * size**2, 3)  # x, y, and whether it takes any
        canvas.index_copy_(0, where, F.pad(source, (0, 1), value=1.0))
        canvas = canvas.view(-1, size, size, 3)
        lookup, covered = canvas[..., :2], canvas[..., 2][:, None].contiguous()
        pictures = self.picture.expand(len(frames), -1, -1, -1)
        how = {"padding_mode": "border", "align_corners": False}
        warped = F.grid_sample(pictures, 2 * lookup - 1, **how)

        # no edge shows: the donor fades in, 0 at the hull, 1 well inside
        blend = (2 * GaussianBlur(size / 32)(covered) - 1).clamp(0, 1) * covered
        swapped = torch.lerp(frames, warped, blend)
        return torch.where(found.view(-1, 1, 1, 1), swapped, 0.5).view_as(clips)


# --- what is known of clips, and what is found ----------------------------------


def twin_clips(run: Run) -> tuple[list[twin.ClipSpec], Sequence[int]]:
    """What each clip of a twin shows, and which of its frames the store holds."""
    frames, seed, difficulty = twin_origin(run.config).values()
    people = [twin.Actor(int(actor), seed) for actor in run.table["actor"].unique()]
    specs = (spec for actor in people for spec in twin.actor_specs(actor, frames, difficulty))
    known = {spec.name: spec for spec in specs}
    return [known[name] for name in run.table["clip"]], sample_positions(frames, run.config.frames)


def dlib_model() -> Path | None:
    """dlib's model, which the package face-recognition-models carries; None without either."""
    found = importlib.util.find_spec("face_recognition_models")
    if not found or not importlib.util.find_spec("dlib"):
        return None
    folder = Path(found.submodule_search_locations[0]) / "models"
    return folder / "shape_predictor_68_face_landmarks.dat"


def dlib_landmarks() -> Callable[[Tensor], np.ndarray]:
    """What finds landmarks in a clip (T, 3, H, W) uint8: those of the largest face of each frame,
    (T, 68, 2) shares of width and height. A frame without a face takes the nearest frame's that
    has one; all are NaN where no frame has.
    """
    import dlib  # an extra: only real video needs it

    detector = dlib.get_frontal_face_detector()
    predictor, side = dlib.shape_predictor(str(dlib_model())), DETECTION_SIDE

    def find(clip: Tensor) -> np.ndarray:
        big = F.interpolate(clip.float(), (side, side), mode="bicubic")
        pictures = big.clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
        out = np.full((len(clip), 68, 2), np.nan, np.float32)
        for own, picture in zip(out, pictures, strict=True):
            if faces := detector(picture, 0):
                shape = predictor(picture, max(faces, key=lambda box: box.area()))
                own[:] = [((p.x + 0.5) / side, (p.y + 0.5) / side) for p in shape.parts()]
        seen = np.flatnonzero(~np.isnan(out[:, 0, 0]))
        nearest = np.abs(seen - np.arange(len(out))[:, None])  # (T, those with a face)
        return out[seen[nearest.argmin(1)]] if len(seen) else out

    return find


def swap_missing(run: Run) -> str:
    """What image swapping cannot do without."""
    if twin_origin(run.config) or dlib_model():
        return ""
    return (
        "image swapping needs facial landmarks; for real video install the extra: pip install "
        "-e '.[landmarks]'"
    )


@stage("landmarks", needs=("clips",), notebook="08", alone=True, version=2)
class Landmarks(Stage):
    """68 landmarks of every frame of every clip, (N, T, 68, 2)."""

    def settings(self) -> dict:
        return {"twin": twin_origin(self.config)}

    def make(self, folder: Path) -> dict:
        run = self.run
        if why := swap_missing(run):
            raise PpferError(why)
        if twin_origin(self.config):
            specs, times = twin_clips(run)
            by, each = "the twin's head model", (twin.landmarks(spec)[times] for spec in specs)
        else:
            by, clips = "dlib", run.tensor("clips")
            each = map(dlib_landmarks(), (clip.cpu() for clip in clips))
        found = counted((known[None] for known in each), "landmarks", len(run.table))
        landmarks = np.concatenate([*found]).astype(np.float32)  # (N, T, 68, 2)
        np.save(folder / "landmarks.npy", landmarks)
        return {"by": by, "without_face": int(np.isnan(landmarks[:, 0, 0, 0]).sum())}

    def load(self, folder: Path) -> Tensor:
        return torch.from_numpy(np.load(folder / "landmarks.npy"))


# --- the protectors -------------------------------------------------------------


def swap_what(run: Run) -> str:
    """What ran, with the clips in which no face was found."""
    summary = run.summary("landmarks")
    lost = "; no face found in {without_face} clips, which are grey" * bool(summary["without_face"])
    return (
        "one synthetic donor, piecewise affine to 68 landmarks by {by}, instead of MobileFaceSwap"
        + lost
    ).format(**summary)


def build_donor(run: Run) -> NamedApply:
    """Clips (B, T, 3, H, W) and their names → the same clips with the donor's face."""
    specs, times = twin_clips(run)
    face, known = twin.Actor(DONOR), by_clip(run, specs)

    def drawn(clips: Tensor, names: Sequence[str]) -> Tensor:
        swapped = [dataclasses.replace(known[name], face=face) for name in names]
        return twin.render_clips(swapped, clips.shape[-1], clips.device, times=times).float() / 255

    return drawn


PROTECTORS = (
    Protector(
        "swap",
        "Image swapping",
        lambda run: FaceSwap(
            *donor(2 * run.config.size, run.device), by_clip(run, run.get("landmarks"))
        ),
        swap_what,
        needs=("landmarks",),
        named=True,
        missing=swap_missing,
    ),
    Protector(
        "donor",
        "Perfect swap (limit)",
        build_donor,
        "the twin's true motion, pose and light on one donor's head",
        needs=("clips",),
        notebook="11",
        version=2,
        named=True,
        missing=lambda run: (
            "" if twin_origin(run.config) else "the true motion is known of the twin's clips alone"
        ),
    ),
)
