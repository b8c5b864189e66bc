"""Protectors: every way of protecting a video is a callable from clips to clips.

A protector takes ``(B, T, 3, H, W)`` float in [0, 1] and returns the same shape in [0, 1].
`protect` checks that, so nothing in the evaluation needs to know which method it measures. Methods
that look at single frames flatten time themselves (`per_frame`).

One that must know which clips it is given is told their names as well (`Protector.named`). One that
works otherwise in a video than in clips of a run has a method for that (`ForVideo`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from ppfer.base.device import autocast
from ppfer.base.errors import PpferError
from ppfer.wavelets import BandSplit

Apply = Callable[[Tensor], Tensor]  # clips → clips
NamedApply = Callable[[Tensor, Sequence[str]], Tensor]  # clips, their names → clips


def no_privacy(clips: Tensor) -> Tensor:
    """The original clips: the bound of both measures ("No Privacy Preservation", Table 1)."""
    return clips


def per_frame(function: Apply, clips: Tensor) -> Tensor:
    """Apply a frame-to-frame function, (N, 3, H, W) → (N, 3, H, W), to clips (B, T, 3, H, W)."""
    return function(clips.flatten(0, 1)).view_as(clips)  # (B·T, 3, H, W) → (B, T, 3, H, W)


class PrivacyEnhancer(nn.Module):
    """F_lpr and F_hpr: one U-Net per band, then the inverse transform (paper §3.2, Algorithm 1
    lines 4, 7, 8, 12); the paper starts both from the same weights.
    """

    def __init__(self, bands: BandSplit, low: nn.Module, high: nn.Module):
        super().__init__()
        self.bands, self.low, self.high = bands, low, high

    def enhance(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Both bands with identity removed, each frame-like in [0, 1]."""
        low, high = self.bands.split(pixels)
        return self.low(low), self.high(high)

    def views(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(band, enhanced band) for low and high: what each controller compares and judges."""
        bands = self.bands.split(pixels)
        return [(band, net(band)) for band, net in zip(bands, (self.low, self.high), strict=True)]

    def forward(self, pixels: Tensor) -> Tensor:
        """Frames (N, 3, H, W), or clips (B, T, 3, H, W), to G of the same shape in [0, 1]."""
        low, high = self.enhance(pixels)
        return self.bands.merge(low.float(), high.float(), like=pixels).clamp(0, 1)


class FrameEnhancer(nn.Module):
    """F_pr: one U-Net on whole frames, the ablation without the transform (Figure 3, tasks 1–3)."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def views(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(frames, enhanced frames), each (N, 3, H, W): the one view there is."""
        frames = pixels.flatten(0, -4)  # (N, 3, H, W) whatever the leading axes
        return [(frames, self.net(frames))]

    def forward(self, pixels: Tensor) -> Tensor:
        """Frames or clips to the same shape in [0, 1]."""
        return self.views(pixels)[0][1].float().clamp(0, 1).view_as(pixels)


class PPFER(nn.Module):
    """The whole method at inference: enhance both bands, merge, compensate (paper Figure 2)."""

    def __init__(self, enhancer: nn.Module, compensator: nn.Module):
        super().__init__()
        self.enhancer, self.compensator = enhancer, compensator

    def forward(self, pixels: Tensor) -> Tensor:
        """Frames or clips to C of the same shape in [0, 1]."""
        return self.compensate(self.enhancer(pixels))

    def compensate(self, protected: Tensor) -> Tensor:
        """G, frames or clips, to C of the same shape in [0, 1]."""
        frames = protected.flatten(0, -4)  # (N, 3, H, W)
        return self.compensator(frames).float().clamp(0, 1).view_as(protected)


def protect(
    protector: Apply, clips: Tensor, *, name: str = "protector", precision: str = "auto"
) -> Tensor:
    """Run a protector on clips (B, T, 3, H, W), uint8 or float in [0, 1], and hold it to the
    protocol: uint8 clips of the same shape.

    Raises:
        PpferError: with its `name`, if it changed the shape, returned NaN or left [0, 1].
    """
    how = {"device": clips.device, "batch": len(clips), "name": name, "precision": precision}
    return next(protect_all(protector, clips, **how))


@torch.inference_mode()
def _begin(
    protector: Apply | NamedApply,
    clips: Tensor,
    names: Sequence[str] | None,
    name: str,
    precision: str,
    channels: int,
) -> tuple[Tensor, Tensor]:
    """What `protect` returns, still unchecked, and its least and greatest value: nothing here waits
    for a GPU.
    """
    pixels = clips.float() / 255 if clips.dtype == torch.uint8 else clips.float()
    with autocast(clips.device, precision):
        out = protector(pixels) if names is None else protector(pixels, names)
    out = out.float()
    wanted = (*pixels.shape[:-3], channels, *pixels.shape[-2:])
    if out.shape != wanted:
        keeps = "keeps the shape" if channels == 3 else f"of figures returns {wanted}"
        raise PpferError(
            f"{name} returned shape {tuple(out.shape)} for clips of shape {tuple(pixels.shape)}; "
            f"a protector {keeps}"
        )
    bounds = torch.stack(out.aminmax())
    return out.clamp(0, 1).mul_(255).round_().to(torch.uint8), bounds


def _checked(made: Tensor, bounds: Tensor, name: str) -> Tensor:
    low, high = bounds.tolist()
    if math.isnan(low) or math.isnan(high):
        raise PpferError(f"{name} returned NaN")
    if low < -1e-4 or high > 1 + 1e-4:
        raise PpferError(f"{name} left [0, 1]: its values reach from {low:.3f} to {high:.3f}")
    return made


def protect_all(
    protector: Apply | NamedApply,
    clips: Tensor,
    *,
    device: torch.device,
    batch: int,
    name: str,
    names: Sequence[str] | None = None,
    precision: str = "auto",
    channels: int = 3,
) -> Iterator[Tensor]:
    """Protect a whole (N, T, 3, H, W) uint8 tensor batch by batch; yields uint8 batches on
    `device`, in order.

    A batch is begun before the one ahead of it is checked and given out, so that a GPU has always
    work.

    With `names`, of the N clips, the protector is called as ``protector(clips, names)``: for one
    that knows more of a clip than its pixels, such as where the landmarks of the face are. One of
    figures (`VideoProtector`) has 4 `channels`.
    """
    if isinstance(protector, nn.Module):
        protector.eval()
    begun = None
    for start in range(0, len(clips), batch):
        part, ahead = slice(start, start + batch), begun
        told, shown = names and names[part], clips[part].to(device)
        begun = _begin(protector, shown, told, name, precision, channels)
        if ahead:
            yield _checked(*ahead, name)
    if begun:
        yield _checked(*begun, name)


# --- in videos ----------------------------------------------------------------


@dataclass(frozen=True)
class VideoProtector:
    """A protector as it protects one video.

    Clips (B, T, 3, S, S) in [0, 1] of one name, "<video> <track>", are parts of one face's way
    through the video, in their order. Squares and boxes (4,) are left, top, right, bottom in
    pixels.
    """

    apply: NamedApply
    # frames that it is shown before and after those that it is asked for, so that no seam shows
    # where it smooths over time; what it returns of them is not used
    context: int = 0
    # a face's box → the square that it is shown; None: the one that its result is pasted into
    view_square: Callable[[np.ndarray], np.ndarray] | None = None
    # called with the whole video before that begins; what it returns is not shown
    first_pass: NamedApply | None = None
    # of a protector that draws *figures*, heads without a ground: a face's box → the square that
    # the figure fills. `apply` returns (B, T, 4, S, S) then, colour times coverage and coverage,
    # and it is composed before the scene (`ppfer.video.scene`)
    figure_square: Callable[[np.ndarray], np.ndarray] | None = None


@runtime_checkable
class ForVideo(Protocol):
    """A protector that is made anew for each video."""

    def for_video(self, rate: float) -> VideoProtector:
        """As it protects a video of `rate` frames per second."""


def for_video(
    protector: Apply | NamedApply | ForVideo, rate: float, *, named: bool = False
) -> VideoProtector:
    """Any protector as it protects one video of about `rate` frames per second; one that is `named`
    is called as ``protector(clips, names)``.
    """
    if isinstance(protector, nn.Module):
        protector.eval()
    if isinstance(protector, ForVideo):
        return protector.for_video(rate)
    return VideoProtector(protector if named else lambda clips, names: protector(clips))
