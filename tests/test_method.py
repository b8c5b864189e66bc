"""What the stages' objectives see and do: every view, and frozen controllers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import equal, small_classifier, snapshot
from torch import nn

from ppfer import nets
from ppfer.base.errors import PpferError
from ppfer.method.compensation import CompensationObjective, wild_labels
from ppfer.method.identity import mixed_views
from ppfer.method.privacy import PrivacyObjective, privacy_loss
from ppfer.protect import PrivacyEnhancer
from ppfer.wavelets import BandSplit


@pytest.mark.parametrize("batch", [24, 128])
def test_every_sub_band_is_among_the_views(batch):
    """Approximation and details reach the identity controller, each under its own label."""
    pixels, labels = torch.rand(batch, 3, 8, 8), torch.arange(batch)
    bands = BandSplit()
    views, names = mixed_views(bands, pixels, labels)
    assert len(views) == len(names) == batch
    torch.testing.assert_close(views[: batch // 2], pixels[: batch // 2])
    low, high = bands.split(pixels[batch // 2 :])
    known = {"low": low, **bands.details(high)}
    seen = dict.fromkeys(known, 0)
    for view, name in zip(views[batch // 2 :], names[batch // 2 :], strict=True):
        for kind, band in known.items():
            picture = F.interpolate(
                band[name - batch // 2][None], (8, 8), mode="bilinear", align_corners=False
            )[0]
            seen[kind] += torch.allclose(picture, view)
    assert seen["low"] == batch // 4
    assert min(seen.values()) >= batch // 12


def test_views_of_clips_split_in_time():
    pixels, labels = torch.rand(8, 4, 3, 8, 8), torch.arange(8)
    views, names = mixed_views(BandSplit(axes="t"), pixels, labels)
    assert views.shape == (4 * 4 + 4, 3, 8, 8) and len(names) == len(views)
    assert names[:16].tolist() == [i for i in range(4) for _ in range(4)]


def test_privacy_losses():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 4
    labels = torch.arange(50) % 4
    each = F.cross_entropy(logits, labels, reduction="none")
    assert privacy_loss(logits, labels, "paper") == pytest.approx(-each.mean().item())
    assert privacy_loss(logits, labels, "clamped") == pytest.approx(
        -each.clamp(max=np.log(4)).mean().item(), abs=1e-6
    )
    flat = privacy_loss(torch.zeros(5, 4), labels[:5], "uniform")
    assert flat == pytest.approx(np.log(4)) and flat < privacy_loss(logits, labels, "uniform")
    with pytest.raises(PpferError, match="unknown privacy loss 'none'"):
        privacy_loss(logits, labels, "none")


def test_algorithm_1_moves_the_enhancers_only():
    controller = small_classifier(3)
    before = snapshot(controller)
    enhancer = PrivacyEnhancer(BandSplit(), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    objective = PrivacyObjective(enhancer, controller, "paper", 0.0).train()
    pixels, actors = torch.rand(6, 3, 8, 8), torch.arange(6) % 3
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=1.0)
    first = objective(pixels, actors)
    for _ in range(20):
        loss = objective(pixels, actors)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < first, "the controller's cross-entropy must grow"
    assert equal(controller.state_dict(), before), "the frozen controller moved"


def test_algorithm_2_with_and_without_its_controller():
    g, emotions = torch.rand(4, 3, 8, 8), torch.arange(4) % 3
    controller = nets.freeze(small_classifier(3))
    plain = CompensationObjective(nn.Identity(), controller)(g, emotions)
    assert plain == pytest.approx(F.cross_entropy(controller(g), emotions).item())
    assert CompensationObjective(nn.Identity(), None)(g, emotions) == 0, "Task 4: MSE to G itself"
    half = nn.Conv2d(3, 3, 1, bias=False)
    held = CompensationObjective(half, controller, fidelity=2.0)(g, emotions)
    expected = F.cross_entropy(controller(half(g)), emotions) + 2 * F.l1_loss(half(g), g)
    assert held.item() == pytest.approx(expected.item())


def test_wild_labels_mask_what_the_data_does_not_have():
    assert wild_labels(["happy", "surprise", "sad"], ["happy", "sad"]).tolist() == [0, -1, 1]
    with pytest.raises(PpferError, match="no in-the-wild clip shows fear"):
        wild_labels(["happy"], ["fear", "happy"])
