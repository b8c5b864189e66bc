"""The U-ViT and the feature compensators F_fc built on it: frames in, frames out (paper §3.4, Algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from ppfer.config import PpferError
from ppfer.nets import freeze, load_weights, read_weights

LATENT_SCALE = 0.18215  # Stable Diffusion multiplies its autoencoder's latents by this


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, L, dim / heads)
        x = F.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(x.transpose(1, 2).flatten(2))  # (B, L, dim)


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    """Pre-norm transformer block; the blocks of the second half take the first half's output as a skip."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, qkv_bias: bool, skip: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = _Attention(dim, heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _Mlp(dim, int(dim * mlp_ratio))
        self.skip_linear = nn.Linear(2 * dim, dim) if skip else None

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.skip_linear is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _PatchEmbed(nn.Module):
    def __init__(self, patch: int, channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # (B, L, dim)


class UViT(nn.Module):
    """U-ViT, with the official names and shapes, so that the official weights load.

    Patches, a time token and a label token go through `depth` transformer blocks and one in the middle, with long skip
    connections from the first half to the second. The defaults are H/2 for ImageNet 256²: 500,832,016 parameters.

    Args:
        img_size: side of the square input.
        patch: side of a patch; divides `img_size`.
        channels: of input and output (4: Stable-Diffusion latents; 3: frames).
        dim: token width.
        depth: blocks, half before and half after the middle one.
        heads: attention heads; divides `dim`.
        mlp_ratio: hidden width of a block's MLP over `dim`.
        qkv_bias: bias on the query, key and value projection.
        classes: rows of the label embedding, the last of which means "no label"; 0 leaves the label token out.
        time: whether there is a time token.
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
        mlp_ratio: float = 4,
        qkv_bias: bool = False,
        classes: int = 1001,
        time: bool = True,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if img_size % patch:
            raise PpferError(f"UViT: patch {patch} does not divide the image size {img_size}")
        if dim % heads or dim % 2:
            raise PpferError(f"UViT: dim {dim} must be even and a multiple of heads {heads}")
        self.img_size, self.patch, self.channels, self.dim = img_size, patch, channels, dim
        self.time, self.classes, self.checkpoint = time, classes, checkpoint
        self.extras = int(time) + int(classes > 0)

        def blocks(n: int, skip: bool) -> nn.ModuleList:
            return nn.ModuleList(_Block(dim, heads, mlp_ratio, qkv_bias, skip) for _ in range(n))

        self.patch_embed = _PatchEmbed(patch, channels, dim)
        if classes:
            self.label_emb = nn.Embedding(classes, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.extras + (img_size // patch) ** 2, dim))
        self.in_blocks = blocks(depth // 2, skip=False)
        self.mid_block = _Block(dim, heads, mlp_ratio, qkv_bias, skip=False)
        self.out_blocks = blocks(depth // 2, skip=True)
        self.norm = nn.LayerNorm(dim)
        self.decoder_pred = nn.Linear(dim, patch**2 * channels)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, timesteps: Tensor | float | None = None, labels: Tensor | None = None) -> Tensor:
        """Map (B, C, S, S) to (B, C, S, S), any range.

        Args:
            x: images or latents, S = `img_size`.
            timesteps: (B,) or one number, 1 to 1000; None is 0, a clean input.
            labels: (B,) int64; None is "no label" (id ``classes − 1``).

        Raises:
            PpferError: when x is not of the shape the network was built for.
        """
        expected = (self.channels, self.img_size, self.img_size)
        if x.dim() != 4 or tuple(x.shape[1:]) != expected:
            raise PpferError(
                f"this U-ViT was built for inputs (N, {', '.join(map(str, expected))}), got {tuple(x.shape)}; "
                "resize the frames or build it with another img_size"
            )
        batch = len(x)
        tokens = self.patch_embed(x)  # (B, L, dim)
        if self.time:
            if not isinstance(timesteps, Tensor):
                timesteps = torch.full((batch,), float(timesteps or 0), device=x.device)
            tokens = torch.cat([timestep_embedding(timesteps, self.dim)[:, None].to(tokens.dtype), tokens], dim=1)
        if self.classes:
            labels = torch.full((batch,), self.classes - 1, device=x.device) if labels is None else labels
            tokens = torch.cat([self.label_emb(labels)[:, None].to(tokens.dtype), tokens], dim=1)
        tokens = tokens + self.pos_embed
        skips = []
        for block in self.in_blocks:
            tokens = self._run(block, tokens)
            skips.append(tokens)
        tokens = self._run(self.mid_block, tokens)
        for block in self.out_blocks:
            tokens = self._run(block, tokens, skips.pop())
        tokens = self.decoder_pred(self.norm(tokens))[:, self.extras :]  # (B, L, patch² C)
        side = self.img_size // self.patch
        tokens = tokens.unflatten(1, (side, side)).unflatten(-1, (self.patch, self.patch, self.channels))
        return tokens.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)  # (B, C, rows, p1, columns, p2)

    def _run(self, block: _Block, *inputs: Tensor) -> Tensor:
        if self.checkpoint and torch.is_grad_enabled():
            return recompute(block, *inputs, use_reentrant=False)
        return block(*inputs)


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10_000) -> Tensor:
    """Sinusoidal embedding (B,) → (B, dim): cosines first, then sines, of geometrically spaced frequencies."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) / half * torch.arange(half, device=timesteps.device))
    angles = timesteps[:, None].float() * frequencies  # (B, dim / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def resize_pos_embed(pos_embed: Tensor, patches: int, extras: int = 2) -> Tensor:
    """Interpolate a positional embedding (1, extras + n², dim) to (1, extras + patches², dim), bicubically.

    The `extras` leading entries (label and time token) are kept as they are.

    Raises:
        PpferError: when the embedding is not that of `extras` tokens and a square of patches.
    """
    extra, grid = pos_embed[:, :extras], pos_embed[:, extras:]
    side = math.isqrt(grid.shape[1])
    if side**2 != grid.shape[1]:
        raise PpferError(f"pos_embed {tuple(pos_embed.shape)} is not {extras} tokens and a square of patches")
    if side == patches:
        return pos_embed
    grid = grid.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # (1, dim, side, side)
    grid = F.interpolate(grid.float(), size=(patches, patches), mode="bicubic", align_corners=False)
    return torch.cat([extra, grid.flatten(2).transpose(1, 2).to(extra.dtype)], dim=1)


def uvit_h2(
    weights: str | Path | Mapping[str, Tensor] | None = None, img_size: int = 32, checkpoint: bool = False
) -> UViT:
    """U-ViT-H/2 for latents of 256² images.

    Args:
        weights: the official ``imagenet256_uvit_huge.pth`` (path or state dict); None leaves it random.
        img_size: side of the latents, frames' side / 8: 32 is the official one; for another (28 for 224² frames) the
            positional embedding is interpolated.
        checkpoint: see `UViT`.

    Raises:
        PpferError: when the file is missing or is not H/2.
    """
    if weights is not None and not isinstance(weights, Mapping) and not Path(weights).is_file():
        raise PpferError(
            f"there are no U-ViT-H/2 weights at {weights}; fetch imagenet256_uvit_huge.pth, linked from "
            "https://github.com/baofff/U-ViT, and pass its path: nets.compensator_weights=PATH"
        )
    state = None if weights is None else read_weights(weights)  # before the network: it takes seconds to build
    net = UViT(img_size=img_size, checkpoint=checkpoint)
    if state is not None:
        state |= {k: resize_pos_embed(v, img_size // net.patch) for k, v in state.items() if k.endswith("pos_embed")}
        load_weights(net, state)
    return net


class PixelCompensator(nn.Module):
    """F_fc on pixels: a U-ViT predicts what to add to each frame. Starts as the identity (zero-initialised output).

    Option C is this class, small and from scratch; option B is `PixelCompensator.transplant`, with H/2's blocks. A
    compensator is not told a time or a label, so C has neither token; B keeps both, constant (t = 1, no label),
    because its blocks were trained with them.

    Args:
        img_size: side of the frames.
        patch, dim, depth, heads, mlp_ratio, checkpoint: see `UViT`.
        tokens: keep the (constant) time and label token.
    """

    def __init__(
        self,
        img_size: int,
        patch: int = 8,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 4,
        tokens: bool = False,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.uvit = UViT(
            img_size, patch, 3, dim, depth, heads, mlp_ratio, classes=int(tokens), time=tokens, checkpoint=checkpoint
        )
        nn.init.zeros_(self.uvit.decoder_pred.weight)
        nn.init.zeros_(self.uvit.decoder_pred.bias)

    @classmethod
    def transplant(
        cls,
        weights: str | Path | Mapping[str, Tensor],
        img_size: int,
        patch: int,
        heads: int = 16,
        checkpoint: bool = False,
    ) -> PixelCompensator:
        """Option B: the blocks of a latent U-ViT such as H/2 in a pixel compensator.

        Blocks, final norm and the "no label" embedding are copied, the positional embedding is interpolated to the new
        grid; patch embedding and output layer are new.

        Raises:
            PpferError: when the weights are not those of a U-ViT with a time and a label token.
        """
        state = read_weights(weights)
        needed = {"pos_embed", "label_emb.weight", "mid_block.mlp.fc1.weight"}
        if not needed <= state.keys():
            raise PpferError(f"these are not the weights of a U-ViT: {', '.join(sorted(needed - state.keys()))} missing")
        dim = state["pos_embed"].shape[-1]
        depth = 2 * len({name.split(".")[1] for name in state if name.startswith("in_blocks.")})
        ratio = len(state["mid_block.mlp.fc1.weight"]) / dim
        net = cls(img_size, patch, dim, depth, heads, ratio, tokens=True, checkpoint=checkpoint)
        state["pos_embed"] = resize_pos_embed(state["pos_embed"], img_size // patch)
        state["label_emb.weight"] = state["label_emb.weight"][-1:]  # "no label"
        fresh = ("patch_embed.", "decoder_pred.")
        state = {name: value for name, value in state.items() if not name.startswith(fresh)}
        state |= {name: value for name, value in net.uvit.state_dict().items() if name.startswith(fresh)}
        load_weights(net.uvit, state)
        return net

    def forward(self, frames: Tensor) -> Tensor:
        """Map (N, 3, S, S) in [0, 1] to the same shape and range.

        Raises:
            PpferError: when S is not `img_size`.
        """
        return (frames + self.uvit(2 * frames - 1, timesteps=1.0)).clamp(0, 1)


class LatentCompensator(nn.Module):
    """F_fc in Stable Diffusion's latent space, option A: faithful to the official U-ViT weights.

    The frames are encoded, the U-ViT works on the latents z, the result is decoded.

    Args:
        uvit: a latent U-ViT, see `uvit_h2`.
        autoencoder: with diffusers' interface, ``encode(x).latent_dist.mode()`` and ``decode(z).sample``, pictures in
            [−1, 1]; see `load_autoencoder`. Frozen here; gradients pass through it.
        mode: what the U-ViT's output is taken for:
            "denoise": the noise ε̂ in z at step `t`, ẑ₀ = (z − √(1 − ᾱ_t) ε̂) / √ᾱ_t, near the identity at small t;
            "raw": the new latent itself, as the authors' code has it;
            "residual": a change of the latent behind a gate that starts at zero: decode(encode(x)) at first.
        t: diffusion step shown to the U-ViT, 1 to 1000.
        scale: factor between the autoencoder's latents and the U-ViT's.
    """

    def __init__(
        self, uvit: UViT, autoencoder: nn.Module, mode: str = "denoise", t: int = 1, scale: float = LATENT_SCALE
    ) -> None:
        super().__init__()
        if mode not in ("denoise", "raw", "residual"):
            raise PpferError(f"LatentCompensator: mode is 'denoise', 'raw' or 'residual', got '{mode}'")
        if not 1 <= t <= 1000:
            raise PpferError(f"LatentCompensator: t is a diffusion step from 1 to 1000, got {t}")
        self.uvit, self.autoencoder = uvit, freeze(autoencoder)
        self.mode, self.t, self.scale = mode, t, scale
        self.signal = float(alpha_bar()[t - 1])  # ᾱ_t
        if mode == "residual":
            self.gate = nn.Parameter(torch.zeros(()))

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (N, 3, H, W) in [0, 1] to latents (N, 4, H/8, W/8); deterministic, so it can be cached."""
        return self.scale * self.autoencoder.encode(2 * frames - 1).latent_dist.mode()

    def compensate(self, z: Tensor) -> Tensor:
        """Latents to latents of the same shape."""
        if z.shape[-2:] != (self.uvit.img_size, self.uvit.img_size):
            raise PpferError(
                f"these frames give latents of {z.shape[-2]}×{z.shape[-1]}, but the U-ViT was built for "
                f"{self.uvit.img_size}×{self.uvit.img_size}; use other frames or build it with img_size={z.shape[-1]}"
            )
        y = self.uvit(z, timesteps=float(self.t))
        if self.mode == "denoise":
            return (z - math.sqrt(1 - self.signal) * y) / math.sqrt(self.signal)
        return y if self.mode == "raw" else z + self.gate * y

    def decode(self, z: Tensor) -> Tensor:
        """Latents to frames in [0, 1]."""
        return (self.autoencoder.decode(z / self.scale).sample / 2 + 0.5).clamp(0, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (N, 3, H, W) in [0, 1] to the same shape and range.

        Raises:
            PpferError: when the frames' latents are not of the U-ViT's size.
        """
        return self.decode(self.compensate(self.encode(frames)))


def alpha_bar() -> np.ndarray:
    """ᾱ_1 … ᾱ_1000 (float64) of Stable Diffusion's schedule, β = linspace(√.00085, √.012, 1000)²."""
    return np.cumprod(1 - np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2)


def load_autoencoder(path: str | Path) -> nn.Module:
    """Stable Diffusion's autoencoder from a local folder, through diffusers.

    Args:
        path: folder with ``config.json`` and ``diffusion_pytorch_model.safetensors``.

    Raises:
        PpferError: when diffusers is not installed or the folder does not hold the autoencoder.
    """
    if not (Path(path) / "config.json").is_file():
        raise PpferError(
            f"there is no autoencoder at {path}; fetch the folder (config.json, diffusion_pytorch_model.safetensors) of "
            "https://huggingface.co/stabilityai/sd-vae-ft-ema and pass its path: nets.autoencoder=PATH"
        )
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise PpferError("the latent compensator needs diffusers; run: pip install 'ppfer[latent]'") from error
    try:
        return AutoencoderKL.from_pretrained(path, local_files_only=True)
    except Exception as error:
        raise PpferError(f"the autoencoder in {path} cannot be loaded: {error}") from error
