"""Who is it? The identity controller, C_hpr = C_lpr = V_pl, and who retrains it (paper §4.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer.method import networks
from ppfer.run.stage import stage
from ppfer.wavelets import BandSplit


class IdentityObjective(nn.Module):
    """Cross-entropy over identities on frames and bands mixed within every batch.

    A network trained on frames alone is weak on detail bands, and one fed frames and bands in turn
    is broken by BatchNorm; so half of each batch are frames, a quarter low bands, a quarter
    details, all at frame size.
    """

    captures = True  # see `train.fit`

    def __init__(self, net: nn.Module, bands: BandSplit):
        super().__init__()
        self.net, self.bands = net, bands

    def forward(self, pixels: Tensor, actors: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) or (B, T, 3, H, W), labels (B,) → scalar."""
        views, labels = mixed_views(self.bands, pixels, actors)
        return F.cross_entropy(self.net(views), labels)


def mixed_views(bands: BandSplit, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Half frames, a quarter low bands, a quarter details, resized to frame size: (n, 3, H, W) and
    (n,) labels.

    The second half of the batch gives one picture a sample: low and detail in turn, and of the
    details each sub-band in turn.
    """
    size, half = pixels.shape[-2:], len(pixels) // 2
    frames, rest = pixels[:half], labels[half:]
    views = [frames.flatten(0, -4)]  # (half or half·T, 3, H, W)
    names = [labels[:half].repeat_interleave(len(views[0]) // max(1, half))]
    for first, band in enumerate(bands.split(pixels[half:])):
        per = len(band) // len(rest)  # pictures of this band per sample
        sample = torch.arange(first, len(rest), 2, device=band.device)
        chosen = band[sample * per + sample // 2 % per]
        views.append(F.interpolate(chosen, size, mode="bilinear", align_corners=False))
        names.append(rest[sample])
    return torch.cat(views), torch.cat(names)


@stage(
    "identity", needs=("clips", "split"), settings=(*networks.CLASSIFIER, "bands"), notebook="03"
)
class Identity(networks.OnBands, networks.Naming):
    """A ResNet over identities, trained on the training clips (paper §4.2)."""

    best = (("val_all_frames", max),)

    def objective(self, net: nn.Module) -> nn.Module:
        return IdentityObjective(net, networks.band_split(self.config))

    def report(self, net: nn.Module) -> dict:
        return {
            "test": {
                k: v.to_dict() for k, v in networks.leak(self.run, net, "clips", "test").items()
            }
        }


@stage("attack/{protector}", needs=("identity",), notebook="07")
class Attack(networks.OnProtected, networks.Naming):
    """V_pl retrained on a protector's training clips: what an attacker with the protector in hand
    can still read.
    """

    best = (("val_all_frames", max),)

    def start(self) -> nn.Module:
        return networks.with_weights(self.net(), self.run.get("identity"))
