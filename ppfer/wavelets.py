"""Split frames into a low and a high frequency band, and put them back exactly.

A discrete wavelet transform is linear, so along one axis of length n it is a matrix: push the
identity through ``pywt.wavedec`` and there is the analysis matrix A; push it through
``pywt.waverec`` and there is the synthesis matrix S, with S A = I. PyWavelets is the oracle that
builds the matrices, torch multiplies by them, coefficients = A_h X A_wᵀ: any wavelet, level and
boundary mode, along height, width and time, differentiable, batched, on any device.

*Horizontal* is PyWavelets': detail along the height axis (-2), average along the width axis (-1).
It answers to horizontal edges, such as closed lips; *vertical* is the other way round.
"""

from __future__ import annotations

import math
import operator
import warnings
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np
import pywt
import torch
from torch import Tensor, nn

from ppfer import banded
from ppfer.banded import Axis, Band, Step, Transform, slot
from ppfer.base.errors import PpferError, near

AXES = {"hw": (3, 4), "t": (1,), "thw": (1, 3, 4)}  # dimensions of (B, T, 3, H, W)

Like = Tensor | tuple[int, ...] | None  # frames, or their shape

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


# The two matrices


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
        PpferError: If the wavelet, level or mode does not exist, or the axis is too short for it.
    """
    return torch.from_numpy(np.concatenate(_wavedec_of_identity(n, wavelet, level, mode)))


@lru_cache(maxsize=256)
def synthesis_matrix(
    n: int, wavelet: str = "haar", level: int = 1, mode: str = "symmetric"
) -> Tensor:
    """The matrix S that makes a signal of length n of its coefficients, ``pywt.waverec``: S A = I.

    ``dmey`` is only nearly invertible in PyWavelets (up to 0.5 % per step is lost); for it S is
    corrected by the smallest change that makes S A = I hold.

    Returns:
        (n, m) float64. Cached and shared: clone it before changing it.
    """
    slices = row_slices(n, wavelet, level, mode)
    identity = np.eye(slices[-1].stop)
    s = pywt.waverec([identity[rows] for rows in slices], wavelet, mode, axis=0)
    s = s[:n]  # odd n: waverec adds one row
    a = analysis_matrix(n, wavelet, level, mode).numpy()
    lost = np.eye(n) - s @ a
    if np.abs(lost).max() > 1e-8:
        s = s + lost @ np.linalg.pinv(a)
    return torch.from_numpy(np.ascontiguousarray(s))


def row_slices(
    n: int, wavelet: str = "haar", level: int = 1, mode: str = "symmetric"
) -> tuple[slice, ...]:
    """Which rows of `analysis_matrix` are which: approximation, coarsest detail, ..., finest."""
    ends = [0, *accumulate(len(rows) for rows in _wavedec_of_identity(n, wavelet, level, mode))]
    return tuple(slice(start, stop) for start, stop in pairwise(ends))


@lru_cache(maxsize=256)
def low_pass(n: int, wavelet: str = "haar", level: int = 1, mode: str = "symmetric") -> Tensor:
    """P = S[:, :m₀] A[:m₀]: what the approximation alone keeps of a signal of length n.

    Returns:
        (n, n) float64. Cached and shared: clone it before changing it.
    """
    options = n, wavelet, level, mode
    rows = row_slices(*options)[0]
    return synthesis_matrix(*options)[:, rows] @ analysis_matrix(*options)[rows]


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
    known = pywt.wavelist(kind="discrete")
    if wavelet not in known:
        meant = near(wavelet, known)
        raise PpferError(f"unknown discrete wavelet '{wavelet}'{meant}; known: {', '.join(known)}")
    if mode not in pywt.Modes.modes:
        meant, known = near(mode, pywt.Modes.modes), ", ".join(pywt.Modes.modes)
        raise PpferError(f"unknown boundary mode '{mode}'{meant}; known: {known}")
    if not isinstance(level, int) or level < 1:
        raise PpferError(f"the level is a whole number of at least 1, not {level!r}")


# The layer


class BandSplit(nn.Module):
    """Frames to ``(low, high)`` and back, both bands again frame-like: (n, 3, h, w) in [0, 1].

    The transform is PyWavelets' to rounding; an affine map per sub-band then brings its worst case
    over all frames in [0, 1] into [0, 1]. Zero detail is the grey 0.5 (paper §3.2).

    ``form="subband"``: low is the approximation, high holds every detail sub-band as frames, folded
        into the batch. Per clip (or frame) `high` lists the sub-bands in the order of `names`
        (coarsest level first), each with its time steps in order. With level 1 all have one size;
        with more, smaller sub-bands lie in the top left corner of a frame as big as the biggest,
        the rest is grey. Haar, level 1: (N, 3, H, W) gives (N, 3, H/2, W/2) and (3N, 3, H/2, W/2),
        where ``high.view(N, 3, 3, H/2, W/2)`` is (frame, sub-band, colour, height, width).
    ``form="image"``: both bands are pictures of full resolution: low keeps the approximation only,
        high is the rest, so that undoing the two affine maps (`coefficients`) and adding gives the
        frames.

    It has no parameters and no state: matrices are computed once per size in float64 and shared.
    float64 frames are transformed in float64, all others in float32, whatever autocast says. Where
    TF32 matrix products are allowed (by default they are not), it is exact only to TF32.

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
        options = {k: getattr(self, k) for k in ("wavelet", "level", "mode", "form", "axes")}
        return ", ".join(f"{name}={value!r}" for name, value in options.items())

    @property
    def names(self) -> tuple[str, ...]:
        """Sub-bands in PyWavelets' order: approximation, horizontal, vertical, diagonal.

        ``_2``, ``_1`` follow when levels > 1. Details over time are ``temporal``,
        ``temporal_horizontal`` and so on. An image form has two: approximation and detail.
        """
        if self.form == "image":
            return "approximation", "detail"
        suffixes = [f"_{j}" for j in range(self.level, 0, -1)] if self.level > 1 else [""]
        names = NAMES[self.axes].values()
        return "approximation", *(name + suffix for suffix in suffixes for name in names)

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
        low, high = banded.split(plan, frames.to(plan.dtype))
        return low.to(frames.dtype), high.to(frames.dtype)

    forward = split

    def merge(self, low: Tensor, high: Tensor, like: Like = None) -> Tensor:
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
        plan, shape = self._fit(low, high, like)
        frames = banded.merge(plan, low.to(plan.dtype), high.to(plan.dtype), shape)
        return frames.to(torch.promote_types(low.dtype, high.dtype))

    def coefficients(self, low: Tensor, high: Tensor, like: Like = None) -> dict[str, Tensor]:
        """The signed sub-bands in PyWavelets' units, by name: before the affine maps.

        Args:
            low, high, like: As in `merge`.

        Returns:
            Name to (B*T_j, 3, h_j, w_j), T_j = 1 unless time is split.
        """
        plan, shape = self._fit(low, high, like)
        parts = {"approximation": low.to(plan.dtype), **self.details(high.to(plan.dtype), shape)}
        bands = zip(parts.items(), plan.bands)
        return {name: (part - band.offset) / band.scale for (name, part), band in bands}

    def details(self, high: Tensor, like: Like = None) -> dict[str, Tensor]:
        """Unfold `high` into its named sub-bands, still in [0, 1] with 0.5 for zero.

        Args:
            high: (m, 3, h', w'), as `split` returns it.
            like: As in `merge`; also required when levels > 1.

        Returns:
            Name to (B*T_j, 3, h_j, w_j) for every name but the approximation.
        """
        if like is None and self.level > 1 and self.form == "subband":
            raise PpferError(
                "bands of several levels need the frames they come from, or their shape, as `like`"
            )
        plan = self._plan(self._shape(high, high, like), high.device, high.dtype)
        high = high.unflatten(0, (-1, plan.high[0]))
        parts = zip(self.names[1:], plan.bands[1:])
        return {name: slot(high, band).flatten(0, 1) for name, band in parts}

    def _plan(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Transform:
        """What to do with frames of this shape."""
        time = "t" in self.axes
        if len(shape) not in ((5,) if time else (4, 5)) or shape[-3] != 3:
            wanted = "" if time else "frames (N, 3, H, W) or "
            raise PpferError(
                f"splitting along '{self.axes}' takes {wanted}clips (B, T, 3, H, W), "
                f"not {tuple(shape)}"
            )
        # a plain number when compiled too: one graph per size
        sizes = tuple(operator.index(n) for n in (shape[1] if time else 1, *shape[-2:]))
        dtype = torch.float64 if dtype == torch.float64 else torch.float32
        options = self.wavelet, self.level, self.mode, self.form, self.axes
        return _plan(*options, sizes, device, dtype)

    def _fit(self, low: Tensor, high: Tensor, like: Like) -> tuple[Transform, tuple[int, ...]]:
        """The plan and the shape of the frames that these bands come from."""
        shape = self._shape(low, high, like)
        plan = self._plan(shape, low.device, torch.promote_types(low.dtype, high.dtype))
        count = math.prod(shape[:-3]) // plan.sizes[0]  # clips, or frames where time is not split
        (t, h, w), (high_t, high_h, high_w) = plan.bands[0].shape, plan.high
        wanted = (count * t, 3, h, w), (count * high_t, 3, high_h, high_w)
        if (tuple(low.shape), tuple(high.shape)) != wanted:
            raise PpferError(
                f"frames of shape {shape} have bands of shape {wanted[0]} and {wanted[1]}, not "
                f"{tuple(low.shape)} and {tuple(high.shape)}; give the frames that were split, "
                "or their shape, as `like`"
            )
        return plan, shape

    def _shape(self, low: Tensor, high: Tensor, like: Like) -> tuple[int, ...]:
        """The shape of the frames these bands come from, the likeliest where `like` is None."""
        if like is not None:
            return tuple(getattr(like, "shape", like))
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


# What is where, for frames of one size


@torch.compiler.assume_constant_result
def _plan(*options) -> Transform:
    return _cached_plan(*options)


@lru_cache(maxsize=128)
def _cached_plan(wavelet, level, mode, form, axes, sizes, device, dtype) -> Transform:
    lengths = dict(zip((1, 3, 4), sizes))
    whole = {d: lengths[d] for d in AXES[axes]}
    for n in whole.values():
        if level > max(1, pywt.dwt_max_level(n, wavelet)):
            warnings.warn(
                f"level {level} of {wavelet} is deep for an axis of length {n}: every coefficient "
                "of the last level depends on the extended boundary; the split is still exact",
                stacklevel=5,
            )

    def send(matrix: Tensor) -> Tensor:
        # cloned: a cached inference tensor could not be used in training later
        with torch.inference_mode(False):
            return matrix.to(device, dtype).clone(memory_format=torch.contiguous_format)

    if form == "image":
        kept = [low_pass(n, wavelet, level, mode) for n in whole.values()]
        most = banded.bound_of_rest(kept)
        bands = Band.between(sizes, *banded.span(kept)), Band.between(sizes, -most, most)
        kept = tuple(zip(whole, map(send, kept)))
        return Transform(sizes, dtype, bands, sizes, projections=kept)

    steps, details, gains = [], [], (1.0, 1.0)
    for j in range(1, level + 1):
        axes_, rows = [], {}  # rows[d]: averages, details of level j as functions of the samples
        for d, n in whole.items():
            one, (a, b, *_) = (lengths[d], wavelet, 1, mode), row_slices(n, wavelet, j, mode)
            matrices = analysis_matrix(*one), synthesis_matrix(*one).T
            axes_.append(tuple(Axis.of(d, m, send, device.type in banded.WHOLE) for m in matrices))
            gains = tuple(gain * axis.gain for gain, axis in zip(gains, axes_[-1]))
            matrix = analysis_matrix(n, wavelet, j, mode)
            rows[d] = {"a": matrix[a], "d": matrix[b]}
            lengths[d] = a.stop
        shape = tuple(lengths.values())
        spans = [banded.span([rows[d][c] for d, c in zip(whole, key)]) for key in NAMES[axes]]
        most = [max(-low, high) for low, high in spans]
        new = [Band.between(shape, -m, m, gains) for m in most]  # zero detail becomes 0.5
        low = Band.between(shape, *banded.span([row["a"] for row in rows.values()]), gains)
        steps.append(Step.of(tuple(axes_), [low if j == level else None, *new], send))
        details = new + details
    frames, heights, widths = zip(*(band.shape for band in details))
    high = sum(frames), max(heights), max(widths)
    details = [replace(band, at=sum(frames[:i])) for i, band in enumerate(details)]
    return Transform(sizes, dtype, (low, *details), high, tuple(steps))


@torch.compiler.assume_constant_result
def _axis_length(*options) -> int:
    return _cached_axis_length(*options)


@lru_cache(maxsize=256)
def _cached_axis_length(low: int, high: int, wavelet: str, level: int, mode: str) -> int:
    """How long, even if possible, an axis is whose average and longest detail are that long."""
    chains = {n: [n] for n in range(1, (low << level) + 1)}
    for chain in chains.values():
        for _ in range(level):
            chain.append(pywt.dwt_coeff_len(chain[-1], pywt.Wavelet(wavelet).dec_len, mode))
    fits = [n for n, chain in chains.items() if chain[-1] == low and max(chain[1:]) == high]
    if not fits:
        words = f"{wavelet}/{mode}, level {level}"
        raise PpferError(f"no frame has bands {low} and {high} long with {words}")
    return max(fits, key=lambda n: (n % 2 == 0, n))
