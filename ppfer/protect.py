"""Protectors: every way of protecting a video is a callable from clips to clips.

A protector takes ``(B, T, 3, H, W)`` float in [0, 1] and returns the same shape in [0, 1]. `protect` checks that, so
nothing in the evaluation needs to know which method it measures. Methods that look at single frames flatten time
themselves (`per_frame`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ppfer.config import PpferError
from ppfer.wavelets import BandSplit

Protector = Callable[[Tensor], Tensor]


def per_frame(function: Protector, clips: Tensor) -> Tensor:
    """Apply a frame-to-frame function, (N, 3, H, W) → (N, 3, H, W), to clips (B, T, 3, H, W)."""
    return function(clips.flatten(0, 1)).view_as(clips)  # (B·T, 3, H, W) → (B, T, 3, H, W)


def no_privacy(clips: Tensor) -> Tensor:
    """The original clips: the upper bound of both accuracy and leakage ("No Privacy Preservation", Table 1)."""
    return clips


class PrivacyEnhancer(nn.Module):
    """F_lpr and F_hpr: one U-Net per band, then the inverse transform (paper §3.2, Algorithm 1 lines 4, 7, 8, 12).

    Args:
        bands: how a frame is split and merged.
        low, high: frame-like → frame-like networks; the paper starts both from the same weights.
    """

    def __init__(self, bands: BandSplit, low: nn.Module, high: nn.Module):
        super().__init__()
        self.bands, self.low, self.high = bands, low, high

    def enhance(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Both bands with identity removed, each frame-like in [0, 1]."""
        low, high = self.bands.split(pixels)
        return self.low(low), self.high(high)

    def forward(self, pixels: Tensor) -> Tensor:
        """Frames (N, 3, H, W), or clips (B, T, 3, H, W), to G of the same shape in [0, 1]."""
        low, high = self.enhance(pixels)
        return self.bands.merge(low.float(), high.float(), like=pixels).clamp(0, 1)


class FrameEnhancer(nn.Module):
    """F_pr: one U-Net on whole frames, the ablation without the transform (paper Figure 3, tasks 1–3)."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> Tensor:
        """Frames or clips to the same shape in [0, 1]."""
        frames = pixels.flatten(0, -4)  # (N, 3, H, W) whatever the leading axes
        return self.net(frames).float().clamp(0, 1).view_as(pixels)


class PPFER(nn.Module):
    """The whole method at inference: enhance both bands, merge, compensate (paper Figure 2; controllers are gone)."""

    def __init__(self, enhancer: nn.Module, compensator: nn.Module):
        super().__init__()
        self.enhancer, self.compensator = enhancer, compensator

    def forward(self, pixels: Tensor) -> Tensor:
        """Frames or clips to C of the same shape in [0, 1]."""
        protected = self.enhancer(pixels)
        frames = protected.flatten(0, -4)  # (N, 3, H, W)
        return self.compensator(frames).float().clamp(0, 1).view_as(pixels)


@torch.inference_mode()
def protect(protector: Protector, clips: Tensor, *, name: str = "protector") -> Tensor:
    """Run a protector and hold it to the protocol.

    Args:
        protector: clips → clips.
        clips: (B, T, 3, H, W) uint8 or float in [0, 1].
        name: for error messages.

    Returns:
        (B, T, 3, H, W) uint8, rounded: what would be written to a file.

    Raises:
        PpferError: if the result has another shape, holds NaN or leaves [0, 1].
    """
    pixels = clips.float() / 255 if clips.dtype == torch.uint8 else clips.float()
    out = protector(pixels)
    if out.shape != pixels.shape:
        raise PpferError(f"{name} returned shape {tuple(out.shape)} for clips of shape {tuple(pixels.shape)}; a protector keeps the shape")
    low, high = out.amin().item(), out.amax().item()
    if math.isnan(low) or math.isnan(high):
        raise PpferError(f"{name} returned NaN")
    if low < -1e-4 or high > 1 + 1e-4:
        raise PpferError(f"{name} left [0, 1]: its values reach from {low:.3f} to {high:.3f}")
    return out.clamp(0, 1).mul(255).round_().to(torch.uint8)


def protect_all(protector: Protector, clips: Tensor, *, device: torch.device, batch: int, name: str,
                on_batch: Callable[[int], None] | None = None) -> Iterator[Tensor]:
    """Protect a whole (N, T, 3, H, W) uint8 tensor batch by batch; yields uint8 batches on `device`, in order."""
    if isinstance(protector, nn.Module):
        protector.eval()
    for start in range(0, len(clips), batch):
        yield protect(protector, clips[start : start + batch].to(device), name=name)
        if on_batch:
            on_batch(min(len(clips), start + batch))
