"""All that changes speed and nothing else.

A network is built from plain layers (`ppfer.nets`). `prepare` replaces, in place, the few that a
device has a better way for, or whose gradient is not the same twice there; parameters, their names
and what is computed stay the same, up to rounding. `ppfer.run.loop.fit` prepares what it trains,
and whoever loads a network prepares that. `deploy` goes further, for a network that will only run.
"""

import copy
import itertools
from collections.abc import Callable, Container

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ppfer import nets, uvit
from ppfer.protect import PPFER, Apply, FrameEnhancer, PrivacyEnhancer

POOL = (1, 3, 3), (1, 2, 2), (0, 1, 1)  # kernel, stride and padding of frames being pooled
MATRIX_UNITS = ("cuda",)  # devices where a layer rewritten as matrix products is the faster one


def prepare(module: nn.Module, device: torch.device) -> nn.Module:
    """Give anything made of `ppfer.nets`, `ppfer.uvit` or torchvision's networks, trainable or
    frozen, the layers and the memory layout that are fastest on `device`, in place.
    """
    if device.type in MATRIX_UNITS:
        for part in module.modules():
            if replacement := _replacement(part):
                part.__class__ = replacement  # parameters, hooks and mode stay as they are
        return channels_last(module)
    # on a CPU everything is faster channels-last but a U-Net's training step, which loses a tenth
    unets = (part for part in module.modules() if type(part) is nets.UNet)
    plain = {id(p) for net in unets for p in net.parameters() if p.requires_grad}
    return channels_last(module, plain)


def _replacement(part: nn.Module) -> type[nn.Module] | None:
    """The better class for a layer, which computes the same from the same attributes."""
    if type(part) in _INSTEAD:
        return _INSTEAD[type(part)]
    if type(part) is nn.MaxPool3d and (part.kernel_size, part.stride, part.padding) == POOL:
        return _PoolOfFrames
    if type(part) not in (nn.Conv2d, nn.Conv3d) or part.in_channels != 3 or part.bias is not None:
        return None
    kernel, stride, padding = part.kernel_size[-2:], part.stride[-2:], part.padding[-2:]
    usual = part.groups == 1 and set(part.dilation) == {1} and part.padding_mode == "zeros"
    if not usual or (kernel, stride, padding) != ((7, 7), (2, 2), (3, 3)):
        return None
    return _Stem2d if isinstance(part, nn.Conv2d) else _Stem3d


def channels_last(module: nn.Module, plain: Container[int] = ()) -> nn.Module:
    """Store convolution weights channels-last (2-D and 3-D), which is what fast kernels want; those
    whose ``id`` is in `plain` get PyTorch's usual layout.

    Kernels of one pixel too, though they lie in memory that way already: with the strides of their
    gradients, or several processes copy those one by one.
    """
    for p in module.parameters():
        if p.dim() in (4, 5):
            layout = torch.channels_last if p.dim() == 4 else torch.channels_last_3d
            layout = torch.contiguous_format if id(p) in plain else layout
            p.data = torch.empty_like(p.data, memory_format=layout).copy_(p.data)
    return module


# Layers for matrix units


class _Stem:
    """The first convolution of a ResNet or R3D: 3 colours, kernel 7, stride 2 in height and width.

    cuDNN has no fast kernel for 3 channels, and in 3-D it leaves the matrix units. Here 2×2 pixels
    become channels (16, with a fourth, empty colour) under a kernel of 4 and stride 1: the same
    sums, and a sixth of the time of R3D's step saved. Odd sizes are left to the plain convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        if any(n % 2 for n in x.shape[-2:]):
            return super().forward(x)
        time = (0, 0) * (x.dim() - 4)
        # tap 0 of 7 looks 3 pixels to the left, tap 0 of 2·4 looks 4
        pixels = _unshuffle(F.pad(x, (4, 2, 4, 2, *time, 0, 1)))  # (N, 16, [T,] h, w)
        weight = _unshuffle(F.pad(self.weight, (1, 0, 1, 0, *time, 0, 1)))
        layout = torch.channels_last_3d if time else torch.channels_last
        convolve = F.conv3d if time else F.conv2d
        pixels = pixels.contiguous(memory_format=layout)
        return convolve(
            pixels, weight, stride=(*self.stride[:-2], 1, 1), padding=(*self.padding[:-2], 0, 0)
        )


class _Stem2d(_Stem, nn.Conv2d):
    pass


class _Stem3d(_Stem, nn.Conv3d):
    pass


def _unshuffle(x: Tensor) -> Tensor:
    """(N, C, [T,] H, W) to (N, 4C, [T,] H/2, W/2)."""
    return F.pixel_unshuffle(x.movedim(1, -3), 2).movedim(-3, 1)


class _UNetOfProducts(nets.UNet):
    """A U-Net whose way up is two matrix products."""

    def upsample(self, x: Tensor, level: int, size: tuple[int, int]) -> Tensor:
        return resample(x, size, align_corners=True)


class _Judge(nets.Classifier):
    """A classifier whose gradient, on the way to a picture that it sees in another size, is the
    same each time: while others are trained to please or to deceive it.
    """

    def resize(self, frames: Tensor) -> Tensor:
        size, given = self.input_size, frames.shape[-2:]
        if not frames.requires_grad or size is None or tuple(given) == (size, size):
            return super().resize(frames)
        with torch.autocast(frames.device.type, enabled=False):
            how = {"align_corners": False, "antialias": max(given) > size}
            return resample(frames.float(), (size, size), **how)


class _PoolOfFrames(nn.MaxPool3d):
    """Max-pooling of single frames of clips, in two dimensions: there gradients are no scatter of
    atomic additions.
    """

    def forward(self, x: Tensor) -> Tensor:
        b, t = len(x), x.shape[2]
        frames = x.transpose(1, 2).flatten(0, 1)  # (B·T, C, H, W)
        kernel, stride, padding = self.kernel_size[1:], self.stride[1:], self.padding[1:]
        return F.max_pool2d(frames, kernel, stride, padding).unflatten(0, (b, t)).transpose(1, 2)


_INSTEAD = {nets.UNet: _UNetOfProducts, nets.Classifier: _Judge}


def resample(x: Tensor, size: tuple[int, int], **how: bool) -> Tensor:
    """Bilinear interpolation as two matrix products, (N, C, h, w) to (N, C, *size): X → U_h X U_wᵀ.

    In x's type and channels-last throughout: PyTorch's kernel works in float32 under autocast, and
    its gradient is a scatter of atomic additions, which differ in their last digits from call to
    call. ``align_corners`` and ``antialias`` are as `torch.nn.functional.interpolate` takes them.
    """
    sizes = zip(x.shape[-2:], size, strict=True)
    rows, columns = (_interpolation(n, m, x, **how) for n, m in sizes)
    x = x.permute(0, 2, 3, 1)  # (N, h, w, C): how a channels-last tensor lies in memory
    n, h = x.shape[:2]
    x = torch.bmm(columns.expand(n * h, -1, -1), x.flatten(0, 1))  # (N·h, W, C)
    x = x.unflatten(0, (n, h))
    x = torch.bmm(rows.expand(n, -1, -1), x.flatten(2)).unflatten(-1, x.shape[2:])  # (N, H, W, C)
    return x.permute(0, 3, 1, 2)


def _interpolation(n: int, m: int, like: Tensor, **how: bool) -> Tensor:
    """U of one axis, (m, n): what becomes of each of n points alone."""
    points = torch.eye(n, device=like.device, dtype=torch.float64)
    return F.interpolate(points[None, None], (n, m), mode="bilinear", **how)[0, 0].T.to(like.dtype)


# Networks that only run


def deploy(module: nn.Module, precision: str = "auto") -> nn.Module:
    """A copy of `module` that runs fastest over many frames on a GPU; on other devices `module`
    itself.

    BatchNorm is folded into the convolutions, and weights of U-Nets and pixel compensators are bf16
    where `precision` allows it (`ppfer.run.loop.autocast`), under which it is to be called.
    """
    device = next(module.parameters()).device
    if device.type not in MATRIX_UNITS:
        return module
    module = prepare(fold_batchnorm(copy.deepcopy(module).eval()), device)
    if precision != "fp32":
        for part in module.modules():
            if isinstance(part, (nets.UNet, uvit.PixelCompensator)):
                part.bfloat16()
    return module


def fold_batchnorm(module: nn.Module) -> nn.Module:
    """Take every BatchNorm after a convolution in a sequence into it, in place; for evaluation."""
    for part in module.modules():
        if not isinstance(part, nn.Sequential):
            continue
        for i, (first, second) in enumerate(itertools.pairwise(part)):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                part[i], part[i + 1] = fuse_conv_bn_eval(first, second), nn.Identity()
    return module


def compiled(function: Callable[[Tensor], Tensor], batch: int) -> Callable[[Tensor], Tensor]:
    """`function`, (n, …) to (n, …), under `torch.compile`: half a minute's wait, then a third more
    frames a second. Fewer than `batch` are filled up with the last one: one shape is compiled.
    """
    fast = torch.compile(function, dynamic=False)

    def fill(clips: Tensor) -> Tensor:
        count = len(clips)
        if count < batch:
            clips = torch.cat([clips, clips[-1:].expand(batch - count, *clips.shape[1:])])
        return fast(clips)[:count]

    return fill


# Training steps


class Captured:
    """A training step as a CUDA graph: its kernels are recorded, then replayed without Python in
    between, with the same results; one of many small kernels takes two thirds of the time.

    Args:
        step: batch → loss, of tensors that keep their shapes; it must not look at a value (no
            ``.item()``).
    """

    WARM = 3  # calls before the recording

    def __init__(self, step: Callable[..., Tensor]) -> None:
        self.step, self.calls, self.graph = step, 0, None

    def __call__(self, *batch: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= self.WARM:  # on another stream, as PyTorch asks of steps before a capture
            here, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(here)
            with torch.cuda.stream(side):
                loss = self.step(*batch)
            here.wait_stream(side)
            return loss
        if self.graph is None:
            self.batch, self.graph = [x.clone() for x in batch], torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.loss = self.step(*self.batch)
        for mine, given in zip(self.batch, batch, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return self.loss


def deployed(
    protector: Apply, batch: int, *, precision: str = "auto", compile: bool = False
) -> Apply:
    """A protector made of our networks, one itself or a method such as `PPFER.compensate`, as it
    runs fastest on a GPU: `deploy` and, with `compile`, `compiled`; any other as it is.
    """
    owner = getattr(protector, "__self__", protector)
    ours = isinstance(owner, (PrivacyEnhancer, FrameEnhancer, PPFER))
    quick = deploy(owner, precision) if ours else owner
    if quick is owner:
        return protector
    apply = quick if isinstance(protector, nn.Module) else getattr(quick, protector.__name__)
    return compiled(apply, batch) if compile else apply
