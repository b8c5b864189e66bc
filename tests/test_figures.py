"""Figures: a donor without a ground, before the scene as it would be without the person."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from test_protect_files import CLIPS, OffTheScreen, options, painted, people, read, write  # noqa: F401

from ppfer.base.errors import PpferError
from ppfer.cli import main
from ppfer.protect import VideoProtector, protect_all
from ppfer.study.protectors import reenactment
from ppfer.video import plan, scene
from ppfer.video import protect_files as deploying
from ppfer.video.faces import FaceLog, Finder, Head, finder_missing
from ppfer.video.photo import photo_comment
from ppfer.video.protect_files import protect_files
from ppfer.video.scene import GREY, blurred, compose

GROUND = np.array([72, 152, 96])  # the constant green of a run's donor, about


@pytest.fixture(autouse=True)
def finder(monkeypatch):
    monkeypatch.setattr(deploying, "Finder", OffTheScreen)


class Nobody:
    """A protector of figures that draws nothing, and one whose figure is a red disc."""

    def __init__(self, disc=False):
        self.disc, self.passes = disc, []

    def for_video(self, rate):
        return VideoProtector(
            self.apply, 0, None, self.first, figure_square=reenactment.figure_square
        )

    def first(self, clips, names):
        self.passes.append(len(clips))
        return clips

    def apply(self, clips, names):
        drawn = torch.zeros(*clips.shape[:2], 4, *clips.shape[-2:])
        if self.disc:
            middle = torch.arange(clips.shape[-1]) - clips.shape[-1] / 2
            inside = (middle[:, None] ** 2 + middle**2) < (clips.shape[-1] / 4) ** 2
            drawn[:, :, [0, 3]] = inside.float()
        return drawn


# --- what is seen -------------------------------------------------------------------


@pytest.mark.parametrize("outside", ["blur", "keep"])
def test_of_a_head_nothing_is_seen_behind_a_figure(tmp_path, people, outside):  # noqa: F811
    made = {}
    for name, colour in (("white", 255), ("black", 0)):
        pictures = [picture.copy() for picture in people[0]]
        for picture in pictures:  # whatever the head's colour, the result is the same
            left, top, right, bottom = OffTheScreen().find(picture)[0, :4].astype(int)
            face = np.s_[max(top, 0) : bottom, max(left, 0) : right]
            picture[face] = np.where(np.arange(right - max(left, 0))[:, None] % 2, colour, 130)
        source = write(tmp_path / f"{name}.mp4", pictures, exact=True)
        how = options(outside=outside, exact=True)
        (outcome,) = protect_files(Nobody(), source, tmp_path / "out", how)
        assert outcome.state == "written"
        made[name] = np.stack([pixels for pixels, _ in read(outcome.result)]).astype(int)
    middle = np.s_[:, 20:55, 30:66]
    assert np.abs(made["white"][middle] - made["black"][middle]).max() < 24  # of 255


def test_a_figure_is_as_large_as_the_face_and_brings_no_ground():
    if finder_missing():
        pytest.skip(finder_missing())
    drawn = reenactment.figures(torch.zeros(1, 1, 55), 256)[0, 0].permute(1, 2, 0)
    figure = drawn.mul(255).round().byte()
    assert figure[2, 2].tolist() == [0] * 4 and figure[128, 128, 3] == 255
    box = np.float32([120, 100, 190, 200])
    left, top, right, _ = reenactment.figure_square(box).round().astype(int)
    picture = np.full((360, 360, 3), 128, np.uint8)
    compose(picture, (int(left), int(top), int(right - left)), figure)
    (found,) = Finder().find(picture)
    assert abs((found[3] - found[1]) / 100 - 1) < 0.1  # the face's box has the box's size
    assert np.abs((found[:2] + found[2:4]) / 2 - (box[:2] + box[2:]) / 2).max() < 6
    assert np.abs(picture.reshape(-1, 3) - GROUND).sum(1).min() > 30  # nowhere green


def test_the_donor_of_a_run_is_drawn_as_before():
    numbers = torch.rand(1, 3, 55) * 0.3
    green = reenactment.redrawn(numbers, 64, 64)[0]
    assert green.shape == (3, 3, 64, 64)
    assert np.abs(green[0, :, 1, 1].numpy() * 255 - GROUND).max() < 8


def test_a_blurred_scene_continues_where_heads_were():
    picture = np.full((96, 128, 3), (200, 60, 20), np.uint8)
    picture[20:70, 40:90] = (0, 255, 0)
    cells = blurred(picture, [(38, 18, 54)])
    assert cells.shape == (12, 16, 3) and np.abs(cells.astype(int) - (200, 60, 20)).max() <= 12
    assert (blurred(picture, [(-50, -50, 300)]) == GREY).all()  # all of it is head


def test_a_scene_that_heads_fill_fades_instead_of_flickering():
    """A face that moves by a pixel shows a sliver of scene in one frame and none in the next."""
    picture = np.full((96, 96, 3), (40, 160, 60), np.uint8)
    seen = [blurred(picture, [(0, 0, side)])[0, 0].astype(int) for side in range(80, 97)]
    assert np.abs(seen[0] - (40, 160, 60)).max() <= 2 and (seen[-1] == GREY).all()
    assert max(np.abs(a - b).max() for a, b in zip(seen, seen[1:])) <= 20


@pytest.mark.parametrize("left", [-40, -39, -10, 0, 15, 23, 24, 60])
@pytest.mark.parametrize("top", [-40, -1, 0, 17, 18])
def test_squares_partly_or_wholly_outside_are_cut_and_pasted_in_their_place(left, top):
    picture = np.random.default_rng(0).integers(0, 256, (18, 24, 3), np.uint8)
    patch = torch.from_numpy(scene.cut(picture, left, top, 40))
    assert patch.shape == (40, 40, 3)
    pasted = picture.copy()
    scene.paste(pasted, (left, top, 40), patch)
    np.testing.assert_array_equal(pasted, picture)
    scene.paste(pasted, (left, top, 40), 255 - patch)
    inner = np.s_[max(0, top + 3) : max(0, top + 37), max(0, left + 3) : max(0, left + 37)]
    np.testing.assert_array_equal(pasted[inner], 255 - picture[inner])


def test_a_protector_of_figures_is_held_to_its_shape():
    with pytest.raises(PpferError, match="of figures"):
        clips = torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8)
        how = {"device": torch.device("cpu"), "batch": 1, "name": "it", "channels": 4}
        list(protect_all(lambda c: c, clips, **how))


# --- what is said, and remembered ---------------------------------------------------


def test_faces_are_looked_for_once_though_a_video_is_read_twice(
    tmp_path,
    people,  # noqa: F811
    monkeypatch,
):
    looks, find = [], OffTheScreen.find
    monkeypatch.setattr(OffTheScreen, "find", lambda *a: looks.append(1) or find(*a))
    source, once = write(tmp_path / "a.mp4", people[0] * 2), None
    for protector in (painted, Nobody(disc=True)):
        looks.clear()
        how = options(overwrite=True)
        (outcome,) = protect_files(protector, source, tmp_path / "out", how)
        assert outcome.state == "written" and len(outcome.tally.tracks) == 1
        once = once or len(looks)
        assert len(looks) == once
    assert protector.passes == [1, 1]


def test_a_json_says_frame_by_frame_where_faces_were(tmp_path, people):  # noqa: F811
    empty = [np.full((96, 96, 3), (40, 140, 70), np.uint8)] * 20
    source = write(tmp_path / "secret.mp4", people[0][:12] + empty)
    (outcome,) = protect_files(painted, source, tmp_path / "out", options(report=True))
    text = (tmp_path / "out" / "secret.mp4.json").read_text()
    said = json.loads(text)
    assert [frame["state"] for frame in said["frames"]].count("missed") == outcome.tally.faceless
    first = said["frames"][0]["faces"][0]
    assert first["track"] == 1 and first["score"] == pytest.approx(0.9) and first["sure"]
    assert len(said["frames"]) == 32 and "secret" not in text and len(text.splitlines()) < 45


def test_a_log_gives_back_what_it_was_given():
    log, box = FaceLog(), np.array([1.25, 2, 3, 4])
    given = [[Head(1, box, True, 0.75)], [], [Head(1, box, True), Head(2, box + 1, False, 0.5)]]
    for time, heads in enumerate(given):
        log.add(time, heads)
    back = list(log)
    assert [[h.track for h in heads] for heads in back] == [[1], [], [1, 2]]
    assert (back[2][1].box == box + 1).all() and back[0][0].score == 0.75 and back[0][0].sure


def test_a_preview_shows_the_original_where_no_face_was_found(tmp_path, people):  # noqa: F811
    empty = [np.full((96, 96, 3), (40, 140, 70), np.uint8)] * 20
    source = write(tmp_path / "a.mp4", people[0][:12] + empty)
    (outcome,) = protect_files(painted, source, tmp_path / "out", options(preview=True))
    last = read(outcome.result)[-1][0]
    assert last[:, :96].mean() > 60 and last[:, 100:].max() < 20


# --- what is given ------------------------------------------------------------------


def test_several_files_globs_and_photos(tmp_path, people):  # noqa: F811
    here, out = tmp_path / "in", tmp_path / "out"
    a, b = write(here / "a.mp4", people[0]), write(here / "b.mov", people[1])
    for name in ("c.png", "d.JPG"):
        Image.fromarray(people[0][0]).save(here / name)
    given = [a, here / "*.mov", here / "c.png", here / "d.JPG", a]
    outcomes = protect_files(painted, given, out, options())
    assert [o.state for o in outcomes] == ["written"] * 4
    assert {p.name for p in out.iterdir()} == {"a.mp4", "b.mp4", "c.png", "d.JPG"}
    for name in ("c.png", "d.JPG"):
        assert photo_comment(out / name).startswith(plan.MARK)
        with Image.open(out / name) as picture:
            assert picture.size == (96, 96) and np.asarray(picture)[50, 48, 0] > 200
            assert not picture.getexif()
    again = protect_files(painted, here, out, options())
    assert {o.state for o in again} == {"finished"} and b.exists()
    outcomes = protect_files(painted, [a, here / "none.mp4"], tmp_path / "more", options())
    assert sorted(o.state for o in outcomes) == ["failed", "written"]


def test_a_photo_lies_as_it_is_shown(tmp_path, people):  # noqa: F811
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "at home"
    turned = np.rot90(people[0][0])  # as a camera stores it that was held upright
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    (outcome,) = protect_files(painted, tmp_path / "a.jpg", tmp_path / "out", options())
    with Image.open(outcome.result) as picture:
        assert np.asarray(picture)[50, 48, 0] > 200 and not picture.getexif()
    assert b"at home" not in outcome.result.read_bytes()


@pytest.mark.parametrize("approach", ["blur", "mosaic", "solid"])
def test_covers_need_no_run(approach, tmp_path, capsys):
    shutil.copy(CLIPS[0], tmp_path / "a.mp4")
    words = ["protect", str(tmp_path / "a.mp4"), "--out", str(tmp_path / "out")]
    words += ["--approach", approach, "--runs-dir", str(tmp_path / "runs")]
    assert main(words) == 0 and not (tmp_path / "runs").exists()
    said = capsys.readouterr().out
    assert "1 of 1 done" in said and "figures/README.md" in said
    assert main(words) == 0 and "figures/README.md" not in capsys.readouterr().out  # made earlier
    assert (tmp_path / "out" / "a.mp4.json").exists()


def test_a_mask_grows_and_a_threshold_refuses(tmp_path, people):  # noqa: F811
    source, red = write(tmp_path / "a.mp4", people[0]), []
    for scale in (1.0, 1.5):
        how = options(mask_scale=scale, overwrite=True, outside="black")
        (outcome,) = protect_files(painted, source, tmp_path / "out", how)
        red.append((read(outcome.result)[0][0][..., 0] > 200).mean())
    assert red[1] > 1.2 * red[0]
    (outcome,) = protect_files(painted, source, tmp_path / "no", options(threshold=0.95))
    assert outcome.state == "failed" and "no face was found" in str(outcome)
    for bad in ({"mask_scale": 0.1}, {"threshold": 1.0}):
        with pytest.raises(PpferError):
            options(**bad)
