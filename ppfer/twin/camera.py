"""What a camera does to a drawn clip: exposure, shutter, focus, sensor noise, compression.

Strengths lie between those of a studio camera and of a telephone in a dim room; all of them grow
with the spec's difficulty, and at 0 frames pass unchanged.
"""

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ppfer.twin.people import seeded
from ppfer.twin.raster import settled

PLATE = 256  # width of the picture that noise is cut from, the same on every device
BLOCK = 8  # pixels of a block that is compressed as one, as in JPEG and MPEG
EXPOSURE = 0.12  # spread of a clip's brightness, as a share
SHUTTER = 0.25  # largest share of the moment before in a frame: motion blur
FOCUS = 0.005  # largest blur, a Gaussian's deviation in picture widths
NOISE = 0.015  # largest deviation of a pixel
STEP = 0.04  # largest step of a quantised coefficient


def shot(name: str, frames: int, seed: int, difficulty: float) -> np.ndarray:
    """How a clip is recorded, drawn from its name: (T, 7), gain; share of the frame before; blur in
    picture widths; noise; quantisation step; where the noise plate is cut, in texels.
    """
    rng = seeded(seed, name, "camera")
    gain = settled(np.exp(EXPOSURE * difficulty * rng.normal()))
    most = np.array([SHUTTER, FOCUS, NOISE, STEP]) * difficulty
    strengths = np.array([gain, *most * rng.random(4)])
    return np.concatenate(
        [np.tile(strengths, (frames, 1)), rng.integers(0, PLATE, (frames, 2))], axis=1
    )


def record(clips: Tensor, shots: Tensor) -> Tensor:
    """Clips (N, T, 3, H, W) in [0, 1] as a camera keeps them, by `shot` (N, T, 7) of each."""
    gain, shutter, focus, noise, step = (
        part[..., None, None, None] for part in shots[..., :5].unbind(-1)
    )
    before = torch.cat([clips[:, :1], clips[:, :-1]], 1)
    seen = ((1 - shutter) * clips + shutter * before) * gain
    frames = _blurred(seen.flatten(0, 1), focus.flatten(0, 1)[..., 0] * clips.shape[-1])
    frames = frames + noise.flatten(0, 1) * _grain(
        shots[..., 5:].flatten(0, 1).long(), frames.shape[-2:]
    )
    return _compressed(frames.clamp(0, 1), step.flatten(0, 1)).clamp(0, 1).view_as(clips)


def _blurred(frames: Tensor, sigma: Tensor) -> Tensor:
    """Frames (n, 3, H, W) under a Gaussian of deviation `sigma` (n, 1, 1) in pixels, of 5 taps."""
    taps = torch.arange(-2, 3, device=frames.device)
    weights = torch.exp(-((taps / sigma.clamp(min=0.1)) ** 2) / 2)  # (n, 1, 5)
    weights = weights / weights.sum(-1, keepdim=True)
    n, _, height, width = frames.shape
    out = F.pad(frames, (2, 2, 2, 2), "replicate")
    out = sum(weights[..., k, None, None] * out[..., k : k + height, :] for k in range(5))
    return sum(weights[..., k, None, None] * out[..., k : k + width] for k in range(5))


def _grain(corner: Tensor, shape: tuple[int, int]) -> Tensor:
    """Noise of unit deviation (n, 3, H, W), cut from the plate at `corner` (n, 2)."""
    rows, columns = (
        (corner[:, k, None] + torch.arange(shape[k], device=corner.device)) % PLATE for k in (0, 1)
    )
    return _plate(corner.device)[:, rows[:, :, None], columns[:, None]].transpose(0, 1)


@functools.cache
def _plate(device: torch.device) -> Tensor:
    return torch.as_tensor(
        seeded("noise plate").normal(size=(3, PLATE, PLATE)), dtype=torch.float32, device=device
    )


def _compressed(frames: Tensor, step: Tensor) -> Tensor:
    """Frames (n, 3, H, W) whose 8 × 8 cosine coefficients are whole multiples of a step
    (n, 1, 1, 1): for the mean of a block; up to eight times as coarse for fine detail, as in JPEG's
    tables. 0 leaves a frame as it is.
    """
    n, _, height, width = frames.shape
    padded = F.pad(frames, (0, -width % BLOCK, 0, -height % BLOCK), "replicate")
    k = torch.arange(BLOCK, device=frames.device)
    cosine = torch.cos(math.pi * (2 * k + 1) * k[:, None] / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    cosine[0] /= math.sqrt(2)
    blocks = padded.unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)  # (n, 3, h, w, 8, 8)
    coarse = step[..., None, None].clamp(min=1e-6) * (1 + (k + k[:, None]) / 2)
    kept = cosine.T @ ((cosine @ blocks @ cosine.T / coarse).round() * coarse) @ cosine
    return kept.transpose(3, 4).reshape(padded.shape)[..., :height, :width]
