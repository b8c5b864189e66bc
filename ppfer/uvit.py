"""The U-ViT and the feature compensators F_fc on it: frames in, frames out.

Paper §3.4, Algorithm 2.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from timm.layers import Attention, Mlp, PatchEmbed, resample_abs_pos_embed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from ppfer.base.errors import PpferError
from ppfer.base.weights import load_weights, read_weights
from ppfer.nets import freeze

LATENT_SCALE = 0.18215  # Stable Diffusion multiplies its autoencoder's latents by this
NOISE = 0.00085  # 1 − ᾱ₁: the share of noise at the first step of its schedule
EXTRAS = 2  # tokens of a U-ViT before its patches: label and time


class _Block(nn.Module):
    """Pre-norm transformer block; those of the second half take the first half's as a skip."""

    def __init__(self, dim: int, heads: int, skip: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.skip_linear = nn.Linear(2 * dim, dim) if skip else None

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.skip_linear is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class UViT(nn.Module):
    """U-ViT, with the official names and shapes, so that the official weights load.

    Patches, a time token and a label token go through `depth` transformer blocks and one in the
    middle, with long skip connections from the first half to the second. The defaults are H/2 for
    ImageNet 256²: 500,832,016 parameters.

    Args:
        img_size, patch: side of the square input, and of a patch, which divides it.
        channels: of input and output (4: Stable-Diffusion latents; 3: frames).
        dim, heads: width of a token, and of attention, which divides it.
        depth: blocks, half before and half after the middle one.
        classes: rows of the label embedding, of which only the last, "no label", is used; 0 leaves
            out both tokens, of time and of label.
        checkpoint: recompute each block in the backward pass instead of keeping its activations.

    Source: Bao et al., "All are Worth Words: A ViT Backbone for Diffusion Models" (CVPR 2023).
    """

    def __init__(
        self,
        img_size: int = 32,
        patch: int = 2,
        channels: int = 4,
        dim: int = 1152,
        depth: int = 28,
        heads: int = 16,
        classes: int = 1001,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if img_size % patch:
            raise PpferError(f"UViT: patch {patch} does not divide the image size {img_size}")
        if dim % heads or dim % 2:
            raise PpferError(f"UViT: dim {dim} must be even and a multiple of heads {heads}")

        # tokens: patches, and what stands before them
        self.img_size, self.patch, self.channels, self.dim = img_size, patch, channels, dim
        self.checkpoint, self.extras = checkpoint, EXTRAS if classes else 0

        self.patch_embed = PatchEmbed(img_size, patch, channels, dim)
        if classes:
            self.label_emb = nn.Embedding(classes, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.extras + (img_size // patch) ** 2, dim))

        # blocks: the second half takes the first half's outputs as skips
        half = range(depth // 2)
        self.in_blocks = nn.ModuleList(_Block(dim, heads, skip=False) for _ in half)
        self.mid_block = _Block(dim, heads, skip=False)
        self.out_blocks = nn.ModuleList(_Block(dim, heads, skip=True) for _ in half)
        self.norm = nn.LayerNorm(dim)
        self.decoder_pred = nn.Linear(dim, patch**2 * channels)

        # the official initialisation
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, timesteps: Tensor | float | None = None) -> Tensor:
        """Map (B, C, S, S) to (B, C, S, S), any range.

        Args:
            x: images or latents, S = `img_size`.
            timesteps: (B,) or one number, 1 to 1000; None is 0, a clean input.

        Raises:
            PpferError: when x is not of the shape the network was built for.
        """
        expected = (self.channels, self.img_size, self.img_size)
        if x.dim() != 4 or tuple(x.shape[1:]) != expected:
            raise PpferError(
                f"this U-ViT was built for inputs (N, {', '.join(map(str, expected))}), "
                f"got {tuple(x.shape)}; resize the frames or build it with another img_size"
            )
        batch = len(x)
        tokens = self.patch_embed(x)  # (B, L, dim)
        if self.extras:
            if not isinstance(timesteps, Tensor):
                timesteps = torch.full((batch,), float(timesteps or 0), device=x.device)
            time = timestep_embedding(timesteps, self.dim)[:, None].to(tokens.dtype)
            label = self.label_emb.weight[-1].expand(batch, 1, -1).to(tokens.dtype)
            tokens = torch.cat([label, time, tokens], dim=1)
        tokens = tokens + self.pos_embed
        skips = []
        for block in self.in_blocks:
            tokens = self._run(block, tokens)
            skips.append(tokens)
        tokens = self._run(self.mid_block, tokens)
        for block in self.out_blocks:
            tokens = self._run(block, tokens, skips.pop())
        tokens = self.decoder_pred(self.norm(tokens))[:, self.extras :]  # (B, L, patch² C)
        side, p = self.img_size // self.patch, self.patch
        pixels = tokens.unflatten(1, (side, side)).unflatten(-1, (p, p, self.channels))
        return pixels.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)  # (B, C, rows, p, columns, p)

    def _run(self, block: _Block, *inputs: Tensor) -> Tensor:
        if self.checkpoint and torch.is_grad_enabled():
            return recompute(block, *inputs, use_reentrant=False)
        return block(*inputs)


def timestep_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding (B,) → (B, dim): cosines, then sines, of geometric frequencies."""
    half = dim // 2
    steps = torch.arange(half, device=timesteps.device)
    frequencies = torch.exp(-math.log(10_000) / half * steps)
    angles = timesteps[:, None].float() * frequencies  # (B, dim / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def resize_pos_embed(pos_embed: Tensor, patches: int) -> Tensor:
    """A positional embedding (1, EXTRAS + n², dim) on another grid, (1, EXTRAS + patches², dim):
    bicubic but for the leading ones, which are kept.

    Raises:
        PpferError: when the embedding is not that of `EXTRAS` tokens and a square of patches.
    """
    count = pos_embed.shape[1] - EXTRAS
    if math.isqrt(count) ** 2 != count:
        raise PpferError(
            f"pos_embed {tuple(pos_embed.shape)} is not {EXTRAS} tokens and a square of patches"
        )
    grid = [patches, patches]
    return resample_abs_pos_embed(pos_embed, grid, num_prefix_tokens=EXTRAS, antialias=False)


def uvit_h2(
    weights: str | Path | Mapping[str, Tensor] | None = None,
    img_size: int = 32,
    checkpoint: bool = False,
) -> UViT:
    """U-ViT-H/2 for latents of 256² images.

    Args:
        weights: the official ``imagenet256_uvit_huge.pth``, path or state dict; None: random.
        img_size: side of the latents, frames' side / 8: 32 is the official one; for another (28 for
            224² frames) the positional embedding is interpolated.
        checkpoint: see `UViT`.

    Raises:
        PpferError: when the file is missing or is not H/2.
    """
    if weights is None:
        return UViT(img_size=img_size, checkpoint=checkpoint)
    if not isinstance(weights, Mapping) and not Path(weights).is_file():
        raise PpferError(
            f"there are no U-ViT-H/2 weights at {weights}; fetch imagenet256_uvit_huge.pth, linked "
            "from https://github.com/baofff/U-ViT, and pass its path: nets.compensator_weights=PATH"
        )
    state = read_weights(weights)
    with torch.device("meta"):  # its 2 GB are taken when the weights are known to fit
        net = UViT(img_size=img_size, checkpoint=checkpoint)
    for name in [name for name in state if name.endswith("pos_embed")]:
        state[name] = resize_pos_embed(state[name], img_size // net.patch)
    return load_weights(net, state)


class PixelCompensator(nn.Module):
    """F_fc on pixels: a U-ViT predicts what to add to each frame.

    It starts as the identity (zero-initialised output). A compensator is not told a time or a
    label, so its U-ViT has neither token.
    """

    def __init__(
        self, img_size: int, patch: int = 8, dim: int = 128, depth: int = 4, heads: int = 4
    ) -> None:
        super().__init__()
        self.uvit = UViT(img_size, patch, 3, dim, depth, heads, classes=0)
        nn.init.zeros_(self.uvit.decoder_pred.weight)
        nn.init.zeros_(self.uvit.decoder_pred.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (N, 3, S, S) in [0, 1] to the same shape and range, S = `img_size`."""
        return (frames + self.uvit(2 * frames - 1)).clamp(0, 1)


class LatentCompensator(nn.Module):
    """F_fc in Stable Diffusion's latent space, faithful to the official U-ViT weights.

    The frames are encoded; the U-ViT's output is taken for the noise ε̂ in the latents z at the
    first of 1,000 steps, ẑ₀ = (z − √(1 − ᾱ₁) ε̂) / √ᾱ₁, near the identity; the result is decoded.

    Args:
        uvit: a latent U-ViT, see `uvit_h2`.
        autoencoder: with diffusers' interface, ``encode(x).latent_dist.mode()`` and
            ``decode(z).sample``, pictures in [−1, 1]; see `load_autoencoder`. Frozen here;
            gradients pass through it.
    """

    def __init__(self, uvit: UViT, autoencoder: nn.Module) -> None:
        super().__init__()
        self.uvit, self.autoencoder = uvit, freeze(autoencoder)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (N, 3, H, W) in [0, 1] to latents (N, 4, H/8, W/8), without a random draw."""
        return LATENT_SCALE * self.autoencoder.encode(2 * frames - 1).latent_dist.mode()

    def compensate(self, z: Tensor) -> Tensor:
        """Latents to latents of the same shape."""
        side = self.uvit.img_size
        if z.shape[-2:] != (side, side):
            raise PpferError(
                f"these frames give latents of {z.shape[-2]}×{z.shape[-1]}, but the U-ViT was "
                f"built for {side}×{side}; use other frames or build it with img_size={z.shape[-1]}"
            )
        noise = self.uvit(z, timesteps=1.0)
        return (z - math.sqrt(NOISE) * noise) / math.sqrt(1 - NOISE)

    def decode(self, z: Tensor) -> Tensor:
        """Latents to frames in [0, 1]."""
        return (self.autoencoder.decode(z / LATENT_SCALE).sample / 2 + 0.5).clamp(0, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (N, 3, H, W) in [0, 1] to the same shape and range.

        Raises:
            PpferError: when the frames' latents are not of the U-ViT's size.
        """
        return self.decode(self.compensate(self.encode(frames)))


def load_autoencoder(path: str | Path) -> nn.Module:
    """Stable Diffusion's autoencoder, through diffusers, from a local folder with ``config.json``
    and ``diffusion_pytorch_model.safetensors``; a `PpferError` when either is not there.
    """
    if not (Path(path) / "config.json").is_file():
        raise PpferError(
            f"there is no autoencoder at {path}; fetch the folder (config.json, "
            "diffusion_pytorch_model.safetensors) of https://huggingface.co/stabilityai/"
            "sd-vae-ft-ema and pass its path: nets.autoencoder=PATH"
        )
    kind = autoencoder_class()
    try:
        return kind.from_pretrained(path, local_files_only=True)
    except Exception as error:
        raise PpferError(f"the autoencoder in {path} cannot be loaded: {error}") from error


def autoencoder_class() -> type[nn.Module]:
    """diffusers' class of Stable Diffusion's autoencoder; a `PpferError` when that extra is not
    installed.
    """
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise PpferError(
            "the latent compensator needs diffusers; run: pip install -e '.[latent]'"
        ) from error
    return AutoencoderKL
