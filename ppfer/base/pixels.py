"""Pixels as bytes."""

import numpy as np
import torch

from ppfer.base.errors import PpferError


def as_uint8(frames: torch.Tensor | np.ndarray) -> np.ndarray:
    """uint8 as it is; float in [0, 1] (clamped) rounded to [0, 255]. Of any device."""
    if not isinstance(frames, np.ndarray):
        frames = frames.detach().cpu()
        frames = (frames.float() if frames.is_floating_point() else frames).numpy()
    if frames.dtype == np.uint8:
        return frames
    if frames.dtype.kind != "f":
        raise PpferError(f"frames are uint8 in [0, 255] or float in [0, 1], not {frames.dtype}")
    return np.round(np.clip(frames, 0, 1) * 255).astype(np.uint8)
