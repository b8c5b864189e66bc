"""What stages share: networks of a config, batches of bands, one loss, measures in training."""

import functools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import nets, protect, uvit
from ppfer.base.errors import PpferError
from ppfer.config import Config, to_dict
from ppfer.measure import Rate, accuracy, leakage, private_first
from ppfer.run.run import Run
from ppfer.run.stage import COMPARING
from ppfer.run.training import Training
from ppfer.wavelets import BandSplit

# --- networks of a config -----------------------------------------------------


def band_split(config: Config) -> BandSplit:
    """The transform of a config."""
    return BandSplit(**to_dict(config.bands))


def whole_clips(config: Config) -> bool:
    """Whether the transform needs clips (time axis) rather than single frames."""
    return "t" in config.bands.axes


# settings of a stage that trains one of these two
CLASSIFIER = ("nets.classifier", "nets.classifier_weights")
RECOGNIZER = ("nets.recognizer", "nets.recognizer_weights")


def new_classifier(config: Config, classes: int, weights: str = "") -> nets.Classifier:
    """A ResNet over `classes`: random, or from the published or given weights."""
    return nets.Classifier(config.nets.classifier, classes, input_size=config.size, weights=weights)


def new_recognizer(config: Config, classes: int, weights: str = "") -> nets.Recognizer:
    """An R3D network over `classes`: random, or from the published or given weights."""
    return nets.Recognizer(config.nets.recognizer, classes, weights=weights)


def new_unet(config: Config) -> nets.UNet:
    """The U-Net of an enhancer; random weights."""
    return nets.UNet(config.nets.unet_width, residual=config.nets.unet_residual)


def new_enhancer(config: Config, where: str = "bands") -> nn.Module:
    """Two U-Nets behind the transform, or with "frames" one without it; random weights."""
    if where == "frames":
        return protect.FrameEnhancer(new_unet(config))
    if where != "bands":
        raise PpferError(f"an enhancer works on bands or frames, not on '{where}'")
    return protect.PrivacyEnhancer(band_split(config), new_unet(config), new_unet(config))


def start_enhancer(run: Run, where: str = "bands") -> nn.Module:
    """An enhancer whose U-Nets have the pre-trained weights (paper §3.2: they start identical)."""
    enhancer, start = new_enhancer(run.config, where), run.get("pretrain").state_dict()
    for net in enhancer.children():
        if isinstance(net, nets.UNet):
            net.load_state_dict(start)
    return enhancer


def new_compensator(config: Config) -> nn.Module:
    """F_fc as the config names it; starts as (nearly) the identity."""
    n = config.nets
    if n.compensator == "pixel" and n.compensator_weights:
        raise PpferError(
            "nets.compensator_weights are a latent U-ViT's; set nets.compensator=latent too"
        )
    if n.compensator == "pixel":
        return uvit.PixelCompensator(config.size, n.patch, n.dim, n.depth, n.heads)
    side = config.size // 8
    net = uvit.uvit_h2(n.compensator_weights or None, img_size=side, checkpoint=True)
    return uvit.LatentCompensator(net, uvit.load_autoencoder(n.autoencoder))


# --- kinds of stages ----------------------------------------------------------


class Naming(Training):
    """A stage whose network names what the clips' table says of each, by cross-entropy."""

    label = "actor"  # the column of the table, or "emotion"
    store = "clips"
    sees_clips = False  # whether the network is an R3D of whole clips, else a ResNet of frames

    @property
    def per_frame(self) -> bool:
        return not self.sees_clips

    def net(self, weights: str = "") -> nn.Module:
        new = new_recognizer if self.sees_clips else new_classifier
        return new(self.config, len(self.run.classes(self.label)), weights)

    def start(self) -> nn.Module:
        kind = "recognizer" if self.sees_clips else "classifier"
        return self.net(getattr(self.config.nets, f"{kind}_weights"))

    def objective(self, net: nn.Module) -> nn.Module:
        return classification(net, self.train.label_smoothing)

    def batches(self) -> Callable:
        return self.draw(self.store, self.run.labels(self.label))

    def measure(self, net: nn.Module) -> dict[str, float]:
        if self.label == "actor":
            return {"val_" + k: v.value for k, v in leak(self.run, net, self.store, "val").items()}
        truth = self.run.labels(self.label)[self.run.parts["val"]]
        return expression_measures(self.run.logits(net, self.store, "val"), truth)


class OnBands(Training):
    """A stage that trains on bands: on whole clips where time is split, else on single frames."""

    @property
    def per_frame(self) -> bool:
        return not whole_clips(self.config)

    def batches(self) -> Callable:
        return self.draw("clips", self.run.labels("actor"))


class OnProtected(Training):
    """A stage that trains on the clips of `protector`: made by the main run if those are."""

    protector: str

    @property
    def store(self) -> str:
        """Its clips."""
        return f"protected/{self.protector}"

    def needs(self) -> tuple[str, ...]:
        return ("split", self.store, *super().needs())

    def origin(self) -> str:
        compares = self.notebook >= COMPARING  # methods, whatever it is trained on
        made = self.run.protector(self.protector).notebook
        return self.notebook if compares else max(self.notebook, made)

    def pairs(self, index: np.ndarray | None = None) -> Callable:
        """Step → the same frames, protected and original, of the training part or of `index`."""
        clips = np.arange(len(self.run.table))
        # two streams with one seed draw the same clips, frames and shifts
        protected, original = (
            self.draw(store, clips, index=index) for store in (self.store, "clips")
        )
        return lambda step: (protected(step)[0], original(step)[0])


class Objective(nn.Module):
    """A loss, (answer, target) → scalar, between what a network makes of its input and a target:
    most stages need no more.
    """

    captures = True  # see `ppfer.run.loop.fit`

    def __init__(self, net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, pixels: Tensor, target: Tensor) -> Tensor:
        """Frames or clips as the network takes them, and what its answer is compared with."""
        return self.loss(self.net(pixels), target)


def classification(net: nn.Module, label_smoothing: float = 0.0) -> Objective:
    """Cross-entropy of a network on its input: C_fc, F_u, and attackers."""
    return Objective(net, functools.partial(F.cross_entropy, label_smoothing=label_smoothing))


# --- what stages measure ------------------------------------------------------


def leak(
    run: Run, validator: str | nn.Module, store: str | Tensor, part: str | np.ndarray
) -> dict[str, Rate]:
    """`measure.leakage` of a part of a store's clips, or of places in it, under a validator."""
    actors = run.labels("actor")[run.parts[part] if isinstance(part, str) else part]
    return leakage(run.logits(validator, store, part), actors, seed=run.config.seed)


def protected_by(run: Run, protector: protect.Apply, clips: Tensor, batch: int = 16) -> Tensor:
    """Clips (n, T, 3, H, W) uint8 as a protector that is still sought or trained makes them."""
    how = {"device": run.device, "precision": run.config.precision, "batch": batch}
    batches = protect.protect_all(protector, clips, name=type(protector).__name__, **how)
    return torch.cat(list(batches))


def protection(run: Run, protector: protect.Apply, store: str) -> dict[str, float]:
    """Of a protector under training: validation PLR of the frozen validator and L1 to its input."""
    clips = run.tensor(store)[torch.as_tensor(run.parts["val"])]
    if not whole_clips(run.config):  # about four frames of each will do
        clips = clips[:, :: max(1, clips.shape[1] // 4)]
    out = protected_by(run, protector, clips, batch=32)
    distance = (out.float() - clips.to(out.device).float()).abs().mean() / 255
    named = accuracy(run.logits("identity", out), run.labels("actor")[run.parts["val"]])
    return {"val_plr": named.value, "val_l1": float(distance)}


def expression_measures(logits: Tensor, labels: np.ndarray) -> dict[str, float]:
    """Accuracy and loss of logits (n, classes), or of frames (n, T, classes), by labels (n,)."""
    truth = torch.as_tensor(labels).repeat_interleave(logits[0, ..., 0].numel())
    loss = F.cross_entropy(logits.flatten(0, -2), truth)
    return {"val_loss": float(loss), "val_accuracy": accuracy(logits, labels).value}


def privacy_rule(run: Run, then: str) -> Callable[[dict], list[float]]:
    """`measure.private_first` for a run's actors and slack."""
    return private_first(run.chance("actor"), run.config.privacy_slack, then)


def with_weights(net: nn.Module, other: nn.Module) -> nn.Module:
    """The network with another's weights."""
    net.load_state_dict(other.state_dict())
    return net
