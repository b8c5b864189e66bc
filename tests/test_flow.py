"""Optical flow: where pixels move, and how that is painted."""

import sys

import pytest
import torch
from conftest import pictures
from torch import nn
from torchvision.models.optical_flow import raft_large
from torchvision.utils import flow_to_image

from ppfer.base.errors import PpferError
from ppfer.protect import protect
from ppfer.study.protectors.flow import OpticalFlow, classical_flow, flow_missing, raft
from ppfer.study.tables import left_out


def moving_square(size: int = 64, frames: int = 4, pace: int = 2) -> torch.Tensor:
    texture = nn.functional.interpolate(pictures(1, 3, 12, 12), (24, 24), mode="bilinear")[0]
    clip = torch.zeros(frames, 3, size, size)
    for t in range(frames):
        clip[t, :, 20:44, 10 + pace * t : 34 + pace * t] = texture
    return clip


def test_classical_flow_sees_a_square_move_right():
    pytest.importorskip("cv2")
    flow = classical_flow(moving_square())
    assert flow.shape == (3, 2, 64, 64)
    inside = flow[:, :, 26:38, 18:26].mean((2, 3))
    torch.testing.assert_close(inside, torch.tensor([[2.0, 0.0]]).expand(3, 2), rtol=0, atol=0.4)


def test_flow_pictures_are_the_colour_wheel_with_the_last_shown_twice():
    flows = torch.zeros(3, 2, 8, 8)
    flows[0, 0, 2:5], flows[1, 1, 4:], flows[2, 0, :3] = 1.0, -2.0, 0.5
    out = protect(OpticalFlow(lambda clip: flows), pictures(2, 4, 3, 8, 8))
    assert torch.equal(out[0, :3], flow_to_image(flows)) and torch.equal(out[:, 3], out[:, 2])


def test_missing_opencv_names_the_extra(monkeypatch, tiny_run):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert "pip install -e '.[flow]'" in flow_missing(tiny_run)
    row = left_out(tiny_run, "flow")
    assert row["approach"] == "Optical flow" and ".[flow]" in row["what_ran"]
    assert "plr" not in row


def test_raft_takes_torchvisions_names_and_nothing_else(tmp_path):
    state = raft_large(weights=None).state_dict()
    torch.save(state, tmp_path / "raft.pth")
    net = raft(str(tmp_path / "raft.pth"))
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert not any(p.requires_grad for p in net.parameters())
    torch.save({k: v for k, v in state.items() if "mask_predictor" not in k}, tmp_path / "half.pth")
    with pytest.raises(PpferError, match="nothing was loaded"):
        raft(str(tmp_path / "half.pth"))
