"""Algorithm 1 under controllers that keep learning."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ppfer import nets, protect
from ppfer.study.protectors.live import UPDATES, LiveEnhancer, LiveObjective, motion_only
from ppfer.wavelets import BandSplit


def test_what_does_not_move_is_grey():
    still = torch.rand(2, 1, 3, 8, 8).expand(-1, 5, -1, -1, -1)
    torch.testing.assert_close(motion_only(still), torch.full_like(still, 0.5))
    moved = torch.rand(2, 5, 3, 8, 8)
    shown = motion_only(moved)
    assert shown.min() >= 0 and shown.max() <= 1
    torch.testing.assert_close(shown.mean(1), torch.full((2, 3, 8, 8), 0.5))


@pytest.fixture
def players():
    torch.manual_seed(0)
    low, high = nets.UNet(2), nets.UNet(2)
    return {
        "enhancer": LiveEnhancer(protect.PrivacyEnhancer(BandSplit("haar"), low, high)),
        "recognizer": nets.Recognizer("r3d_small", 6, width=4),
        "of_frames": nets.Classifier("resnet_small", 5, width=4),
        "of_clips": nets.Recognizer("r3d_small", 5, width=4),
    }


def test_each_step_moves_those_whose_turn_it_is(players):
    objective = LiveObjective(*players.values(), weight=0.5)
    optimizer = torch.optim.AdamW(objective.parameters(), 1e-2)
    clips, labels = torch.rand(2, 4, 3, 32, 32), torch.arange(2)
    for step in range(2 * (UPDATES + 1)):
        before = {name: copy.deepcopy(list(net.parameters())) for name, net in players.items()}
        objective(clips, labels, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        pairs = {name: zip(before[name], net.parameters()) for name, net in players.items()}
        moved = {n for n, both in pairs.items() if not all(torch.equal(*pair) for pair in both)}
        enhancing = step % (UPDATES + 1) == UPDATES
        adversaries = {"of_frames", "of_clips"}
        assert moved == {"recognizer"} | ({"enhancer"} if enhancing else adversaries)


def test_the_adversaries_learn_from_what_the_enhancer_would_give_away(players):
    seen = []
    players["of_clips"].register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0]))
    objective = LiveObjective(*players.values(), weight=0.5)
    clips = torch.rand(2, 4, 3, 32, 32)
    objective(clips, torch.arange(2), torch.arange(2))
    levels = seen[0] * 255
    torch.testing.assert_close(levels, levels.round())  # 8 bits
    assert not seen[0].requires_grad


def test_the_trained_enhancer_is_a_protector(tiny_run):
    tiny_run.ensure("protected/live")
    shown = tiny_run.tensor("protected/live")
    assert shown.shape == tiny_run.tensor("clips").shape
    assert isinstance(tiny_run.get("live"), nn.Module)
    last = tiny_run.metrics("live")[-1]
    assert {"val_accuracy", "val_plr", "val_plr_clips"} <= set(last)
