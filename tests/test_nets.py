"""Networks: sizes, ranges, freezing, and loading that is strict or does nothing."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import resnet18, resnet50
from torchvision.models.video import r3d_18

from ppfer import nets
from ppfer.config import PpferError


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def random_state(net: nn.Module) -> dict[str, torch.Tensor]:
    """Another network's weights: same names and shapes, other numbers."""
    return {k: torch.rand_like(v) if v.is_floating_point() else v.clone() for k, v in net.state_dict().items()}


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
    assert {k: v.shape for k, v in ours.items()} == {f"net.{k}": v.shape for k, v in official.items()}


def test_resnet18_computes_what_torchvision_computes():
    official = resnet18(num_classes=5).eval()
    ours = nets.Classifier("resnet18", 5).eval()
    nets.load_weights(ours.net, official.state_dict())
    x = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
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
    assert nets.Recognizer("r3d_small", 6, input_size=32)(x[:, None].expand(4, 4, 3, size, size)).shape == (4, 6)


def test_input_size_is_what_the_backbone_sees():
    net = nets.Classifier("resnet_small", 3, input_size=40).eval()
    seen = []
    net.net.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    for size in (20, 40, 80):
        net(torch.rand(1, 3, size, size))
    assert seen == [(1, 3, 40, 40)] * 3
    # a flat picture stays flat, and a checkerboard is averaged before it is thinned out
    board = (torch.arange(160)[:, None] + torch.arange(160)).remainder(2).float().expand(1, 3, 160, 160)
    torch.testing.assert_close(net(board), net(torch.full((1, 3, 40, 40), 0.5)), rtol=0.05, atol=0.02)


def test_bf16_frames_are_judged_like_others():
    """An enhancer under autocast hands bf16 on."""
    net = nets.Classifier("resnet_small", 3, input_size=32).eval()
    for size in (24, 48):
        x = torch.rand(2, 3, size, size).bfloat16()
        torch.testing.assert_close(net(x), net(x.float()), rtol=0.02, atol=0.02)


def test_width_sets_the_size_of_the_small_networks():
    for make in (lambda w: nets.Classifier("resnet_small", 6, width=w), lambda w: nets.Recognizer("r3d_small", 6, width=w)):
        assert 3.5 < count(make(32)) / count(make(16)) < 4.1


def test_unknown_names_are_refused():
    with pytest.raises(PpferError, match="known: resnet50, resnet18, resnet_small"):
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
    parent.controller(parent.enhancer(torch.rand(4, 3, 32, 32))).square().sum().backward()  # gradients flow through
    optimizer.step()
    assert same(before, parent.controller.state_dict())
    assert not same(moved, parent.enhancer.state_dict())


def test_freeze_survives_deepcopy():
    frozen = nets.freeze(nets.UNet(2))
    clone = copy.deepcopy(frozen)
    assert clone.train() is clone and not clone.training


# Loading and saving


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_round_trip_through_files(tmp_path, suffix):
    source, target = nets.UNet(2), nets.UNet(2)
    path = tmp_path / "deep" / f"w{suffix}"
    if suffix == ".pt":
        path.parent.mkdir()
        torch.save({"state_dict": source.state_dict(), "epoch": 3}, path)
    else:
        nets.save_weights(source.to(memory_format=torch.channels_last), path)
        assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary left
    assert nets.load_weights(target, path) is target
    assert same(source.state_dict(), target.state_dict())


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "_orig_mod.", "module._orig_mod."])
def test_known_prefixes_are_stripped(prefix):
    net = nets.UNet(2)
    state = random_state(net)
    nets.load_weights(net, {prefix + k: v for k, v in state.items()})
    assert same(net.state_dict(), state)


def test_a_modules_own_prefix_is_kept():
    outer = nn.Module()
    outer.model = nn.Linear(2, 2)
    state = random_state(outer)
    nets.load_weights(outer, state)
    assert same(outer.state_dict(), state)


def test_compiled_networks_save_and_load_plain_names(tmp_path):
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    compiled = nn.ModuleDict({"a": torch.compile(net)})  # not run, so nothing is compiled
    nets.save_weights(compiled, tmp_path / "w.safetensors")
    assert set(nets.read_weights(tmp_path / "w.safetensors")) == {f"a.{k}" for k in net.state_dict()}
    state = {f"a.{k}": v for k, v in random_state(net).items()}
    nets.load_weights(compiled, state)
    assert same({f"a.{k}": v for k, v in net.state_dict().items()}, state)


def test_files_without_batch_counters_load():
    """torchvision's older checkpoints have no num_batches_tracked."""
    net = nets.UNet(2)
    state = {k: v for k, v in random_state(net).items() if "num_batches_tracked" not in k}
    nets.load_weights(net, state)
    assert same({k: net.state_dict()[k] for k in state}, state)


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    "spoil, named",
    [
        (lambda s: without(s, "head.bias"), "missing: head.bias"),
        (lambda s: s | {"extra.weight": torch.zeros(1)}, "unexpected: extra.weight"),
        (lambda s: s | {"head.bias": torch.zeros(7)}, r"head.bias is \(7,\), expected \(3,\)"),
        (lambda s: {f"net.{k}": v for k, v in s.items()}, "missing: .* unexpected: net."),
        (lambda s: without(s, "head.bias") | {"x": torch.zeros(1)}, "missing: head.bias; unexpected: x"),
    ],
)
def test_a_half_fitting_state_dict_is_refused_and_nothing_is_touched(spoil, named):
    net = nets.UNet(2)
    before = snapshot(net)
    with pytest.raises(PpferError, match=f"nothing was loaded.*{named}"):
        nets.load_weights(net, spoil(random_state(net)))
    assert same(before, net.state_dict())


def test_unreadable_files_are_refused_with_their_name(tmp_path):
    net = nets.UNet(2)
    with pytest.raises(PpferError, match="no weights file at .*nowhere.pt"):
        nets.load_weights(net, tmp_path / "nowhere.pt")
    files = {"a.pt": b"garbage", "a.safetensors": b"garbage", "lfs.pt": b"version https://git-lfs.github.com/spec/v1\n"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PpferError, match=f"{name} (cannot be read|is a Git-LFS pointer)"):
            nets.load_weights(net, tmp_path / name)
    torch.save({"epoch": 3}, tmp_path / "b.pt")
    with pytest.raises(PpferError, match="b.pt holds no state dict"):
        nets.load_weights(net, tmp_path / "b.pt")


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_pickled_code_never_runs(tmp_path, capsys):
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(PpferError, match="evil.pt cannot be read"):
        nets.load_weights(nets.UNet(2), tmp_path / "evil.pt")
    assert "code ran" not in capsys.readouterr().out


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = nets.save_weights(nets.UNet(2), tmp_path / "w.safetensors")
    content = path.read_bytes()

    def full(*args, **kwargs):
        args[1].write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(PpferError, match="w.safetensors: No space left"):
        nets.save_weights(nets.UNet(2), path)
    assert path.read_bytes() == content and [p.name for p in tmp_path.iterdir()] == [path.name]


# Pre-trained backbones


def test_an_imagenet_file_loads_all_but_the_head_and_says_so(tmp_path, caplog):
    official = random_state(resnet18())
    torch.save(official, tmp_path / "resnet18.pth")
    with caplog.at_level(logging.WARNING, logger="ppfer"):
        ours = nets.Classifier("resnet18", 12, weights=tmp_path / "resnet18.pth")
    assert "loaded 120 of 122 tensors" in ours.loaded and "1000 classes there, 12 here" in ours.loaded
    assert ours.loaded in caplog.text
    body = {k: v for k, v in ours.net.state_dict().items() if not k.startswith("fc.")}
    assert same(body, {k: v for k, v in official.items() if not k.startswith("fc.")})


def test_a_kinetics_file_loads_into_the_recognizer():
    official = random_state(r3d_18())
    ours = nets.Recognizer("r3d_18", 6)
    assert "400 classes there, 6 here" in nets.load_backbone(ours.net, official)
    assert torch.equal(ours.net.layer4[1].conv2[0].weight, official["layer4.1.conv2.0.weight"])


def test_a_head_of_the_right_size_is_loaded_too():
    ours = nets.Classifier("resnet18", 1000)
    official = random_state(resnet18())
    assert "loaded all 122 tensors" in nets.load_backbone(ours.net, official)
    assert same(ours.net.state_dict(), official)


@pytest.mark.parametrize(
    "spoil, named",
    [
        (lambda s: without(s, "fc.bias"), "missing: fc.bias"),
        (lambda s: without(s, "layer1.0.conv1.weight"), "missing: layer1.0.conv1.weight"),
        (lambda s: s | {"fc2.weight": torch.zeros(1)}, "unexpected: fc2.weight"),
        (lambda s: s | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, "conv1.weight is"),
    ],
)
def test_only_the_head_may_differ(spoil, named):
    net = nets.Classifier("resnet18", 12).net
    before = snapshot(net)
    with pytest.raises(PpferError, match=named):
        nets.load_backbone(net, spoil(random_state(resnet18())))
    assert same(before, net.state_dict())


def test_a_failed_download_says_what_to_fetch(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(PpferError, match=r"fetch https://\S+/resnet50\S+\.pth and .*nets.classifier_weights=PATH"):
        nets.Classifier("resnet50", 12, weights="DEFAULT")
    with pytest.raises(PpferError, match=r"fetch https://\S+/r3d_18\S+\.pth and .*nets.recognizer_weights=PATH"):
        nets.Recognizer("r3d_18", 6, weights="DEFAULT")
    with pytest.raises(PpferError, match="'resnet_small' has no published weights"):
        nets.Classifier("resnet_small", 12, weights="DEFAULT")


# Layers rewritten for matrix units


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nets.Classifier("resnet50", 5), (2, 3, 32, 32)),
        (lambda: nets.Classifier("resnet_small", 5), (3, 3, 24, 24)),
        (lambda: nets.Classifier("resnet_small", 5), (3, 3, 25, 24)),  # odd: the plain convolution
        (lambda: nets.Recognizer("r3d_18", 5), (1, 4, 3, 16, 24)),
        (lambda: nets.UNet(4), (2, 3, 28, 30)),
    ],
)
def test_layers_for_matrix_units_give_the_same_outputs_and_gradients(build, shape, monkeypatch):
    torch.manual_seed(0)
    net, x = build().double(), torch.rand(shape, dtype=torch.float64)
    made = {}
    for units in ((), ("cpu",)):
        monkeypatch.setattr(nets, "MATRIX_UNITS", units)
        y = net(x)
        made[units] = y.detach(), *torch.autograd.grad(y.square().sum(), list(net.parameters()))
    for a, b in zip(*made.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7 * float(a.abs().max() + 1))


@pytest.mark.parametrize(("size", "to"), [((3, 5), (6, 11)), ((1, 4), (2, 8)), ((7, 7), (7, 7)), ((4, 28), (7, 56)), ((2, 3), (1, 5))])
def test_interpolation_by_products_is_pytorchs(size, to, monkeypatch):
    x = torch.rand(2, 5, *size, dtype=torch.float64, requires_grad=True)
    expected = F.interpolate(x, size=to, mode="bilinear", align_corners=True)
    monkeypatch.setattr(nets, "MATRIX_UNITS", ("cpu",))
    got = nets.upsample(x, to)
    torch.testing.assert_close(got, expected)
    weight = torch.rand(expected.shape, dtype=torch.float64)
    torch.testing.assert_close(*(torch.autograd.grad((y * weight).sum(), x)[0] for y in (got, expected)))


def test_a_stem_keeps_its_random_start():
    """Weights of a seed are the same as those of the network without our stem."""
    torch.manual_seed(0)
    official = r3d_18(num_classes=6)
    torch.manual_seed(0)
    ours = nets.Recognizer("r3d_18", 6).net
    for (name, a), b in zip(official.state_dict().items(), ours.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)


def test_folding_batchnorm_changes_no_output():
    torch.manual_seed(0)
    net = nets.UNet(4).double()
    for _ in range(3):
        net(torch.rand(4, 3, 16, 16, dtype=torch.float64))
    net.eval()
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    before = net(x)
    nets.fold_batchnorm(net)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in net.modules())
    torch.testing.assert_close(net(x), before)
