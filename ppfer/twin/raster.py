"""A batched z-buffer renderer in plain PyTorch, for CPU and GPU; it knows nothing of heads.

Every triangle is stretched over the smallest square patch (2, 3, 4, 6, … pixels) that holds its
bounding box; all patches of one size are tested in one tensor operation, and the nearest triangle
of each pixel is found by a scatter-minimum over keys that pack depth above triangle number. There
is no loop over triangles or frames, and no atomic addition, so the same input gives the same
picture every time. Rows are gathered by `index_select`, which copies them whole: on a CPU several
times as fast as brackets.
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


def settled(x: np.ndarray) -> np.ndarray:
    """Rounded to a millionth. What is drawn hangs on nothing finer: exponentials, angles and matrix
    products differ in their last digit from processor to processor, and a network trained on the
    pictures would be another one.
    """
    return np.round(x, 6)


def vertex_faces(faces: Tensor, n_vertices: int) -> Tensor:
    """The faces around each vertex, so that normals are summed by gathering: of faces (F, 3) int64
    a table (V, most) int64, each row filled up with F.
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
    """Unit normals (N, V, 3) of vertices (N, V, 3): area-weighted means over the faces `around`,
    the table that `vertex_faces` makes of them.
    """
    a, b, c = (vertices.index_select(1, faces[:, k]) for k in range(3))
    face_normals = torch.linalg.cross(b - a, c - a)  # (N, F, 3), as long as twice the area
    nothing = face_normals.new_zeros(len(vertices), 1, 3)  # what the table's padding points at
    face_normals = torch.cat([face_normals, nothing], 1)
    normals = sum(face_normals.index_select(1, around[:, k]) for k in range(around.shape[1]))
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
    corners = points.index_select(1, faces.flatten()).view(-1, 3, 3)  # (N*F, corner, xyz)

    # which triangles to draw, and how many pixel centres their bounding boxes hold along x and y
    a, b, c = corners[..., :2].unbind(1)
    low = torch.ceil(torch.minimum(torch.minimum(a, b), c) - 0.5).clamp(min=0)
    high = torch.floor(torch.maximum(torch.maximum(a, b), c) - 0.5).clamp(max=size - 1)
    extent = high - low + 1  # (N*F, 2), not positive where there is none
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    area = ux * vy - uy * vx
    front = area < 0 if double is None else (area < 0) | (double.repeat(n) & (area > 0))
    drawn = front & (extent[:, 0] > 0) & (extent[:, 1] > 0)
    if shown is not None:
        drawn &= shown.flatten()
    kept = torch.nonzero(drawn).squeeze(1)  # (M,), of N*F
    low, corners = low.index_select(0, kept), corners.index_select(0, kept)
    extent, shortest = extent.amax(1).index_select(0, kept), 0
    first = kept // len(faces) * (size * size)  # of its frame's pixels

    opposite = corners[..., :2].roll(-1, 1)  # of each corner, a corner of the edge it is not on
    slope = _slopes(corners[..., :2])
    # pixels tested at a time: on a CPU they should stay in its cache
    room = 2**18 if device.type == "cpu" else 2**26
    for patch in [p for p in PATCHES if p < size] + [size]:
        chosen = torch.nonzero((extent > shortest) & (extent <= patch)).squeeze(1)
        shortest = patch
        step = torch.arange(patch, device=device)
        offset = torch.stack([step.repeat(patch), step.repeat_interleave(patch)])  # (2, K)
        shift = offset[1] * size + offset[0]
        for triangle in chosen.split(max(1, room // patch**2)):
            slopes, apart, corner, depth = (
                kind.index_select(0, triangle) for kind in (slope, opposite, low, corners[..., 2])
            )
            corner = corner.clamp(max=size - patch)  # the patch stays inside the picture
            weight = _weights(slopes, apart, corner + 0.5)
            planes, at = _with_depth(slopes, weight, depth)
            offsets = offset.to(planes).expand(len(planes), -1, -1)
            value = torch.baddbmm(at[..., None], planes, offsets)  # (M, 4, K): weights, depth
            least = torch.minimum(torch.minimum(value[:, 0], value[:, 1]), value[:, 2])
            which, where = torch.nonzero(least >= -1e-5, as_tuple=True)
            depth = ((8 - value[which, 3, where]) * 2**26).long()
            key = depth << 32 | triangle.index_select(0, which)
            row, column = corner.long().flip(1).T
            start = first.index_select(0, triangle) + row * size + column
            pixel = start.index_select(0, which) + shift.index_select(0, where)
            buffer.scatter_reduce_(0, pixel, key, "amin")

    pixel = torch.nonzero(buffer != EMPTY).squeeze(1)
    triangle = buffer.index_select(0, pixel) & 0xFFFFFFFF
    centre = torch.stack([pixel % size, pixel // size % size], -1) + 0.5
    weights = _weights(slope.index_select(0, triangle), opposite.index_select(0, triangle), centre)
    return pixel, kept.index_select(0, triangle) % len(faces), weights


def _slopes(xy: Tensor) -> Tensor:
    """How the three barycentric weights of triangles (M, 3, 2) grow along x and y: (M, 3, 2)."""
    a, b, c = xy.unbind(1)
    edge = torch.stack([c - b, a - c, b - a], 1)  # opposite each corner
    double_area = edge[:, 2, 0] * edge[:, 0, 1] - edge[:, 2, 1] * edge[:, 0, 0]
    return torch.stack([-edge[..., 1], edge[..., 0]], -1) / double_area[:, None, None]


def _weights(slope: Tensor, opposite: Tensor, origin: Tensor) -> Tensor:
    """The barycentric weights (M, 3) at a point (M, 2) each, by their slopes (M, 3, 2) and, for
    each weight, a point (M, 3, 2) where it is 0.
    """
    along_x, along_y = (slope * (origin[:, None] - opposite)).unbind(-1)
    return along_x + along_y


def _with_depth(slope: Tensor, weight: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and depth as planes over the picture, slopes (M, 4, 2) and values (M, 4), by the
    slopes (M, 3, 2) and values (M, 3) of the weights and the depth (M, 3) of the corners.
    """
    depth_slope = sum((slope * depth[..., None]).unbind(1))
    depth_there = sum((weight * depth).unbind(1))
    planes = torch.cat([slope, depth_slope[:, None]], 1)
    return planes, torch.cat([weight, depth_there[:, None]], 1)


def interpolate(
    attributes: Tensor, faces: Tensor, frame: Tensor, face: Tensor, weights: Tensor
) -> Tensor:
    """Vertex attributes (N, V, C) at pixels: (P, C); `frame` (P,) int64 says which of the N a pixel
    belongs to, face (P,) and weights (P, 3) are as `rasterize` returns them.
    """
    corner = frame[:, None] * attributes.shape[1] + faces.index_select(0, face)  # (P, 3)
    rows = attributes.flatten(0, 1)
    return sum(rows.index_select(0, corner[:, k]) * weights[:, k, None] for k in range(3))


def light(
    normal: Tensor, albedo: Tensor, gloss: Tensor, toward: Tensor, key: Tensor, fill: Tensor
) -> Tensor:
    """Linear-light colours (P, 3): wrapped Lambert, a fill from the sky, and a Blinn highlight.

    Args:
        normal, albedo: (P, 3), unit vectors and linear in [0, 1].
        gloss: (P, 2) strength and exponent of the highlight.
        toward, key, fill: (P, 3) or (1, 3): unit vector to the key light, its colour, the sky's.
    """
    facing = sum((normal * toward).split(1, -1))
    wrap = facing.new_tensor([0.35, 0.22, 0.18])  # light bleeds farther in red, as it does in skin
    diffuse = ((facing + wrap) / (1 + wrap)).clamp(min=0) * key
    ambient = fill * (0.75 + 0.25 * normal[:, 1:2])
    half = F.normalize(toward + toward.new_tensor([0.0, 0.0, 1.0]), dim=-1)
    along = sum((normal * half).split(1, -1)).clamp(min=1e-4)
    shine = gloss[:, :1] * along ** gloss[:, 1:] * (facing > 0)
    return albedo * (diffuse + ambient) + shine * key
