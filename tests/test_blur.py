"""Each baseline is what its definition says: kernel and padding, NT-Xent's value, who learns in a minimax step, where pixels move."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.transforms.v2.functional import gaussian_blur
from torchvision.utils import flow_to_image

from ppfer import baselines, protect, swap, tables
from ppfer.baselines import bisect, nt_xent, two_views
from ppfer.config import PpferError
from ppfer.protect import GaussianBlur, blur_matrix
from ppfer.tables import Protector


def pictures(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


# -- Gaussian blur ---------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(sigma=st.floats(0.3, 5.0), height=st.integers(17, 40), width=st.integers(17, 40))
def test_blur_is_torchvisions_with_kernel_of_three_sigma(sigma, height, width):
    clips, kernel = pictures(2, 2, 3, height, width), 2 * math.ceil(3 * sigma) + 1
    torch.testing.assert_close(
        GaussianBlur(sigma)(clips),
        gaussian_blur(clips, [kernel, kernel], [sigma, sigma]),
        rtol=0,
        atol=2e-6,
    )


def test_blur_keeps_brightness_and_refuses_what_does_not_fit():
    torch.testing.assert_close(blur_matrix(32, 4.0).sum(1), torch.ones(32))
    with pytest.raises(PpferError, match="does not fit 16 pixels"):
        blur_matrix(16, 6.0)


@settings(max_examples=30, deadline=None)
@given(target=st.floats(0.1, 0.9))
def test_bisection_meets_a_reachable_target(target):
    found = bisect(lambda s: 1 / (1 + s), target, 0.01, 100, steps=40)
    assert found.reached and abs(found.value - target) < 1e-3 and 0.01 <= found.at <= 100


def test_an_unreachable_target_says_what_range_it_saw():
    seen = []
    found = bisect(lambda s: seen.append(s) or 0.5 + 0.1 / s, 0.2, 0.25, 10, steps=4)
    assert (
        not found.reached
        and found.at == 10
        and len(seen) == 6
        and min(seen) == 0.25
        and max(seen) == 10
    )
    assert "20.0 % is out of reach: σ from 0.25 to 10.00 px gave 51.0 % to 90.0 %" in str(found)
    assert bisect(lambda s: 0.5, 0.2, 1, 4).at == 1  # no more blur than it takes


# -- the trade-off framework -----------------------------------------------------------------------------------------


def test_nt_xent_closed_forms():
    same = torch.ones(4, 8)
    assert nt_xent(same, same).item() == pytest.approx(math.log(7))  # nothing tells 7 others apart
    axes = torch.eye(4)
    assert nt_xent(3 * axes, 5 * axes, 0.1).item() == pytest.approx(
        math.log(math.exp(10) + 6) - 10, abs=1e-6
    )  # lengths do not matter
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
            clips[b, t, :, 2 * t] = (
                0.1 + 0.15 * b
            )  # the row says which frame, the brightness (±20 %) which clip
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        first, second = (
            view.mean((1, 3)) for view in two_views(clips, generator)
        )  # (5, 8): brightness of each row
        assert (first.argmax(1) != second.argmax(1)).all() and (first.argmax(1) % 2 == 0).all()
        for view in (first, second):
            assert ((view.amax(1) / (0.1 + 0.15 * torch.arange(5)) - 1).abs() < 0.2 + 1e-5).all()


def minimax() -> baselines.TradeoffObjective:
    torch.manual_seed(0)
    anonymizer = protect.FrameEnhancer(
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Sigmoid())
    )

    class Recognizer(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.BatchNorm3d(3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 6)
            )

        def forward(self, clips):
            return self.net(clips.transpose(1, 2))

    budget = nn.Sequential(
        nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 8)
    )
    return baselines.TradeoffObjective(anonymizer, Recognizer(), budget, seed=0)


def test_minimax_steps_change_only_the_networks_they_train():
    objective = minimax()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2, weight_decay=0.1)
    clips, labels = pictures(4, 3, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    parts = {
        "anonymizer": objective.anonymizer,
        "recognizer": objective.recognizer,
        "budget": objective.budget,
    }
    for step in range(4):
        before = {
            name: {k: v.clone() for k, v in net.state_dict().items()} for name, net in parts.items()
        }
        objective(clips, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        changed = {
            name
            for name, net in parts.items()
            if any(not torch.equal(v, before[name][k]) for k, v in net.state_dict().items())
        }
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


# -- optical flow ----------------------------------------------------------------------------------------------------


def moving_square(size: int = 64, frames: int = 4, pace: int = 2) -> torch.Tensor:
    texture = nn.functional.interpolate(pictures(1, 3, 12, 12), (24, 24), mode="bilinear")[0]
    clip = torch.zeros(frames, 3, size, size)
    for t in range(frames):
        clip[t, :, 20:44, 10 + pace * t : 34 + pace * t] = texture
    return clip


def test_classical_flow_sees_a_square_move_right():
    pytest.importorskip("cv2")
    flow = baselines.classical_flow(moving_square())
    assert flow.shape == (3, 2, 64, 64)
    inside = flow[:, :, 26:38, 18:26].mean((2, 3))
    torch.testing.assert_close(inside, torch.tensor([[2.0, 0.0]]).expand(3, 2), rtol=0, atol=0.4)


def test_flow_pictures_are_the_colour_wheel_with_the_last_shown_twice():
    flows = torch.zeros(3, 2, 8, 8)
    flows[0, 0, 2:5], flows[1, 1, 4:], flows[2, 0, :3] = 1.0, -2.0, 0.5
    out = protect.protect(baselines.OpticalFlow(lambda clip: flows), pictures(2, 4, 3, 8, 8))
    assert torch.equal(out[0, :3], flow_to_image(flows)) and torch.equal(out[:, 3], out[:, 2])


def test_missing_opencv_names_the_extra(monkeypatch, tiny_run):
    import sys

    monkeypatch.setitem(sys.modules, "cv2", None)
    assert "pip install 'ppfer[flow]'" in baselines.flow_missing(tiny_run)
    row = baselines.left_out(tiny_run, "flow")
    assert (
        row["approach"] == "Optical flow" and "ppfer[flow]" in row["what_ran"] and "plr" not in row
    )


def test_raft_takes_torchvisions_names_and_nothing_else(tmp_path):
    from torchvision.models.optical_flow import raft_large

    state = raft_large(weights=None).state_dict()
    torch.save(state, tmp_path / "raft.pth")
    net = baselines.raft(str(tmp_path / "raft.pth"))
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items()) and not any(
        p.requires_grad for p in net.parameters()
    )
    torch.save({k: v for k, v in state.items() if "mask_predictor" not in k}, tmp_path / "half.pth")
    with pytest.raises(PpferError, match="nothing was loaded"):
        baselines.raft(str(tmp_path / "half.pth"))


# -- image swapping --------------------------------------------------------------------------------------------------


def face_points() -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0.2, 0.8, 4), torch.linspace(0.2, 0.8, 4), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)  # (16, 2)


def test_swap_onto_the_same_landmarks_shows_the_donor_inside_and_the_clip_outside():
    donor, points, clips = pictures(3, 32, 32), face_points(), torch.zeros(1, 2, 3, 32, 32)
    out = swap.FaceSwap(donor, points, points.expand(1, 2, 16, 2))(clips, range(1))
    torch.testing.assert_close(
        out[0, 0, :, 10:22, 10:22], donor[:, 10:22, 10:22], rtol=0, atol=1e-4
    )
    assert out[..., :6, :].abs().max() == 0


def test_swap_follows_a_landmark():
    donor, points = torch.zeros(3, 32, 32), face_points()
    at = points[5]  # an inner landmark, marked on the donor
    donor[
        :, int(at[1] * 32) - 1 : int(at[1] * 32) + 1, int(at[0] * 32) - 1 : int(at[0] * 32) + 1
    ] = 1
    moved = points.clone()
    moved[5] += torch.tensor([3 / 32, 2 / 32])
    out = swap.FaceSwap(donor, points, torch.stack([points, moved])[None])(
        torch.zeros(1, 2, 3, 32, 32), range(1)
    )[0, :, 0]
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    centre = [torch.stack([(f * x).sum(), (f * y).sum()]) / f.sum() for f in out]
    torch.testing.assert_close(centre[1] - centre[0], torch.tensor([3.0, 2.0]), rtol=0, atol=1)


def test_frames_without_a_face_turn_grey():
    points = face_points().expand(1, 2, 16, 2).clone()
    points[0, 1] = float("nan")
    out = swap.FaceSwap(pictures(3, 32, 32), face_points(), points)(
        torch.ones(1, 2, 3, 32, 32), range(1)
    )
    assert (out[0, 1] == 0.5).all() and (out[0, 0, :, 0] == 1).all()


# -- tables ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def registered():
    names = set(tables.PROTECTORS)
    yield tables.register
    for name in set(tables.PROTECTORS) - names:
        del tables.PROTECTORS[name]


def test_table1_has_both_protocols_for_every_approach(tiny_run):
    pytest.importorskip("cv2")
    names = tuple(n for n in baselines.TABLE1 if n != "swap")  # coloured clips have no face
    rows = baselines.table1(tiny_run, names)
    test = len(tiny_run.parts["test"])
    assert [row["approach"] for row in rows] == [tables.PROTECTORS[n].title for n in names]
    for row in rows:
        assert row["what_ran"] and all(
            row[k].n == test for k in ("plr", "plr_retrained", "acc", "acc_retrained")
        )
    assert rows[0]["acc"] == rows[0]["acc_retrained"]


def test_one_function_and_one_line_make_a_row(tiny_run, registered):
    registered(
        Protector(
            "mirror",
            "Mirror",
            ("clips",),
            lambda run: lambda clips: clips.flip(-1),
            "left and right swapped",
            "08_baselines.ipynb",
        )
    )
    (row,) = baselines.table1(tiny_run, ("mirror",))
    assert row["approach"] == "Mirror" and row["plr"].n == row["acc"].n


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda x: x[..., :4], "returned shape"),
        (lambda x: x * float("nan"), "returned NaN"),
        (lambda x: x - 2, r"left \[0, 1\]"),
    ],
)
def test_a_broken_protector_stops_the_table_before_any_training(tiny_run, registered, bad, says):
    registered(Protector("broken", "Broken", ("clips",), lambda run: bad, "", "08_baselines.ipynb"))
    with pytest.raises(PpferError, match=f"broken {says}"):
        baselines.table1(tiny_run, ("none", "broken"))
    assert (
        not (tiny_run.dir / "attack" / "broken").exists()
        and not (tiny_run.dir / "protected" / "broken" / "manifest.json").exists()
    )
