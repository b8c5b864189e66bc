"""Protectors: every way of protecting a video is a callable from clips to clips.

A protector takes ``(B, T, 3, H, W)`` float in [0, 1] and returns the same shape in [0, 1]. `protect` checks that, so
nothing in the evaluation needs to know which method it measures. Methods that look at single frames flatten time
themselves (`per_frame`).
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import nets, uvit
from ppfer.config import PpferError
from ppfer.train import Progress, autocast
from ppfer.wavelets import BandSplit

Protector = Callable[[Tensor], Tensor]


def per_frame(function: Protector, clips: Tensor) -> Tensor:
    """Apply a frame-to-frame function, (N, 3, H, W) → (N, 3, H, W), to clips (B, T, 3, H, W)."""
    return function(clips.flatten(0, 1)).view_as(clips)  # (B·T, 3, H, W) → (B, T, 3, H, W)


def no_privacy(clips: Tensor) -> Tensor:
    """The original clips: the upper bound of both accuracy and leakage ("No Privacy Preservation", Table 1)."""
    return clips


@functools.lru_cache(maxsize=64)
def blur_matrix(n: int, sigma: float) -> Tensor:
    """Gaussian blur along an axis of length n, reflected at its ends, is a matrix: (n, n) float32, rows summing to 1.

    The kernel has 2⌈3σ⌉+1 taps. Cached and shared: clone it before changing it.

    Raises:
        PpferError: if the kernel reaches beyond the reflection, that is for σ > (n − 1) / 3.
    """
    radius = math.ceil(3 * sigma)
    if not 0 < sigma or radius >= n:
        raise PpferError(f"a blur of σ = {sigma:g} does not fit {n} pixels; σ must lie in (0, {(n - 1) // 3}]")
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    basis = F.pad(torch.eye(n, dtype=torch.float64)[:, None], (radius, radius), mode="reflect")  # (n, 1, n + 2·radius)
    columns = F.conv1d(basis, (kernel / kernel.sum()).view(1, 1, -1))  # (n, 1, n): row j is the blurred j-th basis vector
    return columns[:, 0].T.float().contiguous()


class GaussianBlur(nn.Module):
    """Frames or clips (..., H, W) blurred with one σ in pixels (paper §4.3): X → B_h X B_wᵀ.

    Equal to torchvision's ``gaussian_blur`` with kernel 2⌈3σ⌉+1, at a fraction of its cost for wide kernels.
    """

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = sigma

    def forward(self, pixels: Tensor) -> Tensor:
        """Same shape, in [0, 1]."""
        rows, columns = (blur_matrix(n, self.sigma).to(pixels.device) for n in pixels.shape[-2:])
        with torch.autocast(pixels.device.type, enabled=False):
            return (rows @ pixels @ columns.T).clamp(0, 1)


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

    def views(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(band, enhanced band) for low and high: what each controller compares and judges."""
        bands = self.bands.split(pixels)
        return [(band, net(band)) for band, net in zip(bands, (self.low, self.high), strict=True)]

    def forward(self, pixels: Tensor) -> Tensor:
        """Frames (N, 3, H, W), or clips (B, T, 3, H, W), to G of the same shape in [0, 1]."""
        low, high = self.enhance(pixels)
        return self.bands.merge(low.float(), high.float(), like=pixels).clamp(0, 1)


class FrameEnhancer(nn.Module):
    """F_pr: one U-Net on whole frames, the ablation without the transform (paper Figure 3, tasks 1–3)."""

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
    """The whole method at inference: enhance both bands, merge, compensate (paper Figure 2; controllers are gone)."""

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


def protect(protector: Protector, clips: Tensor, *, name: str = "protector", precision: str = "auto") -> Tensor:
    """Run a protector and hold it to the protocol.

    Args:
        protector: clips → clips.
        clips: (B, T, 3, H, W) uint8 or float in [0, 1].
        name: for error messages.
        precision: see `ppfer.train.autocast`.

    Returns:
        (B, T, 3, H, W) uint8, rounded: what would be written to a file.

    Raises:
        PpferError: if the result has another shape, holds NaN or leaves [0, 1].
    """
    return _checked(*_begin(protector, clips, name, precision), name)


@torch.inference_mode()
def _begin(protector: Protector, clips: Tensor, name: str, precision: str) -> tuple[Tensor, Tensor]:
    """What `protect` returns, still unchecked, and its least and greatest value: nothing here waits for a GPU."""
    pixels = clips.float() / 255 if clips.dtype == torch.uint8 else clips.float()
    with autocast(clips.device, precision):
        out = protector(pixels).float()
    if out.shape != pixels.shape:
        raise PpferError(f"{name} returned shape {tuple(out.shape)} for clips of shape {tuple(pixels.shape)}; a protector keeps the shape")
    return out.clamp(0, 1).mul_(255).round_().to(torch.uint8), torch.stack(out.aminmax())


def _checked(made: Tensor, bounds: Tensor, name: str) -> Tensor:
    low, high = bounds.tolist()
    if math.isnan(low) or math.isnan(high):
        raise PpferError(f"{name} returned NaN")
    if low < -1e-4 or high > 1 + 1e-4:
        raise PpferError(f"{name} left [0, 1]: its values reach from {low:.3f} to {high:.3f}")
    return made


def protect_all(protector: Protector, clips: Tensor, *, device: torch.device, batch: int, name: str,
                on_batch: Callable[[int], None] | None = None, rows: bool = False, precision: str = "auto") -> Iterator[Tensor]:
    """Protect a whole (N, T, 3, H, W) uint8 tensor batch by batch; yields uint8 batches on `device`, in order.

    A batch is begun before the one ahead of it is checked and given out, so that a GPU has always work.

    With `rows` the protector is called as ``protector(clips, rows)``, a range of the N: for one that knows more of a clip
    than its pixels, such as where the landmarks of the face are.
    """
    if isinstance(protector, nn.Module):
        protector.eval()
    begun = None
    for start in range(0, len(clips), batch):
        here = range(start, min(len(clips), start + batch))
        apply = functools.partial(protector, rows=here) if rows else protector
        ahead, begun = begun, _begin(apply, clips[start : here.stop].to(device), name, precision)
        if ahead:
            yield _checked(*ahead, name)
            if on_batch:
                on_batch(start)
    if begun:
        yield _checked(*begun, name)
        if on_batch:
            on_batch(len(clips))


def deployed(protector: Protector, batch: int, *, precision: str = "auto", compile: bool = False) -> Protector:
    """A protector made of our networks as it runs fastest over many clips on a GPU: a copy for this alone; any other as it is.

    BatchNorm is folded into the convolutions and weights are bf16 where `precision` allows bf16 (`ppfer.train.autocast`).

    Args:
        protector: clips → clips; a network, or a method of one such as `PPFER.compensate`.
        batch: clips per call at most; with `compile`, fewer are filled up, so that one shape is compiled.
        precision: what it will be called under.
        compile: use `torch.compile`: half a minute's wait, then a third more frames a second.
    """
    owner = getattr(protector, "__self__", protector)
    if not isinstance(owner, (PrivacyEnhancer, FrameEnhancer, PPFER)) or next(owner.parameters()).device.type not in nets.MATRIX_UNITS:
        return protector
    owner = nets.fold_batchnorm(copy.deepcopy(owner).eval())
    if precision != "fp32":
        for part in owner.modules():
            if isinstance(part, (nets.UNet, uvit.PixelCompensator)):
                part.bfloat16()
    apply = owner if isinstance(protector, nn.Module) else getattr(owner, protector.__name__)
    if not compile:
        return apply
    fast = torch.compile(apply, dynamic=False)

    def fill(clips: Tensor) -> Tensor:
        count = len(clips)
        if count < batch:
            clips = torch.cat([clips, clips[-1:].expand(batch - count, *clips.shape[1:])])
        return fast(clips)[:count]

    return fill


VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".flv", ".m4v")


def protect_videos(protector: Protector, source: Path, out: Path, *, size: int, device: torch.device, chunk: int = 16,
                   batch: int = 4, precision: str = "auto") -> list[Path]:
    """Protect a video file, or every video of a folder, frame for frame; sound is dropped, since a voice names its speaker.

    Colour keeps its full resolution in the files (`store.write_video`): at half, F_u reads the files clearly worse than the frames (notebook 12).

    Args:
        protector: clips → clips.
        source: a video or a folder.
        out: folder for ``<name>.mp4``; sub-folders are kept.
        size: side of the square centre crop the protector was trained at; the output has this size.
        chunk: frames of a clip, as the protector takes them.
        batch: clips per pass.
        precision: see `ppfer.train.autocast`.

    Returns:
        The files written.

    Raises:
        PpferError: if there is no video, or one cannot be read (the others are still written).
    """
    from ppfer.store import read_video, square, write_video

    root = source if source.is_dir() else source.parent
    files = sorted(p for p in source.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES) if source.is_dir() else [source]
    if not files:
        raise PpferError(f"there is no video in {source} ({', '.join(VIDEO_SUFFIXES)})")
    written, failed = [], []
    progress = Progress("protecting", len(files))
    for count, path in enumerate(files, 1):
        try:
            frames, fps = read_video(path)
        except PpferError as error:
            failed.append(str(error))
            continue
        frames = square(frames, size)  # (T, 3, S, S) uint8
        length = len(frames)
        frames = torch.cat([frames, frames[-1:].expand(-length % chunk, -1, -1, -1)])  # whole chunks: time-axis bands need them
        clips = frames.view(-1, chunk, 3, size, size)  # (chunks, chunk, 3, S, S)
        done = torch.cat([part.cpu() for part in protect_all(protector, clips, device=device, batch=batch, name="protector", precision=precision)])
        written.append(write_video((out / path.relative_to(root)).with_suffix(".mp4"), done.flatten(0, 1)[:length], fps, full_colour=True))
        progress.update(count, path.name)
    if failed:
        raise PpferError(f"{len(failed)} of {len(files)} videos could not be read: " + "; ".join(failed[:5]))
    return written
