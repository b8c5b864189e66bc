"""The head model: a linear mesh with 60 directions of shape and 52 facial actions, posed and drawn.

Lengths are in the model's units of 0.12 m; the origin is between the eyes, x to the subject's left,
y up, z out of the face.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ppfer.twin import raster
from ppfer.twin.paint import AXIS, BROW, CHART, EYE, SPAN, Look, hair_shell, plain_column

HEAD_MODEL = Path(__file__).parents[2] / "data" / "head_model.npz"
PIVOT = (0.0, -0.75, -0.7)  # the head turns about the top of the neck
DISTANCE = 8.0  # camera to the origin
VIEW = 2.4  # width of the picture at the origin's depth
JAW = (  # angles and heights of its landmarks, from an ear to beside the chin
    (1.2, 1.18, 1.12, 1.0, 0.85, 0.62, 0.4, 0.2),
    (0.0, -0.2, -0.38, -0.55, -0.7, -0.82, -0.9, -0.95),
)
GLOSS = {  # strength and exponent of a part's highlight
    "eye": (0.5, 60.0),
    "teeth": (0.25, 30.0),
    "tongue": (0.2, 20.0),
    "skin": (0.06, 14.0),
    "hair": (0.07, 10.0),
}


@dataclass(frozen=True)
class Landmarks:
    """68 vertices of a `Head`: their numbers (68,), actions (52, 204) and sway (68, 1), float64."""

    vertices: np.ndarray
    actions: Tensor
    sway: Tensor


class Head:
    """The head model on a device: topology, shape, actions, and where to paint what.

    Its V vertices are the model's own, `size` of them, and those of the hair: a second skin over
    the scalp. The last part number, `len(parts)`, is the hair's. `path` is the file that
    `data/export_head.py` writes.
    """

    def __init__(self, device: torch.device, path: Path = HEAD_MODEL) -> None:
        with np.load(path) as data:
            self.model = {key: data[key] for key in data.files}
        # the head without lashes, unrolled around its axis
        mean, faces, part = (self.model[key] for key in ("mean", "faces", "face_part"))
        faces = faces.astype(np.int64)
        self.parts = [str(name) for name in self.model["part_names"]]  # of the model's own faces
        keep = part != self.parts.index("lash")  # too heavy at these sizes: the lid line is painted
        faces, part = faces[keep], part[keep]
        theta = raster.settled(np.arctan2(*mean[:, ::2].astype(np.float64).T - [[0], [AXIS]]))
        chart = np.stack([theta, mean[:, 1]], -1)

        # a second skin over the scalp, which `hair_shell` lifts off
        hairy = (np.abs(theta) > 0.75) | (mean[:, 1] > 0.25)  # not on the face, neck and shoulders
        hairy &= (mean[:, 1] > -1.35) & (np.abs(mean[:, 0]) < 0.85)
        scalp = (part == 0) & hairy[faces].all(1)
        self.source, shell = np.unique(faces[scalp], return_inverse=True)
        self.size = len(mean)
        faces = np.concatenate([faces, shell.reshape(-1, 3) + self.size])
        part = np.concatenate([part, np.full(scalp.sum(), len(self.parts), np.uint8)])
        self.chart = np.concatenate([chart, chart[self.source]])  # angle around the axis, height
        self.mean = np.concatenate([mean, mean[self.source]])
        actions = self.model["actions"].astype(np.float32)
        actions = np.concatenate([actions, actions[:, self.source]], 1)
        names = [str(name) for name in self.model["action_names"]]
        self.action = {name: i for i, name in enumerate(names)}  # number of each by its name

        # on the device, once: every clip is drawn with these
        put = functools.partial(torch.as_tensor, device=device)
        self.device, self.faces = device, put(faces)  # (F, 3) int64
        self.part = put(part.astype(np.int64))  # (F,), the part each face belongs to
        self.actions = put(actions.reshape(len(names), -1))  # (52, 3V), how far each moves vertices
        self.around = raster.vertex_faces(self.faces, len(self.mean))
        # how far each vertex follows the head's turn, (V, 1): shoulders stay where they are
        sway = raster.smoothstep((self.mean[:, 1] + 1.4) / 0.6)
        self.sway = put(sway.astype(np.float32))[:, None]
        # how much farther away each counts, (V,), when the nearest face is looked for: teeth stay
        # behind chin and lips
        inside = np.isin(self.model["part"], [self.parts.index(p) for p in ("teeth", "tongue")])
        self.sunk = put(np.pad(0.12 * inside, (0, len(self.source))).astype(np.float32))
        lip = np.clip((7.5 - self.model["mouth_ring"]) / 2.0, 0, 1)
        lip = np.pad(lip, (0, len(self.source)))
        # (V, 4): texel column and row, how much lip, how much light reaches it
        surface = np.stack([*self._texels(), lip, self._brightness()], -1)
        self.surface = put(surface.astype(np.float32))
        gloss = [GLOSS.get(name, (0.0, 1.0)) for name in [*self.parts, "hair"]]
        self.gloss = put(np.array(gloss, np.float32))

    def _texels(self) -> tuple[np.ndarray, np.ndarray]:
        """Texel column (V,) and row (V,) of every vertex."""
        model, (width, height) = self.model, CHART
        u = (self.chart[:, 0] / (2 * np.pi) + 0.5) * width
        v = (SPAN[1] - self.chart[:, 1]) / (SPAN[1] - SPAN[0]) * height
        v[self.size :] += height  # the hair
        for first, last in model["eyeball"]:
            eye = model["mean"][first:last]
            centre, radius = (eye.min(0) + eye.max(0)) / 2, np.ptp(eye[:, 0]) / 2
            x, y, z = ((eye - centre) / radius).T
            from_axis = np.maximum(np.linalg.norm(np.stack([x, y], -1), axis=1), 1e-3)
            # the back of the ball is pushed outwards, off the picture of its front
            out = np.where(z < 0, 1 / from_axis, 1).clip(max=1.4)
            u[first:last] = EYE / 2 + x * out * EYE * 0.48
            v[first:last] = 2 * height + EYE / 2 - y * out * EYE * 0.48
        return u, v

    def _brightness(self) -> np.ndarray:
        """Share (V,) of the light that reaches every vertex: little inside mouth and sockets."""
        model, part = self.model, self.model["part"]
        lit = np.ones(self.size)
        lit[part == self.parts.index("mouth")] = 0.25
        lit[part == self.parts.index("tongue")] = 0.6
        lit[part == self.parts.index("teeth")] = 0.75
        lit[model["mouth_ring"] <= 1] *= 0.55
        ring, upper = model["socket_ring"], model["mean"][:, 1] > -0.005
        lit[(ring <= 3) & upper] *= 0.25  # the line of the upper lid
        lit[(ring <= 1) & ~upper] *= 0.6
        under_chin = raster.smoothstep((-0.72 - model["mean"][:, 1]) / 0.3) * (
            model["mean"][:, 2] < 0.05
        )
        lit *= 1 - 0.4 * under_chin
        return np.pad(lit, (0, len(self.source)), constant_values=1)

    @functools.cached_property
    def landmarks(self) -> Landmarks:
        """The usual facial landmarks, for `pose_vertices` without the rest of the head."""
        chosen = self._landmark_vertices()
        actions = self.actions.view(len(self.actions), -1, 3)[:, chosen].flatten(1)
        return Landmarks(chosen, actions.double(), self.sway[chosen].double())

    def _landmark_vertices(self) -> np.ndarray:
        """Vertex numbers (68,) in iBUG's order: jaw, brows, nose, eyes, lips."""
        mean, mouth_ring = self.model["mean"], self.model["mouth_ring"]
        jaw = list(zip(*JAW, strict=True))
        jaws = [*((-a, y) for a, y in jaw), (0, -0.96), *jaw[::-1]]
        brow = [(a, np.interp(a, *BROW)) for a in np.linspace(0.15, 0.8, 5)]
        brows = [*((-a, y) for a, y in brow[::-1]), *brow]
        nose = [(0, y) for y in (0.0, -0.12, -0.24, -0.36)]
        nose += [(a, -0.44) for a in (-0.16, -0.08, 0, 0.08, 0.16)]
        skin = np.flatnonzero(self.model["part"] == 0)
        targets = np.array([*jaws, *brows, *nose])[:, None]
        on_skin = skin[((self.chart[skin] - targets) ** 2).sum(-1).argmin(1)]  # the nearest

        lid = self.model["socket_ring"] == 0
        lids = [np.flatnonzero(lid & (sign * mean[:, 0] > 0)) for sign in (-1, 1)]
        eyes = [loop[_at_angles(mean[loop], (180, 115, 65, 0, -65, -115))] for loop in lids]
        outer, inner = (np.flatnonzero(mouth_ring == ring) for ring in (7, 1))
        angles = (180, 140, 110, 90, 70, 40, 0, -40, -70, -90, -110, -140)
        lips = outer[_at_angles(mean[outer], angles)]

        # when the jaw opens, the lower lip falls and the upper does not
        falls = self.model["actions"][self.action["jawOpen"], inner, 1].astype(float)
        top, low = inner[falls >= falls.mean()], inner[falls < falls.mean()]
        right, left = inner[np.argmin(mean[inner, 0])], inner[np.argmax(mean[inner, 0])]
        upper, lower = (
            [lip[np.argmin(abs(mean[lip, 0] - x))] for x in (-0.1, 0, 0.1)] for lip in (top, low)
        )
        return np.array([*on_skin, *eyes[0], *eyes[1], *lips, right, *upper, left, *lower[::-1]])

    def neutral(self, look: Look) -> tuple[np.ndarray, np.ndarray]:
        """An actor's head at rest: vertices (V, 3) float32, hair included, and which faces (F,)
        bool there are: hair where it grows.
        """
        basis = self.model["basis"].astype(np.float64)
        shape = self.model["mean"] + np.tensordot(look.shape, basis, 1)
        scalp = shape[self.source]
        off, there = hair_shell(look, scalp, self.chart[self.size :])
        grows = np.concatenate([np.ones(self.size, bool), there > 0])
        vertices = raster.settled(np.concatenate([shape, scalp + off])).astype(np.float32)
        return vertices, grows[self.faces.cpu().numpy()].any(1)


def _at_angles(loop: np.ndarray, degrees: tuple[int, ...]) -> list[int]:
    """Of a loop of points (P, 3) seen from the front and stretched to a square, those in the given
    directions, counted from the viewer's right, counter-clockwise.
    """
    ring = (loop - (loop.max(0) + loop.min(0)) / 2)[:, :2]
    ring /= np.abs(ring).max(0)
    far = np.linalg.norm(ring, axis=1)
    return [np.argmax(ring @ [np.cos(a), np.sin(a)] / far) for a in np.radians(degrees)]


@functools.cache
def load_head(device: torch.device) -> Head:
    """The head model on `device`, loaded once."""
    return Head(device)


def pose_vertices(
    model: Head | Landmarks, neutral: Tensor, actions: Tensor, pose: Tensor
) -> Tensor:
    """Vertices (N, V, 3) after facial actions and a pose of the head.

    Args:
        model: the head, or its landmarks alone.
        neutral: (N, V, 3) or (V, 3) at rest.
        actions: (N, 52), 0 at rest, 1 the model's full action.
        pose: (N, 6): yaw, pitch, roll in rad; shift x, y and scale, which `project` applies.
    """
    vertices = neutral + (actions @ model.actions).view(len(actions), -1, 3)
    (cy, cp, cr), (sy, sp, sr) = torch.cos(pose[:, :3]).T, torch.sin(pose[:, :3]).T
    zero, one = torch.zeros_like(cy), torch.ones_like(cy)
    yaw = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], -1).view(-1, 3, 3)
    pitch = torch.stack([one, zero, zero, zero, cp, -sp, zero, sp, cp], -1).view(-1, 3, 3)
    roll = torch.stack([cr, -sr, zero, sr, cr, zero, zero, zero, one], -1).view(-1, 3, 3)
    about = vertices - vertices.new_tensor(PIVOT)
    return vertices + model.sway * (about @ (yaw @ pitch @ roll).mT - about)


def project(vertices: Tensor, pose: Tensor, size: float) -> Tensor:
    """Vertices (N, V, 3) of `pose_vertices` in a picture `size` pixels wide (1: in shares of it):
    (N, V, 3), x right, y down, and depth.
    """
    scale = pose[:, 5, None] * DISTANCE / (DISTANCE - vertices[..., 2]) * size / VIEW
    x = size / 2 + vertices[..., 0] * scale + pose[:, 3, None] * size
    y = size / 2 - (vertices[..., 1] - 0.05) * scale + pose[:, 4, None] * size
    return torch.stack([x, y, vertices[..., 2]], -1)


@torch.autocast("cuda", enabled=False)  # places of corners need all their digits
@torch.autocast("cpu", enabled=False)
def draw(
    model: Head,
    neutral: Tensor,
    shown: Tensor,
    textures: Tensor,
    which: Tensor,
    actions: Tensor,
    pose: Tensor,
    lamp: Tensor,
    background: Tensor,
    size: int,
    samples: int = 2,
) -> Tensor:
    """Draw N frames of A actors.

    Args:
        model: the head.
        neutral, shown: (A, V, 3) and (A, F) bool from `Head.neutral`.
        textures: (A, rows, 512, 3) uint8 from `paint`.
        which: (N,) int64, the actor of each frame.
        actions, pose: (N, 52) and (N, 6), see `pose_vertices`.
        lamp: (N, 9): unit vector to the key light, its colour, the fill's colour; (1, 9) for all.
        background: (N, 3, size, size) linear light, or (1, 3, 1, 1).
        samples: of a pixel, along either side.

    Returns:
        (N, 4, size, size) uint8: sRGB and the head's coverage.
    """
    n, fine = len(which), size * samples
    # where everything is, and which triangle each pixel shows
    vertices = pose_vertices(model, neutral[which], actions, pose)
    normals = raster.smooth_normals(vertices, model.faces, model.around)
    points = project(vertices, pose, fine)
    points[..., 2] -= model.sunk
    is_hair = model.part == len(model.parts)
    pixel, face, weights = raster.rasterize(points, model.faces, fine, shown[which], is_hair)
    frame = pixel // (fine * fine)

    # what is seen there is lit
    carried = torch.cat([normals, model.surface.expand(n, -1, -1)], -1)  # (N, V, 7)
    seen = raster.interpolate(carried, model.faces, frame, face, weights)
    normal = F.normalize(seen[:, :3], dim=-1)
    inside_out = is_hair[face][:, None] & (normal[:, 2:] < 0)  # hair is seen from both sides
    normal = torch.where(inside_out, -normal, normal)
    albedo, gloss, lit = _material(model, textures, which[frame], face, seen[:, 3:])
    lamp = lamp if len(lamp) == 1 else lamp[frame]
    toward, key, fill = lamp.view(-1, 3, 3).unbind(1)
    colour = raster.light(normal, albedo, gloss, toward, key, fill) * lit[:, None]

    drawn = torch.cat([colour, torch.ones_like(colour[:, :1])], 1)  # (P, 4), with coverage
    if samples == 1:  # a pixel shows the head or what is behind it
        behind = F.pad(background, (0, 0, 0, 0, 0, 1)).permute(0, 2, 3, 1)  # without coverage
        canvas = _bytes(behind).expand(n, size, size, 4).flatten(0, 2)
        canvas = canvas.index_copy(0, pixel, _bytes(drawn))
        return canvas.view(n, size, size, 4).permute(0, 3, 1, 2)
    # mean over the finer pixels before the background: edges stay soft
    canvas = torch.zeros(n * fine * fine, 4, device=pixel.device).index_copy_(0, pixel, drawn)
    canvas = canvas.view(n, size, samples, size, samples, 4).mean((2, 4))
    behind = background.permute(0, 2, 3, 1) * (1 - canvas[..., 3:])
    return _bytes(torch.cat([canvas[..., :3] + behind, canvas[..., 3:]], -1)).permute(0, 3, 1, 2)


def _bytes(picture: Tensor) -> Tensor:
    """Linear light and coverage (..., 4) as uint8, sRGB and coverage."""
    light = picture[..., :3].clamp(0, 1) ** (1 / 2.2)
    return torch.cat([light, picture[..., 3:]], -1).mul_(255).round_().to(torch.uint8)


def _material(
    model: Head, textures: Tensor, look: Tensor, face: Tensor, surface: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Albedo (P, 3), gloss (P, 2) and share of light (P,) of pixels.

    Args:
        look, face: (P,) int64, whose of the A textures, and the face seen.
        surface: (P, 4), what `Head.surface` says of that place in it.
    """
    part, (u, v, lip, lit) = model.part.index_select(0, face), surface.T
    lip = lip * (part == 0)
    plain = (part != 0) & (part != model.parts.index("eye")) & (part != len(model.parts))
    plain_row = 2 * CHART[1] + EYE // 2
    column = torch.where(plain, plain_column(part) + 4, u.long().clamp(0, CHART[0] - 1))
    row = torch.where(plain, plain_row, v.long().clamp(0, textures.shape[1] - 1))
    texel = (look * textures.shape[1] + row) * textures.shape[2] + column
    albedo = (textures.flatten(0, 2).index_select(0, texel).float() / 255) ** 2
    red = (textures[:, plain_row, plain_column(len(model.parts)) + 4].float() / 255) ** 2
    albedo = albedo + (red.index_select(0, look) - albedo) * lip[:, None]
    gloss = model.gloss.index_select(0, part) + lip[:, None] * model.gloss.new_tensor([0.10, 12.0])
    return albedo, gloss, lit
