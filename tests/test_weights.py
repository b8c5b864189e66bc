"""Weights: loading is strict or does nothing, and a file is refused with a sentence."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from conftest import equal, snapshot
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18
from torchvision.models.video import r3d_18

from ppfer import nets
from ppfer.base import weights
from ppfer.base.errors import PpferError
from ppfer.base.files import LFS_MAGIC
from ppfer.base.weights import load_pretrained, load_weights, read_weights, save_weights


def random_state(net: nn.Module) -> dict[str, torch.Tensor]:
    """Another network's weights: same names and shapes, other numbers."""
    state = net.state_dict()
    return {k: torch.rand_like(v) if v.is_floating_point() else v.clone() for k, v in state.items()}


def test_half_precision_takes_half_and_comes_back_rounded(tmp_path):
    source, target = nets.Classifier("resnet_small", 6, 32), nets.Classifier("resnet_small", 6, 32)
    whole = save_weights(source, tmp_path / "whole.safetensors")
    half = save_weights(source, tmp_path / "half.safetensors", half=True)
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    load_weights(target, half)
    for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_round_trip_through_files(tmp_path, suffix):
    source, target = nets.UNet(2), nets.UNet(2)
    path = tmp_path / "deep" / f"w{suffix}"
    if suffix == ".pt":
        path.parent.mkdir()
        torch.save({"state_dict": source.state_dict(), "epoch": 3}, path)
    else:
        save_weights(source.to(memory_format=torch.channels_last), path)
        assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary left
    assert load_weights(target, path) is target
    assert equal(source.state_dict(), target.state_dict())


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod."])
def test_known_prefixes_are_stripped(prefix):
    net = nets.UNet(2)
    state = random_state(net)
    load_weights(net, {prefix + k: v for k, v in state.items()})
    assert equal(net.state_dict(), state)


def test_a_modules_own_prefix_is_kept():
    outer = nn.Module()
    outer.model = nn.Linear(2, 2)
    state = random_state(outer)
    load_weights(outer, state)
    assert equal(outer.state_dict(), state)


def test_files_without_batch_counters_load():
    """torchvision's older checkpoints have no num_batches_tracked."""
    net = nets.UNet(2)
    state = {k: v for k, v in random_state(net).items() if "num_batches_tracked" not in k}
    load_weights(net, state)
    assert equal({k: net.state_dict()[k] for k in state}, state)


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_more_than_tensors_is_refused(zipped, tmp_path):
    """`faults/test_bad_weights.py` has what would run code."""
    path = tmp_path / "more.pt"
    torch.save({"state_dict": {"a": torch.zeros(2)}, "best": np.float64(0.5)}, path,
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    says = r"more.pt cannot be .* holds Python objects \(numpy\S+\.scalar\)"
    with pytest.raises(PpferError, match=says):
        read_weights(path)


def cut(path):
    torch.save(nets.UNet(2).state_dict(), path)
    path.write_bytes(path.read_bytes()[:2000])


PAGE = b"\n<!DOCTYPE html><title>Virus scan warning</title>" + b" " * 3000


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(PAGE), "is a web page, not weights"),
        (cut, r"cannot be read as weights \(PytorchStreamReader.*\): cut short or damaged"),
        (lambda path: torch.save({"epoch": 3}, path), "holds no state dict"),
        (lambda path: None, "there is no weights file at"),
        (lambda path: path.write_bytes(LFS_MAGIC + b"/spec/v1"), "is a Git-LFS pointer, not the"),
        (lambda path: path.write_bytes(b""), "cannot be read as weights"),
        (lambda path: path.write_bytes(b"text"), "safetensors or torch.save did not write it"),
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "w.bin"])
def test_the_reason_is_one_plain_sentence(spoil, words, name, tmp_path):
    """Torch's own advice, weights_only=False, is to run what the file says."""
    spoil(tmp_path / name)
    with pytest.raises(PpferError, match=words) as caught:
        read_weights(tmp_path / name)
    said = str(caught.value)
    assert name in said and "weights_only" not in said and "\n" not in said and len(said) < 400


def test_a_safetensors_file_may_have_any_name(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "renamed.bin")
    assert torch.equal(read_weights(tmp_path / "renamed.bin")["a"], torch.ones(2))


def test_a_network_that_takes_no_memory_takes_the_tensors_that_fit_it():
    state = random_state(nets.UNet(2))
    with torch.device("meta"):
        net, wider = nets.UNet(2), nets.UNet(3)
    load_weights(net, {"module." + k: v.half() for k, v in state.items()})
    assert {v.dtype for v in net.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in net.parameters())
    torch.testing.assert_close(net.head.weight, state["head.weight"], rtol=1e-3, atol=0)
    with pytest.raises(PpferError, match="does not fit UNet.*wrong shape: encoder.0.0.weight is"):
        load_weights(wider, state)


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = save_weights(nets.UNet(2), tmp_path / "w.safetensors")
    content = path.read_bytes()

    def full(*args, **kwargs):
        args[1].write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(PpferError, match="w.safetensors: No space left"):
        save_weights(nets.UNet(2), path)
    assert path.read_bytes() == content and [p.name for p in tmp_path.iterdir()] == [path.name]


# Pre-trained backbones


def test_an_imagenet_file_loads_all_but_the_head_and_says_so(tmp_path, caplog):
    official = random_state(resnet18())
    torch.save(official, tmp_path / "resnet18.pth")
    with caplog.at_level(logging.WARNING, logger="ppfer"):
        ours = nets.Classifier("resnet18", 12, weights=tmp_path / "resnet18.pth")
    assert "loaded 120 of 122 tensors" in caplog.text
    assert "1000 classes there, 12 here" in caplog.text
    body = {k: v for k, v in ours.net.state_dict().items() if not k.startswith("fc.")}
    assert equal(body, {k: v for k, v in official.items() if not k.startswith("fc.")})


def test_a_kinetics_file_loads_into_the_recognizer(caplog):
    official = random_state(r3d_18())
    ours = nets.Recognizer("r3d_18", 6)
    load_pretrained(ours.net, "r3d_18", official, "")
    assert "400 classes there, 6 here" in caplog.text
    assert torch.equal(ours.net.layer4[1].conv2[0].weight, official["layer4.1.conv2.0.weight"])


def test_a_head_of_the_right_size_is_loaded_too():
    ours = nets.Classifier("resnet18", 1000)
    official = random_state(resnet18())
    load_pretrained(ours.net, "resnet18", official, "")
    assert equal(ours.net.state_dict(), official)


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
        load_pretrained(net, "resnet18", spoil(random_state(resnet18())), "")
    assert equal(before, net.state_dict())


def test_a_failed_download_says_what_to_fetch(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    says = r"fetch https://\S+/{}\S+\.pth and .*nets.{}_weights=PATH"
    with pytest.raises(PpferError, match=says.format("resnet50", "classifier")):
        nets.Classifier("resnet50", 12, weights="DEFAULT")
    with pytest.raises(PpferError, match=says.format("r3d_18", "recognizer")):
        nets.Recognizer("r3d_18", 6, weights="DEFAULT")
    with pytest.raises(PpferError, match="'resnet_small' has no published weights"):
        nets.Classifier("resnet_small", 12, weights="DEFAULT")
