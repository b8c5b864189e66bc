"""The protocol: same shape, in [0, 1], no NaN; networks that do nothing change nothing."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import nn

from ppfer import nets, protect, uvit
from ppfer.base.errors import PpferError
from ppfer.protect import PPFER, FrameEnhancer, PrivacyEnhancer, no_privacy, per_frame
from ppfer.run import fast
from ppfer.wavelets import BandSplit

CPU, G = torch.device("cpu"), torch.Generator().manual_seed(0)
CLIPS = torch.randint(0, 256, (2, 4, 3, 16, 16), dtype=torch.uint8, generator=G)
FOUR = CLIPS.repeat(2, 1, 1, 1, 1)


def test_no_privacy_returns_the_clips():
    assert torch.equal(protect.protect(no_privacy, CLIPS), CLIPS)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda x: x[:, :2], "blurry returned shape"),
        (lambda x: x * float("nan"), "blurry returned NaN"),
        (lambda x: x + 1, r"blurry left \[0, 1\]"),
    ],
)
def test_a_broken_protector_is_named(bad, says):
    with pytest.raises(PpferError, match=says):
        protect.protect(bad, CLIPS, name="blurry")


@pytest.mark.parametrize("axes", ["hw", "t", "thw"])
@pytest.mark.parametrize("form", ["subband", "image"])
def test_enhancer_with_identity_networks_changes_nothing(axes, form):
    enhancer = PrivacyEnhancer(BandSplit(axes=axes, form=form), nn.Identity(), nn.Identity())
    assert torch.equal(protect.protect(enhancer, CLIPS), CLIPS)


def test_frames_and_clips_get_the_same_treatment():
    net = nn.Conv2d(3, 3, 3, padding=1)
    on_bands, on_frames = PrivacyEnhancer(BandSplit(), net, net), FrameEnhancer(net)
    for protector in (on_bands, on_frames, PPFER(on_frames, net)):
        clips = CLIPS.float() / 255
        torch.testing.assert_close(protector(clips).flatten(0, 1), protector(clips.flatten(0, 1)))


def test_protect_all_keeps_order_and_count():
    def half(clips):
        return per_frame(lambda frames: frames / 2, clips)

    batches = list(protect.protect_all(half, FOUR, device=CPU, batch=3, name="half"))
    assert [len(b) for b in batches] == [3, 1]
    expected = (FOUR.float() / 2).round().to(torch.uint8)
    assert (torch.cat(batches).int() - expected.int()).abs().max() <= 1


def test_a_protector_that_is_told_names_is_told_those_of_its_clips():
    told = []

    def named(clips, names):
        told.append(list(names))
        return clips

    how = {"device": CPU, "batch": 3, "name": "named", "names": list("abcd")}
    made = torch.cat(list(protect.protect_all(named, FOUR, **how)))
    assert told == [["a", "b", "c"], ["d"]] and torch.equal(made, FOUR)


def test_any_protector_protects_a_video_and_one_with_a_method_in_its_own_way():
    class Own(nn.Module):
        def for_video(self, rate):
            return protect.VideoProtector(lambda clips, names: clips / rate, context=3)

    clips, own = torch.ones(1, 2, 3, 4, 4), Own()
    plain = protect.for_video(lambda clips: clips / 2, 30.0)
    named = protect.for_video(lambda clips, names: clips / len(names[0]), 30.0, named=True)
    made = [one.apply(clips, ["a 01"]).mean() for one in (plain, named, protect.for_video(own, 8))]
    assert made == [1 / 2, 1 / 4, 1 / 8] and not own.training
    assert plain == replace(plain, context=0, view_square=None, first_pass=None)
    with pytest.raises(FrozenInstanceError):
        plain.context = 1


def test_precision_is_the_callers():
    """A run in float32 must not protect in bf16, nor the other way round."""
    seen = []

    def look(clips):
        seen.append((clips.flatten(3) @ clips.flatten(3).mT).dtype)
        return clips

    for precision in ("fp32", "bf16"):
        protect.protect(look, CLIPS, precision=precision)
    assert seen == [torch.float32, torch.bfloat16]


def test_the_next_batch_begins_before_one_is_given_out():
    """A GPU must never wait for somebody who looks at what it made."""
    events = []

    def slow(clips):
        events.append(f"begun {len(clips)}")
        return clips

    for batch in protect.protect_all(slow, FOUR, device=CPU, batch=2, name="slow"):
        events.append(f"given {len(batch)}")
    assert events == ["begun 2", "begun 2", "given 2", "given 2"]


def test_a_late_batch_that_breaks_the_protocol_is_not_given_out():
    seen, made = iter([0.0, float("nan")]), []

    def late(clips):
        return clips + next(seen)

    with pytest.raises(PpferError, match="late returned NaN"):
        for batch in protect.protect_all(late, CLIPS, device=CPU, batch=1, name="late"):
            made.append(batch)
    assert len(made) == 1


def trained_ppfer() -> PPFER:
    """The whole method at 16², with statistics and an output layer that matter."""
    torch.manual_seed(0)
    enhancer = PrivacyEnhancer(BandSplit(), nets.UNet(4), nets.UNet(4))
    whole = PPFER(enhancer, uvit.PixelCompensator(16, 4, 32, 2, 2))
    for part in whole.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
    nn.init.normal_(whole.compensator.uvit.decoder_pred.weight, std=0.02)
    return nets.freeze(whole)


def test_elsewhere_a_deployed_protector_is_the_protector():
    whole = trained_ppfer()
    assert fast.deployed(whole, 2) is whole and fast.deployed(no_privacy, 2) is no_privacy


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1), ("bf16", 6)])
def test_a_deployed_protector_does_the_same_beside_the_original(precision, most, monkeypatch):
    monkeypatch.setattr(fast, "MATRIX_UNITS", ("cpu",))
    whole = trained_ppfer()
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    parts = (whole, whole.compensate, whole.enhancer)
    exact = [protect.protect(part, CLIPS, precision="fp32").int() for part in parts]
    for part, expected in zip(parts, exact, strict=True):
        quick = fast.deployed(part, 2, precision=precision)
        assert quick is not part
        made = protect.protect(quick, CLIPS, precision=precision).int()
        assert (made - expected).abs().max() <= most
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_compiled_protector_sees_one_shape(monkeypatch):
    monkeypatch.setattr(fast, "MATRIX_UNITS", ("cpu",))
    shapes = []

    def compile(apply, dynamic):
        return lambda x: shapes.append((tuple(x.shape), dynamic)) or apply(x)

    monkeypatch.setattr(torch, "compile", compile)
    whole = trained_ppfer()
    quick = fast.deployed(whole, 3, precision="fp32", compile=True)
    how = {"device": CPU, "batch": 3, "name": "ppfer", "precision": "fp32"}
    made = torch.cat(list(protect.protect_all(quick, FOUR, **how)))
    assert shapes == [((3, *CLIPS.shape[1:]), False)] * 2
    assert (made.int() - protect.protect(whole, FOUR, precision="fp32").int()).abs().max() <= 1
