"""What the stages share: networks of a config, batches of bands, measures under training, one
loss.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import nets, protect, uvit
from ppfer.base.errors import PpferError
from ppfer.config import Config, to_dict
from ppfer.measure import Rate, leakage, private_first
from ppfer.run.run import Run
from ppfer.run.stage import Protector
from ppfer.run.training import Training
from ppfer.wavelets import BandSplit

# --- networks of a config -----------------------------------------------------


def band_split(config: Config) -> BandSplit:
    """The transform of a config."""
    return BandSplit(**to_dict(config.bands))


def whole_clips(config: Config) -> bool:
    """Whether the transform needs clips (time axis) rather than single frames."""
    return "t" in config.bands.axes


def new_classifier(config: Config, classes: int, weights: str = "") -> nets.Classifier:
    """A ResNet over `classes`: random, or from the published or given weights."""
    return nets.Classifier(config.nets.classifier, classes, input_size=config.size, weights=weights)


def new_recognizer(config: Config, classes: int, weights: str = "") -> nets.Recognizer:
    """An R3D network over `classes`: random, or from the published or given weights."""
    return nets.Recognizer(config.nets.recognizer, classes, weights=weights)


def new_enhancer(config: Config, where: str = "bands") -> nn.Module:
    """Two U-Nets behind the transform, or with "frames" one without it; random weights."""
    width = config.nets.unet_width
    if where == "frames":
        return protect.FrameEnhancer(nets.UNet(width=width))
    if where != "bands":
        raise PpferError(f"an enhancer works on bands or frames, not on '{where}'")
    low, high = nets.UNet(width=width), nets.UNet(width=width)
    return protect.PrivacyEnhancer(band_split(config), low, high)


def start_enhancer(run: Run, where: str = "bands") -> nn.Module:
    """An enhancer whose U-Nets all have the pre-trained weights (paper §3.2: they start
    identical).
    """
    enhancer, start = new_enhancer(run.config, where), run.get("pretrain").state_dict()
    for net in enhancer.children():
        if isinstance(net, nets.UNet):
            net.load_state_dict(start)
    return enhancer


def new_compensator(config: Config) -> nn.Module:
    """F_fc as the config names it; starts as (nearly) the identity."""
    n = config.nets
    if n.compensator == "pixel" and n.compensator_weights:
        weights = n.compensator_weights
        return uvit.PixelCompensator.transplant(weights, config.size, n.patch, n.heads)
    if n.compensator == "pixel":
        return uvit.PixelCompensator(config.size, n.patch, n.dim, n.depth, n.heads)
    if n.compensator == "latent":
        side = config.size // 8
        net = uvit.uvit_h2(n.compensator_weights or None, img_size=side, checkpoint=True)
        return uvit.LatentCompensator(net, uvit.load_autoencoder(n.autoencoder))
    raise PpferError(f"unknown compensator '{n.compensator}'; known: pixel, latent")


# --- kinds of stages ----------------------------------------------------------


class OnBands(Training):
    """A stage that trains on bands: on whole clips where time is split, else on single frames."""

    @property
    def frames(self) -> bool:
        return not whole_clips(self.config)

    def batches(self) -> Callable:
        return self.draw("clips", self.run.labels("actor"))


class OnProtected(Training):
    """A stage that trains on the clips of `protector`: made by the main run if those are."""

    protector: str

    @property
    def what(self) -> Protector:
        """The protector."""
        return self.run.protector(self.protector)

    @property
    def store(self) -> str:
        """Its clips."""
        return f"protected/{self.protector}"

    def origin(self) -> tuple[bool, str]:
        if self.study:  # it compares methods, whatever it is trained on
            return super().origin()
        return (True, self.what.notebook) if self.what.study else super().origin()


class ClassificationObjective(nn.Module):
    """Cross-entropy of a network on its input: C_fc, F_u, and attackers."""

    captures = True

    def __init__(self, net: nn.Module, label_smoothing: float = 0.0):
        super().__init__()
        self.net, self.label_smoothing = net, label_smoothing

    def forward(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Frames or clips as the network takes them, labels (B,) → scalar."""
        return F.cross_entropy(self.net(pixels), labels, label_smoothing=self.label_smoothing)


# --- what stages measure ------------------------------------------------------


def leak(
    run: Run, validator: nn.Module, store: str | Tensor, part: str | np.ndarray
) -> dict[str, Rate]:
    """`measure.leakage` of a part of a store's clips, or of places in it, under a validator."""
    actors = run.labels("actor")[run.parts[part] if isinstance(part, str) else part]
    return leakage(run.logits(validator, store, part), actors, seed=run.config.seed)


def held_frames(run: Run, store: str, part: str = "val") -> Tensor:
    """Clips of a part to look at while training: all frames where time is split, else about four of
    each.
    """
    held = run.tensor(store)[torch.as_tensor(run.parts[part])]
    return held if whole_clips(run.config) else held[:, :: max(1, held.shape[1] // 4)]


def made_by(run: Run, protector: protect.Apply, clips: Tensor, batch: int = 16) -> Tensor:
    """Clips (n, T, 3, H, W) uint8 as a protector that is still sought or trained makes them."""
    how = {"device": run.device, "precision": run.config.precision, "batch": batch}
    made = protect.protect_all(protector, clips, name=type(protector).__name__, **how)
    return torch.cat(list(made))


def protection(run: Run, protector: protect.Apply, store: str) -> dict[str, float]:
    """Validation measures of a protector under training: PLR of the frozen validator and L1 to its
    input.
    """
    held = held_frames(run, store)
    out = made_by(run, protector, held, batch=32)
    said = run.logits("identity", out)
    distance = (out.float() - held.to(out.device).float()).abs().mean() / 255
    named = leakage(said, run.labels("actor")[run.parts["val"]])["all_frames"]
    return {"val_plr": named.value, "val_l1": float(distance)}


def privacy_rule(run: Run, then: str) -> Callable[[dict], list[float]]:
    """`measure.private_first` for a run's actors and slack."""
    return private_first(1 / len(run.classes("actor")), run.config.privacy_slack, then)


def with_weights(net: nn.Module, other: nn.Module) -> nn.Module:
    """The network with another's weights."""
    net.load_state_dict(other.state_dict())
    return net


def with_body(net: nn.Module, other: nn.Module) -> nn.Module:
    """The classifier or recognizer with another's weights, all but those of the last layer."""
    trained = other.net.state_dict().items()
    body = {key: value for key, value in trained if not key.startswith("fc.")}
    net.net.load_state_dict(net.net.state_dict() | body)
    return net
