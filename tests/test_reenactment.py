"""Re-enactment: a donor who does what is read off a face, in clips of a run and in videos."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ppfer.base.device import single_thread_pool
from ppfer.base.files import write_json
from ppfer.base.weights import save_weights
from ppfer.cli import main
from ppfer.cli.caveats import around, leaked_by
from ppfer.cli.options import parser
from ppfer.cli.protect import USUAL
from ppfer.config import REPO, load_config
from ppfer.measure import Rate
from ppfer.protect import VideoProtector, protect
from ppfer.study import catalogue
from ppfer.study.protectors import reenactment, regressor
from ppfer.study.protectors.reenactment import Reenactment, draw_donor, view_square
from ppfer.twin.acting import main_specs, motion
from ppfer.twin.head import draw, load_head
from ppfer.twin.people import DONOR, Actor, appearance
from ppfer.video.faces import head_square, surest
from ppfer.video.heads import Passage, Picture, ProtectOptions

CPU, NUMBERS = torch.device("cpu"), regressor.NUMBERS
CLIP = REPO / "data" / "twin" / "VideoMP4" / "1001_DFA_HAP_XX.mp4"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of a regressor that learned nothing, as they are shipped."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    return save_weights(regressor.Regressor(), path, half=True)


def still(**actions: float) -> torch.Tensor:
    """Numbers (1, 55) of a face that does this alone."""
    numbers = torch.zeros(1, NUMBERS)
    for name, amount in actions.items():
        numbers[0, reenactment.actions().index(name)] = amount
    return numbers


# --- the donor --------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_with_a_reader_that_knows_the_truth_the_donor_is_drawn_with_it(precision):
    move = motion(main_specs(1)[10])
    numbers = torch.as_tensor(np.concatenate([move.actions, move.pose[:, :3]], 1)[5:6]).float()
    clips = torch.zeros(1, 1, 3, 48, 48, dtype=torch.uint8)
    made = protect(Reenactment(lambda frames: numbers), clips, precision=precision)
    lamp = torch.tensor([reenactment.LAMP])
    lamp[:, :3] /= lamp[:, :3].norm()
    donor = [torch.as_tensor(part[None]) for part in appearance(Actor(DONOR))]
    pose = torch.tensor([[*numbers[0, -3:], 0, 0, reenactment.SCALE]])
    ground = torch.tensor(reenactment.GROUND).view(1, 3, 1, 1).expand(1, 3, 48, 48)
    who, model = torch.zeros(1, dtype=torch.long), load_head(CPU)
    drawn = draw(model, *donor, who, numbers[:, :-3], pose, lamp, ground, 48)[:, :3]
    assert torch.equal(made[0], drawn)


@pytest.mark.parametrize("side", [64, 256])  # means of four samples, and one sample a pixel
def test_a_figure_is_the_picture_without_its_ground(side):
    alone, whole = (draw_donor(torch.zeros(1, 55), side, alone) for alone in (True, False))
    colour, covered = alone[:, :3], alone[:, 3:]
    ground = whole[..., :1, :1].expand_as(whole)
    assert 0.2 < covered.mean() < 0.8 and torch.equal(
        covered.unique()[[0, -1]], torch.tensor([0.0, 1.0])
    )
    inside, outside = ((covered == share).expand_as(whole) for share in (1, 0))
    assert (whole - colour)[inside].abs().max() < 2.5 / 255
    assert torch.equal(whole[outside], ground[outside]) and not colour[outside].any()


def test_the_donor_is_whole_and_fills_the_picture():
    numbers = torch.cat([still(), still(jawOpen=1, mouthFunnel=0.5), still(eyeBlinkLeft=1)])
    numbers[1:, -3] = torch.tensor([0.4, -0.4])
    drawn = draw_donor(numbers, 64)
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
    plain, once, twice = (Reenactment(Told(), offset=o).numbers(clips) for o in (0, 1, 2))
    shift = (once - plain)[:, 0]
    assert torch.equal(plain, torch.full_like(plain, 0.5)) and 0.035 < shift[0].std() < 0.065
    assert torch.equal(shift[0], shift[1]) and not torch.equal(shift[0], shift[2])
    for times, made in enumerate((once, twice), 1):
        torch.testing.assert_close(made, plain + times * shift[:, None])
    assert torch.equal(Reenactment(Told(), offset=1).numbers(clips.double().float()), once)


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


# --- where it looks ---------------------------------------------------------------


def ramp(side: int) -> torch.Tensor:
    """A picture (3, side, side) that says where one looks: red is x, green is y, as shares."""
    share = (torch.arange(side) + 0.5) / side
    x, y = share.expand(side, -1), share[:, None].expand(-1, side)
    return torch.stack([x, y, torch.ones_like(x)])


BOX = np.float32([0.4, 0.5, 0.5, 0.7])  # of a face, in shares; its view begins at 0.314
SEEN = view_square(BOX)


def test_the_reader_is_shown_the_face():
    clips, faces = ramp(200).expand(2, 3, 3, 200, 200), np.full((2, 3, 5), np.nan, np.float32)
    faces[0, ::2, :4] = BOX  # missed in one frame; no face at all in the other clip
    face, whole = reenactment.face_crops(clips, faces)
    assert face.shape == (3, 3, regressor.SIDE, regressor.SIDE)
    half = (SEEN[2] - SEEN[0]) / regressor.SIDE / 2
    for axis, picture in enumerate((face[1, 0], face[1, 1])):
        first, last = SEEN[axis] + half, SEEN[axis + 2] - half
        assert float(picture.min()) == pytest.approx(first, abs=0.003)
        assert float(picture.max()) == pytest.approx(last, abs=0.003)
    assert torch.equal(face[0], face[1]) and whole[0, 0].max() > 0.99


def test_faces_are_looked_for_in_clips_of_anybody_but_the_twin(weights, tmp_path):
    given = {"regressor_weights": str(weights)}
    for more, find in (({}, None), ({"data": str(tmp_path)}, surest)):
        run = catalogue.open_run(load_config("smoke", given | more), tmp_path, "cpu")
        assert reenactment.build(run).find is find


@pytest.mark.parametrize("view", [None, view_square])
def test_a_video_shows_the_protector_its_view_and_pastes_the_whole_head(view):
    shown, side = [], 300

    def white(clips, names):
        shown.append(clips)
        return torch.ones_like(clips)

    finder = SimpleNamespace(find=lambda picture: np.float32([[*(BOX * side), 0.9]]))
    pixels = ramp(side).mul(255).byte().permute(1, 2, 0).numpy()
    frames = (Picture(pixels, Fraction(i), Fraction(1)) for i in range(3))
    how, protector = ProtectOptions(64, CPU, outside="black"), VideoProtector(white, 0, view)
    made = list(Passage(protector, how, finder, 30.0, "v").protected(frames))
    left, top, right, bottom = SEEN if view else head_square(BOX)
    red = shown[0][0, 0, 0]
    if view:
        assert abs(red.min() - left) < 0.02 and abs(red.max() - right) < 0.02
    else:
        assert red.min() < left and red.max() > right  # and a soft edge
    left, top, right, bottom = np.rint(head_square(BOX) * side).astype(int)
    assert made[0].pixels[top + 2 : bottom - 2, left + 2 : right - 2].min() > 250


# --- videos -----------------------------------------------------------------------


def brightness(frames):
    """A reader that takes every number for how bright a frame is."""
    return frames.mean((1, 2, 3))[:, None].expand(-1, NUMBERS)


@pytest.fixture
def bright(monkeypatch):
    """What is let through is shown as brightness."""

    def grey(numbers, side, alone=False):
        drawn = numbers[:, :1, None, None].expand(-1, 3, side, side)
        return torch.cat([drawn, torch.ones_like(drawn[:, :1])], 1) if alone else drawn

    monkeypatch.setattr(reenactment, "draw_donor", grey)


def filmed(protector: VideoProtector, levels) -> list[float]:
    """The mean brightness of every frame of a protected video whose frames have these levels."""
    pictures = (np.full((16, 16, 3), level, np.uint8) for level in levels)
    frames = (Picture(p, Fraction(i), Fraction(1)) for i, p in enumerate(pictures))
    passage = Passage(protector, ProtectOptions(16, CPU, frame="whole"), None, 30.0, "v")
    done = list(passage.protected(frames))
    assert passage.tally.frames == len(levels)
    return [picture.pixels.mean() for picture in done]


@pytest.mark.parametrize("count", [1, 16, 17, 40])
def test_time_is_smoothed_over_the_borders_of_a_videos_parts(bright, count):
    levels = np.random.default_rng(0).integers(0, 256, count)
    wanted = np.pad(levels.astype(float), 2, "edge")
    for _ in range(2):  # as often as a video of 30 frames per second takes
        wanted = (wanted[:-2] + 2 * wanted[1:-1] + wanted[2:]) / 4
    protector = Reenactment(brightness).for_video(30.0)
    np.testing.assert_allclose(filmed(protector, levels), wanted, atol=0.6)
    assert protector.first_pass is None and protector.view_square is view_square


@pytest.mark.parametrize(("rate", "passes"), [(6, (0, 1)), (20, (1, 1)), (30, (2, 2))])
def test_the_more_frames_a_second_the_more_they_are_smoothed(rate, passes):
    assert reenactment.smoothing_passes(rate) == passes
    assert Reenactment(brightness).for_video(rate).context == max(passes)


def test_a_video_made_neutral_was_seen_whole_before(bright):
    levels, puppet = [100] * 16 + [180] * 16 + [100] * 20, Reenactment(brightness, neutral=True)
    protector, unaware = puppet.for_video(30.0), puppet.for_video(30.0)
    first_pass = replace(protector, apply=protector.first_pass, figure_square=None)
    assert filmed(first_pass, levels) == pytest.approx(levels)  # nothing is drawn yet
    assert filmed(protector, levels)[20:28] == pytest.approx([80] * 8, abs=1)  # above rest
    assert max(filmed(unaware, levels)[20:28]) < 70  # a part alone knows nothing of the rest


def test_parts_of_one_face_have_one_offset_and_what_lies_around_them_is_not_drawn(bright):
    puppet, clips = Reenactment(Told(), offset=1), torch.rand(3, 9, 3, 16, 16)
    whole = puppet(clips)
    made = puppet.for_video(30.0).apply(clips, ["a 1", "a 1", "b 1"])[:, :, :3].amax((2, 3, 4))
    assert ((made > 0) == torch.tensor([False] * 2 + [True] * 5 + [False] * 2)).all()
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert whole.min() > 0 and torch.equal(puppet(clips), whole)  # a video leaves it as it was


def test_threads_that_draw_alone_leave_later_threads_as_they_are():
    def threads():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    torch.set_num_threads(3)
    try:
        with single_thread_pool() as pool:
            assert list(pool.map(lambda _: torch.get_num_threads(), range(3))) == [1, 1, 1]
            with single_thread_pool(1):
                pass
        assert threads() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("approach", ["reenactment", "reenactment_neutral"])
def test_a_video_is_protected_without_a_run(approach, tmp_path, weights, capsys, monkeypatch):
    assert parser().parse_args(["protect", "a", "--out", "b"]).approach is None
    assert USUAL == "reenactment"
    reads, read = [], Reenactment.read
    monkeypatch.setattr(Reenactment, "read", lambda *given: reads.append(1) or read(*given))
    given, out = tmp_path / "in", tmp_path / "out"
    given.mkdir()
    shutil.copy(CLIP, given)
    (given / "notes.txt").write_text("no video")
    where = ["--runs-dir", str(tmp_path / "runs"), "--set", f"regressor_weights={weights}"]
    call = ["protect", str(given), "--out", str(out), "--frame", "whole", "--end", "0.3"]
    call += ["--approach", approach, *where]
    assert main(call) == 0
    assert len(reads) == 1 + (approach == "reenactment_neutral")  # the whole of it first
    said = capsys.readouterr().out
    assert "1 of 1 done" in said and "no videos by their names: 1" in said
    assert "4 frames of 256×256" in said and "Not promised" in said and "was trained on" not in said
    assert (out / CLIP.name).exists() and not (tmp_path / "runs").exists()
    assert main(call) == 0 and "made earlier" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--outside blur", "By the whole picture: "),
        ("--outside black", "By where the head is and how large: "),
        ("--frame alone", ""),
    ],
)
def test_what_is_shown_beside_the_face_is_said(given, said, tmp_path, capsys):
    call = ["protect", str(CLIP), "--out", str(tmp_path), "--approach", "solid", *given.split()]
    assert main(call) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(said or "What is promised") and (
        not said or [line] == around(given[10:])
    )


REAL = {"outside": Rate(4, 50).to_dict(), "people": 7, "strangers": 2}


def test_what_leaked_is_said_as_it_was_measured(tmp_path):
    protector = reenactment.PROTECTOR
    assert "was not measured" in leaked_by(protector, tmp_path)
    row = {"approach": protector.title, "plr": Rate(3, 200).to_dict()}
    row |= {"acc": Rate(150, 200).to_dict(), "flicker": 1.5}
    other = {"approach": "Other", "plr": {"k": 9, "n": 9}}
    write_json(tmp_path / "demo" / "live.json", [other, row])
    said = leaked_by(protector, tmp_path)
    assert "trained on originals: 1.5 % (3/200" in said and "150" not in said and "9/9" not in said
    assert "Not promised" in said and "real people, of whom" not in said
    write_json(tmp_path / "real" / "live.json", [row | REAL])
    said = leaked_by(protector, tmp_path).partition("7 real people")[2]
    assert "another project's face recogniser: 8.0 % (4/50" in said
