"""Networks: sizes, ranges, freezing."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import equal, snapshot
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import resnet18, resnet50
from torchvision.models.video import r3d_18

from ppfer import nets
from ppfer.base.errors import PpferError
from ppfer.base.weights import load_weights


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# U-Nets


def test_parameter_counts_at_the_papers_width():
    with torch.device("meta"):
        assert count(nets.UNet(64)) == 17_267_523  # 17.27 M
        assert count(nets.RecoveryUNet(64)) == 34_525_251  # ~34.5 M


@settings(max_examples=10, deadline=None)
@given(height=st.integers(1, 50), width=st.integers(1, 50))
@example(28, 49)
def test_unets_keep_any_size(height, width):
    x = torch.rand(1, 3, height, width)
    for net in (nets.UNet(2), nets.RecoveryUNet(2)):
        assert net.eval()(x).shape == x.shape


def test_unet_output_range():
    x = torch.rand(2, 3, 28, 28)
    net = nets.UNet(4)
    nn.init.constant_(net.head.bias, 3.0)
    y = net(x)
    assert 0 <= y.min() and y.max() <= 1
    net.out = "linear"
    assert net(x).max() > 1
    with pytest.raises(PpferError, match="'sigmoid' or 'linear'"):
        nets.UNet(4, out="tanh")


def test_recovery_unet_has_a_linear_output():
    net = nets.RecoveryUNet(2).eval()
    nn.init.constant_(net.head.bias, 5.0)
    assert net(torch.rand(1, 3, 16, 16)).mean() > 1


@pytest.mark.parametrize("kind", [nets.UNet, nets.RecoveryUNet])
def test_every_unet_parameter_learns(kind):
    torch.manual_seed(0)
    net = kind(2)
    net(torch.rand(2, 3, 32, 32)).square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []


# Classifiers


@pytest.mark.parametrize("name, theirs", [("resnet18", resnet18), ("resnet50", resnet50)])
def test_resnets_have_torchvisions_names_and_shapes(name, theirs):
    with torch.device("meta"):
        ours, official = nets.Classifier(name, 1000).net.state_dict(), theirs().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in official.items()}


def test_r3d_18_has_torchvisions_names_and_shapes():
    with torch.device("meta"):
        ours, official = nets.Recognizer("r3d_18", 400).state_dict(), r3d_18().state_dict()
    shapes = {f"net.{k}": v.shape for k, v in official.items()}
    assert {k: v.shape for k, v in ours.items()} == shapes


def test_resnet18_computes_what_torchvision_computes():
    official = resnet18(num_classes=5).eval()
    ours = nets.Classifier("resnet18", 5).eval()
    load_weights(ours.net, official.state_dict())
    x = torch.rand(2, 3, 64, 64)
    statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in statistics)
    torch.testing.assert_close(ours(x), official((x - mean) / std), rtol=1e-4, atol=1e-4)


def test_recognizer_sees_channels_before_time_and_kinetics_statistics():
    torch.manual_seed(0)
    ours = nets.Recognizer("r3d_small", 6).eval()
    clips = torch.rand(2, 4, 3, 32, 32)
    mean = torch.tensor([0.43216, 0.394666, 0.37645]).view(3, 1, 1)
    std = torch.tensor([0.22803, 0.22145, 0.216989]).view(3, 1, 1)
    video = torch.stack([((clip - mean) / std).movedim(0, 1) for clip in clips])  # (B, C, T, H, W)
    torch.testing.assert_close(ours(clips), ours.net(video))
    assert ours(clips).shape == (2, 6)


@pytest.mark.parametrize("size", [24, 64, 96])
def test_small_networks_take_any_size(size):
    x = torch.rand(4, 3, size, size)
    assert nets.Classifier("resnet_small", 12, input_size=48)(x).shape == (4, 12)
    clips = x[:, None].expand(4, 4, 3, size, size)
    assert nets.Recognizer("r3d_small", 6)(clips).shape == (4, 6)


def test_input_size_is_what_the_backbone_sees():
    net = nets.Classifier("resnet_small", 3, input_size=40).eval()
    seen = []
    net.net.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    for size in (20, 40, 80):
        net(torch.rand(1, 3, size, size))
    assert seen == [(1, 3, 40, 40)] * 3
    # a flat picture stays flat, and a checkerboard is averaged before it is thinned out
    board = (torch.arange(160)[:, None] + torch.arange(160)).remainder(2).float()
    flat = net(torch.full((1, 3, 40, 40), 0.5))
    torch.testing.assert_close(net(board.expand(1, 3, -1, -1)), flat, rtol=0.05, atol=0.02)


def test_bf16_frames_are_judged_like_others():
    """An enhancer under autocast hands bf16 on."""
    net = nets.Classifier("resnet_small", 3, input_size=32).eval()
    for size in (24, 48):
        x = torch.rand(2, 3, size, size).bfloat16()
        torch.testing.assert_close(net(x), net(x.float()), rtol=0.02, atol=0.02)


def test_width_sets_the_size_of_the_small_networks():
    for kind, name in ((nets.Classifier, "resnet_small"), (nets.Recognizer, "r3d_small")):
        small, large = (count(kind(name, 6, width=w)) for w in (16, 32))
        assert 3.5 < large / small < 4.1


def test_unknown_names_are_refused():
    with pytest.raises(PpferError, match="known: resnet50, resnet18, convnext_atto, resnet_small"):
        nets.Classifier("resnet51")
    with pytest.raises(PpferError, match="known: r3d_18, r3d_small"):
        nets.Recognizer("r3d_19")


# Freezing


def test_a_frozen_network_stays_as_it_is_inside_a_training_parent():
    class Parent(nn.Module):
        def __init__(self):
            super().__init__()
            self.enhancer = nets.UNet(2)
            self.controller = nets.freeze(nets.Classifier("resnet_small", 4))

    parent = Parent()
    before = snapshot(parent.controller)
    parent.train()
    parent.controller.net.train()  # reaching inside doesn't thaw it either
    assert not any(m.training for m in parent.controller.modules()) and parent.enhancer.training
    optimizer = torch.optim.SGD([p for p in parent.parameters() if p.requires_grad], lr=0.1)
    moved = snapshot(parent.enhancer)
    said = parent.controller(parent.enhancer(torch.rand(4, 3, 32, 32)))
    said.square().sum().backward()  # gradients flow through
    optimizer.step()
    assert equal(before, parent.controller.state_dict())
    assert not equal(moved, parent.enhancer.state_dict())


def test_freeze_survives_deepcopy():
    frozen = nets.freeze(nets.UNet(2))
    clone = copy.deepcopy(frozen)
    assert clone.train() is clone and not clone.training
