"""U-ViT: the official names and shapes; compensators: frames in, frames out, the identity at the
start.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ppfer import uvit
from ppfer.base.errors import PpferError
from ppfer.base.weights import load_weights
from ppfer.config import load_config
from ppfer.method.networks import new_compensator

DIM, HIDDEN = 1152, 4608


def official_h2() -> dict[str, tuple[int, ...]]:
    """Names and shapes of imagenet256_uvit_huge.pth, written out by hand."""

    def layer(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    block = {"attn.qkv.weight": (3 * DIM, DIM)} | layer("attn.proj", DIM, DIM)
    block |= layer("norm1", DIM) | layer("norm2", DIM)
    block |= layer("mlp.fc1", HIDDEN, DIM) | layer("mlp.fc2", DIM, HIDDEN)
    late = block | layer("skip_linear", DIM, 2 * DIM)
    names = {"pos_embed": (1, 258, DIM), "label_emb.weight": (1001, DIM)} | layer("norm", DIM)
    names |= layer("patch_embed.proj", DIM, 4, 2, 2) | layer("decoder_pred", 16, DIM)
    names |= {f"mid_block.{k}": v for k, v in block.items()}
    for i in range(14):
        names |= {f"in_blocks.{i}.{k}": v for k, v in block.items()}
        names |= {f"out_blocks.{i}.{k}": v for k, v in late.items()}
    return names


def tiny(**changes) -> uvit.UViT:
    """A latent U-ViT with H/2's structure, small enough to run."""
    size = {"img_size": 8, "patch": 2, "channels": 4, "dim": 32, "depth": 4, "heads": 4}
    net = uvit.UViT(**{**size, "classes": 11, **changes})
    for p in net.parameters():  # the usual initialisation is so small that a mistake hides in it
        nn.init.normal_(p, std=0.2)
    return net


def test_h2_has_the_official_names_shapes_and_count():
    with torch.device("meta"):
        state = uvit.uvit_h2().state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == official_h2()
    assert len(state) == 355 and sum(v.numel() for v in state.values()) == 500_832_016


def test_h2_loads_a_file_of_official_names_and_refuses_others():
    official = {k: torch.empty(v, device="meta") for k, v in official_h2().items()}
    with torch.device("meta"):
        # 224² frames: the positional embedding is interpolated
        net = uvit.uvit_h2(official, img_size=28)
        assert net.pos_embed.shape == (1, 2 + 14 * 14, DIM)
        with pytest.raises(PpferError, match=r"missing: out_blocks.3.skip_linear.bias"):
            official.pop("out_blocks.3.skip_linear.bias")
            uvit.uvit_h2(official)
    says = r"fetch imagenet256_uvit_huge.pth.*nets.compensator_weights=PATH"
    with pytest.raises(PpferError, match=says):
        uvit.uvit_h2("nowhere.pth")


def reference_forward(s: dict[str, torch.Tensor], x, t, patch: int, heads: int) -> torch.Tensor:
    """U-ViT spelled out from its description, for one sample at a time, without any of the module's
    code.
    """
    channels, size = x.shape[-3], x.shape[-1]
    dim, n = s["pos_embed"].shape[-1], size // patch

    def linear(name, v):
        return v @ s[f"{name}.weight"].flatten(1).T + s.get(f"{name}.bias", 0)

    def norm(name, v):
        return F.layer_norm(v, (dim,), s[f"{name}.weight"], s[f"{name}.bias"])

    def block(name, v):
        q, k, w = linear(f"{name}.attn.qkv", norm(f"{name}.norm1", v)).chunk(3, dim=-1)
        parts = [slice(h * dim // heads, (h + 1) * dim // heads) for h in range(heads)]
        weights = [(q[:, p] @ k[:, p].T / math.sqrt(dim / heads)).softmax(-1) for p in parts]
        mixed = torch.cat([a @ w[:, p] for a, p in zip(weights, parts, strict=True)], -1)
        v = v + linear(f"{name}.attn.proj", mixed)
        u = F.gelu(linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", v)))
        return v + linear(f"{name}.mlp.fc2", u)

    def place(i, j):
        return slice(i * patch, (i + 1) * patch), slice(j * patch, (j + 1) * patch)

    cells, out = [divmod(index, n) for index in range(n * n)], []
    depth = len({k.split(".")[1] for k in s if k.startswith("in_blocks")})
    for image, time in zip(x, t, strict=True):
        pieces = [image[:, rows, columns].flatten() for rows, columns in (place(*c) for c in cells)]
        angles = [float(time) * 10_000 ** (-2 * i / dim) for i in range(dim // 2)]
        token = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
        patches = linear("patch_embed.proj", torch.stack(pieces))
        no_label = s["label_emb.weight"][-1:]
        v = torch.cat([no_label, token[None], patches]) + s["pos_embed"][0]
        skips = []
        for i in range(depth):
            v = block(f"in_blocks.{i}", v)
            skips.append(v)
        v = block("mid_block", v)
        for i in range(depth):
            both = torch.cat([v, skips.pop()], -1)
            v = block(f"out_blocks.{i}", linear(f"out_blocks.{i}.skip_linear", both))
        v, picture = linear("decoder_pred", norm("norm", v))[2:], torch.empty(channels, size, size)
        for (i, j), values in zip(cells, v, strict=True):
            rows, columns = place(i, j)
            picture[:, rows, columns] = values.view(patch, patch, channels).permute(2, 0, 1)
        out.append(picture)
    return torch.stack(out)


@torch.no_grad()
def test_forward_is_the_one_described():
    torch.manual_seed(0)
    net, x = tiny(), torch.randn(2, 4, 8, 8)
    t = torch.tensor([3, 900])
    expected = reference_forward(net.state_dict(), x, t, patch=2, heads=4)
    torch.testing.assert_close(net(x, t), expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_no_time_is_zero():
    net, x = tiny(), torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(net(x), net(x, torch.zeros(2)))
    torch.testing.assert_close(net(x, 5), net(x, torch.tensor([5, 5])))
    assert not torch.allclose(net(x), net(x, 500))


def test_checkpointing_changes_nothing_but_memory():
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([1, 1000])
    plain = tiny()
    saving = tiny(checkpoint=True)
    load_weights(saving, plain.state_dict())

    def step(net):
        kept = []
        hooks = (lambda v: kept.append(v.numel()) or v), (lambda v: v)
        with torch.autograd.graph.saved_tensors_hooks(*hooks):
            y = net(x, t)
        y.square().sum().backward()
        return y, {n: p.grad for n, p in net.named_parameters()}, sum(kept)

    (y, gradients, kept), (y_saving, gradients_saving, kept_saving) = step(plain), step(saving)
    torch.testing.assert_close(y, y_saving)
    torch.testing.assert_close(gradients, gradients_saving)
    assert kept_saving < kept / 2  # numbers kept between forward and backward


def test_wrong_sizes_are_refused():
    with pytest.raises(PpferError, match="patch 3 does not divide"):
        uvit.UViT(img_size=8, patch=3)
    with pytest.raises(PpferError, match="multiple of heads"):
        uvit.UViT(img_size=8, dim=30, heads=4)
    with pytest.raises(PpferError, match=r"built for inputs \(N, 4, 8, 8\), got \(1, 4, 16, 16\)"):
        tiny()(torch.rand(1, 4, 16, 16))
    with pytest.raises(PpferError, match=r"\(N, 3, 32, 32\)"):
        uvit.PixelCompensator(32)(torch.rand(1, 3, 48, 48))


def test_positional_embedding_is_interpolated_on_its_grid():
    ramp = torch.arange(8.0).expand(8, 8)  # grows along columns
    pos = torch.cat([torch.tensor([100.0, 200.0]), ramp.flatten()])[None, :, None]  # (1, 2 + 64, 1)
    assert uvit.resize_pos_embed(pos, 8) is pos
    wide = uvit.resize_pos_embed(pos, 16)
    assert wide.shape == (1, 2 + 256, 1) and wide[0, :2, 0].tolist() == [100.0, 200.0]
    grid = wide[0, 2:, 0].view(16, 16)
    torch.testing.assert_close(grid, grid[:1].expand(16, 16))  # still the same in every row
    with pytest.raises(PpferError, match="not 2 tokens and a square"):
        uvit.resize_pos_embed(torch.zeros(1, 78 + 64, 1), 16)  # a text-conditional U-ViT's
    torch.testing.assert_close(grid[0, 4:12], (torch.arange(4, 12) - 0.5) / 2, rtol=0, atol=0.06)


# Pixel compensators


def test_small_compensators_have_the_expected_size():
    def count(m):
        return sum(p.numel() for p in m.parameters())

    with torch.device("meta"):
        assert round(count(uvit.PixelCompensator(64, 8, 128, 4, 4)) / 1e6, 1) == 1.1
        assert round(count(uvit.PixelCompensator(64, 4, 512, 12, 8)) / 1e6, 1) == 44.3


def test_a_pixel_compensator_starts_as_the_identity_and_can_leave_it():
    torch.manual_seed(0)
    x, net = torch.rand(2, 3, 24, 24), uvit.PixelCompensator(24, 4, 32, 2, 4)
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    assert torch.equal(net(x), x)
    optimizer = torch.optim.SGD(net.parameters(), lr=50.0)
    for _ in range(2):  # the first step moves the output layer, the second everything behind it
        optimizer.zero_grad()
        (net(x) - 0.5).square().mean().backward()
        optimizer.step()
    y = net(x)
    assert not torch.equal(y, x) and y.shape == x.shape and 0 <= y.min() and y.max() <= 1
    # there's no token, so there's no parameter for it either; all others learn
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_weights_of_a_latent_uvit_are_no_pixel_compensators():
    config = load_config("smoke", {"nets.compensator_weights": "somewhere.pth"})
    with pytest.raises(PpferError, match="set nets.compensator=latent too"):
        new_compensator(config)


# Latent compensator


class FakeAutoencoder(nn.Module):
    """diffusers' interface around an exact, invertible stand-in: 8×8 patches to 192 of 192 numbers,
    no loss.
    """

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.norm = nn.BatchNorm2d(192)  # would follow the data if it were not frozen

    def encode(self, x):
        z = F.pixel_unshuffle(x, 8) * self.gain
        self.norm(z)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: z))

    def decode(self, z):
        return SimpleNamespace(sample=F.pixel_shuffle(z / self.gain, 8))


def latent() -> uvit.LatentCompensator:
    return uvit.LatentCompensator(tiny(img_size=4, channels=192), FakeAutoencoder())


def test_denoising_removes_exactly_the_predicted_noise():
    z, noise = torch.randn(2, 192, 4, 4), torch.randn(2, 192, 4, 4)
    seen = []

    def predict(v, timesteps):
        seen.append(timesteps)
        return noise

    net = latent()
    net.uvit.forward = predict
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    a = float(1 - beta[0])
    noisy = math.sqrt(a) * z + math.sqrt(1 - a) * noise
    torch.testing.assert_close(net.compensate(noisy), z, rtol=1e-3, atol=1e-3)
    assert seen == [1]


def test_the_autoencoder_is_frozen_the_scale_applied_the_range_kept():
    x, net = torch.rand(2, 3, 32, 32, requires_grad=True), latent().train()
    before = {k: v.clone() for k, v in net.autoencoder.state_dict().items()}
    y = net(x)
    assert 0 <= y.min() and y.max() <= 1
    y.sum().backward()
    assert x.grad.any() and net.autoencoder.gain.grad is None
    assert all(torch.equal(before[k], v) for k, v in net.autoencoder.state_dict().items())
    assert net.encode(x).shape == (2, 192, 4, 4)
    torch.testing.assert_close(net.encode(x), F.pixel_unshuffle(2 * x - 1, 8) * 2 * 0.18215)


def test_latent_bad_input_is_refused(tmp_path):
    with pytest.raises(PpferError, match="latents of 8×8, but the U-ViT was built for 4×4"):
        latent()(torch.rand(1, 3, 64, 64))
    with pytest.raises(PpferError, match="fetch the folder .*sd-vae.*nets.autoencoder=PATH"):
        uvit.load_autoencoder(tmp_path)
