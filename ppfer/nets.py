"""The convolutional networks of the method, and the one way weights are loaded and saved.

The U-ViT and the compensators around it live in `ppfer.uvit`.
"""

from __future__ import annotations

import itertools
import logging
import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer.config import PpferError

PREFIXES = ("module.", "model.")  # what DistributedDataParallel and common training scripts put before every name
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINETICS = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
MATRIX_UNITS = ("cuda",)  # devices where a layer rewritten for matrix units is the faster one

logger = logging.getLogger(__name__)


# U-Nets


def _double_conv(channels: int, mid: int, out: int) -> nn.Sequential:
    """(3×3 convolution, BatchNorm, ReLU) twice."""
    return nn.Sequential(
        nn.Conv2d(channels, mid, 3, padding=1), nn.BatchNorm2d(mid), nn.ReLU(inplace=True),
        nn.Conv2d(mid, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
    )  # fmt: skip


def _interpolation(n: int, m: int, like: Tensor) -> Tensor:
    """U of one axis, (m, n): a hat of width 1 around where each of m points lies among n."""
    at = torch.arange(m, device=like.device, dtype=torch.float64) * ((n - 1) / max(1, m - 1))
    return (1 - (at[:, None] - torch.arange(n, device=like.device)).abs()).clamp_(min=0).to(like.dtype)


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear interpolation with aligned corners, (N, C, h, w) to (N, C, *size): X → U_h X U_wᵀ.

    On a GPU it is these two products, in x's type and channels-last throughout: PyTorch's kernel works in float32 under autocast,
    and its gradient is a scatter of atomic additions.
    """
    if x.device.type not in MATRIX_UNITS:
        return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
    rows, columns = (_interpolation(n, m, x) for n, m in zip(x.shape[-2:], size, strict=True))
    x = x.permute(0, 2, 3, 1)  # (N, h, w, C): how a channels-last tensor lies in memory
    count, height = x.shape[:2]
    x = torch.bmm(columns.expand(count * height, -1, -1), x.flatten(0, 1)).unflatten(0, (count, height))  # (N, h, W, C)
    x = torch.bmm(rows.expand(count, -1, -1), x.flatten(2)).unflatten(-1, x.shape[2:])  # (N, H, W, C)
    return x.permute(0, 3, 1, 2)


class UNet(nn.Module):
    """The encoder-decoder F_hpr, F_lpr: SPAct's U-Net, frames in, frames out.

    Channels are 1, 2, 4, 8, 8 × `width`; max-pooling down, bilinear interpolation up. Pooling rounds up and the
    way up takes the skip's size, so any height and width works; multiples of 16 give SPAct's network exactly.

    Args:
        width: channels of the first level; 64 is SPAct's, 17.27 M parameters.
        out: "sigmoid" for outputs in [0, 1], or "linear".

    Source: paper §3.3; Dave et al., SPAct (CVPR 2022).
    """

    def __init__(self, width: int = 64, out: str = "sigmoid") -> None:
        super().__init__()
        if out not in ("sigmoid", "linear"):
            raise PpferError(f"UNet: out is 'sigmoid' or 'linear', got '{out}'")
        c = [width * m for m in (1, 2, 4, 8, 8)]
        self.out = out
        self.encoder = nn.ModuleList(_double_conv(i, o, o) for i, o in zip([3, *c], c))
        # each level meets its skip with as many channels as the skip has, and leaves with the next skip's
        self.decoder = nn.ModuleList(_double_conv(2 * c[i], c[i], c[max(i - 1, 0)]) for i in (3, 2, 1, 0))
        self.head = nn.Conv2d(width, 3, 1)

    def upsample(self, x: Tensor, level: int, size: Sequence[int]) -> Tensor:
        """(N, C, h, w) to (N, C, *size), the size of the skip at `level` (0 is the first on the way up)."""
        return upsample(x, size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) in [0, 1] to (N, 3, H, W), in [0, 1] where `out` is "sigmoid"."""
        skips = []
        for i, level in enumerate(self.encoder):
            x = level(F.max_pool2d(x, 2, ceil_mode=True) if i else x)
            skips.append(x)
        skips.pop()
        for i, level in enumerate(self.decoder):
            skip = skips.pop()
            x = level(torch.cat([skip, self.upsample(x, i, skip.shape[-2:])], dim=1))
        x = self.head(x)
        return x.sigmoid() if self.out == "sigmoid" else x


class RecoveryUNet(UNet):
    """The attacker's "full-scale" U-Net: channels to 16 × `width`, transposed convolutions, linear output.

    Trained U(P(x)) → x with L1 to undo a protector P (paper §4.5, Table 3). 34.53 M parameters at width 64.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__(width, out="linear")
        c = [width * m for m in (1, 2, 4, 8, 16)]
        self.encoder[4] = _double_conv(c[3], c[4], c[4])
        self.up = nn.ModuleList(nn.ConvTranspose2d(c[i + 1], c[i], 3, stride=2, padding=1) for i in (3, 2, 1, 0))
        self.decoder = nn.ModuleList(_double_conv(2 * c[i], c[i], c[i]) for i in (3, 2, 1, 0))

    def upsample(self, x: Tensor, level: int, size: Sequence[int]) -> Tensor:
        return self.up[level](x, output_size=list(size))


# Classifiers


class _Stem:
    """The first convolution of a ResNet or R3D: 3 colours in, kernel 7 and stride 2 along height and width.

    cuDNN has no fast kernel for 3 channels, and in 3-D it leaves the matrix units. On a GPU 2×2 pixels become channels (16, with a
    fourth, empty colour) under a kernel of 4 and stride 1: the same sums, and a sixth of the time of R3D's step saved. Weights
    keep their names and shapes.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type not in MATRIX_UNITS or any(n % 2 for n in x.shape[-2:]):
            return super().forward(x)
        time = (0, 0) * (x.dim() - 4)
        pixels = _unshuffle(F.pad(x, (4, 2, 4, 2, *time, 0, 1)))  # tap 0 of 7 looks 3 pixels to the left, tap 0 of 2·4 looks 4
        weight = _unshuffle(F.pad(self.weight, (1, 0, 1, 0, *time, 0, 1)))
        layout = torch.channels_last_3d if time else torch.channels_last
        convolve = F.conv3d if time else F.conv2d
        return convolve(pixels.contiguous(memory_format=layout), weight, padding=(*self.padding[:-2], 0, 0))

    @classmethod
    def like(cls, conv: nn.Module) -> nn.Module:
        """The same convolution with the same parameter; no random number is drawn."""
        stem = cls(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False, device="meta")
        stem.weight = conv.weight
        return stem


class _Stem2d(_Stem, nn.Conv2d):
    pass


class _Stem3d(_Stem, nn.Conv3d):
    pass


def _unshuffle(x: Tensor) -> Tensor:
    """(N, C, [T,] H, W) to (N, 4C, [T,] H/2, W/2)."""
    return F.pixel_unshuffle(x, 2) if x.dim() == 4 else F.pixel_unshuffle(x.transpose(1, 2), 2).transpose(1, 2)


class Classifier(nn.Module):
    """Frames (or bands) to logits: C_hpr, C_lpr, V_pl (identities) and C_fc (expressions).

    Takes frames of any size in [0, 1]; resizing to `input_size` (bilinear, antialiased only when shrinking) and
    ImageNet's mean and std are applied inside, so every caller speaks [0, 1].

    Args:
        backbone: "resnet50", "resnet18" (timm; state-dict names are torchvision's) or "resnet_small", a narrow
            ResNet for CPUs (0.3 M parameters at width 16, 6 MMAC per 64² frame).
        num_classes: number of logits.
        input_size: side of the square the network sees; None leaves frames as they come.
        weights: None from scratch, "DEFAULT" ImageNet weights through torchvision, or a path; see `load_backbone`.
        width: first level's channels of "resnet_small".

    Attributes:
        loaded: what became of `weights`, a sentence; "" from scratch.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 91,
        input_size: int | None = None,
        weights: str | Path | None = None,
        width: int = 16,
    ) -> None:
        super().__init__()
        import timm  # here, because timm and torchvision double the time `import ppfer` takes

        if backbone == "resnet_small":
            self.net = timm.models.resnet.ResNet(
                timm.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes,
                stem_type="deep", stem_width=width // 2, channels=(width, 2 * width, 4 * width, 8 * width),
            )  # fmt: skip
            # the usual 7×7 stem, which timm builds for 64 channels only: quicker than "deep" and learns faster
            self.net.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.net.conv1.weight, mode="fan_out", nonlinearity="relu")
        elif backbone in ("resnet18", "resnet50"):
            self.net = timm.create_model(backbone, pretrained=False, num_classes=num_classes)
        else:
            raise PpferError(f"unknown classifier '{backbone}'; known: resnet50, resnet18, resnet_small")
        self.net.conv1 = _Stem2d.like(self.net.conv1)
        self.input_size = input_size
        _register_statistics(self, IMAGENET, (1, 3, 1, 1))
        self.loaded = _load_pretrained(self.net, backbone, weights, "nets.classifier_weights")

    def forward(self, frames: Tensor) -> Tensor:
        """Map (N, 3, h, w) in [0, 1] to logits (N, num_classes)."""
        frames = _resize(frames, self.input_size)
        return self.net((frames - self.mean) / self.std)


class Recognizer(nn.Module):
    """Clips to expression logits: F_u, an R3D-18 or a small network of the same blocks.

    Kinetics-400's mean and std are applied inside.

    Args:
        arch: "r3d_18" (torchvision's; its state-dict names under ``net.``) or "r3d_small" for CPUs
            (one block per level instead of two, `width` channels instead of 64, a 3×3×3 stem that halves time and a max-pool).
        num_classes: number of logits.
        input_size: frames are resized to this side; None leaves them as they come.
        weights: None from scratch, "DEFAULT" Kinetics-400 weights through torchvision, or a path; see
            `load_backbone`.
        width: first level's channels of "r3d_small".

    Attributes:
        loaded: what became of `weights`, a sentence; "" from scratch.
    """

    def __init__(
        self,
        arch: str = "r3d_18",
        num_classes: int = 6,
        input_size: int | None = None,
        weights: str | Path | None = None,
        width: int = 24,
    ) -> None:
        super().__init__()
        from torchvision.models.video import r3d_18

        if arch == "r3d_18":
            self.net = r3d_18(weights=None, num_classes=num_classes)
            self.net.stem[0] = _Stem3d.like(self.net.stem[0])
        elif arch == "r3d_small":
            self.net = _r3d_small(num_classes, width)
        else:
            raise PpferError(f"unknown recognizer '{arch}'; known: r3d_18, r3d_small")
        self.input_size = input_size
        _register_statistics(self, KINETICS, (1, 3, 1, 1, 1))
        self.loaded = _load_pretrained(self.net, arch, weights, "nets.recognizer_weights")

    def forward(self, clips: Tensor) -> Tensor:
        """Map (B, T, 3, H, W) in [0, 1] to logits (B, num_classes)."""
        b, t = clips.shape[:2]
        clips = _resize(clips.flatten(0, 1), self.input_size).unflatten(0, (b, t))  # (B, T, C, h, w)
        clips = clips.transpose(1, 2)  # (B, C, T, h, w)
        return self.net((clips - self.mean) / self.std)


def _r3d_small(num_classes: int, width: int) -> nn.Module:
    from torchvision.models.video.resnet import BasicBlock, Conv3DSimple, VideoResNet

    class SmallR3D(VideoResNet):
        """torchvision's VideoResNet with every 64 read as `width`."""

        def _make_layer(self, block, conv_builder, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
            self.inplanes = width if planes == 64 else self.inplanes
            return super()._make_layer(block, conv_builder, planes * width // 64, blocks, stride)

    def stem() -> nn.Sequential:
        conv = nn.Conv3d(3, width, 3, stride=2, padding=1, bias=False)
        pool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))  # half the time at equal width
        return nn.Sequential(conv, nn.BatchNorm3d(width), nn.ReLU(inplace=True), pool)

    net = SmallR3D(BasicBlock, [Conv3DSimple] * 4, [1, 1, 1, 1], stem)
    net.fc = nn.Linear(8 * width, num_classes)
    return net


def _register_statistics(module: nn.Module, statistics: tuple, shape: tuple[int, ...]) -> None:
    for name, values in zip(("mean", "std"), statistics):
        module.register_buffer(name, torch.tensor(values).view(shape), persistent=False)


def _resize(frames: Tensor, size: int | None) -> Tensor:
    """(N, 3, h, w) to (N, 3, size, size)."""
    if size is None or tuple(frames.shape[-2:]) == (size, size):
        return frames
    shrinks = max(frames.shape[-2:]) > size
    frames = frames.float() if shrinks else frames  # antialiasing knows no bf16
    return F.interpolate(frames, size=(size, size), mode="bilinear", align_corners=False, antialias=shrinks)


# Freezing, loading, saving


def freeze(module: nn.Module) -> nn.Module:
    """Freeze `module` for good, in place: no gradients to its parameters, and eval mode whatever a parent's mode.

    A parent's ``.train()`` reaches every child; without this a "frozen" controller's BatchNorm would still follow
    the data it judges.
    """
    module.requires_grad_(False).eval()
    for part in module.modules():
        part.train = types.MethodType(_stay_in_eval, part)
    return module


def fold_batchnorm(module: nn.Module) -> nn.Module:
    """Take every BatchNorm that follows a convolution in a sequence into that convolution, in place; for evaluation only."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for part in module.modules():
        for i, (first, second) in enumerate(itertools.pairwise(part) if isinstance(part, nn.Sequential) else ()):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                part[i], part[i + 1] = fuse_conv_bn_eval(first, second), nn.Identity()
    return module


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def save_weights(module: nn.Module, path: str | Path) -> Path:
    """Write `module`'s state dict to `path` as safetensors, whole or not at all.

    Raises:
        PpferError: when the file cannot be written (full disk, no permission).
    """
    from safetensors.torch import save_file

    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    state = {k.replace("_orig_mod.", ""): v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, temporary)
        temporary.replace(path)
    except Exception as error:
        raise PpferError(f"weights could not be written to {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_weights(source: str | Path | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, from a ``.safetensors`` file, any file `torch.save` wrote, or a mapping, on the CPU.

    A dictionary that wraps its tensors under "state_dict", "model_state_dict" or "model" is unwrapped. Pickled code is
    never run (``weights_only=True``).

    Raises:
        PpferError: when there is no such file, it cannot be read, or it holds something else than tensors.
    """
    state, where = source, "the given state dict"
    if not isinstance(source, Mapping):
        path = Path(source)
        where = str(path)
        if not path.is_file():
            raise PpferError(f"there is no weights file at {path}")
        with path.open("rb") as stream:
            if stream.read(23) == b"version https://git-lfs":
                raise PpferError(f"{path} is a Git-LFS pointer, not the weights; run: git lfs pull")
        try:
            if path.suffix == ".safetensors":
                from safetensors.torch import load_file

                state = load_file(path)
            else:
                state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise PpferError(f"{path} cannot be read as weights: {error}") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise PpferError(f"{where} holds no state dict: expected names mapped to tensors")
    return dict(state)


def load_weights(
    module: nn.Module, source: str | Path | Mapping[str, Tensor], *, prefixes: Sequence[str] = PREFIXES
) -> nn.Module:
    """Load every tensor of `module` from `source`, or none: strict, and never half.

    Args:
        module: what to load into; left untouched on any error.
        source: see `read_weights`.
        prefixes: stripped where every name of the source carries one and the module's own do not.
            torch.compile's ``_orig_mod.`` is always ignored.

    Returns:
        `module`.

    Raises:
        PpferError: naming what is missing, unexpected or of another shape. BatchNorm's ``num_batches_tracked``,
            absent from old files and unused, may be missing.
    """
    own, state = _match(module, source, prefixes)
    _refuse(module, source, _compare(own, state))
    module.load_state_dict({name: state.get(key, own[key]) for key, name in _names(module).items()})
    return module


def load_backbone(
    net: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    *,
    head: str = "fc",
    prefixes: Sequence[str] = PREFIXES,
) -> str:
    """Load everything but the head from a network trained for other classes, and say so.

    The head, ``{head}.weight`` and ``{head}.bias``, is loaded too where its shape agrees. Where it doesn't, it stays as
    initialised, and it is the only thing that does: anything else missing, unexpected or misshapen is an error.

    Args:
        net: the network itself (`Classifier.net`, `Recognizer.net`), names without ``net.``.
        source: see `read_weights`.
        head: name of the last layer.
        prefixes: see `load_weights`.

    Returns:
        One sentence saying what was loaded and what was not; also logged as a warning when the head was left out.

    Raises:
        PpferError: when the file does not hold this backbone with a head; `net` is then untouched.
    """
    own, state = _match(net, source, prefixes)
    keys = {f"{head}.weight", f"{head}.bias"}
    if not keys <= state.keys():
        _refuse(net, source, [f"missing: {', '.join(sorted(keys - state.keys()))}"])
    fresh = {k for k in keys if state[k].shape != own[k].shape}
    if fresh:
        theirs, ours = len(state[f"{head}.bias"]), len(own[f"{head}.bias"])
        fresh = keys  # a head is replaced whole
        state = {k: v for k, v in state.items() if k not in keys}
    _refuse(net, source, _compare({k: v for k, v in own.items() if k not in fresh}, state))
    net.load_state_dict({name: state.get(key, own[key]) for key, name in _names(net).items()})
    where = "a state dict" if isinstance(source, Mapping) else str(source)
    if not fresh:
        return f"loaded all {len(own)} tensors from {where}"
    sentence = (
        f"loaded {len(own) - len(fresh)} of {len(own)} tensors from {where}; "
        f"the head '{head}' ({theirs} classes there, {ours} here) starts fresh and must be trained"
    )
    logger.warning(sentence)
    return sentence


def _names(module: nn.Module) -> dict[str, str]:
    """A state dict's names without torch.compile's prefix → with it."""
    return {name.replace("_orig_mod.", ""): name for name in module.state_dict()}


def _match(module: nn.Module, source, prefixes: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Own and given tensors under comparable names."""
    own = {name.replace("_orig_mod.", ""): value for name, value in module.state_dict().items()}
    state = {name.replace("_orig_mod.", ""): value for name, value in read_weights(source).items()}
    stripped = True
    while stripped:
        stripped = False
        for prefix in prefixes:
            if all(k.startswith(prefix) for k in state) and not all(k.startswith(prefix) for k in own):
                state, stripped = {k.removeprefix(prefix): v for k, v in state.items()}, True
    return own, state


def _compare(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """What stands between two sets of tensors, one line a kind."""
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    misshapen = [
        f"{k} is {tuple(state[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "wrong shape": misshapen}
    return [f"{kind}: {_some(names)}" for kind, names in kinds.items() if names]


def _some(names: Sequence[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _refuse(module: nn.Module, source, faults: Sequence[str]) -> None:
    if faults:
        where = "the given state dict" if isinstance(source, Mapping) else str(source)
        raise PpferError(f"{where} does not fit {type(module).__name__}; nothing was loaded. " + "; ".join(faults))


def _load_pretrained(net: nn.Module, name: str, weights: str | Path | None, option: str) -> str:
    """`weights` of `Classifier` and `Recognizer` into their network; the sentence of `load_backbone`."""
    if not weights:
        return ""
    if weights != "DEFAULT":
        return load_backbone(net, weights)
    from torchvision.models import get_model_weights

    try:
        published = get_model_weights(name).DEFAULT
    except ValueError:
        raise PpferError(f"'{name}' has no published weights; give {option} a path or leave it empty") from None
    try:
        state = published.get_state_dict(progress=False, check_hash=True)
    except Exception as error:
        raise PpferError(
            f"the {published} weights could not be downloaded ({error}); fetch {published.url} and pass its path: "
            f"{option}=PATH"
        ) from error
    return load_backbone(net, state)
