"""Can we make it forget? The U-Nets' pre-training and Algorithm 1 (paper §3.2)."""

import dataclasses
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import nets
from ppfer.base.errors import PpferError
from ppfer.config import Train
from ppfer.method import networks
from ppfer.run.stage import stage
from ppfer.wavelets import BandSplit


class ReconstructionObjective(nn.Module):
    """L1 between a U-Net's output and its input, over both bands: F_hpr and F_lpr start identical
    (paper §3.2).
    """

    captures = True

    def __init__(self, net: nn.Module, bands: BandSplit):
        super().__init__()
        self.net, self.bands = net, bands

    def forward(self, pixels: Tensor, actors: Tensor | None = None) -> Tensor:
        """Pixels (B, 3, H, W) or (B, T, 3, H, W) → scalar; labels unused."""
        low, high = self.bands.split(pixels)
        if low.shape[1:] == high.shape[1:]:
            both = torch.cat([low, high])
            return F.l1_loss(self.net(both), both)
        return F.l1_loss(self.net(low), low) + F.l1_loss(self.net(high), high)


@stage(
    "pretrain",
    needs=("clips", "split"),
    settings=("bands", "nets.unet_width", "nets.unet_residual"),
    notebook="04",
)
class Pretrain(networks.OnBands):
    """The U-Net that both enhancers start from, trained to reproduce its input."""

    best = (("val_l1", min),)

    def net(self) -> nn.Module:
        return networks.new_unet(self.config)

    def objective(self, net: nn.Module) -> nn.Module:
        return ReconstructionObjective(net, networks.band_split(self.config))

    @torch.inference_mode()
    def measure(self, net: nn.Module) -> dict[str, float]:
        index = torch.as_tensor(self.run.parts["val"][:64])
        frames = self.run.tensor("clips")[index][:, ::4].to(self.run.device).float() / 255
        frames = frames.flatten(0, 1) if self.per_frame else frames
        return {"val_l1": float(self.objective(net)(frames))}


def privacy_loss(logits: Tensor, labels: Tensor, preset: str) -> Tensor:
    """What an enhancer minimises through the frozen controller, of logits (n, K) and labels (n,):
    ``paper``, −CE (Algorithm 1 line 10), unbounded; ``clamped``, −min(CE, ln K) per sample, which
    stops at chance; ``uniform``, cross-entropy to the uniform distribution.
    """
    if preset == "paper":
        return -F.cross_entropy(logits, labels)
    if preset == "clamped":
        each = F.cross_entropy(logits, labels, reduction="none")
        return -each.clamp(max=math.log(logits.shape[-1])).mean()
    if preset == "uniform":
        return -logits.log_softmax(-1).mean()
    raise PpferError(f"unknown privacy loss '{preset}'; known: paper, clamped, uniform")


class PrivacyObjective(nn.Module):
    """Algorithm 1, lines 4–10: maximise the frozen controller's cross-entropy on enhanced bands."""

    captures = True

    def __init__(
        self, enhancer: nn.Module, controller: nn.Module, preset: str, reconstruction: float
    ):
        super().__init__()
        self.enhancer, self.controller = enhancer, nets.freeze(controller)
        self.preset, self.reconstruction = preset, reconstruction

    def forward(self, pixels: Tensor, actors: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) or (B, T, 3, H, W), labels (B,) → scalar."""
        loss = 0.0
        for band, enhanced in self.enhancer.views(pixels):
            labels = actors.repeat_interleave(len(band) // len(actors))
            loss = loss + privacy_loss(self.controller(enhanced), labels, self.preset)
            if self.reconstruction:
                loss = loss + self.reconstruction * F.l1_loss(enhanced, band)
        return loss


SHARES = (16, 4)  # parts of the long run that are trained as runs of their own


@stage(
    "privacy/{where}",
    needs=("identity", "pretrain"),
    settings=("privacy_loss", "privacy_slack", "reconstruction"),
    notebook="04",
)
class Privacy(networks.OnBands):
    """Algorithm 1: the enhancers against the frozen identity controller.

    "privacy/frames" has no transform; "privacy/long" is trained as ``config.privacy_long`` says,
    its last weights kept, "privacy/long_4" for a fourth of its steps (`SHARES`).
    """

    where = "bands"

    @property
    def long(self) -> bool:
        """Whether it is the long run or a part of it."""
        return self.where in ("long", *(f"long_{part}" for part in SHARES))

    @property
    def trains(self) -> str:
        return "privacy_long" if self.long else "privacy"

    @property
    def train(self) -> Train:
        whole, part = super().train, self.where.partition("_")[2]
        return dataclasses.replace(whole, steps=-(-whole.steps // int(part))) if part else whole

    @property
    def place(self) -> str:
        """What the U-Nets work on, "bands" or "frames"."""
        return "bands" if self.long else self.where

    def origin(self) -> str:
        return self.notebook if self.where == "bands" else "10"

    def net(self) -> nn.Module:
        return networks.new_enhancer(self.config, self.place)

    def start(self) -> nn.Module:
        return networks.start_enhancer(self.run, self.place)

    def objective(self, net: nn.Module) -> nn.Module:
        config, controller = self.config, self.run.get("identity")
        return PrivacyObjective(net, controller, config.privacy_loss, config.reconstruction)

    def measure(self, net: nn.Module) -> dict[str, float]:
        return networks.protection(self.run, net, "clips")

    def rule(self) -> Callable[[dict], list[float]]:
        return networks.privacy_rule(self.run, "val_l1")
