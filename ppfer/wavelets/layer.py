"""`BandSplit`, the layer of notebook 01: coefficients = A_h X A_wᵀ, and X = S_h coefficients S_wᵀ.

Along time too; batched, on any device, differentiable, also by `torch.func`.
"""

from __future__ import annotations

import math
import operator
from functools import lru_cache
from typing import NamedTuple

import pywt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer.base.errors import PpferError, check
from ppfer.wavelets.matrices import check_options, low_pass, side_by_side, unit_map

DIMS = (1, 3, 4)  # time, height and width of clips (B, T, 3, H, W)
AXES = {"hw": (3, 4), "t": (1,), "thw": DIMS}

# One letter per transformed axis, a = average and d = detail, in the order of AXES. *Horizontal* is
# PyWavelets': detail along the height, average along the width; it answers to horizontal edges,
# such as closed lips. The order is wavedec2's.
NAMES = {
    "hw": {"da": "horizontal", "ad": "vertical", "dd": "diagonal"},
    "t": {"d": "temporal"},
    "thw": {
        "ada": "horizontal", "aad": "vertical", "add": "diagonal", "daa": "temporal",
        "dda": "temporal_horizontal", "dad": "temporal_vertical", "ddd": "temporal_diagonal",
    },
}  # fmt: skip

CUT = ("cpu",)  # devices on which a matrix's zeros cost more than further kernels
Tiles = list[tuple[int, Tensor]]  # of a matrix: first column and entries
Like = Tensor | tuple[int, ...] | None  # frames, or their shape
GIVE = "give the frames that were split, or their shape, as `like`"


class BandSplit(nn.Module):
    """Frames to ``(low, high)`` and back, both bands again frame-like: (n, 3, h, w) in [0, 1].

    The transform is PyWavelets' to rounding; an affine map per sub-band then brings its worst case
    over all frames in [0, 1] into [0, 1]. Zero detail is the grey 0.5 (paper §3.2).

    ``form="subband"``: low is the approximation, high all detail sub-bands in the batch: per clip
        (or frame) in the order of `names`, each with its time steps in order, small ones in the top
        left corner of a grey frame. Haar, level 1: (N, 3, H, W) gives (N, 3, H/2, W/2) and (3N, 3,
        H/2, W/2), or (frame, sub-band, colour, height, width) by ``view(N, 3, 3, H/2, W/2)``.
    ``form="image"``: both bands are pictures of full resolution: low keeps the approximation only,
        high is the rest; without the affine maps (`coefficients`) they add up to the frames.

    It has no parameters and no state: matrices are computed once per size in float64 and shared.
    float64 frames are transformed in float64, all others in float32, whatever autocast says. Merged
    frames are exact to rounding (TF32's where it is allowed); in float32, modes that extrapolate
    (smooth, antireflect) lose up to 6 % of the range, the more the longer the wavelet.

    Args:
        wavelet: Any discrete wavelet of PyWavelets.
        level: How often the approximation is split again.
        mode: Boundary mode of PyWavelets; without effect for Haar on even sizes.
        form: ``"subband"`` or ``"image"``.
        axes: ``"hw"`` (each frame), ``"t"`` (each pixel over time) or ``"thw"`` (both).

    Raises:
        PpferError: If an option does not exist.
    """

    def __init__(
        self,
        wavelet: str = "haar",
        level: int = 1,
        mode: str = "symmetric",
        form: str = "subband",
        axes: str = "hw",
    ):
        super().__init__()
        check_options(wavelet, level, mode)
        check("form", form, ("subband", "image"))
        check("axes", axes, AXES)
        self.wavelet, self.level, self.mode, self.form, self.axes = wavelet, level, mode, form, axes
        self.taps = pywt.Wavelet(wavelet).dec_len

    @property
    def names(self) -> tuple[str, ...]:
        """Approximation, then details as in `NAMES`, the coarsest level (``vertical_2``) first."""
        if self.form == "image":
            return "approximation", "detail"
        suffixes = [f"_{j}" for j in range(self.level, 0, -1)] if self.level > 1 else [""]
        return "approximation", *(n + s for s in suffixes for n in NAMES[self.axes].values())

    def split(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Split frames into a low and a high band.

        Args:
            frames: (N, 3, H, W), or clips (B, T, 3, H, W), in [0, 1]. Clips are required when time
                is split; when it is not, they are taken as B*T frames.

        Returns:
            low (n, 3, h, w), high (m, 3, h', w'), in [0, 1], of the frames' dtype; see the class.

        Raises:
            PpferError: If the shape does not fit the axes, or the frames are not floating point.
        """
        if not frames.is_floating_point():
            raise PpferError(f"frames are floats, not {frames.dtype}; divide uint8 frames by 255")
        plan = self._plan(frames.shape, frames.device, frames.dtype)
        x = frames.to(plan.dtype).reshape(-1, plan.sizes[0], 3, *plan.sizes[1:])  # (B, T, 3, H, W)
        with torch.autocast(x.device.type, enabled=False):
            (low, *_), high = zip(*(level.split(x) for level in plan.levels))
        if len(high) > 1:  # a smaller sub-band lies in the corner
            corners = ((0, plan.high[2] - y.shape[-1], 0, plan.high[1] - y.shape[-2]) for y in high)
            high = [torch.cat([F.pad(y, c, value=0.5) for y, c in zip(high, corners)], 1)]
        return low.flatten(0, 1).to(frames.dtype), high[0].flatten(0, 1).to(frames.dtype)

    forward = split

    def merge(self, low: Tensor, high: Tensor, like: Like = None) -> Tensor:
        """Put two bands back into frames of `like`'s shape: the inverse of `split`, not clamped.

        Args:
            low, high: (n, 3, h, w) and (m, 3, h', w'), as `split` returns them.
            like: The frames that were split, or their shape. Required when time is split, or for
                sub-bands of several levels. Without it the result is (N, 3, H, W) with the even
                sizes that fit: give it for odd sizes and to get clips back.

        Raises:
            PpferError: If the bands do not fit each other or `like`.
        """
        plan, shape = self._fit(low, high, like)
        dtype = torch.promote_types(low.dtype, high.dtype)
        low = low.to(plan.dtype).unflatten(0, (-1, 1, plan.bands[0].shape[0]))  # (B, 1, t, 3, h, w)
        high = high.to(plan.dtype).unflatten(0, (-1, plan.high[0]))
        frames, count = [], (len(plan.bands) - 1) // len(plan.levels)  # of details, per level
        with torch.autocast(low.device.type, enabled=False):
            for level, band in zip(plan.levels, plan.bands[1::count]):
                details = band.of(high, count).unflatten(1, (count, -1))
                averages = details[:, :1] if frames else low  # only the coarsest level's count
                frames.append(level.merge(torch.cat([averages, details], 1)))
        return sum(frames[1:], frames[0]).reshape(shape).to(dtype)

    def coefficients(self, low: Tensor, high: Tensor, like: Like = None) -> dict[str, Tensor]:
        """Signed sub-bands (B*T_j, 3, h_j, w_j) by name, in PyWavelets' units; see `merge`."""
        plan, shape = self._fit(low, high, like)
        parts = zip(plan.bands, (low, *self.details(high, shape).values()))
        signed = ((part.to(plan.dtype) - band.offset) / band.scale for band, part in parts)
        return dict(zip(self.names, signed))

    def details(self, high: Tensor, like: Like = None) -> dict[str, Tensor]:
        """Detail sub-bands (B*T_j, 3, h_j, w_j) by name, in [0, 1], 0.5 for zero; see `merge`."""
        plan = self._plan(self._shape(high, high, like), high.device, high.dtype)
        high = high.unflatten(0, (-1, plan.high[0]))
        return {n: band.of(high).flatten(0, 1) for n, band in zip(self.names[1:], plan.bands[1:])}

    def _plan(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Plan:
        """What to do with frames of this shape."""
        time = "t" in self.axes
        if len(shape) not in ((5,) if time else (4, 5)) or shape[-3] != 3:
            wanted = ("" if time else "frames (N, 3, H, W) or ") + "clips (B, T, 3, H, W)"
            raise PpferError(f"splitting along '{self.axes}' takes {wanted}, not {tuple(shape)}")
        # a plain number when compiled too: one graph per size
        sizes = tuple(operator.index(n) for n in (shape[1] if time else 1, *shape[-2:]))
        dtype = torch.float64 if dtype == torch.float64 else torch.float32
        options = self.wavelet, self.level, self.mode, self.form, self.axes
        return _plan(*options, sizes, device, dtype)

    def _fit(self, low: Tensor, high: Tensor, like: Like) -> tuple[Plan, tuple[int, ...]]:
        """The plan and the shape of the frames that these bands come from."""
        shape = self._shape(low, high, like)
        plan = self._plan(shape, low.device, torch.promote_types(low.dtype, high.dtype))
        count = math.prod(shape[:-3]) // plan.sizes[0]  # clips, or frames where time is not split
        wanted = [(count * t, 3, h, w) for t, h, w in (plan.bands[0].shape, plan.high)]
        if (given := [tuple(low.shape), tuple(high.shape)]) != wanted:
            raise PpferError(f"frames of shape {shape} have bands {wanted}, not {given}; {GIVE}")
        return plan, shape

    def _shape(self, low: Tensor, high: Tensor, like: Like) -> tuple[int, ...]:
        """The shape of the frames these bands come from, the likeliest where `like` is None."""
        if like is not None:
            return tuple(getattr(like, "shape", like))
        if "t" in self.axes or (self.level > 1 and self.form == "subband"):
            raise PpferError(f"bands over time or of several levels need their frames: {GIVE}")
        if self.form == "image":
            return tuple(low.shape)
        beyond = 0 if self.mode == "periodization" else self.taps - 2
        return len(low), 3, *(max(1, 2 * n - beyond) for n in high.shape[-2:])  # if even


class Band(NamedTuple):
    """A sub-band, coefficient * scale + offset, and its place."""

    shape: tuple[int, int, int]  # t, h, w of one clip
    scale: float
    offset: float
    at: int  # of a detail: its first frame among all of a clip's

    def of(self, high: Tensor, count: int = 1) -> Tensor:
        """Its part of all details (B, t', 3, h', w'), or that of `count` from this one on."""
        t, h, w = self.shape
        return high[:, self.at : self.at + count * t, :, :h, :w]


class Level(NamedTuple):
    """One level: a matrix per dimension, then an affine map per sub-band; and back."""

    there: Tensor  # offsets and factors, (2, sub-bands, 1, 1, 1, 1)
    back: Tensor
    halves: list[int]  # of T, W, H: 2 where split, else 1
    haar: list[tuple[int, int]]  # no matrices: dimension, and where its averages and details go
    analysis: list[tuple[int, Tiles]]
    synthesis: list[tuple[int, Tiles]] | None = None  # none: pictures

    def split(self, x: Tensor) -> list[Tensor]:
        """Clips (B, T, 3, H, W) to low (B, t, 3, h, w) and details (B, count * t, 3, h, w)."""
        y, (t, w, h) = x if self.haar else multiply(self.analysis[::-1], x), self.halves
        for dim, place in self.haar:  # sums and differences of neighbours
            a, b = y.unflatten(dim, (-1, 2)).unbind(dim)
            y = torch.stack([a + b, a - b], place)
        if self.haar:
            y = y.flatten(1, -5)  # (B, sub-bands, t, 3, h, w)
        elif self.synthesis:
            y = y.unflatten(4, (-1, w)).unflatten(3, (-1, h)).unflatten(1, (-1, t))
            y = y.permute(0, 2, 7, 5, 1, 3, 4, 6).flatten(1, 3)
        else:
            y = torch.stack([y, x - y], 1)
        parts = zip(y.split([1, y.shape[1] - 1], 1), self.there.tensor_split([1], 1))
        return [torch.addcmul(maps[0], part, maps[1]).flatten(1, 2) for part, maps in parts]

    def merge(self, bands: Tensor) -> Tensor:
        """The inverse of `split`, of bands (B, sub-bands, t, 3, h, w)."""
        y = torch.addcmul(self.back[0], bands, self.back[1])
        if self.haar:
            y = y.unflatten(1, [2] * len(self.haar))
            for dim, place in reversed(self.haar):
                a, b = y.unbind(place)
                y = torch.stack([a + b, a - b], dim).flatten(dim - 1, dim)
            return y
        if self.synthesis is None:
            return y.sum(1)
        y = y.unflatten(1, self.halves).permute(0, 4, 1, 5, 6, 3, 7, 2)
        return multiply(self.synthesis, y.flatten(6).flatten(4, 5).flatten(1, 2))


class Plan(NamedTuple):
    """What to do with frames of one size."""

    sizes: tuple[int, int, int]  # T, H, W of one clip; T = 1 when time is not split
    dtype: torch.dtype
    bands: list[Band]  # the approximation, then the details from the coarsest level on
    high: tuple[int, int, int]  # detail frames per clip, their height and width
    levels: list[Level]  # the coarsest first


@torch.compiler.assume_constant_result
def _plan(*options) -> Plan:
    # shared by all who come later, whatever surrounds the first: inference mode, `torch.func`
    with torch.inference_mode(False), torch._C._DisableFuncTorch():
        return _made_plan(*options)


@lru_cache(maxsize=128)
def _made_plan(wavelet, level, mode, form, axes, sizes, device, dtype) -> Plan:
    bands, levels, image, to = [], [], form == "image", (device, dtype)
    lengths = {d: n for d, n in zip(DIMS, sizes) if d in AXES[axes]}
    for j in (level,) if image else range(level, 0, -1):
        # The matrices of every axis, and what brings all that can come out of them into [0, 1].
        # From the frames themselves at every level: small outputs of large ones would be rounding.
        if image:
            ways, shape = [[low_pass(n, wavelet, level, mode) for n in lengths.values()]], sizes
            into_unit = unit_map(ways[0]), unit_map(ways[0], even=True, rest=True)
        else:
            ways = list(zip(*(side_by_side(n, wavelet, j, mode) for n in lengths.values())))  # A, S
            halved = {d: len(a) // 2 for d, a in zip(lengths, ways[0])}
            shape = tuple(halved.get(d, n) for d, n in zip(DIMS, sizes))
            keys = "a" * len(lengths), *NAMES[axes]
            rows = ([a["ad".index(c) :: 2] for c, a in zip(key, ways[0])] for key in keys)
            into_unit = [unit_map(some, even=key in NAMES[axes]) for key, some in zip(keys, rows)]
        at = sum(band.shape[0] for band in bands[1:])
        new = [Band(shape, *maps, at + i * shape[0]) for i, maps in enumerate(into_unit, -1)]
        # Haar's entries become 1 and -1: equal pixels are exactly grey.
        unit = 2**0.5 if wavelet == "haar" and j == 1 and not image else 1.0
        sums = unit > 1 and device.type in CUT and not any(n % 2 for n in lengths.values())
        haar = [(d - 5, 1 + (d == 3)) for d in (4, 3, 1) if d in lengths and sums]
        tiled = ([(d, tiles(m * unit, to)) for d, m in zip(lengths, way)] for way in ways)
        # Back, the averages of a finer level are what the coarser levels merge to: here nothing.
        offset, scale = torch.tensor([band[2:0:-1] for band in new], dtype=torch.float64).T
        there, back = scale / unit ** len(lengths), 1 / scale / unit ** len(lengths)
        back[: bool(bands)] = 0.0
        maps = torch.stack([offset, there, -offset * back, back]).view(2, 2, -1, 1, 1, 1, 1)
        halves = [1 + (d in lengths) for d in (1, 4, 3)]
        levels.append(Level(*maps.to(*to), halves, haar, *tiled))
        bands += new[bool(bands) :]
    frames, heights, widths = zip(*(band.shape for band in bands[1:]))
    return Plan(sizes, dtype, bands, (sum(frames), max(heights), max(widths)), levels)


def tiles(matrix: Tensor, to: tuple[torch.device, torch.dtype]) -> Tiles:
    """A matrix, in `CUT` as tiles along its diagonal, without the zeros beside them."""
    cut, tiles = to[0].type in CUT, []
    for rows in matrix.tensor_split(max(1, round(min(matrix.shape) / 32)) if cut else 1):
        used = (rows != 0).any(0).nonzero().flatten().tolist() if cut else []
        first, last = (used[0], used[-1]) if used else (0, matrix.shape[1] - 1)
        tiles.append((first, rows[:, first : last + 1].to(*to).contiguous()))
    return tiles


def multiply(products: list[tuple[int, Tiles]], x: Tensor) -> Tensor:
    """Multiply matrices into dimensions of x, (B, T, 3, H, W)."""
    for dim, tiles in products:
        parts = [along(m, x.narrow(dim, first, m.shape[1]), dim) for first, m in tiles]
        x = torch.cat(parts, dim) if len(parts) > 1 else parts[0]
    return x


def along(matrix: Tensor, x: Tensor, dim: int) -> Tensor:
    """Multiply a matrix (m, n) into dimension `dim` ≥ 1 of x, which has length n there."""
    if dim == x.ndim - 1:
        return F.linear(x, matrix)
    return (matrix @ x.flatten(dim + 1)).unflatten(-1, x.shape[dim + 1 :])
