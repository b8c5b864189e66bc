"""The recovery attack undoes nothing to near perfection; SSIM and PSNR keep their closed forms; attributes are counted right."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from ppfer import attacks, train
from ppfer.attacks import RecoveryObjective, attribute_labels, quality, some_frames, undo
from ppfer.config import PpferError, Train
from ppfer.evaluate import Rate
from ppfer.train import Batches

CPU = torch.device("cpu")


def smooth_clips(count: int = 12, frames: int = 4, size: int = 32) -> torch.Tensor:
    coarse = torch.rand(count * frames, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return (
        F.interpolate(coarse, (size, size), mode="bicubic")
        .clamp(0, 1)
        .mul(255)
        .byte()
        .view(count, frames, 3, size, size)
    )


# -- quality ---------------------------------------------------------------------------------------------------------


def test_an_exact_copy_is_perfect():
    frames = smooth_clips()[:, 0].float() / 255
    assert quality(frames, frames) == pytest.approx({"ssim": 1.0, "psnr": 100.0})


def test_psnr_is_averaged_in_decibels_per_frame():
    frames = torch.full((2, 3, 16, 16), 0.5)
    shifted = frames + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    assert quality(shifted, frames)["psnr"] == pytest.approx((20 + 40) / 2, abs=1e-3)


def test_ssim_has_an_11_pixel_window_of_sigma_one_and_a_half():
    a = smooth_clips(1, 1, 24)[0].float() / 255
    b = (a + 0.1 * torch.rand(a.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    x = torch.arange(11.0) - 5
    g = torch.exp(-(x**2) / (2 * 1.5**2))
    window = (torch.outer(g, g) / g.sum() ** 2).expand(3, 1, 11, 11)

    def mean(v):
        return F.conv2d(F.pad(v, (5, 5, 5, 5), mode="reflect"), window, groups=3)

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    ssim = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    assert quality(b, a)["ssim"] == pytest.approx(ssim.mean().item(), abs=1e-4)


def test_frames_are_spread_evenly():
    clips = torch.arange(16).view(1, 16, 1, 1, 1).expand(3, -1, 3, 2, 2)
    assert some_frames(clips, np.array([2, 0]), 4)[:, :, 0, 0, 0].tolist() == [[2, 6, 10, 14]] * 2
    assert some_frames(clips[:, :2], np.array([0]), 4).shape[1] == 2


# -- recovery --------------------------------------------------------------------------------------------------------


def attack(protected: torch.Tensor, original: torch.Tensor, folder, steps: int) -> dict[str, float]:
    """Train a small attacker on the first ten clips; quality of what it makes of the other two."""
    torch.manual_seed(0)
    net = attacks.Recovery(8)
    streams = [
        Batches(store, np.arange(10), np.arange(12), batch=8, seed=3, device=CPU)
        for store in (protected, original)
    ]
    train.fit(
        RecoveryObjective(net),
        net,
        lambda step: tuple(stream(step)[0] for stream in streams),
        Train(steps=steps, batch=8, lr=3e-3, weight_decay=0.0),
        folder,
        name="recovery",
    )
    recovered = undo(net, protected[10:], CPU)
    assert recovered.shape == protected[10:].shape and recovered.dtype == torch.uint8
    return quality(recovered.flatten(0, 1).float() / 255, original[10:].flatten(0, 1).float() / 255)


def test_recovering_unprotected_clips_is_near_perfect(tmp_path):
    scores = attack(smooth_clips(), smooth_clips(), tmp_path, 20)
    assert scores["ssim"] > 0.97 and scores["psnr"] > 30


def test_an_attack_learns_to_undo_what_can_be_undone(tmp_path):
    original = smooth_clips()
    protected = original[:, :, [1, 2, 0]] // 2  # colours in another order, at half the brightness
    before = quality(
        protected[10:].flatten(0, 1).float() / 255, original[10:].flatten(0, 1).float() / 255
    )
    after = attack(protected, original, tmp_path, 60)
    assert after["psnr"] > before["psnr"] + 3


def test_two_streams_of_one_seed_show_the_same_frames():
    """The attacker's pairs: protected and original must be the same frame, flipped and shifted alike."""
    clips = smooth_clips()
    index, ids = np.arange(2, 12), np.arange(12)
    protected, original = (
        Batches(store, index, ids, batch=4, seed=7, device=CPU) for store in (255 - clips, clips)
    )
    for step in range(5):
        (p, a), (o, b) = protected(step), original(step)
        assert torch.equal(a, b)
        gain = (p + o).mean(
            (1, 2, 3)
        )  # white times the brightness both were given, but for clipping
        assert ((p + o) <= gain.max() + 0.2).all() and (gain > 0.79).all()


def test_table3_has_controls_and_every_approach(tiny_run):
    rows = attacks.table3(tiny_run, ("none", "ppfer"))
    assert [row["approach"] for row in rows] == [
        "No privacy preservation (control)",
        "PPFER (C)",
        "Mean training image (control)",
    ]
    test = len(tiny_run.parts["test"])
    for row in rows:
        assert (
            -1 <= row["ssim"] <= 1
            and 0 < row["psnr"] <= 100
            and row["plr"].n == test
            and row["plr_all_frames"].n == 4 * test
        )


def test_mean_image_is_the_mean_of_training_frames(tiny_run):
    train_clips = tiny_run.tensor("clips")[torch.as_tensor(tiny_run.parts["train"])]
    torch.testing.assert_close(attacks.mean_image(tiny_run), train_clips.float().mean((0, 1)) / 255)


# -- attributes ------------------------------------------------------------------------------------------------------


def test_age_groups_and_unknown_labels():
    table = pd.DataFrame(
        {
            "age": ["20", "30", "49", "50", ""],
            "sex": ["male", "female", "", "male", "male"],
            "race": [""] * 5,
        }
    )
    labels, classes = attribute_labels(table, "age_group")
    assert [classes[i] if i >= 0 else "" for i in labels] == [
        "under 30",
        "30 to 49",
        "30 to 49",
        "50 and over",
        "",
    ]
    assert attribute_labels(table, "sex")[0].tolist() == [1, 0, -1, 1, 1]
    with pytest.raises(PpferError, match="names 0 values of race"):
        attribute_labels(table, "race")


def test_attribute_table_measures_what_is_labelled(tiny_run):
    assert attacks.attributes_of(tiny_run) == ["sex", "age_group"]
    rows = attacks.attribute_table(tiny_run, ("none",))
    test = tiny_run.parts["test"]
    males = int((tiny_run.table["sex"].to_numpy()[test] == "male").sum())
    assert rows[-1]["sex"] == Rate(males, len(test))  # two of three actors
    assert set(rows[0]) == {
        "approach",
        "sex",
        "sex_retrained",
        "age_group",
        "age_group_retrained",
    } and rows[0]["sex"].n == len(test)


def test_an_attacker_who_names_every_actor_names_every_group(tiny_run):
    labels, classes = attribute_labels(tiny_run.table, "sex")
    groups = attacks.actor_groups(tiny_run, labels, len(classes))
    certain = torch.eye(3)[torch.as_tensor(tiny_run.labels("actor"))]  # (N, actors)
    assert torch.equal((certain @ groups).argmax(1), torch.as_tensor(labels))
    assert math.isclose(groups.sum().item(), 3)
