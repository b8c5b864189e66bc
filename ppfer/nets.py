"""The convolutional networks of the method, as one would teach them.

What makes them fast on a GPU is in `ppfer.run.fast`, how weights are read and saved in
`ppfer.base.weights`, the U-ViT and the compensators around it in `ppfer.uvit`.
"""

import types
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torchvision.models.video import r3d_18
from torchvision.models.video import resnet as video

from ppfer.base.errors import PpferError, check
from ppfer.base.weights import load_pretrained

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of each colour
KINETICS = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))


# U-Nets


def _double_conv(channels: int, mid: int, out: int) -> nn.Sequential:
    """(3×3 convolution, BatchNorm, ReLU) twice."""
    return nn.Sequential(
        nn.Conv2d(channels, mid, 3, padding=1), nn.BatchNorm2d(mid), nn.ReLU(inplace=True),
        nn.Conv2d(mid, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
    )  # fmt: skip


class UNet(nn.Module):
    """The encoder-decoder F_hpr, F_lpr: SPAct's U-Net, frames in, frames out.

    Channels are 1, 2, 4, 8, 8 × `width`; max-pooling down, bilinear interpolation up. Pooling
    rounds up and the way up takes the skip's size, so any height and width works; multiples of 16
    give SPAct's network exactly.

    Args:
        width: channels of the first level; 64 is SPAct's, 17.27 M parameters.
        out: "sigmoid" for outputs in [0, 1], or "linear".
        residual: what it makes is added to its input, before the sigmoid (then input has the same
            3 channels, in [0, 1]), so that a minute of training is enough to copy. Not the paper's.

    Source: paper §3.3; Dave et al., SPAct (CVPR 2022).
    """

    def __init__(self, width: int = 64, out: str = "sigmoid", residual: bool = False) -> None:
        super().__init__()
        if out not in ("sigmoid", "linear"):
            raise PpferError(f"UNet: out is 'sigmoid' or 'linear', got '{out}'")
        c = [width * m for m in (1, 2, 4, 8, 8)]
        self.out, self.residual = out, residual
        self.encoder = nn.ModuleList(_double_conv(i, o, o) for i, o in zip([3, *c], c))
        # each level meets its skip with as many channels as the skip, and leaves with the next
        # skip's
        ways_up = (_double_conv(2 * c[i], c[i], c[max(i - 1, 0)]) for i in (3, 2, 1, 0))
        self.decoder = nn.ModuleList(ways_up)
        self.head = nn.Conv2d(width, 3, 1)

    def upsample(self, x: Tensor, level: int, size: Sequence[int]) -> Tensor:
        """(N, C, h, w) to (N, C, *size), the skip's size at `level` (0 is first on the way up)."""
        return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) in [0, 1] to (N, 3, H, W), in [0, 1] where `out` is "sigmoid"."""
        start, skips = x, []
        for i, level in enumerate(self.encoder):
            x = level(F.max_pool2d(x, 2, ceil_mode=True) if i else x)
            skips.append(x)
        skips.pop()
        for i, level in enumerate(self.decoder):
            skip = skips.pop()
            x = level(torch.cat([skip, self.upsample(x, i, skip.shape[-2:])], dim=1))
        x = self.head(x)
        x = x + start.clamp(1 / 512, 511 / 512).logit() if self.residual else x
        return x.sigmoid() if self.out == "sigmoid" else x


class RecoveryUNet(UNet):
    """The attacker's "full-scale" U-Net: channels to 16 × `width`, transposed convolutions.

    Its output is linear. Trained U(P(x)) → x with L1 to undo a protector P (paper §4.5, Table 3).
    34.53 M parameters at width 64.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__(width, out="linear")
        c = [width * m for m in (1, 2, 4, 8, 16)]
        self.encoder[4] = _double_conv(c[3], c[4], c[4])
        ways_up = [(c[i + 1], c[i]) for i in (3, 2, 1, 0)]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(deep, here, 3, stride=2, padding=1) for deep, here in ways_up
        )
        self.decoder = nn.ModuleList(_double_conv(2 * here, here, here) for _, here in ways_up)

    def upsample(self, x: Tensor, level: int, size: Sequence[int]) -> Tensor:
        return self.up[level](x, output_size=list(size))


# Classifiers


def resize(frames: Tensor, size: int) -> Tensor:
    """Pictures (N, C, h, w) to (N, C, size, size): bilinear, antialiased when shrinking."""
    if tuple(frames.shape[-2:]) == (size, size):
        return frames
    shrinks = max(frames.shape[-2:]) > size
    frames = frames.float() if shrinks else frames  # antialiasing knows no bf16
    how = {"mode": "bilinear", "align_corners": False, "antialias": shrinks}
    return F.interpolate(frames, (size, size), **how)


class Classifier(nn.Module):
    """Frames (or bands) to logits: C_hpr, C_lpr, V_pl (identities) and C_fc (expressions).

    Takes frames of any size in [0, 1]; resizing to `input_size` (bilinear, antialiased only when
    shrinking) and ImageNet's mean and std are applied inside, so every caller speaks [0, 1].

    Args:
        backbone: "resnet50", "resnet18" (timm; state-dict names are torchvision's),
            "convnext_atto" (timm, 3.4 M parameters) or "resnet_small", a narrow ResNet for CPUs
            (0.3 M parameters at width 16, 6 MMAC per 64² frame).
        input_size: side of the square the network sees; None leaves frames as they come.
        weights: None from scratch, "DEFAULT" ImageNet weights through torchvision, or a path; see
            `ppfer.base.weights.load_pretrained`.
        width: first level's channels of "resnet_small".
        blocks: its blocks on each level.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 91,
        input_size: int | None = None,
        weights: str | Path | None = None,
        width: int = 16,
        blocks: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        check("classifier", backbone, ("resnet50", "resnet18", "convnext_atto", "resnet_small"))
        if backbone == "resnet_small":
            self.net = _resnet_small(num_classes, width, blocks)
        else:
            self.net = timm.create_model(backbone, pretrained=False, num_classes=num_classes)
        self.input_size = input_size
        _register_statistics(self, IMAGENET, (1, 3, 1, 1))
        load_pretrained(self.net, backbone, weights, "nets.classifier_weights")

    def resize(self, frames: Tensor) -> Tensor:
        """(N, 3, h, w) to (N, 3, input_size, input_size)."""
        return frames if self.input_size is None else resize(frames, self.input_size)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (N, 3, h, w) in [0, 1] to logits (N, num_classes)."""
        return self.net((self.resize(frames) - self.mean) / self.std)


def _resnet_small(num_classes: int, width: int, blocks: Sequence[int]) -> nn.Module:
    """A ResNet of `width` channels; with one block a level, a ResNet-10."""
    channels = (width, 2 * width, 4 * width, 8 * width)
    net = ResNet(
        BasicBlock, list(blocks), num_classes,
        stem_type="deep", stem_width=width // 2, channels=channels,
    )  # fmt: skip
    # the usual 7×7 stem, which timm builds for 64 channels only: quicker than "deep" and learns
    # faster
    net.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    return net


class Recognizer(nn.Module):
    """Clips to expression logits: F_u, an R3D-18 or a small network of the same blocks.

    Kinetics-400's mean and std are applied inside.

    Args:
        arch: "r3d_18" (torchvision's; its state-dict names under ``net.``) or "r3d_small" for CPUs:
            one block per level instead of two, `width` channels instead of 64, a 3×3×3 stem that
            halves time and a max-pool.
        weights: None from scratch, "DEFAULT" Kinetics-400 weights through torchvision, or a path;
            see `ppfer.base.weights.load_pretrained`.
        width: first level's channels of "r3d_small".
    """

    sees_clips = True  # other networks see frames

    def __init__(
        self,
        arch: str = "r3d_18",
        num_classes: int = 6,
        weights: str | Path | None = None,
        width: int = 24,
    ) -> None:
        super().__init__()
        check("recognizer", arch, ("r3d_18", "r3d_small"))
        if arch == "r3d_small":
            self.net = _SmallR3D(num_classes, width)
        else:
            self.net = r3d_18(weights=None, num_classes=num_classes)
        _register_statistics(self, KINETICS, (1, 3, 1, 1, 1))
        load_pretrained(self.net, arch, weights, "nets.recognizer_weights")

    def forward(self, clips: Tensor) -> Tensor:
        """Map (B, T, 3, H, W) in [0, 1] to logits (B, num_classes)."""
        clips = clips.transpose(1, 2)  # (B, C, T, H, W)
        return self.net((clips - self.mean) / self.std)


class _SmallR3D(video.VideoResNet):
    """torchvision's VideoResNet with one block a level and every 64 read as `width`."""

    def __init__(self, num_classes: int, width: int) -> None:
        self.width = width  # before the constructor, which asks for it
        super().__init__(video.BasicBlock, [video.Conv3DSimple] * 4, [1, 1, 1, 1], self._stem)
        self.fc = nn.Linear(8 * width, num_classes)

    def _stem(self) -> nn.Sequential:
        conv = nn.Conv3d(3, self.width, 3, stride=2, padding=1, bias=False)
        pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))  # half the time at equal width
        return nn.Sequential(conv, nn.BatchNorm3d(self.width), nn.ReLU(inplace=True), pool)

    def _make_layer(self, block, conv_builder, planes: int, blocks: int, stride: int = 1):
        self.inplanes = self.width if planes == 64 else self.inplanes
        return super()._make_layer(block, conv_builder, planes * self.width // 64, blocks, stride)


def _register_statistics(module: nn.Module, statistics: tuple, shape: tuple[int, ...]) -> None:
    for name, values in zip(("mean", "std"), statistics):
        module.register_buffer(name, torch.tensor(values).view(shape), persistent=False)


# Freezing


def freeze(module: nn.Module) -> nn.Module:
    """Freeze `module` for good, in place: no gradients, and eval mode whatever a parent's mode.

    A parent's ``.train()`` reaches every child; without this a "frozen" controller's BatchNorm
    would still follow the data it judges.
    """
    module.requires_grad_(False).eval()
    for part in module.modules():
        part.train = types.MethodType(_stay_in_eval, part)
    return module


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    return module
