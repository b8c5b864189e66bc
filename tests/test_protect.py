"""The protocol: same shape, in [0, 1], no NaN; and the enhancer is the identity when its networks are."""

import pytest
import torch
from torch import nn

from ppfer import protect
from ppfer.config import PpferError
from ppfer.protect import PPFER, FrameEnhancer, PrivacyEnhancer, no_privacy, per_frame
from ppfer.wavelets import BandSplit

CLIPS = torch.randint(0, 256, (2, 4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


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
    for protector in (PrivacyEnhancer(BandSplit(), net, net), FrameEnhancer(net), PPFER(FrameEnhancer(net), net)):
        clips = CLIPS.float() / 255
        torch.testing.assert_close(protector(clips).flatten(0, 1), protector(clips.flatten(0, 1)))


def test_protect_all_keeps_order_and_count():
    batches = list(protect.protect_all(lambda x: per_frame(lambda f: f / 2, x), CLIPS.repeat(2, 1, 1, 1, 1), device=torch.device("cpu"), batch=3, name="half"))
    assert [len(b) for b in batches] == [3, 1]
    expected = (CLIPS.repeat(2, 1, 1, 1, 1).float() / 2).round().to(torch.uint8)
    assert (torch.cat(batches).int() - expected.int()).abs().max() <= 1


def test_precision_is_the_callers():
    """A run in float32 must not protect in bf16, nor the other way round; blur stays in float32 either way."""
    seen = []
    for precision in ("fp32", "bf16"):
        protect.protect(lambda x: seen.append((x.flatten(3) @ x.flatten(3).mT).dtype) or x, CLIPS, precision=precision)
    assert seen == [torch.float32, torch.bfloat16]
    blur = protect.GaussianBlur(1.0)
    assert torch.equal(protect.protect(blur, CLIPS, precision="bf16"), protect.protect(blur, CLIPS, precision="fp32"))
