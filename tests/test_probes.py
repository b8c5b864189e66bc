"""Probes: a view is what BandSplit says it is, and a probe reads what is in its band alone."""

from dataclasses import replace

import pytest
import torch
from conftest import coloured_run

from ppfer.base.errors import PpferError
from ppfer.config import Train
from ppfer.measure import Rate, difference
from ppfer.study.attacks.probes import View, result
from ppfer.wavelets import BandSplit

CLIPS = torch.rand(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
EVERY = torch.arange(8).expand(2, -1)


@pytest.mark.parametrize("axes", ["hw", "t", "thw"])
@pytest.mark.parametrize("wavelet", ["haar", "db2", "bior4.4"])
@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.filterwarnings("ignore:Level value of 2")
def test_a_view_is_the_image_form_of_the_band(axes, wavelet, level):
    bands = BandSplit(wavelet, level, form="image", axes=axes)
    parts = bands.coefficients(*bands.split(CLIPS), like=CLIPS)
    low = View(axes, level, "low", "actor").pictures(CLIPS, EVERY, wavelet)
    high = View(axes, level, "high", "actor").pictures(CLIPS, EVERY, wavelet)
    torch.testing.assert_close(low, parts["approximation"].view_as(CLIPS), rtol=0, atol=1e-5)
    torch.testing.assert_close(high, 0.5 + parts["detail"].view_as(CLIPS) / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize("band", ["frame", "low", "high"])
@pytest.mark.parametrize("axes", ["hw", "t", "thw"])
def test_pictures_at_chosen_times_are_those_of_the_whole(axes, band):
    view, times = View(axes, 1, band, "actor"), torch.tensor([[5, 0], [3, 3]])
    whole = view.pictures(CLIPS, EVERY)
    expected = torch.stack([whole[0, [5, 0]], whole[1, [3, 3]]])
    torch.testing.assert_close(view.pictures(CLIPS, times), expected, rtol=0, atol=1e-6)


def test_the_deepest_cut_in_time_is_the_mean_and_what_deviates_from_it():
    mean = CLIPS.mean(1, keepdim=True).expand_as(CLIPS)
    for band, expected in (("low", mean), ("high", 0.5 + (CLIPS - mean) / 2)):
        shown = View("t", 3, band, "actor").pictures(CLIPS, EVERY)
        torch.testing.assert_close(shown, expected, rtol=0, atol=1e-6)


def test_names():
    assert View.named("hw-low-actor", level=2) == View("hw", 2, "low", "actor")
    assert View.named("t4-high-emotion", level=2) == View("t", 4, "high", "emotion")
    for bad in ("hw-low", "wh-low-actor", "hw-middle-actor", "hw-low-age", "hw0-low-actor"):
        with pytest.raises(PpferError, match=f"unknown probe '{bad}'"):
            View.named(bad)


def test_a_probe_stands_on_what_it_sees_alone(tiny_run):
    frame, low, deep = (
        tiny_run.stage(f"probe/{n}").settings()
        for n in ("hw-frame-actor", "hw-low-actor", "hw2-low-actor")
    )
    assert "wavelet" not in frame and low["level"] != deep["level"]
    assert tiny_run.key("probe/hw-low-actor") != tiny_run.key("probe/t-low-actor")


def test_a_probe_finds_colour_in_the_low_band_and_twice_the_same(tiny_run):
    """The tiny clips' actors are colours, which the blurred frame tells; chance is a third."""
    config = replace(tiny_run.config, probe=Train(90, 12, 3e-3, warmup=1, augment=False))
    run = coloured_run(config, tiny_run.dir.parent)
    run.make("probe/hw2-low-actor")
    found = result(run, "probe/hw2-low-actor", "all_frames")
    assert found.n == 4 * len(run.parts["test"]) and found.value > 0.6
    first = run.get("probe/hw2-low-actor").state_dict()
    assert not any(p.requires_grad for p in run.get("probe/hw2-low-actor").parameters())
    (run.dir / "probe/hw2-low-actor/manifest.json").unlink()
    again = coloured_run(config, tiny_run.dir.parent)
    again.make("probe/hw2-low-actor")
    second = again.get("probe/hw2-low-actor").state_dict()
    for a, b in zip(first.values(), second.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_newcombes_interval_is_the_published_one():
    """Newcombe 1998, Table II, example (a), method 10."""
    d, low, high = difference(Rate(56, 70), Rate(48, 80))
    assert (d, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert difference(Rate(48, 80), Rate(56, 70)) == pytest.approx((-d, -high, -low))
