"""What hides a face without a run and without a donor, as deface has it: blur, mosaic, a box."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 128  # pixels at which squares are covered
TILES = 8  # along the side of the square round a head


def tiled(clips: Tensor, mode: str) -> Tensor:
    """Clips (B, T, 3, S, S) as `TILES` × `TILES` means, enlarged again by `F.interpolate`."""
    frames = clips.flatten(0, 1)
    small = F.adaptive_avg_pool2d(frames, TILES)
    return F.interpolate(small, frames.shape[-2:], mode=mode).clamp(0, 1).view_as(clips)


COVERS: dict[str, Callable[[Tensor], Tensor]] = {
    "blur": functools.partial(tiled, mode="bicubic"),  # smooth steps between the means
    "mosaic": functools.partial(tiled, mode="nearest"),
    "solid": torch.zeros_like,  # black
}
