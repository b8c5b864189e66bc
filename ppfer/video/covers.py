"""What hides a face without a run and without a donor, as deface has it: blur, mosaic, a box."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 128  # pixels at which squares are covered
TILES = 8  # along the side of the square round a head


def blur(clips: Tensor) -> Tensor:
    """Clips (B, T, 3, S, S) as `TILES` × `TILES` means, with smooth steps between them."""
    return _tiled(clips, "bicubic").clamp(0, 1)


def mosaic(clips: Tensor) -> Tensor:
    """Clips (B, T, 3, S, S) as `TILES` × `TILES` tiles of their mean colour."""
    return _tiled(clips, "nearest")


def solid(clips: Tensor) -> Tensor:
    """Clips (B, T, 3, S, S), black."""
    return torch.zeros_like(clips)


def _tiled(clips: Tensor, mode: str) -> Tensor:
    frames = clips.flatten(0, 1)
    small = F.adaptive_avg_pool2d(frames, TILES)
    return F.interpolate(small, frames.shape[-2:], mode=mode).view_as(clips)


COVERS: dict[str, Callable[[Tensor], Tensor]] = {"blur": blur, "mosaic": mosaic, "solid": solid}
