"""The trade-off framework: NT-Xent's value, what a view is, and who learns in a minimax step."""

import math

import pytest
import torch
from conftest import pictures
from torch import nn

from ppfer.protect import FrameEnhancer
from ppfer.study.protectors.spact import TradeoffObjective, nt_xent, two_views


def test_nt_xent_closed_forms():
    same = torch.ones(4, 8)
    assert nt_xent(same, same).item() == pytest.approx(math.log(7))  # nothing tells 7 others apart
    axes = torch.eye(4)
    closed = math.log(math.exp(10) + 6) - 10  # lengths do not matter
    assert nt_xent(3 * axes, 5 * axes, 0.1).item() == pytest.approx(closed, abs=1e-6)
    assert nt_xent(axes, axes.roll(1, 0)).item() > 5


def test_nt_xent_is_the_published_sum():
    a, b = pictures(3, 5) - 0.5, torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) - 0.5
    z = [v / v.norm() for v in torch.cat([a, b])]
    losses = []
    for i in range(6):
        others = sum(math.exp(float(z[i] @ z[k]) / 0.1) for k in range(6) if k != i)
        losses.append(-math.log(math.exp(float(z[i] @ z[(i + 3) % 6]) / 0.1) / others))
    assert nt_xent(a, b).item() == pytest.approx(sum(losses) / 6, rel=1e-5)


def test_two_views_are_different_frames_of_the_same_clip():
    clips = torch.zeros(5, 4, 3, 8, 8)
    for b in range(5):
        for t in range(4):
            # the row says which frame, the brightness (±20 %) which clip
            clips[b, t, :, 2 * t] = 0.1 + 0.15 * b
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        # (5, 8): brightness of each row
        first, second = (view.mean((1, 3)) for view in two_views(clips, generator))
        assert (first.argmax(1) != second.argmax(1)).all() and (first.argmax(1) % 2 == 0).all()
        for view in (first, second):
            assert ((view.amax(1) / (0.1 + 0.15 * torch.arange(5)) - 1).abs() < 0.2 + 1e-5).all()


class Recognizer(nn.Sequential):
    """f_T: clips (B, T, 3, H, W) → (B, 6)."""

    def __init__(self):
        pooled = nn.AdaptiveAvgPool3d(1), nn.Flatten()
        super().__init__(nn.BatchNorm3d(3), *pooled, nn.Linear(3, 6))

    def forward(self, clips):
        return super().forward(clips.transpose(1, 2))


def minimax() -> TradeoffObjective:
    torch.manual_seed(0)
    changed = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Sigmoid()
    anonymizer, recognizer = FrameEnhancer(nn.Sequential(*changed)), Recognizer()
    pooled = nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    budget = nn.Sequential(*pooled, nn.Linear(12, 8))
    return TradeoffObjective(anonymizer, recognizer, budget, seed=0)


def test_minimax_steps_change_only_the_networks_they_train():
    objective = minimax()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2, weight_decay=0.1)
    clips, labels = pictures(4, 3, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    for step in range(4):
        before = {k: v.clone() for k, v in objective.state_dict().items() if k != "step"}
        objective(clips, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        after = objective.state_dict()
        changed = {k.split(".")[0] for k, v in before.items() if not torch.equal(v, after[k])}
        assert changed == ({"anonymizer"} if step % 2 == 0 else {"recognizer", "budget"})


def test_minimax_signs():
    """f_A's step subtracts the contrastive loss that f_B's step adds."""
    objective, clips, labels = minimax(), pictures(4, 3, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    losses = {}
    for step in (0, 1):
        for weight in (0.0, 1.0):
            objective.step.fill_(step)
            objective.weight = weight
            objective.train()
            with torch.no_grad():
                losses[step, weight] = objective(clips, labels).item()
    assert losses[0, 1.0] < losses[0, 0.0]
    assert losses[1, 1.0] == pytest.approx(losses[1, 0.0])  # the weight is f_A's alone
