"""Drawing the twin's heads: a linear head model, painted per actor, and a batched z-buffer renderer for CPU and GPU.

Every triangle is stretched over the smallest square patch (2, 3, 4, 6, … pixels) that holds its bounding box; all patches of one
size are tested in one tensor operation, and the nearest triangle of each pixel is found by a scatter-minimum over keys that
pack depth above triangle number. There is no loop over triangles or frames, and no atomic addition, so the same input
gives the same picture every time.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HEAD_MODEL = Path(__file__).parent.parent / "data" / "head_model.npz"
PATCHES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
EMPTY = torch.iinfo(torch.int64).max


def vertex_faces(faces: Tensor, n_vertices: int) -> Tensor:
    """Faces around each vertex, (V, most), padded with the number of faces: lets normals be summed by gathering."""
    order = torch.argsort(faces.flatten(), stable=True)
    vertex, face = faces.flatten()[order], order // 3
    count = torch.bincount(vertex, minlength=n_vertices)
    start = torch.cumsum(count, 0) - count
    table = torch.full((n_vertices, int(count.max())), len(faces), dtype=torch.int64, device=faces.device)
    table[vertex, torch.arange(len(vertex), device=faces.device) - start[vertex]] = face
    return table


def smooth_normals(vertices: Tensor, faces: Tensor, around: Tensor) -> Tensor:
    """Unit normals (N, V, 3) of vertices (N, V, 3): area-weighted mean over the faces `around` each vertex."""
    a, b, c = (vertices[:, faces[:, k]] for k in range(3))
    face_normals = torch.linalg.cross(b - a, c - a)  # (N, F, 3)
    face_normals = torch.cat([face_normals, face_normals.new_zeros(len(vertices), 1, 3)], 1)
    normals = sum(face_normals[:, around[:, k]] for k in range(around.shape[1]))
    return torch.nn.functional.normalize(normals, dim=-1)


def rasterize(points: Tensor, faces: Tensor, size: int, shown: Tensor | None = None,
              double: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest triangle under every pixel centre.

    Args:
        points: (N, V, 3): x to the right and y down in pixels, z in [-8, 8], larger is nearer.
        faces: (F, 3) int64, counter-clockwise seen from outside in a y-up world (back faces are dropped).
        size: width and height of the pictures in pixels.
        shown: (N, F) bool, False for faces to leave out; double: (F,) bool, faces also drawn from behind.

    Returns:
        pixel: (P,) int64 into N*size*size, the covered pixels; face: (P,) int64; weights: (P, 3) barycentric.
    """
    n, device = len(points), points.device
    buffer = torch.full((n * size * size,), EMPTY, dtype=torch.int64, device=device)
    corners = points[:, faces].view(-1, 3, 3)  # (N*F, corner, xyz)
    xy = corners[..., :2]
    low, high = torch.ceil(xy.amin(1) - 0.5).clamp(min=0), torch.floor(xy.amax(1) - 0.5).clamp(max=size - 1)
    extent = high - low + 1  # (N*F, 2) pixel centres in the bounding box, not positive where there is none
    (ux, uy), (vx, vy) = (xy[:, 1] - xy[:, 0]).T, (xy[:, 2] - xy[:, 0]).T
    area = ux * vy - uy * vx
    front = area < 0 if double is None else (area < 0) | (double.repeat(n) & (area > 0))
    drawn = front & (extent.amin(1) > 0)
    if shown is not None:
        drawn &= shown.flatten()
    extent, shortest = extent.amax(1), 0
    room = 2**18 if device.type == "cpu" else 2**26  # pixels tested at a time: on a CPU they should stay in its cache
    for patch in [p for p in PATCHES if p < size] + [size]:
        chosen = torch.nonzero(drawn & (extent > shortest) & (extent <= patch)).squeeze(1)
        shortest = patch
        step = torch.arange(patch, device=device)
        offset = torch.stack([step.repeat(patch), step.repeat_interleave(patch)])  # (2, K) x fastest
        shift = offset[1] * size + offset[0]
        for triangle in chosen.split(max(1, room // patch**2)):
            corner = low[triangle].clamp(max=size - patch)  # the patch stays inside the picture
            planes, at = _planes(corners[triangle], corner + 0.5)
            value = torch.baddbmm(at[..., None], planes, offset.to(planes).expand(len(planes), -1, -1))  # (M, 4, K)
            inside = torch.nonzero((value[:, :3].amin(1) >= -1e-5).flatten()).squeeze(1)
            key = ((8 - value[:, 3]) * 2**26).long() << 32 | (triangle % len(faces))[:, None]
            start = (triangle // len(faces) * size + corner[:, 1].long()) * size + corner[:, 0].long()
            buffer.scatter_reduce_(0, (start[:, None] + shift).flatten()[inside], key.flatten()[inside], "amin")
    pixel = torch.nonzero(buffer != EMPTY).squeeze(1)
    face = buffer[pixel] & 0xFFFFFFFF
    centre = torch.stack([pixel % size, pixel // size % size], -1) + 0.5
    _, at = _planes(corners[pixel // (size * size) * len(faces) + face], centre)
    return pixel, face, at[:, :3]


def _planes(corners: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes (M, 4, 2) along x and y, and values (M, 4) at `origin` (M, 2), of the barycentric weights and the depth."""
    a, b, c = corners.unbind(1)
    edge = torch.stack([c - b, a - c, b - a], 1)[..., :2]  # opposite each corner
    double_area = edge[:, 2, 0] * edge[:, 0, 1] - edge[:, 2, 1] * edge[:, 0, 0]
    slope = torch.stack([-edge[..., 1], edge[..., 0]], -1) / double_area[:, None, None]  # (M, 3, 2)
    from_corner = origin[:, None] - torch.stack([b, c, a], 1)[..., :2]
    weight = (slope * from_corner).sum(-1)  # (M, 3)
    depth = corners[..., 2]
    return (torch.cat([slope, (slope * depth[..., None]).sum(1, keepdim=True)], 1),
            torch.cat([weight, (weight * depth).sum(1, keepdim=True)], 1))


def interpolate(attributes: Tensor, faces: Tensor, frame: Tensor, face: Tensor, weights: Tensor) -> Tensor:
    """Vertex attributes (N, V, C) at pixels: (P, C)."""
    corner = faces[face]  # (P, 3)
    return sum(attributes[frame, corner[:, k]] * weights[:, k, None] for k in range(3))


def light(normal: Tensor, albedo: Tensor, gloss: Tensor, toward: Tensor, key: Tensor, fill: Tensor) -> Tensor:
    """Linear-light colours (P, 3): wrapped Lambert that reddens in the terminator, sky fill, and a Blinn highlight.

    Args:
        normal: (P, 3) unit; albedo: (P, 3) linear in [0, 1]; gloss: (P, 2) strength and exponent of the highlight.
        toward: (P, 3) unit vector to the key light; key, fill: (P, 3) colours of the two lights.
    """
    facing = (normal * toward).sum(-1, keepdim=True)
    wrap = facing.new_tensor([0.35, 0.22, 0.18])  # light bleeds farther in red, as it does in skin
    diffuse = ((facing + wrap) / (1 + wrap)).clamp(min=0) * key
    ambient = fill * (0.75 + 0.25 * normal[:, 1:2])
    half = torch.nn.functional.normalize(toward + toward.new_tensor([0.0, 0.0, 1.0]), dim=-1)
    shine = gloss[:, :1] * (normal * half).sum(-1, keepdim=True).clamp(min=1e-4) ** gloss[:, 1:] * (facing > 0)
    return albedo * (diffuse + ambient) + shine * key


# --- the head ------------------------------------------------------------------------------------------------------------

CHART = (512, 256)  # texels: the skin unrolled around the head's axis; the hair has one of the same size below it
EYE = 64  # texels across the picture of an eyeball, below the hair
SPAN = (-1.9, 1.1)  # heights the charts cover, in the model's units (0.12 m, origin between the eyes)
AXIS = -0.55  # depth of the head's vertical axis
PIVOT = (0.0, -0.75, -0.7)  # the head turns about the top of the neck
DISTANCE = 8.0  # camera to the origin
VIEW = 2.4  # width of the picture at the origin's depth
HAIR = {  # angle from the face's midline (rad) -> lowest hair; (thickness at top, side, back)
    "bald": None,
    "buzz": (((0, 0.68), (0.55, 0.66), (0.85, 0.36), (1.15, 0.1), (1.5, 0.22), (2.1, -0.2), (3.2, -0.5)), (0.025, 0.02, 0.02)),
    "short": (((0, 0.66), (0.55, 0.62), (0.85, 0.34), (1.1, -0.1), (1.4, 0.25), (2.1, -0.3), (3.2, -0.6)), (0.12, 0.05, 0.06)),
    "volume": (((0, 0.64), (0.55, 0.6), (0.85, 0.3), (1.1, 0.0), (1.5, 0.22), (2.1, -0.4), (3.2, -0.6)), (0.26, 0.15, 0.2)),
    "fringe": (((0, 0.3), (0.5, 0.3), (0.8, 0.15), (1.1, -0.2), (1.5, -0.6), (2.1, -1.0), (3.2, -1.0)), (0.12, 0.1, 0.12)),
    "bob": (((0, 0.66), (0.5, 0.58), (0.8, 0.25), (1.05, -0.5), (1.5, -0.85), (2.1, -0.95), (3.2, -0.95)), (0.12, 0.12, 0.14)),
    "long": (((0, 0.68), (0.5, 0.6), (0.8, 0.3), (1.1, -0.6), (1.4, -1.6), (2.1, -1.8), (3.2, -1.8)), (0.1, 0.09, 0.12)),
    "tied": (((0, 0.66), (0.55, 0.6), (0.85, 0.3), (1.15, -0.05), (1.5, 0.2), (2.1, -0.4), (3.2, -0.5)), (0.06, 0.04, 0.1)),
}


BROW = ((0.1, 0.38, 0.62, 0.85), (0.145, 0.19, 0.205, 0.115))  # angles and heights of the middle line of a brow
JAW = ((1.2, 0.0), (1.18, -0.2), (1.12, -0.38), (1.0, -0.55), (0.85, -0.7), (0.62, -0.82), (0.4, -0.9), (0.2, -0.95))


@dataclass(frozen=True)
class Look:
    """What an actor looks like. Colours are sRGB in [0, 1]; `shape` holds the model's coefficients."""

    shape: np.ndarray
    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    lip: np.ndarray
    shirt: np.ndarray
    style: str  # a key of HAIR
    hairline: float = 0.0  # raised by this much
    volume: float = 1.0
    brow: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.8)  # thickness, height, arch, darkness
    freckles: float = 0.0
    beard: float = 0.0  # opacity; below 0.4 it reads as stubble
    moustache: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Landmarks:
    """68 vertices of a `Head`: their numbers (68,), actions (52, 204) and sway (68, 1)."""

    vertices: np.ndarray
    actions: Tensor
    sway: Tensor


class Head:
    """The head model on a device: topology, shape, actions, and where to paint what."""

    def __init__(self, device: torch.device, path: Path = HEAD_MODEL) -> None:
        with np.load(path) as data:
            self.model = {key: data[key] for key in data.files}
        mean, faces, part = (self.model[key] for key in ("mean", "faces", "face_part"))
        faces = faces.astype(np.int64)
        self.parts = [str(name) for name in self.model["part_names"]]
        keep = part != self.parts.index("lash")  # solid strips, too heavy at these sizes: the lid line is painted
        faces, part = faces[keep], part[keep]
        theta = np.arctan2(mean[:, 0], mean[:, 2] - AXIS)
        self.chart = np.stack([theta, mean[:, 1]], -1)
        scalp = (part == 0) & ((np.abs(theta) > 0.75) | (mean[:, 1] > 0.25))[faces].all(1) & (mean[faces, 1] > -1.35).all(1)
        scalp &= (np.abs(mean[faces, 0]) < 0.85).all(1)
        self.source, shell = np.unique(faces[scalp], return_inverse=True)  # the hair is a second skin over the scalp
        self.size = len(mean)
        faces = np.concatenate([faces, shell.reshape(-1, 3) + self.size])
        part = np.concatenate([part, np.full(scalp.sum(), len(self.parts), np.uint8)])
        self.chart = np.concatenate([self.chart, self.chart[self.source]])
        self.mean = np.concatenate([mean, mean[self.source]])

        actions = self.model["actions"].astype(np.float32)
        actions = np.concatenate([actions, actions[:, self.source]], 1)
        names = [str(name) for name in self.model["action_names"]]
        self.action = {name: i for i, name in enumerate(names)}
        put = functools.partial(torch.as_tensor, device=device)
        self.device, self.faces, self.part = device, put(faces), put(part.astype(np.int64))
        self.actions = put(actions.reshape(len(names), -1))  # (52, 3V)
        self.around = vertex_faces(self.faces, len(self.mean))
        self.sway = put(_step((self.mean[:, 1] + 1.4) / 0.6).astype(np.float32))[:, None]  # shoulders stay where they are
        inside = np.isin(self.model["part"], [self.parts.index("teeth"), self.parts.index("tongue")])
        self.sunk = put(np.pad(0.12 * inside, (0, len(self.source))).astype(np.float32))  # teeth stay behind chin and lips
        self.surface = put(self._surface())
        gloss = {"eye": (0.5, 60.0), "teeth": (0.25, 30.0), "tongue": (0.2, 20.0), "skin": (0.06, 14.0), "hair": (0.07, 10.0)}
        self.gloss = put(np.array([gloss.get(name, (0.0, 1.0)) for name in [*self.parts, "hair"]], np.float32))

    def _surface(self) -> np.ndarray:
        """Per vertex (V, 4): texel column and row, how much lip, how much light reaches it."""
        model, (width, height) = self.model, CHART
        u = (self.chart[:, 0] / (2 * np.pi) + 0.5) * width
        v = (SPAN[1] - self.chart[:, 1]) / (SPAN[1] - SPAN[0]) * height
        v[self.size :] += height
        for first, last in model["eyeball"]:
            eye = model["mean"][first:last]
            centre, radius = (eye.min(0) + eye.max(0)) / 2, np.ptp(eye[:, 0]) / 2
            flat = (eye - centre) / radius
            out = np.where(flat[:, 2:] < 0, 1 / np.maximum(np.linalg.norm(flat[:, :2], axis=1, keepdims=True), 1e-3), 1)
            u[first:last] = EYE / 2 + flat[:, 0] * np.minimum(out[:, 0], 50).clip(max=1.4) * EYE * 0.48
            v[first:last] = 2 * height + EYE / 2 - flat[:, 1] * np.minimum(out[:, 0], 50).clip(max=1.4) * EYE * 0.48
        lip = np.clip((7.5 - model["mouth_ring"]) / 2.0, 0, 1)
        lit = np.ones(self.size)
        lit[model["part"] == self.parts.index("mouth")] = 0.25
        lit[model["part"] == self.parts.index("tongue")] = 0.6
        lit[model["part"] == self.parts.index("teeth")] = 0.75
        lit[model["mouth_ring"] <= 1] *= 0.55
        ring, upper = model["socket_ring"], model["mean"][:, 1] > -0.005
        lit[(ring <= 3) & upper] *= 0.25
        lit[(ring <= 1) & ~upper] *= 0.6
        lit *= 1 - 0.4 * _step((-0.72 - self.mean[: self.size, 1]) / 0.3) * (self.mean[: self.size, 2] < 0.05)
        extra = len(self.source)
        return np.stack([u, v, np.pad(lip, (0, extra)), np.pad(lit, (0, extra), constant_values=1)], -1).astype(np.float32)

    @functools.cached_property
    def landmarks(self) -> "Landmarks":
        """The usual facial landmarks, for `pose_vertices` without the rest of the head."""
        chosen = self._landmark_vertices()
        actions = self.actions.view(len(self.actions), -1, 3)[:, chosen].flatten(1)
        return Landmarks(chosen, actions, self.sway[chosen])

    def _landmark_vertices(self) -> np.ndarray:
        """Vertex numbers (68,) of the landmarks in iBUG's order: jaw, brows, nose, eyes, lips."""
        mean, theta = self.model["mean"], self.chart[: self.size, 0]
        skin = np.flatnonzero(self.model["part"] == 0)

        def nearest(angle: float, height: float) -> int:
            return skin[np.argmin((theta[skin] - angle) ** 2 + (mean[skin, 1] - height) ** 2)]

        def around(loop: np.ndarray, degrees: tuple[int, ...]) -> list[int]:  # from the viewer's left over the top
            ring = (mean[loop] - (mean[loop].max(0) + mean[loop].min(0)) / 2)[:, :2]
            ring /= np.abs(ring).max(0)
            return [loop[np.argmax(ring @ [np.cos(a), np.sin(a)] / np.linalg.norm(ring, axis=1))] for a in np.radians(degrees)]

        jaw = [nearest(-a, y) for a, y in JAW] + [nearest(0, -0.96)] + [nearest(a, y) for a, y in JAW[::-1]]
        angles = np.linspace(0.15, 0.8, 5)
        brow = [nearest(-a, np.interp(a, *BROW)) for a in angles[::-1]] + [nearest(a, np.interp(a, *BROW)) for a in angles]
        nose = [nearest(0, y) for y in (0.0, -0.12, -0.24, -0.36)] + [nearest(a, -0.44) for a in (-0.16, -0.08, 0, 0.08, 0.16)]
        lids = [np.flatnonzero((self.model["socket_ring"] == 0) & (sign * mean[:, 0] > 0)) for sign in (-1, 1)]
        eyes = [v for loop in lids for v in around(loop, (180, 115, 65, 0, -65, -115))]
        outer, inner = (np.flatnonzero(self.model["mouth_ring"] == ring) for ring in (7, 1))
        lips = around(outer, (180, 140, 110, 90, 70, 40, 0, -40, -70, -90, -110, -140))
        falls = self.model["actions"][self.action["jawOpen"], inner, 1].astype(float)  # tells the lower lip from the upper
        low, top = inner[falls < falls.mean()], inner[falls >= falls.mean()]
        corners = inner[np.argmin(mean[inner, 0])], inner[np.argmax(mean[inner, 0])]
        middle = [[loop[np.argmin(abs(mean[loop, 0] - x))] for x in (-0.1, 0, 0.1)] for loop in (top, low)]
        return np.array([*jaw, *brow, *nose, *eyes, *lips, corners[0], *middle[0], corners[1], *middle[1][::-1]])

    def neutral(self, look: Look) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (V, 3) of an actor at rest, hair included, and which faces (F,) there are: hair only where it grows."""
        shape = self.model["mean"] + np.tensordot(look.shape.astype(np.float32), self.model["basis"].astype(np.float32), 1)
        shell = shape[self.source]
        off, there = self._hair(look, shell)
        grows = np.concatenate([np.ones(self.size, bool), there > 0])
        return np.concatenate([shape, shell + off]).astype(np.float32), grows[self.faces.cpu().numpy()].any(1)

    def _hair(self, look: Look, shell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far the hair stands off the skin (S, 3), under the skin where there is none, and how much grows (S,)."""
        theta, y = self.chart[self.size :].T
        wide = np.abs(shell[(y > 0.25) & (y < 0.4), 0]).max()  # above the ears: hair runs over them, not around
        base = np.where(y[:, None] < 0.3, shell.clip([-wide, -9, -9], [wide, 9, 9]), shell)
        outward = base - np.array([0, 0.1, AXIS])
        flat = outward * [1, 0, 1]
        up = _step(y / 0.3)[:, None]
        direction = outward * up + flat * (1 - up)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        if HAIR[look.style] is None:
            return -0.06 * direction, np.zeros(len(shell))
        line, (top, side, back) = HAIR[look.style]
        angle = np.abs(theta)
        lowest = np.interp(angle, *np.array(line).T) + look.hairline * np.exp(-((angle / 0.8) ** 2))
        bumps = noise(look.seed, 24, 24)
        bump = bumps[((theta / 6.3 + 0.5) * 23).astype(int), (_step((y + 2) / 3.2) * 23).astype(int)]
        thick = np.where(angle < 2, side, back) * (1 - _step((y - 0.3) / 0.5)) + top * _step((y - 0.3) / 0.5)
        thick = thick * look.volume * (0.85 + 0.3 * bump)
        there = _step((y - lowest) / 0.1 + 0.3)
        off = direction * (there * (thick + 0.05) - 0.05)[:, None] + base - shell
        if look.style in ("long", "bob", "fringe"):  # below the ears it hangs instead of following the neck
            reach = np.linalg.norm(flat[:, [0, 2]], axis=1)
            ear = (0.68 + thick) * (1 - 0.12 * _step((-y - 0.5) / 1.2))
            hang = (angle > 0.95) & (y < 0.1) & (y > lowest)
            off[hang] += (flat / np.maximum(reach, 1e-3)[:, None] * np.clip(ear - reach - thick, 0, 0.5)[:, None])[hang]
        return off, there

    def paint(self, look: Look) -> np.ndarray:
        """The actor's texture, (2*256 + 64, 512, 3) linear light, uint8 of its square root (half as fine as sRGB, no table)."""
        rng, (width, height) = np.random.default_rng(look.seed), CHART
        theta, y = np.meshgrid((np.arange(width) + 0.5) / width * 2 * np.pi - np.pi,
                               SPAN[1] - (np.arange(height) + 0.5) / height * (SPAN[1] - SPAN[0]))
        skin = np.broadcast_to(look.skin, (height, width, 3)).copy()
        blotch = noise(look.seed + 1, height, width, cells=24) - 0.5
        skin *= 1 + 0.10 * blotch[..., None] * [0.6, 1, 1] + rng.normal(0, 0.012, (height, width, 1))
        red = np.exp(-(((np.abs(theta) - 0.45) / 0.22) ** 2) - ((y + 0.33) / 0.17) ** 2)  # cheeks
        red += 0.8 * np.exp(-((theta / 0.13) ** 2) - ((y + 0.33) / 0.1) ** 2)  # tip of the nose
        skin *= 1 - 0.08 * red[..., None] * [0.1, 1, 0.9]
        for _ in range(int(60 * look.freckles)):
            _spot(skin, theta, y, rng.normal(0, 0.4), rng.normal(-0.2, 0.14), rng.uniform(0.008, 0.014), 0.22)
        for _ in range(rng.integers(0, 4)):
            _spot(skin, theta, y, rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.5), rng.uniform(0.018, 0.03), 0.6)
        grain = noise(look.seed + 2, height, width, cells=128)
        jaw = _step((-0.52 - y + 0.28 * _step((np.abs(theta) - 0.6) / 0.3)) / 0.12) * _step((y + 1.0) / 0.1)
        jaw *= _step((1.3 - np.abs(theta)) / 0.2)
        lip_top = np.exp(-(((y + 0.485 + 0.25 * theta**2) / 0.05) ** 4)) * _step((0.38 - np.abs(theta)) / 0.15)
        cover = np.clip(look.beard * jaw + look.moustache * lip_top, 0, 1) * (0.7 + 0.6 * grain).clip(0, 1)
        skin += (look.hair * 0.75 - skin) * (0.85 * cover)[..., None]
        thick, high, arch, dark = look.brow
        x = np.abs(theta)
        middle = high + np.interp(x, *BROW) + arch * np.interp(x, BROW[0], (0, 1, 1, 0))
        half = 0.030 * thick * np.interp(x, [0.1, 0.3, 0.6, 0.85], [0.9, 1.1, 0.9, 0.25])
        brow = _step((half - np.abs(y - middle)) / 0.04 + 0.5) * _step((x - 0.13) / 0.06) * _step((0.82 - x) / 0.08)
        skin += (look.hair * 0.55 - skin) * (dark * brow * (0.75 + 0.5 * grain).clip(0, 1))[..., None]
        neckline = -1.27 - 0.06 * np.cos(theta)
        skin = np.where((y < neckline)[..., None], look.shirt * (1 + 0.12 * blotch[..., None]), skin)
        strands = noise(look.seed + 3, 8, width, cells=170)[np.arange(height) * 8 // height]
        curl = noise(look.seed + 4, height, width, cells=90)
        hair = look.hair * (0.65 + 0.45 * strands + 0.35 * curl)[..., None]
        eye = np.zeros((EYE, width, 3))
        r = np.hypot(*np.meshgrid(np.arange(EYE) - EYE / 2 + 0.5, np.arange(EYE) - EYE / 2 + 0.5)) / (EYE * 0.48)
        iris = look.iris * (0.8 + 0.5 * rng.random((EYE, EYE, 1))) * (1 - 0.45 * _step((r - 0.4) / 0.12))[..., None]
        eye[:, :EYE] = np.where((r < 0.50)[..., None], iris, [0.88, 0.86, 0.84])
        eye[:, :EYE][r < 0.22] = 0.02
        flat = {"mouth": (0.42, 0.14, 0.13), "tongue": (0.72, 0.36, 0.35), "teeth": (0.93, 0.90, 0.84), "socket": look.skin * 0.7}
        for i, name in enumerate(self.parts):
            if name in flat:
                eye[:, 2 * EYE + 8 * i : 2 * EYE + 8 * (i + 1)] = flat[name]
        lip = 2 * EYE + 8 * len(self.parts)
        eye[:, lip : lip + 8] = look.lip
        atlas = np.concatenate([skin, hair, eye]).clip(0, 1)
        return np.round(atlas**1.1 * 255).astype(np.uint8)  # squared when drawn: sRGB's 2.2


def _step(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def noise(seed: int, height: int, width: int, cells: int = 8) -> np.ndarray:
    """Smooth noise in [0, 1], about `cells` bumps across its longer side."""
    rows, columns = max(2, cells * height // max(height, width)), max(2, cells * width // max(height, width))
    coarse = torch.from_numpy(np.random.default_rng(seed).random((1, 1, rows, columns)))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)[0, 0].numpy()


def _spot(skin: np.ndarray, theta: np.ndarray, y: np.ndarray, at: float, height: float, radius: float, dark: float) -> None:
    row, column = (np.flatnonzero(np.abs(axis) < 4 * radius) for axis in (y[:, 0] - height, 0.6 * (theta[0] - at)))
    near = np.exp(-((0.36 * (theta[0, column] - at) ** 2 + (y[row, :1] - height) ** 2) / radius**2))
    skin[np.ix_(row, column)] *= 1 - dark * near[..., None] * [0.7, 0.9, 1]


@functools.cache
def head(device: torch.device) -> Head:
    """The head model on `device`, loaded once."""
    return Head(device)


def pose_vertices(model: Head | Landmarks, neutral: Tensor, actions: Tensor, pose: Tensor) -> Tensor:
    """Vertices (N, V, 3) after facial actions (N, 52) and head pose (N, 6): yaw, pitch, roll in rad, shift x, y, scale."""
    vertices = neutral + (actions @ model.actions).view(len(actions), -1, 3)
    (cy, cp, cr), (sy, sp, sr) = torch.cos(pose[:, :3]).T, torch.sin(pose[:, :3]).T
    zero, one = torch.zeros_like(cy), torch.ones_like(cy)
    yaw = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], -1).view(-1, 3, 3)
    pitch = torch.stack([one, zero, zero, zero, cp, -sp, zero, sp, cp], -1).view(-1, 3, 3)
    roll = torch.stack([cr, -sr, zero, sr, cr, zero, zero, zero, one], -1).view(-1, 3, 3)
    about = vertices - vertices.new_tensor(PIVOT)
    return vertices + model.sway * (about @ (yaw @ pitch @ roll).mT - about)


def project(vertices: Tensor, pose: Tensor, size: float) -> Tensor:
    """Pixels (N, V, 3): x right, y down, and depth, of a picture `size` pixels wide that shows VIEW units."""
    scale = pose[:, 5, None] * DISTANCE / (DISTANCE - vertices[..., 2]) * size / VIEW
    x = size / 2 + vertices[..., 0] * scale + pose[:, 3, None] * size
    y = size / 2 - (vertices[..., 1] - 0.05) * scale + pose[:, 4, None] * size
    return torch.stack([x, y, vertices[..., 2]], -1)


def draw(model: Head, neutral: Tensor, shown: Tensor, textures: Tensor, which: Tensor, actions: Tensor, pose: Tensor, lamp: Tensor,
         background: Tensor, size: int, supersample: int = 2) -> Tensor:
    """Draw N frames.

    Args:
        neutral, shown: (A, V, 3) and (A, F) from `Head.neutral` for each look; textures: (A, rows, 512, 3) uint8; which: (N,) look of each frame.
        actions: (N, 52); pose: (N, 6), see `pose_vertices`; lamp: (N, 9) direction, key colour, fill colour.
        background: (N, 3, size, size) linear light.

    Returns:
        (N, 4, size, size) uint8: sRGB and the head's coverage.
    """
    n, fine = len(which), size * supersample
    vertices = pose_vertices(model, neutral[which], actions, pose)
    normals = smooth_normals(vertices, model.faces, model.around)
    points = project(vertices, pose, fine)
    points[..., 2] -= model.sunk
    pixel, face, weights = rasterize(points, model.faces, fine, shown[which], model.part == len(model.parts))
    frame = pixel // (fine * fine)
    normal = torch.nn.functional.normalize(interpolate(normals, model.faces, frame, face, weights), dim=-1)
    normal = torch.where((model.part[face] == len(model.parts))[:, None] & (normal[:, 2:] < 0), -normal, normal)
    corner = model.faces[face]
    u, v, lip, lit = sum(model.surface[corner[:, k]] * weights[:, k, None] for k in range(3)).unbind(-1)
    part, row = model.part[face], 2 * CHART[1] + EYE // 2
    flat = (part != 0) & (part != model.parts.index("eye")) & (part != len(model.parts))
    column = torch.where(flat, 2 * EYE + 8 * part + 4, u.long().clamp(0, CHART[0] - 1))
    row = torch.where(flat, row, v.long().clamp(0, textures.shape[1] - 1))
    look = which[frame]
    albedo = (textures[look, row, column].float() / 255) ** 2
    colour = (textures[look, 2 * CHART[1] + EYE // 2, 2 * EYE + 8 * len(model.parts) + 4].float() / 255) ** 2
    albedo = albedo + (colour - albedo) * (lip * (part == 0))[:, None]
    gloss = model.gloss[part] + lip[:, None] * model.gloss.new_tensor([0.10, 12.0]) * (part == 0)[:, None]
    toward, key, fill = lamp[frame].view(-1, 3, 3).unbind(1)
    colour = light(normal, albedo, gloss, toward, key, fill) * lit[:, None]
    canvas = torch.zeros(n * fine * fine, 4, device=pixel.device)
    canvas[pixel] = torch.cat([colour, torch.ones_like(colour[:, :1])], 1)
    canvas = canvas.view(n, size, supersample, size, supersample, 4).mean((2, 4)).permute(0, 3, 1, 2)  # (N, 4, H, W)
    rgb = canvas[:, :3] + background * (1 - canvas[:, 3:])
    return torch.cat([rgb.clamp(0, 1) ** (1 / 2.2), canvas[:, 3:]], 1).mul(255).round().to(torch.uint8)
