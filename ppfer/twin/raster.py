"""A batched z-buffer renderer in plain PyTorch, for CPU and GPU; it knows nothing of heads.

Every triangle is stretched over the smallest square patch (2, 3, 4, 6, … pixels) that holds its
bounding box; all patches of one size are tested in one tensor operation, and the nearest triangle
of each pixel is found by a scatter-minimum over keys that pack depth above triangle number. There
is no loop over triangles or frames, and no atomic addition, so the same input gives the same
picture every time.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PATCHES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
EMPTY = torch.iinfo(torch.int64).max  # in the z-buffer: no triangle here


def smoothstep(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and 3x² − 2x³ between: a soft edge."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def vertex_faces(faces: Tensor, n_vertices: int) -> Tensor:
    """The faces around each vertex, as a table, so that normals are summed by gathering.

    Args:
        faces: (F, 3) int64 vertex numbers.
        n_vertices: V, larger than any of them.

    Returns:
        (V, most) int64 face numbers, each row filled up with F.
    """
    order = torch.argsort(faces.flatten(), stable=True)
    vertex, face = faces.flatten()[order], order // 3
    count = torch.bincount(vertex, minlength=n_vertices)
    start = torch.cumsum(count, 0) - count
    shape = (n_vertices, int(count.max()))
    table = torch.full(shape, len(faces), dtype=torch.int64, device=faces.device)
    table[vertex, torch.arange(len(vertex), device=faces.device) - start[vertex]] = face
    return table


def smooth_normals(vertices: Tensor, faces: Tensor, around: Tensor) -> Tensor:
    """Unit normals (N, V, 3) of vertices (N, V, 3): area-weighted means over the faces `around`.

    Args:
        vertices: (N, V, 3).
        faces: (F, 3) int64.
        around: the table `vertex_faces` makes of them.
    """
    a, b, c = (vertices[:, faces[:, k]] for k in range(3))
    face_normals = torch.linalg.cross(b - a, c - a)  # (N, F, 3), as long as twice the area
    nothing = face_normals.new_zeros(len(vertices), 1, 3)  # what the table's padding points at
    face_normals = torch.cat([face_normals, nothing], 1)
    normals = sum(face_normals[:, around[:, k]] for k in range(around.shape[1]))
    return F.normalize(normals, dim=-1)


def rasterize(
    points: Tensor,
    faces: Tensor,
    size: int,
    shown: Tensor | None = None,
    double: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest triangle under every pixel centre.

    Args:
        points: (N, V, 3): x to the right and y down in pixels, z in [-8, 8], larger is nearer.
        faces: (F, 3) int64, counter-clockwise seen from outside in a y-up world (back faces are
            dropped).
        size: width and height of the pictures in pixels.
        shown: (N, F) bool, False for faces to leave out.
        double: (F,) bool, True for faces also drawn from behind.

    Returns:
        pixel: (P,) int64 into N*size*size, the covered pixels in order.
        face: (P,) int64, the triangle seen there.
        weights: (P, 3), barycentric, of its corners.
    """
    n, device = len(points), points.device
    buffer = torch.full((n * size * size,), EMPTY, dtype=torch.int64, device=device)
    corners = points[:, faces].view(-1, 3, 3)  # (N*F, corner, xyz)
    xy = corners[..., :2]

    # which triangles to draw, and how many pixel centres their bounding boxes hold along x and y
    low = torch.ceil(xy.amin(1) - 0.5).clamp(min=0)
    high = torch.floor(xy.amax(1) - 0.5).clamp(max=size - 1)
    extent = high - low + 1  # (N*F, 2), not positive where there is none
    (ux, uy), (vx, vy) = (xy[:, 1] - xy[:, 0]).T, (xy[:, 2] - xy[:, 0]).T
    area = ux * vy - uy * vx
    front = area < 0 if double is None else (area < 0) | (double.repeat(n) & (area > 0))
    drawn = front & (extent.amin(1) > 0)
    if shown is not None:
        drawn &= shown.flatten()
    extent, shortest = extent.amax(1), 0

    opposite = xy.roll(-1, 1)  # of each corner, a corner of the edge that it is not on
    slope = _slopes(xy)
    # pixels tested at a time: on a CPU they should stay in its cache
    room = 2**18 if device.type == "cpu" else 2**26
    for patch in [p for p in PATCHES if p < size] + [size]:
        chosen = torch.nonzero(drawn & (extent > shortest) & (extent <= patch)).squeeze(1)
        shortest = patch
        step = torch.arange(patch, device=device)
        offset = torch.stack([step.repeat(patch), step.repeat_interleave(patch)])  # (2, K)
        shift = offset[1] * size + offset[0]
        for triangle in chosen.split(max(1, room // patch**2)):
            corner = low[triangle].clamp(max=size - patch)  # the patch stays inside the picture
            weight = _weights(slope[triangle], opposite[triangle], corner + 0.5)
            planes, at = _with_depth(slope[triangle], weight, corners[triangle, :, 2])
            offsets = offset.to(planes).expand(len(planes), -1, -1)
            value = torch.baddbmm(at[..., None], planes, offsets)  # (M, 4, K): weights, depth
            which, where = torch.nonzero(value[:, :3].amin(1) >= -1e-5, as_tuple=True)
            depth = ((8 - value[which, 3, where]) * 2**26).long()
            key = depth << 32 | (triangle % len(faces))[which]
            row = triangle // len(faces) * size + corner[:, 1].long()
            pixel = (row * size + corner[:, 0].long())[which] + shift[where]
            buffer.scatter_reduce_(0, pixel, key, "amin")

    pixel = torch.nonzero(buffer != EMPTY).squeeze(1)
    face = buffer[pixel] & 0xFFFFFFFF
    centre = torch.stack([pixel % size, pixel // size % size], -1) + 0.5
    triangle = pixel // (size * size) * len(faces) + face
    return pixel, face, _weights(slope[triangle], opposite[triangle], centre)


def _slopes(xy: Tensor) -> Tensor:
    """How the three barycentric weights of triangles (M, 3, 2) grow along x and y: (M, 3, 2)."""
    a, b, c = xy.unbind(1)
    edge = torch.stack([c - b, a - c, b - a], 1)  # opposite each corner
    double_area = edge[:, 2, 0] * edge[:, 0, 1] - edge[:, 2, 1] * edge[:, 0, 0]
    return torch.stack([-edge[..., 1], edge[..., 0]], -1) / double_area[:, None, None]


def _weights(slope: Tensor, opposite: Tensor, origin: Tensor) -> Tensor:
    """The barycentric weights (M, 3) at a point each.

    Args:
        slope: (M, 3, 2) of `_slopes`.
        opposite: (M, 3, 2), for each weight a point where it is 0.
        origin: (M, 2) the point.
    """
    return (slope * (origin[:, None] - opposite)).sum(-1)


def _with_depth(slope: Tensor, weight: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and depth as planes over the picture: slopes (M, 4, 2) and values (M, 4).

    Args:
        slope: (M, 3, 2) of the weights.
        weight: (M, 3) where the planes are evaluated.
        depth: (M, 3) of the corners.
    """
    depth_slope = (slope * depth[..., None]).sum(1, keepdim=True)
    depth_there = (weight * depth).sum(1, keepdim=True)
    return torch.cat([slope, depth_slope], 1), torch.cat([weight, depth_there], 1)


def interpolate(
    attributes: Tensor, faces: Tensor, frame: Tensor, face: Tensor, weights: Tensor
) -> Tensor:
    """Vertex attributes (N, V, C) at pixels: (P, C).

    Args:
        attributes: (N, V, C).
        faces: (F, 3) int64.
        frame: (P,) int64, which of the N each pixel belongs to.
        face: (P,) int64, as `rasterize` returns it.
        weights: (P, 3), likewise.
    """
    corner = faces[face]  # (P, 3)
    return sum(attributes[frame, corner[:, k]] * weights[:, k, None] for k in range(3))


def light(
    normal: Tensor, albedo: Tensor, gloss: Tensor, toward: Tensor, key: Tensor, fill: Tensor
) -> Tensor:
    """Linear-light colours (P, 3): wrapped Lambert, a fill from the sky, and a Blinn highlight.

    Args:
        normal: (P, 3) unit.
        albedo: (P, 3) linear in [0, 1].
        gloss: (P, 2) strength and exponent of the highlight.
        toward: (P, 3) or (1, 3) unit vector to the key light.
        key: (P, 3) or (1, 3) colour of the key light.
        fill: (P, 3) or (1, 3) colour of the sky.
    """
    facing = (normal * toward).sum(-1, keepdim=True)
    wrap = facing.new_tensor([0.35, 0.22, 0.18])  # light bleeds farther in red, as it does in skin
    diffuse = ((facing + wrap) / (1 + wrap)).clamp(min=0) * key
    ambient = fill * (0.75 + 0.25 * normal[:, 1:2])
    half = F.normalize(toward + toward.new_tensor([0.0, 0.0, 1.0]), dim=-1)
    along = (normal * half).sum(-1, keepdim=True).clamp(min=1e-4)
    shine = gloss[:, :1] * along ** gloss[:, 1:] * (facing > 0)
    return albedo * (diffuse + ambient) + shine * key
