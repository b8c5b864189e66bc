"""What is faster computes what the plain network computes, under the same names."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import densenet121, vgg11_bn
from torchvision.models.video import r3d_18

from ppfer import nets, uvit
from ppfer.run import fast

CPU = torch.device("cpu")
BUILD = {
    "resnet50": (lambda: nets.Classifier("resnet50", 5), (2, 3, 32, 32)),
    "resnet_small": (lambda: nets.Classifier("resnet_small", 5), (3, 3, 24, 24)),
    "odd": (lambda: nets.Classifier("resnet_small", 5), (3, 3, 25, 24)),
    "r3d_18": (lambda: nets.Recognizer("r3d_18", 5), (1, 4, 3, 16, 24)),
    "r3d_small": (lambda: nets.Recognizer("r3d_small", 5), (2, 8, 3, 32, 48)),
    "unet": (lambda: nets.UNet(4), (2, 3, 28, 30)),
    "recovery": (lambda: nets.RecoveryUNet(2), (2, 3, 28, 30)),
    "compensator": (lambda: uvit.PixelCompensator(16, 4, 32, 2, 2), (2, 3, 16, 16)),
}


@pytest.fixture
def gpu_like(monkeypatch):
    """The CPU is treated as a device with matrix units."""
    monkeypatch.setattr(fast, "MATRIX_UNITS", ("cpu",))


def step(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Output and gradients."""
    y = net(x)
    parameters = list(net.parameters())
    return [y.detach(), *torch.autograd.grad(y.square().sum(), parameters, allow_unused=True)]


def close(a: torch.Tensor | None, b: torch.Tensor | None, tolerance: float) -> None:
    assert (a is None) == (b is None)
    if a is not None:
        torch.testing.assert_close(
            a, b, rtol=tolerance, atol=tolerance * float(a.detach().abs().max() + 1)
        )


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-4)])
def test_a_prepared_network_gives_the_same_outputs_and_gradients(name, dtype, tolerance, gpu_like):
    build, shape = BUILD[name]
    torch.manual_seed(0)
    net, x = build().to(dtype), torch.rand(shape, dtype=dtype)
    net.train(dtype == torch.float64)  # BatchNorm over so few samples magnifies float32's rounding
    expected = step(copy.deepcopy(net), x)
    assert fast.prepare(net, CPU) is net
    for a, b in zip(expected, step(net, x), strict=True):
        close(a, b, tolerance)


@pytest.mark.parametrize("name", BUILD)
def test_parameters_names_and_modes_stay(name, gpu_like):
    net = nets.freeze(BUILD[name][0]())
    before, parameters = copy.deepcopy(net.state_dict()), list(net.parameters())
    fast.prepare(fast.prepare(net, CPU), CPU)  # twice is as good as once
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert not any(part.training for part in net.train().modules())
    BUILD[name][0]().load_state_dict(net.state_dict())
    net.load_state_dict(before)
    close(net(torch.zeros(BUILD[name][1])), copy.deepcopy(net)(torch.zeros(BUILD[name][1])), 1e-6)


def replaced(net: nn.Module) -> list[str]:
    """Names of the layers whose class is one of `ppfer.run.fast`."""
    return [n for n, part in net.named_modules() if type(part).__module__ == "ppfer.run.fast"]


def test_a_few_layers_are_replaced(gpu_like):
    expected = {"resnet50": ["", "net.conv1"], "resnet_small": ["", "net.conv1"],
                "odd": ["", "net.conv1"], "r3d_18": ["net.stem.0"],
                "r3d_small": ["net.stem.3"], "unet": [""]}  # fmt: skip
    for name, (build, _) in BUILD.items():
        assert replaced(fast.prepare(build(), CPU)) == expected.get(name, []), name
    assert replaced(fast.prepare(densenet121(), CPU)) == ["features.conv0"]
    assert replaced(fast.prepare(vgg11_bn(), CPU)) == []


def test_elsewhere_layers_stay_plain():
    for build, _ in BUILD.values():
        assert replaced(fast.prepare(build(), CPU)) == []


@pytest.mark.parametrize("name", ["resnet_small", "r3d_18", "unet"])
def test_a_prepared_network_compiles_to_one_graph(name, gpu_like):
    build, shape = BUILD[name]
    net, x = fast.prepare(build().eval(), CPU), torch.rand(shape)
    close(net(x), torch.compile(net, backend="eager", fullgraph=True)(x), 1e-6)


SIZES = "3×5 6×11, 1×4 2×8, 7×7 7×7, 4×28 7×56, 2×3 1×5, 9×12 4×5"
HOW = [(True, False), (False, False), (False, True)]  # aligned corners, antialiased


@pytest.mark.parametrize("sizes", SIZES.split(", "))
@pytest.mark.parametrize(("aligned", "smooth"), HOW)
def test_interpolation_by_products_is_pytorchs(sizes, aligned, smooth):
    size, to = (tuple(map(int, sides.split("×"))) for sides in sizes.split())
    x = torch.rand(2, 5, *size, dtype=torch.float64, requires_grad=True)
    how = {"align_corners": aligned, "antialias": smooth}
    expected, got = F.interpolate(x, to, mode="bilinear", **how), fast.resample(x, to, **how)
    torch.testing.assert_close(got, expected)
    weight = torch.rand(expected.shape, dtype=torch.float64)
    gradients = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (got, expected))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("side", [16, 28])  # seen larger, and smaller
def test_a_frozen_judge_gives_pictures_the_same_gradient(side, gpu_like):
    judge = nets.freeze(nets.Classifier("resnet_small", 5, 24).double())
    x = torch.rand((2, 3, side, side)).double()
    x.requires_grad_()
    expected = torch.autograd.grad(judge(x).square().sum(), x)[0]
    fast.prepare(judge, CPU)
    got = torch.autograd.grad(judge(x).square().sum(), x)[0]
    torch.testing.assert_close(got, expected)


def test_no_random_number_is_drawn(gpu_like):
    """Weights of a seed are those of the plain network."""
    torch.manual_seed(0)
    official, after = r3d_18(num_classes=6), torch.rand(1)
    torch.manual_seed(0)
    ours, after_ours = fast.prepare(nets.Recognizer("r3d_18", 6), CPU).net, torch.rand(1)
    torch.testing.assert_close(ours.state_dict(), official.state_dict(), rtol=0, atol=0)
    assert torch.equal(after, after_ours)


def test_folding_batchnorm_changes_no_output():
    torch.manual_seed(0)
    net, x = nets.UNet(4).double(), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    for _ in range(3):
        net(torch.rand(4, 3, 16, 16, dtype=torch.float64))
    before = net.eval()(x)
    fast.fold_batchnorm(net)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in net.modules())
    torch.testing.assert_close(net(x), before)


def test_a_network_is_deployed_in_bf16_where_that_is_allowed(gpu_like):
    net = nets.UNet(2).eval()
    kinds = [{p.dtype for p in fast.deploy(net, how).parameters()} for how in ("fp32", "bf16")]
    assert kinds == [{torch.float32}, {torch.bfloat16}]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs are a GPU's")
def test_a_captured_step_does_what_the_step_does():
    made = []
    for captured in (False, True):
        torch.manual_seed(0)
        net = nn.Linear(4, 1).cuda()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

        def step(x: torch.Tensor, net=net, optimizer=optimizer) -> torch.Tensor:
            loss = net(x).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.detach()

        take = fast.Captured(step) if captured else step
        losses = [float(take(torch.rand(8, 4, device="cuda"))) for _ in range(8)]
        made.append((losses, *(p.detach().clone() for p in net.parameters())))
    torch.testing.assert_close(*made)


def test_on_a_cpu_only_a_u_net_that_trains_keeps_pytorchs_layout():
    def last(net: nn.Module) -> set[bool]:
        weights = [p for p in net.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
        return {p.is_contiguous(memory_format=torch.channels_last) for p in weights}

    both = nn.ModuleList([nets.UNet(2), nets.freeze(nets.UNet(2)), nets.RecoveryUNet(2)])
    both.append(nets.Classifier("resnet_small", 3))
    fast.channels_last(both)
    fast.prepare(both, CPU)
    assert [last(net) for net in both] == [{False}, {True}, {True}, {True}]
