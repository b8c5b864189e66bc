"""Gaussian blur: kernel and padding, and the strength that meets a target."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2.functional import gaussian_blur

from ppfer.base.errors import PpferError
from ppfer.protect import protect
from ppfer.study.protectors.blur import GaussianBlur, blur_matrix, match


@settings(max_examples=20, deadline=None)
@given(sigma=st.floats(0.3, 5.0), height=st.integers(17, 40), width=st.integers(17, 40))
def test_blur_is_torchvisions_with_kernel_of_three_sigma(sigma, height, width):
    clips = torch.rand(2, 2, 3, height, width, generator=torch.Generator().manual_seed(0))
    kernel = 2 * math.ceil(3 * sigma) + 1
    theirs = gaussian_blur(clips, [kernel, kernel], [sigma, sigma])
    torch.testing.assert_close(GaussianBlur(sigma)(clips), theirs, rtol=0, atol=2e-6)


def test_blur_keeps_brightness_and_refuses_what_does_not_fit():
    torch.testing.assert_close(blur_matrix(32, 4.0).sum(1), torch.ones(32))
    with pytest.raises(PpferError, match="does not fit 16 pixels"):
        blur_matrix(16, 6.0)


@settings(max_examples=30, deadline=None)
@given(target=st.floats(0.1, 0.9))
def test_a_falling_measure_meets_its_target(target):
    found = match(lambda s: 1 / (1 + s), target, 0.01, 100, steps=12)
    assert found.reached and abs(found.value - target) < 1e-3 and 0.01 <= found.at <= 100
    assert str(found).endswith(f"on validation, for {100 * target:.1f} %")


@settings(max_examples=30, deadline=None)
@given(target=st.floats(0.35, 0.95), start=st.floats(0.0, 0.9))
def test_a_curve_that_rises_first_is_met_where_it_falls(target, start):
    def hill(sigma):  # from `start` at 0.25 up to 1 at 1, then down to 0 at 16
        place = math.log2(sigma)
        return start + (1 - start) * (1 + place / 2) if place < 0 else 1 - place / 4

    found = match(hill, target, 0.25, 16, steps=12)
    assert found.reached and found.at > 1 and abs(found.value - target) < 1e-2


def test_an_unreachable_target_says_what_range_it_saw():
    seen = []
    found = match(lambda s: seen.append(s) or 0.5 + 0.1 / s, 0.2, 0.25, 10, grid=6)
    assert not found.reached and found.at == pytest.approx(10)
    assert (len(seen), min(seen), max(seen)) == (6, 0.25, pytest.approx(10))
    assert "20.0 % is out of reach: σ from 0.25 to 10.00 px gave 51.0 % to 90.0 %" in str(found)
    assert str(found).endswith("σ = 10.00 px came closest, 51.0 %")
    assert match(lambda s: 0.5, 0.2, 1, 4).at == 1  # no more blur than it takes


def test_a_network_that_learns_every_blur_sees_several_strengths_at_once(tiny_run):
    clips, labels = tiny_run.stage("blurred").batches()(0)
    plain, same = tiny_run.stage("blurred").draw("clips", tiny_run.labels("emotion"))(0)
    assert torch.equal(labels, same) and clips.shape == plain.shape
    detail = (clips - clips.mean((-2, -1), keepdim=True)).square().mean((1, 2, 3, 4))
    before = (plain - plain.mean((-2, -1), keepdim=True)).square().mean((1, 2, 3, 4))
    left = (detail / before).tolist()  # of each clip's contrast
    assert len({round(share, 3) for share in left}) > 1


def test_blur_stays_in_float32_whatever_the_precision():
    clips = torch.rand(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    blur = GaussianBlur(1.0)
    low, full = (protect(blur, clips, precision=precision) for precision in ("bf16", "fp32"))
    assert torch.equal(low, full)


def test_both_blurs_are_matched_on_the_validation_part(tiny_run):
    for name in ("blur1", "blur2"):
        (need,) = tiny_run.protector(name).needs
        tiny_run.ensure(need)
        found = tiny_run.get(need)
        assert tiny_run.protector(name).build(tiny_run).sigma == found.at
        assert str(found) in tiny_run.protector(name).description(tiny_run)
    with pytest.raises(PpferError, match="blur is matched on plr or acc, not on 'ssim'"):
        tiny_run.stage("blur/ssim")
