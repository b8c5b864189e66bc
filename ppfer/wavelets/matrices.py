"""The matrices of a discrete wavelet transform along one axis, and what can come out of them.

Push the identity through ``pywt.wavedec`` and there is the analysis matrix A; push it through
``pywt.waverec`` and there is the synthesis matrix S, with S A = I. All are float64, cached and
shared: clone one before changing it.
"""

from functools import lru_cache, reduce

import numpy as np
import pywt
import torch
from torch import Tensor

from ppfer.base.errors import PpferError, check


@lru_cache(maxsize=256)
def analysis_matrix(
    n: int, wavelet: str = "haar", level: int = 1, mode: str = "symmetric"
) -> Tensor:
    """The matrix A (m, n) that makes ``pywt.wavedec``'s coefficients of a signal of length n.

    Its rows are the approximation, then the details from the coarsest level to the finest.

    Args:
        n: Length of the axis.
        wavelet: Name of a discrete wavelet, one of ``pywt.wavelist(kind="discrete")``.
        level: How often the approximation is split again.
        mode: How the signal goes on beyond its ends, one of ``pywt.Modes.modes``.

    Raises:
        PpferError: If the wavelet, level or mode does not exist, or the axis is too short for it.
    """
    return torch.from_numpy(np.concatenate(_wavedec_of_identity(n, wavelet, level, mode)))


@lru_cache(maxsize=256)
def synthesis_matrix(
    n: int, wavelet: str = "haar", level: int = 1, mode: str = "symmetric"
) -> Tensor:
    """The matrix S (n, m) that makes a signal of its coefficients, ``pywt.waverec``: S A = I.

    ``dmey`` is only nearly invertible in PyWavelets (up to 0.5 % per step is lost); for it S is
    corrected, step by step, by the smallest change that makes S A = I hold.
    """
    a = analysis_matrix(n, wavelet, 1, mode).numpy()
    m = len(a) // 2
    if level > 1:  # an average is itself made of the coarser levels
        s, coarser = synthesis_matrix(n, wavelet, 1, mode), (m, wavelet, level - 1, mode)
        return torch.cat([s[:, :m] @ synthesis_matrix(*coarser), s[:, m:]], 1)
    s = pywt.waverec(np.split(np.eye(2 * m), 2), wavelet, mode, axis=0)[:n]  # odd n: one too many
    lost = np.eye(n) - s @ a
    if np.abs(lost).max() > 1e-8:
        s = s + lost @ np.linalg.pinv(a)
    return torch.from_numpy(np.ascontiguousarray(s))


@lru_cache(maxsize=256)
def low_pass(n: int, wavelet: str = "haar", level: int = 1, mode: str = "symmetric") -> Tensor:
    """P = S[:, :m₀] A[:m₀], (n, n): what the approximation alone keeps of a signal of length n."""
    m = len(_wavedec_of_identity(n, wavelet, level, mode)[0])
    options = n, wavelet, level, mode
    return synthesis_matrix(*options)[:, :m] @ analysis_matrix(*options)[:m]


def side_by_side(n: int, wavelet: str, level: int, mode: str) -> tuple[Tensor, Tensor]:
    """A (2m, n) and S (n, 2m) of one level's averages and details, which take turns."""
    m = len(_wavedec_of_identity(n, wavelet, level, mode)[0])
    turns = torch.arange(2 * m).view(2, m).T.flatten()
    a, s = (make(n, wavelet, level, mode) for make in (analysis_matrix, synthesis_matrix))
    return a[turns], s[:, turns]


@lru_cache(maxsize=256)
def _wavedec_of_identity(n: int, wavelet: str, level: int, mode: str) -> list[np.ndarray]:
    check_options(wavelet, level, mode)
    try:
        if level == 1:  # as below, but without a warning that an axis is short
            return list(pywt.dwt(np.eye(n), wavelet, mode, axis=0))
        return pywt.wavedec(np.eye(n), wavelet, mode, level, axis=0)
    except ValueError as error:
        words = f"an axis of length {n} cannot be split {level} times with {wavelet}/{mode}"
        raise PpferError(f"{words}: {error}") from None


def check_options(wavelet: str, level: int, mode: str) -> None:
    """Raise `PpferError` if there is no such wavelet, level or mode."""
    check("discrete wavelet", wavelet, pywt.wavelist(kind="discrete"))
    check("boundary mode", mode, pywt.Modes.modes)
    if not isinstance(level, int) or level < 1:
        raise PpferError(f"the level is a whole number of at least 1, not {level!r}")


def unit_map(parts: list[Tensor], even: bool = False, rest: bool = False) -> tuple[float, float]:
    """Scale and offset that bring P x into [0, 1] for all x in [0, 1], P = part_1 ⊗ part_2 ⊗ …

    `even`: zero becomes 0.5. `rest`: the same for x - P x.
    """
    total = reduce(torch.kron, [p.sum(1) for p in parts])
    size = reduce(torch.kron, [p.abs().sum(1) for p in parts])
    if rest:  # the signs swap and a diagonal entry q becomes 1 - q
        q = reduce(torch.kron, [p.diagonal() for p in parts])
        total, size = 1 - total, size - q.abs() + (1 - q).abs()
    least, most = (total - size).min().item() / 2, (total + size).max().item() / 2
    least, most = (min(least, -most), max(-least, most)) if even else (least, most)
    width = most - least  # 0: it is always zero
    return (1 / width, -least / width) if width > 1e-9 else (1.0, 0.5)
