"""Split frames into a low and a high frequency band, and put them back exactly.

A discrete wavelet transform is linear, so along one axis of length n it is a matrix: push the
identity through ``pywt.wavedec`` and there is the analysis matrix A; push it through
``pywt.waverec`` and there is the synthesis matrix S, with S A = I. PyWavelets is the oracle that
builds the matrices, torch multiplies by them: any wavelet, level and boundary mode, along height,
width and time, differentiable, batched, on any device.

*Horizontal* means what PyWavelets means by it: detail along the height axis (-2), average along the
width axis (-1). It answers to horizontal edges, such as closed lips; *vertical* is the other way
round.
"""

from __future__ import annotations

import math
import operator
import warnings
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np
import pywt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer.config import PpferError

WHOLE = ("cuda",)  # devices where one product with a whole matrix beats many small operations
AXES = {
    "hw": (3, 4),
    "t": (1,),
    "thw": (1, 3, 4),
}  # which dimensions of (B, T, 3, H, W) each option transforms

# One letter per transformed axis, a = average and d = detail, in the order of AXES. The spatial
# order is wavedec2's.
NAMES = {
    "hw": {"da": "horizontal", "ad": "vertical", "dd": "diagonal"},
    "t": {"d": "temporal"},
    "thw": {
        "ada": "horizontal", "aad": "vertical", "add": "diagonal", "daa": "temporal",
        "dda": "temporal_horizontal", "dad": "temporal_vertical", "ddd": "temporal_diagonal",
    },
}  # fmt: skip


# ------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def analysis_matrix(
    n: int, wavelet: str = "haar", level: int = 1, mode: str = "symmetric"
) -> Tensor:
    """The matrix A whose product with a signal of length n is ``pywt.wavedec`` of that signal.

    Args:
        n: Length of the axis.
        wavelet: Name of a discrete wavelet, one of ``pywt.wavelist(kind="discrete")``.
        level: How often the approximation is split again.
        mode: How the signal goes on beyond its ends, one of ``pywt.Modes.modes``.

    Returns:
        (m, n) float64, m >= n. Its rows are the approximation, then the details from the coarsest
        to the finest (see `row_slices`). Cached and shared: clone it before changing it.

    Raises:
        PpferError: If the wavelet, level or mode does not exist, or the axis is too short for the
            mode.
    """
    return torch.from_numpy(np.concatenate(_wavedec_of_identity(n, wavelet, level, mode)))


@lru_cache(maxsize=256)
def synthesis_matrix(
    n: int, wavelet: str = "haar", level: int = 1, mode: str = "symmetric"
) -> Tensor:
    """The matrix S whose product with the coefficients of a signal is ``pywt.waverec``, cropped to
    n: S A = I.

    ``dmey`` is only nearly invertible in PyWavelets (up to 0.5 % per step is lost); for it S is
    corrected by the smallest change that makes S A = I hold.

    Args:
        n: Length of the axis; `wavelet`, `level` and `mode` as in `analysis_matrix`.

    Returns:
        (n, m) float64. Cached and shared: clone it before changing it.
    """
    slices = row_slices(n, wavelet, level, mode)
    identity = np.eye(slices[-1].stop)
    s = pywt.waverec([identity[rows] for rows in slices], wavelet, mode, axis=0)[
        :n
    ]  # odd n: waverec adds one row
    a = analysis_matrix(n, wavelet, level, mode).numpy()
    lost = np.eye(n) - s @ a
    if np.abs(lost).max() > 1e-8:
        s = s + lost @ np.linalg.pinv(a)
    return torch.from_numpy(np.ascontiguousarray(s))


def row_slices(
    n: int, wavelet: str = "haar", level: int = 1, mode: str = "symmetric"
) -> tuple[slice, ...]:
    """Which rows of `analysis_matrix` are which: approximation, coarsest detail, ..., finest
    detail.
    """
    ends = [0, *accumulate(len(rows) for rows in _wavedec_of_identity(n, wavelet, level, mode))]
    return tuple(slice(start, stop) for start, stop in pairwise(ends))


@lru_cache(maxsize=256)
def _wavedec_of_identity(n: int, wavelet: str, level: int, mode: str) -> list[np.ndarray]:
    _check_options(wavelet, level, mode)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # too deep a level: `_plan` says it once, in a sentence
            return pywt.wavedec(np.eye(n), wavelet, mode, level, axis=0)
    except ValueError as error:
        raise PpferError(
            f"an axis of length {n} cannot be split {level} times with {wavelet}/{mode}: {error}"
        ) from None


def _check_options(wavelet: str, level: int, mode: str) -> None:
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise PpferError(
            f"unknown discrete wavelet '{wavelet}'; known: "
            f"{', '.join(pywt.wavelist(kind='discrete'))}"
        )
    if mode not in pywt.Modes.modes:
        raise PpferError(f"unknown boundary mode '{mode}'; known: {', '.join(pywt.Modes.modes)}")
    if not isinstance(level, int) or level < 1:
        raise PpferError(f"the level is a whole number of at least 1, not {level!r}")


# ------------------------------------------------------------------------------


class BandSplit(nn.Module):
    """Frames to ``(low, high)`` and back, both bands again frame-like: (n, 3, h, w) in [0, 1].

    The transform is PyWavelets' to rounding; an affine map per sub-band then brings its worst case
    over all frames in [0, 1] into [0, 1]. Zero detail is mapped to the grey 0.5. (DESIGN: the
    wavelet layer; paper, section 3.2.)

    ``form="subband"``: low is the approximation, high holds every detail sub-band as frames, folded
    into the batch.
        Per clip (or frame) `high` lists the sub-bands in the order of `names` (coarsest level
        first), each with its time steps in order. With level 1 all have one size; with more,
        smaller sub-bands lie in the top left corner of a frame as big as the biggest, the rest is
        grey. Haar, level 1: (N, 3, H, W) gives (N, 3, H/2, W/2) and (3N, 3, H/2, W/2), where
        ``high.view(N, 3, 3, H/2, W/2)`` is (frame, sub-band, colour, height, width).
    ``form="image"``: both bands are pictures of full resolution: low keeps the approximation only,
    high is the
        rest, so that undoing the two affine maps (`coefficients`) and adding gives the frames.

    It has no parameters and no state: matrices are computed once per size in float64 and shared.
    float64 frames are transformed in float64, all others in float32, whatever autocast says. Where
    TF32 matrix products are allowed (by default they are not), it is exact only to TF32. On a GPU
    one level along height and width is two products with whole matrices; elsewhere Haar is sums and
    differences, and the matrices of other wavelets are cut into tiles.

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
        _check_options(wavelet, level, mode)
        if form not in ("subband", "image"):
            raise PpferError(f"unknown form '{form}'; known: subband, image")
        if axes not in AXES:
            raise PpferError(f"unknown axes '{axes}'; known: {', '.join(AXES)}")
        self.wavelet, self.level, self.mode, self.form, self.axes = wavelet, level, mode, form, axes

    def extra_repr(self) -> str:
        return (
            f"{self.wavelet!r}, level={self.level}, mode={self.mode!r}, form={self.form!r}, "
            f"axes={self.axes!r}"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Sub-bands in PyWavelets' order: approximation, horizontal, vertical, diagonal; ``_2``,
        ``_1`` when levels > 1.

        With time, details over time are ``temporal`` and ``temporal_horizontal`` and so on. An
        image form has two bands only: approximation and detail.
        """
        if self.form == "image":
            return "approximation", "detail"
        suffixes = [f"_{j}" for j in range(self.level, 0, -1)] if self.level > 1 else [""]
        return "approximation", *(
            name + suffix for suffix in suffixes for name in NAMES[self.axes].values()
        )

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `split`."""
        return self.split(frames)

    def split(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Split frames into a low and a high band.

        Args:
            frames: (N, 3, H, W), or clips (B, T, 3, H, W), in [0, 1]. Clips are required when time
                is split; when it is not, they are taken as B*T frames.

        Returns:
            low (n, 3, h, w) and high (m, 3, h', w'), both in [0, 1] and of the frames' dtype; see
            the class for the order.

        Raises:
            PpferError: If the shape does not fit the axes, or the frames are not floating point.
        """
        if not frames.is_floating_point():
            raise PpferError(
                f"frames are floating point in [0, 1], not {frames.dtype}; divide uint8 frames by "
                "255"
            )
        plan = self._plan(frames.shape, frames.device, frames.dtype)
        with torch.autocast(frames.device.type, enabled=False):
            x = frames.to(plan.dtype).reshape(
                -1, plan.sizes[0], 3, *plan.sizes[1:]
            )  # (B, T, 3, H, W)
            if plan.whole:
                low, *high = _analyse_whole(x, plan.whole)
            else:
                raw = _project(x, plan) if self.form == "image" else _analyse(x, plan)
                low, *high = (
                    _affine(r, b.gain * b.scale, b.offset) for r, b in zip(raw, plan.bands)
                )
            h, w = plan.high[1:]
            high = _cat([_pad(y, h, w) for y in high], dim=1)  # (B, sum of T_j, 3, h, w)
        return low.flatten(0, 1).to(frames.dtype), high.flatten(0, 1).to(frames.dtype)

    def merge(
        self, low: Tensor, high: Tensor, like: Tensor | tuple[int, ...] | None = None
    ) -> Tensor:
        """Put two bands back into frames: the inverse of `split`, not clamped.

        Args:
            low: (n, 3, h, w), as `split` returns it.
            high: (m, 3, h', w').
            like: The frames that were split, or their shape. Required when time is split. Without
                it the result is (N, 3, H, W) with the even sizes that fit: give it for odd sizes
                and to get clips back.

        Returns:
            Frames of `like`'s shape.

        Raises:
            PpferError: If the bands do not fit each other or `like`.
        """
        parts, plan, shape = self._unfold(low, high, like)
        with torch.autocast(low.device.type, enabled=False):
            if plan.whole:
                x = _synthesise_whole(parts, plan.whole)
            else:
                raw = [
                    _affine(p, b.gain / b.scale, -b.gain * b.offset / b.scale)
                    for p, b in zip(parts, plan.bands)
                ]
                x = (
                    raw[0] + raw[1] if self.form == "image" else _synthesise(raw, plan)
                )  # (B, T, 3, H, W)
        return x.reshape(shape).to(torch.promote_types(low.dtype, high.dtype))

    def coefficients(
        self, low: Tensor, high: Tensor, like: Tensor | tuple[int, ...] | None = None
    ) -> dict[str, Tensor]:
        """The signed sub-bands in PyWavelets' own units, by name: what is in `low` and `high`
        before the affine maps.

        Args:
            low, high, like: As in `merge`.

        Returns:
            Name to (B*T_j, 3, h_j, w_j), T_j = 1 unless time is split.
        """
        parts, plan, _ = self._unfold(low, high, like)
        signed = (_affine(p, 1 / b.scale, -b.offset / b.scale) for p, b in zip(parts, plan.bands))
        return {name: x.flatten(0, 1) for name, x in zip(self.names, signed)}

    def details(
        self, high: Tensor, like: Tensor | tuple[int, ...] | None = None
    ) -> dict[str, Tensor]:
        """Unfold `high` into its named sub-bands, still in [0, 1] with 0.5 for zero.

        Args:
            high: (m, 3, h', w'), as `split` returns it.
            like: As in `merge`; also required when levels > 1.

        Returns:
            Name to (B*T_j, 3, h_j, w_j) for every name but the approximation.
        """
        if like is None and self.level > 1 and self.form == "subband":
            raise PpferError(
                "bands of more than one level need the frames they come from, or their shape, as "
                "`like`"
            )
        shape = (
            self._shape_of_frames(high, high)
            if like is None
            else tuple(getattr(like, "shape", like))
        )
        plan = self._plan(shape, high.device, high.dtype)
        return {
            n: p.flatten(0, 1).to(high.dtype)
            for n, p in zip(self.names[1:], _unfold_high(high, plan))
        }

    def _plan(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> _Plan:
        """What to do with frames of this shape."""
        time = "t" in self.axes
        if len(shape) not in ((5,) if time else (4, 5)) or shape[-3] != 3:
            wanted = (
                "clips (B, T, 3, H, W)" if time else "frames (N, 3, H, W) or clips (B, T, 3, H, W)"
            )
            raise PpferError(f"splitting along '{self.axes}' takes {wanted}, not {tuple(shape)}")
        sizes = tuple(
            operator.index(n) for n in (shape[1] if time else 1, *shape[-2:])
        )  # compiled: one graph per size
        dtype = torch.float64 if dtype == torch.float64 else torch.float32
        return _plan(
            self.wavelet, self.level, self.mode, self.form, self.axes, sizes, device, dtype
        )

    def _unfold(self, low: Tensor, high: Tensor, like: Tensor | tuple[int, ...] | None):
        """Bands as a list of (B, T_j, 3, h_j, w_j) in the order of `names`, the plan, and the shape
        of the frames.
        """
        shape = (
            self._shape_of_frames(low, high)
            if like is None
            else tuple(getattr(like, "shape", like))
        )
        plan = self._plan(shape, low.device, torch.promote_types(low.dtype, high.dtype))
        count = math.prod(shape[:-3]) // plan.sizes[0]  # clips, or frames where time is not split
        (t, h, w), (high_t, high_h, high_w) = plan.bands[0].shape, plan.high
        wanted = (count * t, 3, h, w), (count * high_t, 3, high_h, high_w)
        if (tuple(low.shape), tuple(high.shape)) != wanted:
            raise PpferError(
                f"frames of shape {shape} have bands of shape {wanted[0]} and {wanted[1]}, not "
                f"{tuple(low.shape)} and "
                f"{tuple(high.shape)}; give the frames that were split, or their shape, as `like`"
            )
        return [low.to(plan.dtype).unflatten(0, (count, t)), *_unfold_high(high, plan)], plan, shape

    def _shape_of_frames(self, low: Tensor, high: Tensor) -> tuple[int, ...]:
        """The likeliest shape of the frames these bands come from."""
        if "t" in self.axes:
            raise PpferError(
                "bands split over time need the clips they come from, or their shape, as `like`"
            )
        if self.form == "image":
            return tuple(low.shape)
        lengths = zip(map(operator.index, low.shape[-2:]), map(operator.index, high.shape[-2:]))
        sizes = (_axis_length(*pair, self.wavelet, self.level, self.mode) for pair in lengths)
        count = len(low) // (len(self.names) - 1) if low is high else len(low)
        return count, 3, *sizes


# ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Band:
    shape: tuple[int, int, int]  # T_j, h_j, w_j of one clip
    scale: float  # band = coefficient * scale + offset, in [0, 1]
    offset: float
    gain: float  # coefficient = gain * what `_analyse` computes: Haar's sums and differences skip the 1/sqrt(2)


@dataclass(frozen=True)
class _Tile:
    start: int  # the tile's matrix meets the samples (or the coefficients) start ... start + length - 1
    length: int
    matrix: Tensor


@dataclass(frozen=True)
class _Whole:
    analysis: tuple[Tensor, Tensor]  # A of height and of width, each over its largest entry
    synthesis: tuple[Tensor, Tensor]  # S of both
    scale: Tensor  # of every coefficient's sub-band, laid out as A X Aᵀ is
    gain: Tensor  # the same times both largest entries
    offset: Tensor


@dataclass(frozen=True)
class _Plan:
    sizes: tuple[int, int, int]  # T, H, W of one clip; T = 1 when time is not split
    dtype: torch.dtype
    dims: tuple[int, ...]  # the transformed dimensions of (B, T, 3, H, W)
    bands: tuple[_Band, ...]  # in the order of BandSplit.names
    high: tuple[int, int, int]  # number of detail frames per clip, their height and width
    keys: tuple[str, ...] = ()  # subband form: the details of one level
    steps: tuple = ()  # subband form: per level, finest first, per dimension (tiles of A, tiles of S), or None for Haar
    projections: tuple[Tensor, ...] = ()  # image form: per dimension P = S[:, :m0] A[:m0]
    whole: _Whole | None = None


@torch.compiler.assume_constant_result
def _plan(*options) -> _Plan:
    return _cached_plan(*options)


@lru_cache(maxsize=128)
def _cached_plan(wavelet, level, mode, form, axes, sizes, device, dtype) -> _Plan:
    dims, options = AXES[axes], (wavelet, level, mode)
    lengths = dict(zip((1, 3, 4), sizes))
    for n in (lengths[d] for d in dims):
        if level > max(1, pywt.dwt_max_level(n, wavelet)):
            warnings.warn(
                f"level {level} of {wavelet} is deep for an axis of length {n}: every coefficient "
                "of the last level "
                "depends on how the boundary is extended; the split is still exact",
                stacklevel=5,
            )

    def on_device(matrix: Tensor) -> Tensor:
        with torch.inference_mode(
            False
        ):  # cloned: a cached inference tensor could not be used in training later
            return matrix.to(device, dtype).clone(memory_format=torch.contiguous_format)

    if form == "image":
        low_rows = [(lengths[d], row_slices(lengths[d], *options)[0]) for d in dims]
        projections = [
            synthesis_matrix(n, *options)[:, r] @ analysis_matrix(n, *options)[r]
            for n, r in low_rows
        ]
        bands = (_band(sizes, *_range(projections)), _band(sizes, *_range_of_rest(projections)))
        return _Plan(
            sizes, dtype, dims, bands, sizes, projections=tuple(map(on_device, projections))
        )

    keys, steps, details, gain = tuple(NAMES[axes]), [], [], 1.0
    for j in range(1, level + 1):
        step, rows = (
            [],
            {},
        )  # rows[d]: averages and details of level j as functions of the samples along d
        for d, whole in zip(dims, (sizes[(1, 3, 4).index(d)] for d in dims)):
            haar = (
                lengths[d] % 2 == 0
                and pywt.Wavelet(wavelet).filter_bank == pywt.Wavelet("haar").filter_bank
            )
            step.append(None if haar else _tiles(lengths[d], wavelet, mode, on_device))
            gain *= 0.5**0.5 if haar else 1.0
            average, detail = row_slices(whole, wavelet, j, mode)[:2]
            rows[d] = {"a": analysis_matrix(whole, wavelet, j, mode)[average],
                       "d": analysis_matrix(whole, wavelet, j, mode)[detail]}  # fmt: skip
            lengths[d] = average.stop
        steps.append(tuple(step))
        shape = tuple(lengths.values())
        ranges = {
            key: _range([rows[d][k] for d, k in zip(dims, key)])
            for key in keys + ("a" * len(dims),)
        }
        bounds = {
            key: max(-lo, hi) for key, (lo, hi) in ranges.items()
        }  # symmetric: zero detail becomes 0.5
        details = [_band(shape, -bounds[key], bounds[key], gain) for key in keys] + details
    bands = (_band(shape, *ranges["a" * len(dims)], gain), *details)
    high = (
        sum(b.shape[0] for b in details),
        max(b.shape[1] for b in details),
        max(b.shape[2] for b in details),
    )
    whole = None
    if device.type in WHOLE and axes == "hw" and level == 1:
        names = "aa", *keys
        layout = [[bands[names.index(rows + columns)] for columns in "ad"] for rows in "ad"]
        spread = torch.ones(shape[1:], dtype=torch.float64)
        scale, offset = (
            torch.cat([torch.cat([spread * getattr(b, field) for b in row], 1) for row in layout])
            for field in ("scale", "offset")
        )
        forth, back = (
            [make(n, *options) for n in sizes[1:]] for make in (analysis_matrix, synthesis_matrix)
        )
        most = [
            m.abs().max().item() for m in forth
        ]  # taken out of them: Haar's become 1 and -1, and equal pixels exactly grey
        whole = _Whole(
            tuple(on_device(m / x) for m, x in zip(forth, most)),
            tuple(map(on_device, back)),
            on_device(scale),
            on_device(scale * math.prod(most)),
            on_device(offset),
        )
    return _Plan(sizes, dtype, dims, bands, high, keys, tuple(steps), whole=whole)


def _tiles(n: int, wavelet: str, mode: str, on_device) -> tuple[list[_Tile], list[_Tile]]:
    """One step's A and S, both banded, cut into tiles without the zero columns around the band.

    A tile of A makes some averages and then the details beside them; a tile of S takes both and
    makes some samples.
    """
    a = analysis_matrix(n, wavelet, 1, mode).unflatten(0, (2, -1))  # (2, m, n)
    s = synthesis_matrix(n, wavelet, 1, mode).unflatten(1, (2, -1)).transpose(0, 1)  # (2, n, m)
    tiles = ([], [])
    for side, (matrix, stack) in enumerate(((a, 0), (s, 1))):
        for rows in matrix.tensor_split(max(1, round(n / 64)), dim=1):
            used = rows.abs().sum((0, 1)).nonzero().flatten()
            start, stop = int(used.min()), int(used.max()) + 1
            tiles[side].append(
                _Tile(
                    start, stop - start, on_device(torch.cat([*rows[..., start:stop]], dim=stack))
                )
            )
    return tiles


def _band(shape: tuple[int, int, int], lo: float, hi: float, gain: float = 1.0) -> _Band:
    scale = 1 / (hi - lo) if hi - lo > 1e-9 else 1.0  # a band that is always zero
    return _Band(shape, scale, -lo * scale if hi - lo > 1e-9 else 0.5, gain)


def _sums(matrices: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Sums of the positive and of the negative entries (as positive numbers) in each row of
    matrix_1 x matrix_2 x ...
    """
    positive, negative = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for m in matrices:
        p, n = m.clamp(min=0).sum(1), (-m).clamp(min=0).sum(1)
        same, other = (
            torch.outer(positive, u) + torch.outer(negative, v) for u, v in ((p, n), (n, p))
        )
        positive, negative = same.flatten(), other.flatten()
    return positive, negative


def _range(matrices: list[Tensor]) -> tuple[float, float]:
    """Least and greatest value of (matrix_1 x matrix_2 x ...) applied to anything in [0, 1]."""
    positive, negative = _sums(matrices)
    return -negative.max().item(), positive.max().item()


def _range_of_rest(projections: list[Tensor]) -> tuple[float, float]:
    """Range of X - (P_1 x P_2 x ...) X, symmetric: the signs swap and a diagonal entry q becomes 1
    - q.
    """
    positive, negative = _sums(projections)
    q = torch.ones(1, dtype=torch.float64)
    for p in projections:
        q = torch.outer(q, p.diagonal()).flatten()
    up = negative - (-q).clamp(min=0) + (1 - q).clamp(min=0)
    down = positive - q.clamp(min=0) + (q - 1).clamp(min=0)
    bound = max(up.max().item(), down.max().item())
    return -bound, bound


@torch.compiler.assume_constant_result
def _axis_length(*options) -> int:
    return _cached_axis_length(*options)


@lru_cache(maxsize=256)
def _cached_axis_length(low: int, high: int, wavelet: str, level: int, mode: str) -> int:
    """The length, even if possible, of an axis whose last average has length `low` and biggest
    detail length `high`.
    """

    def fits(n: int) -> bool:
        lengths = [n]
        for _ in range(level):
            lengths.append(pywt.dwt_coeff_len(lengths[-1], pywt.Wavelet(wavelet).dec_len, mode))
        return lengths[-1] == low and max(lengths[1:]) == high

    lengths = [n for n in range(1, (low << level) + 1) if fits(n)]
    if not lengths:
        raise PpferError(
            f"no frame has bands {low} and {high} long with {wavelet}/{mode}, level {level}"
        )
    return max(lengths, key=lambda n: (n % 2 == 0, n))


# ------------------------------------------------------------------------------


def _affine(x: Tensor, scale: float, offset: float) -> Tensor:
    return torch.add(
        torch.tensor(offset, dtype=x.dtype), x, alpha=scale
    )  # one pass over the memory instead of two


def _cat(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _pad(x: Tensor, h: int, w: int) -> Tensor:
    """Fill a small sub-band up with grey; level 1 never needs it."""
    return (
        x
        if x.shape[-2:] == (h, w)
        else F.pad(x, (0, w - x.shape[-1], 0, h - x.shape[-2]), value=0.5)
    )


def _unfold_high(high: Tensor, plan: _Plan) -> list[Tensor]:
    """The detail sub-bands, each (B, T_j, 3, h_j, w_j)."""
    shapes = [band.shape for band in plan.bands[1:]]
    parts = (
        high.to(plan.dtype).unflatten(0, (-1, plan.high[0])).split([t for t, _, _ in shapes], dim=1)
    )
    return [part[..., :h, :w] for part, (_, h, w) in zip(parts, shapes)]


def _along(matrix: Tensor, x: Tensor, dim: int) -> Tensor:
    """Multiply a matrix (m, n) into dimension `dim` of x, which has length n there."""
    if dim == x.ndim - 1:
        return x @ matrix.T
    return (matrix @ x.flatten(dim + 1)).unflatten(-1, x.shape[dim + 1 :])


def _project(x: Tensor, plan: _Plan) -> list[Tensor]:
    """(B, T, 3, H, W) to its low-pass picture and the rest."""
    low = x
    for dim, matrix in zip(plan.dims, plan.projections):
        low = _along(matrix, low, dim)
    return [low, x - low]


def _analyse(x: Tensor, plan: _Plan) -> list[Tensor]:
    """(B, T, 3, H, W) to the approximation and all details (before gain), in the order of
    BandSplit.names.
    """
    details = []
    for step in plan.steps:
        bands = {"": x}
        for dim, tiles in zip(
            reversed(plan.dims), reversed(step)
        ):  # last axis first: no copies between the products
            bands = {
                s + k: y for k, v in bands.items() for s, y in zip("ad", _split_axis(v, dim, tiles))
            }
        x = bands["a" * len(plan.dims)]
        details = [bands[key] for key in plan.keys] + details
    return [x, *details]


def _analyse_whole(x: Tensor, whole: _Whole) -> list[Tensor]:
    """(B, 1, 3, H, W) to all sub-bands, affine map included, each (B, 1, 3, h, w)."""
    rows, columns = whole.analysis
    y = (
        torch.addcmul(whole.offset, rows @ (x[:, 0] @ columns.T), whole.gain)
        .unflatten(-2, (2, -1))
        .unflatten(-1, (2, -1))
    )
    y = y.permute(0, 4, 2, 1, 3, 5)  # (B, width's a or d, height's a or d, 3, h, w)
    return [band.unsqueeze(1) for half in y.unbind(1) for band in half.unbind(1)]


def _synthesise_whole(bands: list[Tensor], whole: _Whole) -> Tensor:
    """The inverse of `_analyse_whole`."""
    rows, columns = whole.synthesis
    y = (
        torch.cat(bands, 1).unflatten(1, (2, 2)).permute(0, 3, 2, 4, 1, 5)
    )  # (B, 3, height's a or d, h, width's a or d, w)
    y = (y.flatten(4).flatten(2, 3) - whole.offset) / whole.scale  # (B, 3, 2h, 2w)
    return (rows @ (y @ columns.T)).unsqueeze(1)


def _synthesise(bands: list[Tensor], plan: _Plan) -> Tensor:
    """The inverse of `_analyse`."""
    x, *details = bands
    for step in reversed(plan.steps):
        bands = dict(zip(plan.keys, details)) | {"a" * len(plan.dims): x}
        details = details[len(plan.keys) :]
        for dim, tiles in zip(plan.dims, step):
            bands = {
                k[1:]: _merge_axis(v, bands["d" + k[1:]], dim, tiles)
                for k, v in bands.items()
                if k[0] == "a"
            }
        x = bands[""]
    return x


def _split_axis(x: Tensor, dim: int, tiles: tuple | None) -> tuple[Tensor, Tensor]:
    if tiles is None:  # Haar on an even length: sums and differences of neighbours
        even, odd = x.unflatten(dim, (-1, 2)).unbind(dim + 1)
        return even + odd, even - odd
    pairs = [
        _along(t.matrix, x.narrow(dim, t.start, t.length), dim).chunk(2, dim) for t in tiles[0]
    ]
    return tuple(_cat(parts, dim) for parts in zip(*pairs))


def _merge_axis(a: Tensor, d: Tensor, dim: int, tiles: tuple | None) -> Tensor:
    if tiles is None:
        x = a.new_empty([2 * n if i == dim else n for i, n in enumerate(a.shape)])
        pairs = x.unflatten(dim, (-1, 2))
        for i, y in enumerate((a + d, a - d)):
            pairs.select(dim + 1, i).copy_(y)  # five times faster than stacking along the last axis
        return x
    parts = []
    for t in tiles[1]:
        pair = torch.cat([y.narrow(dim, t.start, t.length) for y in (a, d)], dim)
        parts.append(_along(t.matrix, pair, dim))
    return _cat(parts, dim)
