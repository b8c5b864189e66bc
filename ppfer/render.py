"""A batched z-buffer renderer for small meshes: one mesh topology, many frames, CPU or GPU.

Every triangle is stretched over the smallest square patch (4, 8, 16, … pixels) that holds its bounding box; all patches of one
size are tested in one tensor operation, and the nearest triangle of each pixel is found by a scatter-minimum over keys that
pack depth above triangle number. There is no loop over triangles or frames, and no atomic addition, so the same input
gives the same picture every time.
"""

import torch
from torch import Tensor

PATCHES = (4, 8, 16, 32, 64, 128)
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


def rasterize(points: Tensor, faces: Tensor, size: int, double_sided: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest triangle under every pixel centre.

    Args:
        points: (N, V, 3): x to the right and y down in pixels, z in [-8, 8], larger is nearer.
        faces: (F, 3) int64, counter-clockwise seen from outside in a y-up world (back faces are dropped).
        size: width and height of the pictures in pixels.
        double_sided: (F,) bool, triangles also drawn from behind.

    Returns:
        pixel: (P,) int64 into N*size*size, the covered pixels; face: (P,) int64; weights: (P, 3) barycentric.
    """
    n, device = len(points), points.device
    buffer = torch.full((n * size * size,), EMPTY, dtype=torch.int64, device=device)
    corners = points[:, faces]  # (N, F, 3, 3)
    a, b, c = corners.unbind(2)
    area = (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (c[..., 0] - a[..., 0])
    low = torch.ceil(corners[..., :2].amin(2) - 0.5).clamp(min=0)
    high = torch.floor(corners[..., :2].amax(2) - 0.5).clamp(max=size - 1)
    extent = (high - low).amin(-1), (high - low).amax(-1) + 1  # pixels; a negative first one holds no pixel centre
    drawn = area < 0 if double_sided is None else (area < 0) | (double_sided & (area > 0))
    drawn &= extent[0] >= 0
    shortest = 0
    for patch in PATCHES + ((size,) if size > PATCHES[-1] else ()):
        frame, face = torch.nonzero(drawn & (extent[1] > shortest) & (extent[1] <= patch), as_tuple=True)
        shortest = patch
        if not len(frame):
            continue
        step = torch.arange(patch, device=device)
        offsets = torch.stack([step.repeat(patch), step.repeat_interleave(patch)], -1)  # (K, 2) x fastest
        xy = low[frame, face][:, None].long() + offsets  # (M, K, 2)
        weights = _barycentric(corners[frame, face][:, None], xy + 0.5, area[frame, face][:, None])
        z = (weights * corners[frame, face, :, 2][:, None]).sum(-1)
        inside = (weights >= -1e-5).all(-1) & (xy < size).all(-1)
        depth = ((8 - z) * 2**26).long()
        key = (depth << 32) | face[:, None]
        pixel = (frame[:, None] * size + xy[..., 1]) * size + xy[..., 0]
        buffer.scatter_reduce_(0, pixel[inside], key[inside], "amin")
    pixel = torch.nonzero(buffer != EMPTY).squeeze(1)
    face = buffer[pixel] & 0xFFFFFFFF
    frame = pixel // (size * size)
    xy = torch.stack([pixel % size, pixel // size % size], -1) + 0.5
    return pixel, face, _barycentric(corners[frame, face], xy, area[frame, face])


def _barycentric(corners: Tensor, xy: Tensor, area: Tensor) -> Tensor:
    """Weights (..., 3) of the three corners (..., 3, 3) at xy (..., 2); `area` is twice the signed area (...)."""
    a, b, c = corners[..., 0, :2], corners[..., 1, :2], corners[..., 2, :2]
    pa, pb, pc = a - xy, b - xy, c - xy
    wa = (pb[..., 0] * pc[..., 1] - pb[..., 1] * pc[..., 0]) / area
    wb = (pc[..., 0] * pa[..., 1] - pc[..., 1] * pa[..., 0]) / area
    return torch.stack([wa, wb, 1 - wa - wb], -1)


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
