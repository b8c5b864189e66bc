"""Matrices multiplied into the axes of clips, averages and details out: how, not which.

`ppfer.wavelets` says which. On a GPU the number of kernels counts: a matrix is one product. On a
CPU the zeros count: a matrix is cut into tiles along its band, and Haar's is sums and differences.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

WHOLE = ("cuda",)  # devices where one product with a whole matrix beats many small operations


@dataclass(frozen=True)
class Band:
    """A sub-band: band = coefficient * scale + offset."""

    shape: tuple[int, int, int]  # T_j, h_j, w_j of one clip
    scale: float
    offset: float
    gains: tuple[float, float] = (1.0, 1.0)  # what was taken out of A and of S; see `Axis`
    at: int = 0  # of a detail: its first frame among all of a clip's

    @classmethod
    def between(cls, shape: tuple, low: float, high: float, gains=(1.0, 1.0)) -> Band:
        """The sub-band in [0, 1] whose coefficients lie between low and high."""
        if high - low < 1e-9:  # it is always zero
            return cls(shape, 1.0, 0.5, gains)
        return cls(shape, 1 / (high - low), -low / (high - low), gains)

    def affine(self, way: int) -> tuple[float, float]:
        """Factor and offset from a coefficient over its gain to the band (way 0), or back."""
        gain = self.gains[way]
        factor = gain / self.scale if way else gain * self.scale
        return factor, -factor * self.offset if way else self.offset


@dataclass(frozen=True)
class Tile:
    """A block of a matrix: the outputs from `at` on, made of `length` inputs from `start` on."""

    at: int
    start: int
    length: int
    matrix: Tensor


@dataclass(frozen=True)
class Axis:
    """A matrix along a dimension of (B, T, 3, H, W): n samples to m averages, then m details.

    Its greatest entry is taken out, so that Haar's are 1 and -1 and equal pixels exactly grey.
    """

    dim: int
    m: int
    n: int
    gain: float  # the entry taken out
    split: tuple[Tile, ...]  # the matrix; empty: Haar's, as sums and differences of neighbours
    merge: tuple[Tile, ...]  # its transpose

    @classmethod
    def of(cls, dim: int, matrix: Tensor, send: Callable[[Tensor], Tensor], whole: bool) -> Axis:
        """Prepare a matrix (2m, n), averages first; `send` puts a tensor where it is needed."""
        gain = matrix.abs().max().item()
        matrix = (matrix / gain).unflatten(0, (2, 1, -1)).transpose(1, 2)  # (2, m, 1, n)
        m, n = matrix.shape[1], matrix.shape[3]
        pairs = torch.eye(m, dtype=matrix.dtype).repeat_interleave(2, dim=1)  # (m, 2m)
        haar = torch.stack([pairs, pairs * torch.tensor([1, -1]).repeat(m)])
        if not whole and n == 2 * m and torch.allclose(matrix.squeeze(2), haar):
            return cls(dim, m, n, gain, (), ())
        cuts = 1 if whole else max(1, round(n / 64))
        both = matrix, matrix.permute(2, 3, 0, 1)
        return cls(dim, m, n, gain, *(_tiles(one, cuts, send) for one in both))


def _tiles(matrix: Tensor, cuts: int, send: Callable[[Tensor], Tensor]) -> tuple[Tile, ...]:
    """A matrix (groups, outputs, groups, inputs) without the zeros beside its band."""
    tiles = []
    for at in torch.arange(matrix.shape[1]).tensor_split(cuts):
        block = matrix[:, at]
        used = block.abs().sum((0, 1, 2)).nonzero().flatten()
        start, stop = (int(used[0]), int(used[-1]) + 1) if cuts > 1 else (0, block.shape[-1])
        block = block[..., start:stop].flatten(2).flatten(0, 1)
        tiles.append(Tile(int(at[0]), start, stop - start, send(block)))
    return tuple(tiles)


@dataclass(frozen=True)
class Maps:
    """x * factor + offset of every sub-band: average or detail over time, width, height."""

    factors: Tensor  # (2, …, 1, 1, 1, 1)
    offsets: Tensor  # likewise
    numbers: tuple[float, ...]  # the factors again


@dataclass(frozen=True)
class Step:
    """One level: a matrix per dimension, then an affine map per sub-band."""

    axes: tuple[tuple[Axis, Axis], ...]  # per dimension, of A and of S transposed
    maps: tuple[Maps, Maps]  # of both
    stacked: tuple[int, ...]  # shape of a clip's averages and details: T, 3, H, W, some doubled
    shape: tuple[int, ...]  # the same with the doubles apart: (…, 2, …)
    order: tuple[int, ...]  # and how to permute it: the 2s before all others

    @classmethod
    def of(cls, axes: tuple, bands: list[Band | None], send: Callable[[Tensor], Tensor]) -> Step:
        """`bands` as in `Transform`; None for an approximation that is split again."""
        maps = []
        for way in range(2):
            pairs = [(1.0, 0.0) if band is None else band.affine(way) for band in bands]
            rows = [torch.tensor(row, dtype=torch.float64) for row in zip(*pairs)]
            rows = [send(row.view([2] * len(axes) + [1] * 4)) for row in rows]
            maps.append(Maps(*rows, tuple(factor for factor, _ in pairs)))
        t, h, w = bands[-1].shape
        whole, dims = (t, 3, h, w), [axis.dim for axis, _ in axes]
        sizes, at = list(whole), []
        for axis, _ in axes:
            sizes.insert(axis.dim - 1 + len(at), 2)
            at.append(axis.dim + len(at))
        at = [d for d in at if d == 1] + [d for d in reversed(at) if d != 1]
        order = 0, *at, *(d for d in range(1, len(sizes) + 1) if d not in at)
        stacked = [n * 2 ** (d in dims) for d, n in enumerate(whole, 1)]
        return cls(axes, tuple(maps), tuple(stacked), tuple(sizes), order)


@dataclass(frozen=True)
class Transform:
    """A separable transform of clips and its inverse, with the affine maps of their bands."""

    sizes: tuple[int, int, int]  # T, H, W of one clip; T = 1 when time is not split
    dtype: torch.dtype
    bands: tuple[Band, ...]  # the approximation, then the details from the coarsest level on
    high: tuple[int, int, int]  # detail frames per clip, their height and width
    steps: tuple[Step, ...] = ()  # finest level first
    projections: tuple[tuple[int, Tensor], ...] = ()  # in their place: low = P X, high = X − P X


def split(t: Transform, x: Tensor) -> tuple[Tensor, Tensor]:
    """Frames or clips (…, 3, H, W) to low (n, 3, h, w) and high (m, 3, h', w'), in [0, 1]."""
    if not t.projections:
        return _apply(t, 0, True, None, x)
    x = x.reshape(-1, t.sizes[0], 3, *t.sizes[1:])  # (B, T, 3, H, W)
    with torch.autocast(x.device.type, enabled=False):
        kept = x
        for dim, matrix in t.projections:
            kept = along(matrix, kept, dim)
    low, rest = kept * t.bands[0].scale + t.bands[0].offset, (x - kept) * t.bands[1].scale + 0.5
    return low.flatten(0, 1), rest.flatten(0, 1)


def merge(t: Transform, low: Tensor, high: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `split`: frames or clips of `shape`."""
    if not t.projections:
        return _apply(t, 1, True, shape, low, high)
    low, high = ((x - b.offset) / b.scale for x, b in zip((low, high), t.bands))
    return (low + high).reshape(shape)


def _apply(t: Transform, way: int, shifted: bool, shape: tuple | None, *inputs: Tensor):
    """Analysis of one input, synthesis of two: each is the other's transpose.

    Args:
        t: which transform.
        way: 0 with A, 1 with S transposed.
        shifted: whether the affine maps add their offsets; those of gradients do not.
        shape: of what synthesis returns.
        inputs: x, or low and high.
    """
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    if tracked and not torch.compiler.is_compiling():  # a compiled graph has few kernels anyway
        return _Linear.apply(t, way, shifted, shape, *inputs)
    return _compute(t, way, shifted, shape, *inputs)


class _Linear(torch.autograd.Function):
    """One node in autograd's graph; by itself it would chain dozens of small kernels."""

    @staticmethod
    def forward(ctx, t: Transform, way: int, shifted: bool, shape: tuple | None, *inputs: Tensor):
        ctx.options = t, way, False, inputs[0].shape
        return _compute(t, way, shifted, shape, *inputs)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        made = _apply(*ctx.options, *gradients)  # the transpose, without offsets
        return None, None, None, None, *(made if isinstance(made, tuple) else (made,))


def _compute(t: Transform, way: int, shifted: bool, shape: tuple | None, *inputs: Tensor):
    """`_apply` without autograd."""
    if torch.is_autocast_enabled(inputs[0].device.type):
        with torch.autocast(inputs[0].device.type, enabled=False):
            return _compute(t, way, shifted, shape, *inputs)
    if len(inputs) == 1:
        return _analyse(t, way, shifted, *inputs)
    return _synthesise(t, way, shifted, *inputs).view(shape)


def _analyse(t: Transform, way: int, shifted: bool, x: Tensor) -> tuple[Tensor, Tensor]:
    details = []
    x = x.reshape(-1, t.sizes[0], 3, *t.sizes[1:])  # (B, T, 3, H, W)
    for step in t.steps:
        for axes in reversed(step.axes):  # last dimension first: no copies between the products
            x = _split_axis(x, axes[way])
        x, rest = _take(_letters(x, step), step.maps[way], shifted)
        details.insert(0, rest)
    if len(details) == 1:
        return x.flatten(0, 1), details[0].flatten(0, 2)
    (_, h, w), grey = t.high, 0.5 if shifted else 0.0  # a smaller sub-band lies in the corner
    padding = [(0, w - y.shape[-1], 0, h - y.shape[-2]) for y in details]
    details = [F.pad(y.flatten(1, 2), p, value=grey) for y, p in zip(details, padding)]
    return x.flatten(0, 1), torch.cat(details, 1).flatten(0, 1)


def _synthesise(t: Transform, way: int, shifted: bool, low: Tensor, high: Tensor) -> Tensor:
    frames, h, w = t.bands[0].shape
    x, first = low.reshape(-1, frames, 3, h, w), 1
    high = high.reshape(-1, t.high[0], 3, *t.high[1:])
    for step in reversed(t.steps):
        count = 2 ** len(step.axes) - 1  # of details
        low, rest = x, slot(high, t.bands[first], count)
        x = torch.empty(len(x), *step.stacked, dtype=x.dtype, device=x.device)
        _give(_letters(x, step), low, rest, step.maps[way], shifted)
        for axes in step.axes:
            x = _merge_axis(x, axes[way])
        first += count
    return x


def slot(high: Tensor, band: Band, count: int = 1) -> Tensor:
    """The place of a detail sub-band, (B, T_j, 3, h_j, w_j), or of `count` from this one on."""
    t, h, w = band.shape
    view = high.narrow(1, band.at, count * t)
    return view if view.shape[-2:] == (h, w) else view[..., :h, :w]


def _letters(y: Tensor, step: Step) -> Tensor:
    """(B, T, 3, H, W) seen as (B, 2, …, t, 3, h, w): average or detail over time, width, height."""
    return y.view(-1, *step.shape).permute(step.order)


def _take(y: Tensor, maps: Maps, shifted: bool) -> tuple[Tensor, Tensor]:
    """y as `_letters` sees it to low (B, t, 3, h, w) and rest (B, details, t, 3, h, w)."""
    k = y.ndim - 5
    if _at_once(y):
        bands = torch.empty_like(y, memory_format=torch.contiguous_format)
        bands = _affine(bands, y, maps, shifted).flatten(1, k)
        return bands.select(1, 0), bands.narrow(1, 1, 2**k - 1)
    low, rest = y.new_empty(len(y), *y.shape[-4:]), y.new_empty(len(y), 2**k - 1, *y.shape[-4:])
    _affine_each([low, *rest.unbind(1)], _each(y), maps, shifted)
    return low, rest


def _give(y: Tensor, low: Tensor, rest: Tensor, maps: Maps, shifted: bool) -> None:
    """The other way, into y; rest is (B, details · t, 3, h, w)."""
    if _at_once(y):
        _affine(y, torch.cat([low, rest], 1).view(y.shape), maps, shifted)
    else:
        _affine_each(
            _each(y), [low, *rest.unflatten(1, (-1, low.shape[1])).unbind(1)], maps, shifted
        )


def _at_once(y: Tensor) -> bool:
    """Whether the fewest kernels are best; on a CPU the fewest passes and copies are."""
    return y.device.type in WHOLE or torch.compiler.is_compiling()


def _each(y: Tensor) -> list[Tensor]:
    """The sub-bands of y as `_letters` sees it."""
    return [y[(slice(None), *i)] for i in itertools.product((0, 1), repeat=y.ndim - 5)]


def _affine(out: Tensor, x: Tensor, maps: Maps, shifted: bool) -> Tensor:
    """x * factor + offset; returns `out`."""
    if shifted:
        return _put(out, torch.addcmul, maps.offsets, x, maps.factors)
    return _put(out, torch.mul, x, maps.factors)


def _affine_each(outs: list[Tensor], parts: list[Tensor], maps: Maps, shifted: bool) -> None:
    """The same for one sub-band after the other."""
    for out, x, factor, offset in zip(outs, parts, maps.numbers, maps.offsets.flatten()):
        if shifted:
            torch.add(offset, x, alpha=factor, out=out)
        else:
            torch.mul(x, factor, out=out)


def _put(out: Tensor, operation: Callable, *inputs: Tensor) -> Tensor:
    """Write a result where it belongs."""
    if torch.compiler.is_compiling():  # autograd looks inside then, and does not see ``out=``
        return out.copy_(operation(*inputs))
    return operation(*inputs, out=out)


def _split_axis(x: Tensor, axis: Axis) -> Tensor:
    """n samples to m averages, then m details."""
    if axis.split:
        return _multiply(axis.split, x, axis.dim, 1, (2, axis.m))
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    neighbours = x.unflatten(axis.dim, (-1, 2)).unbind(axis.dim + 1)
    for i, operation in enumerate((torch.add, torch.sub)):
        _put(y.narrow(axis.dim, i * axis.m, axis.m), operation, *neighbours)
    return y


def _merge_axis(y: Tensor, axis: Axis) -> Tensor:
    """The transpose of `_split_axis`."""
    if axis.merge:
        return _multiply(axis.merge, y, axis.dim, 2, (1, axis.n))
    x = torch.empty_like(y)
    pairs = x.unflatten(axis.dim, (-1, 2))
    for i, operation in enumerate((torch.add, torch.sub)):
        _put(pairs.select(axis.dim + 1, i), operation, *y.chunk(2, axis.dim))
    return x


def _multiply(tiles: tuple[Tile, ...], x: Tensor, dim: int, groups: int, size: tuple) -> Tensor:
    """A matrix into dimension `dim` of x, groups * inputs long, which gets outputs of `size`."""
    if len(tiles) == 1:
        return along(tiles[0].matrix, x, dim)
    x = x.unflatten(dim, (groups, -1))
    y = x.new_empty(*x.shape[:dim], *size, *x.shape[dim + 2 :])
    for tile in tiles:
        inputs = x.narrow(dim + 1, tile.start, tile.length).flatten(dim, dim + 1)
        made = along(tile.matrix, inputs, dim).unflatten(dim, (size[0], -1))
        y.narrow(dim + 1, tile.at, made.shape[dim + 1]).copy_(made)
    return y.flatten(dim, dim + 1)


def along(matrix: Tensor, x: Tensor, dim: int) -> Tensor:
    """Multiply a matrix (m, n) into dimension `dim` ≥ 1 of x, which has length n there."""
    if dim == x.ndim - 1:
        return F.linear(x, matrix)
    if dim == x.ndim - 2:
        return matrix @ x
    return (matrix @ x.flatten(dim + 1)).unflatten(-1, x.shape[dim + 1 :])


# What comes out for all that can come in


def span(matrices: list[Tensor]) -> tuple[float, float]:
    """Least and greatest value of (matrix_1 ⊗ matrix_2 ⊗ …) applied to anything in [0, 1]."""
    positive, negative = _sums(matrices)
    return -negative.max().item(), positive.max().item()


def bound_of_rest(projections: list[Tensor]) -> float:
    """Bound of X - (P_1 ⊗ P_2 ⊗ …) X: the signs swap and a diagonal entry q becomes 1 - q."""
    positive, negative = _sums(projections)
    q = torch.ones(1, dtype=torch.float64)
    for p in projections:
        q = torch.outer(q, p.diagonal()).flatten()
    up = negative - (-q).clamp(min=0) + (1 - q).clamp(min=0)
    down = positive - q.clamp(min=0) + (q - 1).clamp(min=0)
    return max(up.max().item(), down.max().item())


def _sums(matrices: list[Tensor]) -> tuple[Tensor, Tensor]:
    """In each row of matrix_1 ⊗ matrix_2 ⊗ …: the sums of the positive entries, of the negative."""
    positive, negative = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for m in matrices:
        p, n = m.clamp(min=0).sum(1), (-m).clamp(min=0).sum(1)
        same = torch.outer(positive, p) + torch.outer(negative, n)
        other = torch.outer(positive, n) + torch.outer(negative, p)
        positive, negative = same.flatten(), other.flatten()
    return positive, negative
