"""Batches of frames or clips, each a function of seed and step alone, and their augmentation."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from torch import Tensor

from ppfer.base.device import send
from ppfer.base.errors import PpferError
from ppfer.base.processes import rank, world


@dataclass(eq=False)
class Batches:
    """Shuffled batches, a pure function of (seed, step): called with a step it returns
    ``(pixels float in [0, 1], labels…)`` on `device`.
    """

    clips: Tensor  # (N, T, 3, H, W) uint8 on any device
    index: np.ndarray  # which of the N to draw from; every epoch visits each once, in a fresh order
    labels: np.ndarray | tuple[np.ndarray, ...]  # (N,) each, aligned with `clips`
    _: KW_ONLY
    batch: int  # clips per step over all processes
    seed: int
    device: torch.device
    per_frame: bool = True  # a random frame of each clip, (B, 3, H, W); else clips, (B, T, 3, H, W)
    # one random shift per batch, horizontal flip and (of frames) brightness per sample, whose
    # channels are scaled by factors in [1 − colour, 1 + colour] besides
    augment: bool = True
    colour: float = 0.0

    def __post_init__(self) -> None:
        if len(self.index) == 0:
            raise PpferError("there are no clips to train on: the training part is empty")
        self.index = torch.as_tensor(self.index)
        labels = self.labels if isinstance(self.labels, tuple) else (self.labels,)
        self.labels = [torch.as_tensor(np.asarray(y)).to(self.device) for y in labels]
        self._epoch, self._order = -1, self.index

    def _clip_ids(self, step: int) -> Tensor:
        """The clips of a step: consecutive places in an endless row of shuffled epochs."""
        places = torch.arange(step * self.batch, (step + 1) * self.batch)
        epochs = places // len(self.index)
        out = torch.empty(self.batch, dtype=torch.long)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            if epoch != self._epoch:
                order = torch.randperm(len(self.index), generator=_generator(self.seed, -1 - epoch))
                self._order, self._epoch = self.index[order], epoch
            here = epochs == epoch
            out[here] = self._order[places[here] % len(self.index)]
        return out

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        # every process draws the numbers of the whole batch, then keeps its own share
        g, count = _generator(self.seed, step), self.batch
        ids = self._clip_ids(step)
        pick = torch.randint(self.clips.shape[1], (count,), generator=g)
        flip = torch.rand(count, generator=g) < 0.5
        gain = 0.8 + 0.4 * torch.rand(count, generator=g)
        cast = 1 + self.colour * (2 * torch.rand(count, 3, generator=g) - 1)
        shift = torch.randint(0, 1 + self.clips.shape[-1] // 8, (2,), generator=g).tolist()
        mine = slice(rank() * count // world(), (rank() + 1) * count // world())
        ids, pick, flip, tint = (x[mine] for x in (ids, pick, flip, gain[:, None] * cast))

        # chosen where the clips are, moved while a pixel is still a byte, coloured as floats
        there, here = self.clips.device, self.device
        where = send(ids, there)
        chosen = self.clips[where, send(pick, there)] if self.per_frame else self.clips[where]
        pixels = chosen.to(here, non_blocking=True)
        if self.augment:
            pixels = move(pixels, send(flip, here), shift)
        pixels = pixels.float().div_(255)
        if self.augment and self.per_frame:
            pixels = tinted(pixels, send(tint, here))
        return (pixels, *(y[where.to(here)] for y in self.labels))


def _generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + step * 7_919 + 12_345) % 2**63)


def augment(pixels: Tensor, flip: Tensor, tint: Tensor, shift: list[int]) -> Tensor:
    """Pixels (B, ..., 3, H, W) in [0, 1], samples flipped where `flip` (B,) says so and coloured by
    factors (B, 3), all moved by up to 1/16 of their width: two integers in [0, H/8], H/16 is none.
    """
    return tinted(move(pixels, flip, shift), tint)


def move(pixels: Tensor, flip: Tensor, shift: list[int]) -> Tensor:
    """The geometry of `augment`, on pixels of any type: what leaves the picture is lost, the border
    is repeated.
    """
    flip = flip.view(-1, *(1,) * (pixels.dim() - 1))
    pixels = torch.where(flip, pixels.flip(-1), pixels)
    for dim, by in zip((-2, -1), shift, strict=True):
        size, pad = pixels.shape[dim], pixels.shape[-1] // 16
        if by := min(by, 2 * pad) - pad:
            here = (torch.arange(size, device=pixels.device) + by).clamp_(0, size - 1)
            pixels = pixels.index_select(dim, here)
    return pixels


def tinted(pixels: Tensor, tint: Tensor) -> Tensor:
    """The colours of `augment`: (B, ..., 3, H, W) times (B, 3), kept in [0, 1]."""
    return (pixels * tint.view(len(pixels), *(1,) * (pixels.dim() - 4), 3, 1, 1)).clamp_(0, 1)
