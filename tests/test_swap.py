"""Image swapping: the donor inside the landmarks' hull, the clip outside, moved as they move."""

import torch
from conftest import pictures

from ppfer.study.protectors.swap import FaceSwap


def face_points() -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0.2, 0.8, 4), torch.linspace(0.2, 0.8, 4), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)  # (16, 2)


def test_swap_onto_the_same_landmarks_shows_the_donor_inside_and_the_clip_outside():
    donor, points, clips = pictures(3, 32, 32), face_points(), torch.zeros(1, 2, 3, 32, 32)
    out = FaceSwap(donor, points, {"a": points.expand(2, 16, 2)})(clips, ["a"])
    inside = out[0, 0, :, 10:22, 10:22]
    torch.testing.assert_close(inside, donor[:, 10:22, 10:22], rtol=0, atol=1e-4)
    assert out[..., :6, :].abs().max() == 0


def test_swap_follows_a_landmark():
    donor, points = torch.zeros(3, 32, 32), face_points()
    left, top = (int(place * 32) - 1 for place in points[5])
    donor[:, top : top + 2, left : left + 2] = 1  # an inner landmark, marked on the donor
    moved = points.clone()
    moved[5] += torch.tensor([3 / 32, 2 / 32])
    swap = FaceSwap(donor, points, {"a": torch.stack([points, moved])})
    out = swap(torch.zeros(1, 2, 3, 32, 32), ["a"])[0, :, 0]
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    centre = [torch.stack([(f * x).sum(), (f * y).sum()]) / f.sum() for f in out]
    torch.testing.assert_close(centre[1] - centre[0], torch.tensor([3.0, 2.0]), rtol=0, atol=1)


def test_frames_without_a_face_turn_grey():
    points = face_points().expand(2, 16, 2).clone()
    points[1] = float("nan")
    swap = FaceSwap(pictures(3, 32, 32), face_points(), {"a": points})
    out = swap(torch.ones(1, 2, 3, 32, 32), ["a"])
    assert (out[0, 1] == 0.5).all() and (out[0, 0, :, 0] == 1).all()
