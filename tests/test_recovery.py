"""The recovery attack: SSIM and PSNR keep their closed forms, and it undoes what can be undone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ppfer.config import Train
from ppfer.method.networks import Objective
from ppfer.run import loop
from ppfer.run.batches import Batches
from ppfer.study.attacks import recovery
from ppfer.study.attacks.recovery import Recovery, quality, some_frames, undo
from ppfer.study.tables import prepare

CPU = torch.device("cpu")


def smooth_clips(count: int = 12, frames: int = 4, size: int = 32) -> torch.Tensor:
    coarse = torch.rand(count * frames, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    pixels = F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1).mul(255).byte()
    return pixels.view(count, frames, 3, size, size)


def as_frames(clips: torch.Tensor) -> torch.Tensor:
    """(n, T, 3, H, W) uint8 → (n·T, 3, H, W) in [0, 1]."""
    return clips.flatten(0, 1).float() / 255


# --- quality ------------------------------------------------------------------


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


# --- recovery -----------------------------------------------------------------


def attack(protected: torch.Tensor, original: torch.Tensor, folder, steps: int) -> dict[str, float]:
    """Train a small attacker on the first ten clips; quality of what it makes of the other two."""
    torch.manual_seed(0)
    net = Recovery(8)
    index, ids, config = np.arange(10), np.arange(12), Train(steps, 8, 3e-3, weight_decay=0.0)
    p, o = (Batches(s, index, ids, batch=8, seed=3, device=CPU) for s in (protected, original))

    def pairs(step):
        return p(step)[0], o(step)[0]

    loop.fit(Objective(net, F.l1_loss), net, pairs, config, folder, name="recovery")
    recovered = undo(net, protected[10:], CPU)
    assert recovered.shape == protected[10:].shape and recovered.dtype == torch.uint8
    return quality(as_frames(recovered), as_frames(original[10:]))


def test_recovering_unprotected_clips_is_near_perfect(tmp_path):
    scores = attack(smooth_clips(), smooth_clips(), tmp_path, 20)
    assert scores["ssim"] > 0.97 and scores["psnr"] > 30


def test_an_attack_learns_to_undo_what_can_be_undone(tmp_path):
    original = smooth_clips()
    protected = original[:, :, [1, 2, 0]] // 2  # colours in another order, at half the brightness
    before = quality(as_frames(protected[10:]), as_frames(original[10:]))
    after = attack(protected, original, tmp_path, 60)
    assert after["psnr"] > before["psnr"] + 3


def test_two_streams_of_one_seed_show_the_same_frames():
    """The attacker's pairs are of the same frame, flipped and shifted alike."""
    clips = smooth_clips()
    index, ids = np.arange(2, 12), np.arange(12)
    protected, original = (
        Batches(store, index, ids, batch=4, seed=7, device=CPU) for store in (255 - clips, clips)
    )
    for step in range(5):
        (p, a), (o, b) = protected(step), original(step)
        assert torch.equal(a, b)
        # white times the brightness both were given, but for clipping
        gain = (p + o).mean((1, 2, 3))
        assert ((p + o) <= gain.max() + 0.2).all() and (gain > 0.79).all()


def test_table3_has_controls_and_every_approach(tiny_run):
    rows = recovery.table3(tiny_run, ("none", "ppfer"))
    first, last = "No privacy preservation (control)", "Mean training image (control)"
    assert [row["approach"] for row in rows] == [first, "PPFER (C)", last]
    test = len(tiny_run.parts["test"])
    for row in rows:
        assert -1 <= row["ssim"] <= 1 and 0 < row["psnr"] <= 100
        assert (row["plr"].n, row["plr_all_frames"].n) == (test, 4 * test)


def test_mean_image_is_the_mean_of_training_frames(tiny_run):
    train_clips = tiny_run.tensor("clips")[torch.as_tensor(tiny_run.parts["train"])]
    torch.testing.assert_close(
        recovery.mean_image(tiny_run), train_clips.float().mean((0, 1)) / 255
    )


def test_a_validator_is_trained_on_what_was_recovered(tiny_run):
    prepare(tiny_run, ("ppfer",), ("recovery",))
    row, test = recovery.undone_row(tiny_run, "ppfer"), tiny_run.parts["test"]
    assert row["plr_retrained"]["n"] == row["plr"]["n"] == len(test)
    shown = some_frames(tiny_run.tensor("protected/recovered_ppfer"), test, recovery.FRAMES)
    protected = some_frames(tiny_run.tensor("protected/ppfer"), test, recovery.FRAMES)
    guessed = undo(tiny_run.get("recovery/ppfer"), protected, CPU)
    assert (shown.int() - guessed.int()).abs().max() <= 1 and not torch.equal(shown, protected)
