"""Split frames into a low and a high frequency band, and put them back exactly.

A discrete wavelet transform is linear, so along one axis of length n it is a matrix: push the identity through
``pywt.wavedec`` and there is the analysis matrix A; push it through ``pywt.waverec`` and there is the synthesis matrix S,
with S A = I. PyWavelets is the oracle that builds the matrices, torch multiplies by them: any wavelet, level and
boundary mode, along height, width and time, differentiable, batched, on any device.

*Horizontal* means what PyWavelets means by it: detail along the height axis (-2), average along the width axis (-1).
It answers to horizontal edges, such as closed lips; *vertical* is the other way round.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import pywt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

AXES = {"hw": (3, 4), "t": (1,), "thw": (1, 3, 4)}  # which dimensions of (B, T, 3, H, W) each option transforms

# One letter per transformed axis, a = average and d = detail, in the order of AXES. The spatial order is wavedec2's.
NAMES = {
    "hw": {"da": "horizontal", "ad": "vertical", "dd": "diagonal"},
    "t": {"d": "temporal"},
    "thw": {
        "ada": "horizontal", "aad": "vertical", "add": "diagonal", "daa": "temporal",
        "dda": "temporal_horizontal", "dad": "temporal_vertical", "ddd": "temporal_diagonal",
    },
}  # fmt: skip


# ------------------------------------------------------------------------------------------------ the two matrices


@lru_cache(maxsize=256)
def analysis_matrix(n: int, wavelet: str = "haar", level: int = 1, mode: str = "symmetric") -> Tensor:
    """The matrix A whose product with a signal of length n is ``pywt.wavedec`` of that signal.

    Args:
        n: Length of the axis.
        wavelet: Name of a discrete wavelet, one of ``pywt.wavelist(kind="discrete")``.
        level: How often the approximation is split again.
        mode: How the signal goes on beyond its ends, one of ``pywt.Modes.modes``.

    Returns:
        (m, n) float64, m >= n. Its rows are the approximation, then the details from the coarsest to the finest
        (see `row_slices`). Cached and shared: clone it before changing it.

    Raises:
        ValueError: If the wavelet, level or mode does not exist, or the axis is too short for the mode.
    """
    return torch.from_numpy(np.concatenate(_wavedec_of_identity(n, wavelet, level, mode)))


@lru_cache(maxsize=256)
def synthesis_matrix(n: int, wavelet: str = "haar", level: int = 1, mode: str = "symmetric") -> Tensor:
    """The matrix S whose product with the coefficients of a signal is ``pywt.waverec``, cropped to n: S A = I.

    ``dmey`` is only nearly invertible in PyWavelets (up to 0.5 % per step is lost); for it S is corrected by the
    smallest change that makes S A = I hold.

    Args:
        n: Length of the axis; `wavelet`, `level` and `mode` as in `analysis_matrix`.

    Returns:
        (n, m) float64. Cached and shared: clone it before changing it.
    """
    slices = row_slices(n, wavelet, level, mode)
    identity = np.eye(slices[-1].stop)
    s = pywt.waverec([identity[rows] for rows in slices], wavelet, mode, axis=0)[:n]  # odd n: waverec adds one row
    a = analysis_matrix(n, wavelet, level, mode).numpy()
    lost = np.eye(n) - s @ a
    if np.abs(lost).max() > 1e-8:
        s = s + lost @ np.linalg.pinv(a)
    return torch.from_numpy(np.ascontiguousarray(s))


def row_slices(n: int, wavelet: str = "haar", level: int = 1, mode: str = "symmetric") -> tuple[slice, ...]:
    """Which rows of `analysis_matrix` are which: approximation, coarsest detail, ..., finest detail."""
    ends = [0, *accumulate(len(rows) for rows in _wavedec_of_identity(n, wavelet, level, mode))]
    return tuple(slice(start, stop) for start, stop in zip(ends, ends[1:]))


@lru_cache(maxsize=256)
def _wavedec_of_identity(n: int, wavelet: str, level: int, mode: str) -> list[np.ndarray]:
    _check_options(wavelet, level, mode)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # too deep a level: `_plan` says it once, in a sentence
            return pywt.wavedec(np.eye(n), wavelet, mode, level, axis=0)
    except ValueError as error:
        raise ValueError(f"Cannot split an axis of length {n} {level} times with {wavelet}/{mode}: {error}") from None


def _check_options(wavelet: str, level: int, mode: str) -> None:
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise ValueError(f"{wavelet!r} is no discrete wavelet; choose one of pywt.wavelist(kind='discrete').")
    if mode not in pywt.Modes.modes:
        raise ValueError(f"{mode!r} is no boundary mode; choose one of {', '.join(pywt.Modes.modes)}.")
    if not isinstance(level, int) or level < 1:
        raise ValueError(f"The level must be a whole number of at least 1, not {level!r}.")


# ------------------------------------------------------------------------------------------------------- the layer


class BandSplit(nn.Module):
    """Frames to ``(low, high)`` and back, both bands again frame-like: (n, 3, h, w) in [0, 1].

    The transform is PyWavelets' to rounding; an affine map per sub-band then brings its worst case over all frames in
    [0, 1] into [0, 1]. Zero detail is mapped to the grey 0.5. (DESIGN: the wavelet layer; paper, section 3.2.)

    ``form="subband"``: low is the approximation, high holds every detail sub-band as frames, folded into the batch.
        Per clip (or frame) `high` lists the sub-bands in the order of `names` (coarsest level first), each with its time
        steps in order. With level 1 all have one size; with more, smaller sub-bands lie in the top left corner of a
        frame as big as the biggest, the rest is grey. Haar, level 1: (N, 3, H, W) gives (N, 3, H/2, W/2) and
        (3N, 3, H/2, W/2), where ``high.view(N, 3, 3, H/2, W/2)`` is (frame, sub-band, colour, height, width).
    ``form="image"``: both bands are pictures of full resolution: low keeps the approximation only, high is the
        rest, so that undoing the two affine maps (`coefficients`) and adding gives the frames.

    It has no parameters and no state: matrices are computed once per size in float64 and shared. float64 frames are
    transformed in float64, all others in float32, whatever autocast says. With TF32 matrix products allowed, wavelets
    other than Haar on even sizes are exact only to TF32.

    Args:
        wavelet: Any discrete wavelet of PyWavelets.
        level: How often the approximation is split again.
        mode: Boundary mode of PyWavelets; without effect for Haar on even sizes.
        form: ``"subband"`` or ``"image"``.
        axes: ``"hw"`` (each frame), ``"t"`` (each pixel over time) or ``"thw"`` (both).

    Raises:
        ValueError: If an option does not exist.
    """

    def __init__(
        self, wavelet: str = "haar", level: int = 1, mode: str = "symmetric", form: str = "subband", axes: str = "hw"
    ):
        super().__init__()
        _check_options(wavelet, level, mode)
        if form not in ("subband", "image"):
            raise ValueError(f"{form!r} is no form of a band; choose 'subband' or 'image'.")
        if axes not in AXES:
            raise ValueError(f"Cannot transform the axes {axes!r}; choose 'hw', 't' or 'thw'.")
        self.wavelet, self.level, self.mode, self.form, self.axes = wavelet, level, mode, form, axes

    def extra_repr(self) -> str:
        return f"{self.wavelet!r}, level={self.level}, mode={self.mode!r}, form={self.form!r}, axes={self.axes!r}"

    @property
    def names(self) -> tuple[str, ...]:
        """Sub-bands in PyWavelets' order: approximation, horizontal, vertical, diagonal; ``_2``, ``_1`` when levels > 1.

        With time, details over time are ``temporal`` and ``temporal_horizontal`` and so on. An image form has two
        bands only: approximation and detail.
        """
        if self.form == "image":
            return "approximation", "detail"
        suffixes = [f"_{j}" for j in range(self.level, 0, -1)] if self.level > 1 else [""]
        return "approximation", *(name + suffix for suffix in suffixes for name in NAMES[self.axes].values())

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `split`."""
        return self.split(frames)

    def split(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Split frames into a low and a high band.

        Args:
            frames: (N, 3, H, W), or clips (B, T, 3, H, W), in [0, 1]. Clips are required when time is split; when it
                is not, they are taken as B*T frames.

        Returns:
            low (n, 3, h, w) and high (m, 3, h', w'), both in [0, 1] and of the frames' dtype; see the class for the order.

        Raises:
            ValueError: If the shape does not fit the axes.
            TypeError: If the frames are not floating point.
        """
        if not frames.is_floating_point():
            raise TypeError(f"Frames must be floating point in [0, 1], not {frames.dtype}; divide uint8 frames by 255.")
        plan = self._plan(frames, frames.shape)
        with torch.autocast(frames.device.type, enabled=False):
            x = frames.to(plan.dtype).reshape(-1, plan.sizes[0], 3, *plan.sizes[1:])  # (B, T, 3, H, W)
            raw = _project(x, plan) if self.form == "image" else _analyse(x, plan)
            low, *high = (_affine(r, b.gain * b.scale, b.offset) for r, b in zip(raw, plan.bands))
            if plan.padded:
                h, w = plan.high[1:]
                high = [F.pad(y, (0, w - y.shape[-1], 0, h - y.shape[-2]), value=0.5) for y in high]
            high = high[0] if len(high) == 1 else torch.cat(high, dim=1)  # (B, sum of T_j, 3, h, w)
        return low.flatten(0, 1).to(frames.dtype), high.flatten(0, 1).to(frames.dtype)

    def merge(self, low: Tensor, high: Tensor, like: Tensor | tuple[int, ...] | None = None) -> Tensor:
        """Put two bands back into frames: the inverse of `split`, not clamped.

        Args:
            low: (n, 3, h, w), as `split` returns it.
            high: (m, 3, h', w').
            like: The frames that were split, or their shape. Required when time is split. Without it the result is
                (N, 3, H, W) with the even sizes that fit: give it for odd sizes and to get clips back.

        Returns:
            Frames of `like`'s shape.

        Raises:
            ValueError: If the bands do not fit each other or `like`.
        """
        parts, plan, shape = self._unfold(low, high, like)
        with torch.autocast(low.device.type, enabled=False):
            raw = [_affine(p, b.gain / b.scale, -b.gain * b.offset / b.scale) for p, b in zip(parts, plan.bands)]
            x = raw[0] + raw[1] if self.form == "image" else _synthesise(raw, plan)  # (B, T, 3, H, W)
        return x.reshape(shape).to(torch.promote_types(low.dtype, high.dtype))

    def coefficients(self, low: Tensor, high: Tensor, like: Tensor | tuple[int, ...] | None = None) -> dict[str, Tensor]:
        """The signed sub-bands in PyWavelets' own units, by name: what is in `low` and `high` before the affine maps.

        Args:
            low, high, like: As in `merge`.

        Returns:
            Name to (B*T_j, 3, h_j, w_j), T_j = 1 unless time is split.
        """
        parts, plan, _ = self._unfold(low, high, like)
        return {n: _affine(p, 1 / b.scale, -b.offset / b.scale).flatten(0, 1)
                for n, p, b in zip(self.names, parts, plan.bands)}  # fmt: skip

    def details(self, high: Tensor, like: Tensor | tuple[int, ...] | None = None) -> dict[str, Tensor]:
        """Unfold `high` into its named sub-bands, still in [0, 1] with 0.5 for zero.

        Args:
            high: (m, 3, h', w'), as `split` returns it.
            like: As in `merge`; also required when levels > 1.

        Returns:
            Name to (B*T_j, 3, h_j, w_j) for every name but the approximation.
        """
        if like is None and (self.level > 1 or "t" in self.axes) and self.form == "subband":
            raise ValueError("details() needs the frames, or their shape, as `like` when levels > 1 or time is split.")
        if like is None:
            like = self._guess(high, high)
        plan = self._plan(high, like if isinstance(like, tuple) else like.shape)
        return {n: p.flatten(0, 1) for n, p in zip(self.names[1:], self._unfold_high(high, plan))}

    # ------------------------------------------------------------------------------------------------- bookkeeping

    def _plan(self, x: Tensor, shape: tuple[int, ...]) -> _Plan:
        """What to do with frames of this shape, on x's device."""
        clips = len(shape) == 5
        if not (clips or (len(shape) == 4 and "t" not in self.axes)) or shape[-3] != 3:
            wanted = "clips (B, T, 3, H, W)" if "t" in self.axes else "frames (N, 3, H, W) or clips (B, T, 3, H, W)"
            raise ValueError(f"Axes {self.axes!r} need {wanted}, not {tuple(shape)}.")
        sizes = (int(shape[1]) if "t" in self.axes else 1, int(shape[-2]), int(shape[-1]))
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return _plan(self.wavelet, self.level, self.mode, self.form, self.axes, sizes, x.device, dtype)

    def _unfold(self, low: Tensor, high: Tensor, like: Tensor | tuple[int, ...] | None) -> tuple[list[Tensor], _Plan, tuple]:
        """Bands as a list of (B, T_j, 3, h_j, w_j) in the order of `names`, the plan, and the shape of the frames."""
        if like is None:
            like = self._guess(low, high)
        shape = tuple(like if isinstance(like, tuple) else like.shape)
        plan = self._plan(torch.empty((), dtype=torch.promote_types(low.dtype, high.dtype), device=low.device), shape)
        b = shape[0] if "t" in self.axes or len(shape) == 4 else shape[0] * shape[1]
        t, h, w = plan.bands[0].shape
        want_high = (b * plan.high[0], 3, *plan.high[1:])
        if low.shape != (b * t, 3, h, w) or high.shape != want_high:
            raise ValueError(f"Frames of shape {shape} have bands of shape {(b * t, 3, h, w)} and {want_high}, "
                             f"not {tuple(low.shape)} and {tuple(high.shape)}.")  # fmt: skip
        return [low.to(plan.dtype).unflatten(0, (b, t)), *self._unfold_high(high, plan)], plan, shape

    def _unfold_high(self, high: Tensor, plan: _Plan) -> list[Tensor]:
        shapes = [band.shape for band in plan.bands[1:]]
        parts = high.to(plan.dtype).unflatten(0, (-1, plan.high[0])).split([t for t, _, _ in shapes], dim=1)
        return [part[..., :h, :w] for part, (_, h, w) in zip(parts, shapes)]

    def _guess(self, low: Tensor, high: Tensor) -> tuple[int, ...]:
        """The shape of the frames that were split, from the shapes of their bands."""
        if "t" in self.axes:
            raise ValueError("merge() needs the clips that were split, or their shape, as `like` when time is split.")
        if self.form == "image":
            return tuple(low.shape)
        sizes = [_guess(*s, self.wavelet, self.level, self.mode) for s in zip(low.shape[-2:], high.shape[-2:])]
        if low is high:
            return (len(high) // len(self.names[1:]), 3, *sizes)
        return (len(low), 3, *sizes)


# ---------------------------------------------------------------------------------------------- plans: what is where


@dataclass(frozen=True)
class _Band:
    shape: tuple[int, int, int]  # T_j, h_j, w_j of one clip
    scale: float  # band = coefficient * scale + offset, in [0, 1]
    offset: float
    gain: float  # coefficient = gain * what `_analyse` computes: Haar's sums and differences skip the 1/sqrt(2)


@dataclass(frozen=True)
class _Plan:
    sizes: tuple[int, int, int]  # T, H, W of one clip; T = 1 when time is not split
    dtype: torch.dtype
    bands: tuple[_Band, ...]  # in the order of BandSplit.names
    high: tuple[int, int, int]  # number of detail frames per clip, their height and width
    padded: bool
    dims: tuple[int, ...]  # transformed dimensions of (B, T, 3, H, W)
    steps: tuple  # subband form: per level, finest first, per dimension the tiles of A and of S, or None for Haar
    keys: tuple[str, ...]  # detail sub-bands of one level
    projections: tuple[Tensor, ...]  # image form: per dimension P = S[:, :m0] A[:m0]


@torch.compiler.assume_constant_result
def _plan(*options) -> _Plan:
    return _cached_plan(*options)


@lru_cache(maxsize=128)
def _cached_plan(wavelet, level, mode, form, axes, sizes, device, dtype) -> _Plan:
    dims = AXES[axes]
    lengths = {1: sizes[0], 3: sizes[1], 4: sizes[2]}
    for n in (lengths[d] for d in dims):
        if level > max(1, pywt.dwt_max_level(n, wavelet)):
            warnings.warn(f"Level {level} is deep for {wavelet} on an axis of length {n}: every coefficient of the last "
                          "level feels the boundary. The split is still exact.", stacklevel=4)  # fmt: skip

    def on_device(matrix: Tensor) -> Tensor:
        with torch.inference_mode(False):  # an inference tensor in the cache could not be used in training later
            return matrix.to(device, dtype).contiguous()

    if form == "image":
        projections = []
        for n in (lengths[d] for d in dims):
            rows = row_slices(n, wavelet, level, mode)[0]
            a, s = analysis_matrix(n, wavelet, level, mode), synthesis_matrix(n, wavelet, level, mode)
            projections.append(s[:, rows] @ a[rows])
        low, high = _image_ranges(projections)
        bands = (_band(sizes, *low, 1.0), _band(sizes, *high, 1.0))
        return _Plan(sizes, dtype, bands, sizes, False, dims, (), (), tuple(map(on_device, projections)))

    steps, details, gain, keys = [], [], 1.0, tuple(NAMES[axes])
    for j in range(1, level + 1):
        step, rows = [], []  # rows[axis]: {"a": ..., "d": ...} of the one-axis transform down to level j
        for d in dims:
            n = lengths[d]
            haar = n % 2 == 0 and _is_haar(wavelet)
            gain *= 0.5**0.5 if haar else 1.0
            step.append(None if haar else _tiles(n, wavelet, mode, on_device, size=64 if device.type == "cpu" else n))
            lengths[d] = row_slices(n, wavelet, 1, mode)[0].stop
            whole = {1: sizes[0], 3: sizes[1], 4: sizes[2]}[d]
            a = analysis_matrix(whole, wavelet, j, mode)
            rows.append(dict(zip("ad", (a[r] for r in row_slices(whole, wavelet, j, mode)[:2]))))
        steps.append(tuple(step))
        shape = (lengths[1], lengths[3], lengths[4])

        def band(key, symmetric):
            sub = {d: len(r[k]) for d, r, k in zip(dims, rows, key)}
            t, h, w = (sub.get(d, n) for d, n in zip((1, 3, 4), shape))
            return _band((t, h, w), *_range([r[k] for r, k in zip(rows, key)], symmetric), gain)

        details = [band(key, True) for key in keys] + details
    bands = (band("a" * len(dims), False), *details)
    t, h, w = (sum(b.shape[0] for b in details), max(b.shape[1] for b in details), max(b.shape[2] for b in details))
    padded = any(b.shape[1:] != (h, w) for b in details)
    return _Plan(sizes, dtype, bands, (t, h, w), padded, dims, tuple(steps), keys, ())


@dataclass(frozen=True)
class _Tile:
    start: int  # the matrix meets columns start .. start + length, of both approximation and detail in the case of S
    length: int
    matrix: Tensor


def _tiles(n: int, wavelet: str, mode: str, on_device, size: int) -> tuple[list[_Tile], list[_Tile]]:
    """One step's A and S cut into tiles of about `size` samples, zero columns left out: both are banded matrices.

    A tile of A holds the rows of some approximation coefficients, then those of the same detail coefficients.
    """
    a, s = analysis_matrix(n, wavelet, 1, mode), synthesis_matrix(n, wavelet, 1, mode)
    count, parts = max(1, round(n / size)), ([], [])
    a, s = a.unflatten(0, (2, -1)), s.unflatten(1, (2, -1))  # (2, m, n), (n, 2, m)
    for rows_a, rows_s in zip(a.tensor_split(count, dim=1), s.tensor_split(count, dim=0)):
        for tiles, used, tile in zip(parts, ((rows_a != 0).any(0).any(0), (rows_s != 0).any(0).any(0)), (rows_a, rows_s)):
            columns = used.nonzero().flatten().tolist() or [0]
            length = columns[-1] + 1 - columns[0]
            matrix = tile[..., columns[0] : columns[-1] + 1]
            matrix = matrix.flatten(0, 1) if tiles is parts[0] else matrix.flatten(1, 2)
            tiles.append(_Tile(columns[0], length, on_device(matrix)))
    return parts


def _band(shape, lo: float, hi: float, gain: float) -> _Band:
    scale = 1 / (hi - lo) if hi - lo > 1e-12 else 1.0  # a sub-band that is always zero stays as it is
    return _Band(tuple(shape), scale, -lo * scale, gain)


def _range(rows: list[Tensor], symmetric: bool) -> tuple[float, float]:
    """Least and greatest value of (rows_1 x rows_2 x ...) applied to anything in [0, 1]: sums of negatives, positives."""
    positive, negative = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for r in rows:
        p, n = r.clamp(min=0).sum(1), (-r).clamp(min=0).sum(1)
        positive, negative = (
            (torch.outer(positive, p) + torch.outer(negative, n)).flatten(),
            (torch.outer(positive, n) + torch.outer(negative, p)).flatten(),
        )
    lo, hi = -negative.max().item(), positive.max().item()
    return (-max(-lo, hi), max(-lo, hi)) if symmetric else (lo, hi)


def _image_ranges(projections: list[Tensor]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ranges of low = (P x P x ...) X and of high = X - low."""
    low = _range(projections, False)
    positive, negative, diagonal = (torch.full((1,), v, dtype=torch.float64) for v in (1.0, 0.0, 1.0))
    for m in projections:
        p, n = m.clamp(min=0).sum(1), (-m).clamp(min=0).sum(1)
        positive, negative = (
            (torch.outer(positive, p) + torch.outer(negative, n)).flatten(),
            (torch.outer(positive, n) + torch.outer(negative, p)).flatten(),
        )
        diagonal = torch.outer(diagonal, m.diagonal()).flatten()
    # row of I - P x P: the signs swap, and the diagonal entry q becomes 1 - q
    up = negative - (-diagonal).clamp(min=0) + (1 - diagonal).clamp(min=0)
    down = positive - diagonal.clamp(min=0) + (diagonal - 1).clamp(min=0)
    bound = max(up.max().item(), down.max().item())
    return low, (-bound, bound)


def _is_haar(wavelet: str) -> bool:
    return pywt.Wavelet(wavelet).filter_bank == pywt.Wavelet("haar").filter_bank


@torch.compiler.assume_constant_result
def _guess(low: int, high: int, wavelet: str, level: int, mode: str) -> int:
    """The axis length, even if possible, whose last approximation has length `low` and biggest detail length `high`."""

    def fits(n: int) -> bool:
        lengths = [n]
        for _ in range(level):
            lengths.append(pywt.dwt_coeff_len(lengths[-1], pywt.Wavelet(wavelet).dec_len, mode))
        return lengths[-1] == low and max(lengths[1:]) == high

    lengths = [n for n in range(1, (low << level) + 1) if fits(n)]
    if not lengths:
        raise ValueError(f"No picture has bands of length {low} and {high} with {wavelet}/{mode}, level {level}.")
    return max(lengths, key=lambda n: (n % 2 == 0, n))


# ------------------------------------------------------------------------------------------------------- arithmetic


def _affine(x: Tensor, scale: float, offset: float) -> Tensor:
    return torch.add(torch.tensor(offset, dtype=x.dtype), x, alpha=scale)  # one pass over the memory instead of two


def _along(matrix: Tensor, x: Tensor, dim: int) -> Tensor:
    """Multiply a matrix (m, n) into dimension `dim` of x, which has length n there."""
    if dim == x.ndim - 1:
        return x @ matrix.T
    return (matrix @ x.flatten(dim + 1)).unflatten(-1, x.shape[dim + 1 :])


def _analyse(x: Tensor, plan: _Plan) -> list[Tensor]:
    """(B, T, 3, H, W) to the approximation and all details (before gain), in the order of BandSplit.names."""
    details = []
    for step in plan.steps:
        bands = {"": x}
        for dim, tiles in zip(reversed(plan.dims), reversed(step)):  # last axis first: no copies between products
            bands = {s + k: y for k, v in bands.items() for s, y in zip("ad", _split_axis(v, dim, tiles))}
        x = bands["a" * len(plan.dims)]
        details = [bands[key] for key in plan.keys] + details
    return [x, *details]


def _split_axis(x: Tensor, dim: int, tiles: tuple | None) -> tuple[Tensor, Tensor]:
    if tiles is None:  # Haar on an even length: sums and differences of neighbours
        even, odd = x.unflatten(dim, (-1, 2)).unbind(dim + 1)
        return even + odd, even - odd
    parts = [_along(t.matrix, x.narrow(dim, t.start, t.length), dim).chunk(2, dim) for t in tiles[0]]
    return tuple(y[0] if len(y) == 1 else torch.cat(y, dim) for y in zip(*parts))


def _synthesise(raw: list[Tensor], plan: _Plan) -> Tensor:
    """The inverse of `_analyse`."""
    x, *details = raw
    for step in reversed(plan.steps):
        bands = dict(zip(plan.keys, details)) | {"a" * len(plan.dims): x}
        details = details[len(plan.keys) :]
        for dim, tiles in zip(plan.dims, step):
            bands = {k: _merge_axis(bands["a" + k], bands["d" + k], dim, tiles) for k in sorted({k[1:] for k in bands})}
        x = bands[""]
    return x


def _merge_axis(a: Tensor, d: Tensor, dim: int, tiles: tuple | None) -> Tensor:
    if tiles is None:
        x = a.new_empty([2 * n if i == dim else n for i, n in enumerate(a.shape)])
        pairs = x.unflatten(dim, (-1, 2))  # written in place: five times faster than stacking along the last axis
        pairs.select(dim + 1, 0).copy_(a + d)
        pairs.select(dim + 1, 1).copy_(a - d)
        return x
    both = (torch.cat([y.narrow(dim, t.start, t.length) for y in (a, d)], dim) for t in tiles[1])
    parts = [_along(t.matrix, y, dim) for t, y in zip(tiles[1], both)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _project(x: Tensor, plan: _Plan) -> list[Tensor]:
    low = x
    for dim, matrix in zip(plan.dims, plan.projections):
        low = _along(matrix, low, dim)
    return [low, x - low]
