"""Videos are protected as files: every frame, all of a head, and no file lost or overwritten."""

import itertools
import os
import threading
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from making_videos import encode

from ppfer import video
from ppfer.base.errors import PpferError
from ppfer.base.files import write_json
from ppfer.config import REPO
from ppfer.protect import VideoProtector
from ppfer.run.clips import by_clip
from ppfer.video import heads, plan, scene
from ppfer.video import protect_files as deploying
from ppfer.video.file import frame_rate
from ppfer.video.heads import ProtectOptions
from ppfer.video.protect_files import protect_files
from ppfer.video.writer import Writer

CPU = torch.device("cpu")
CLIPS = sorted((REPO / "data" / "twin" / "VideoMP4").glob("*.mp4"))[::7]
GREEN = (40, 140, 70)  # the twin's screen, about


def painted(clips):
    """A protector that leaves nothing: all red."""
    return torch.zeros_like(clips) + torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)


class OffTheScreen:
    """Finds the twin's heads: they are what is not green."""

    def __init__(self, side=480, threshold=0.25):
        self.side = side

    def find(self, picture):
        columns = on_screen(picture).sum(0) > 3
        edges = np.flatnonzero(np.diff(np.pad(columns.astype(int), 1)))
        found = [self.face(picture, *run) for run in edges.reshape(-1, 2)]
        return np.array(found, np.float32).reshape(-1, 5)

    def face(self, picture, left, right):
        rows = np.flatnonzero(on_screen(picture[:, left:right]).any(1))
        middle, size = (left + right) / 2, 0.55 * (right - left)
        top = rows[0] + 0.4 * size
        return [middle - size / 2, top, middle + size / 2, top + 1.3 * size, 0.9]


def on_screen(picture):
    """Where there is somebody: (H, W) bool."""
    red, green, blue = picture.astype(int).transpose(2, 0, 1)
    return green - np.maximum(red, blue) < 15


@pytest.fixture(autouse=True)
def finder(monkeypatch):
    monkeypatch.setattr(deploying, "Finder", OffTheScreen)


@pytest.fixture(scope="module")
def people():
    """Two speakers: a list of two lists of pictures (96, 96, 3)."""
    return [[frame.pixels for frame in video.Frames(clip)] for clip in CLIPS[:2]]


def write(path, pictures, times=None, rate=12, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pictures[0].shape[:2]
    with Writer(path, width, height, rate=rate, crf=8, **settings) as writer:
        for picture, time in zip(pictures, times or [None] * len(pictures), strict=True):
            writer.write(picture, time)
    return path


def read(path):
    with video.Frames(path) as every:
        return [(frame.pixels, frame.time) for frame in every]


def options(**settings):
    return ProtectOptions(**{"size": 32, "device": CPU, **settings})


def states(outcomes):
    return {outcome.source.name: outcome.state for outcome in outcomes}


def empty(count):
    return [np.full((96, 96, 3), GREEN, np.uint8)] * count


# --- what becomes of the frames -------------------------------------------------------------------


@pytest.mark.parametrize("outside", ["blur", "black", "keep"])
def test_heads_are_protected_and_pasted_back_at_full_size(tmp_path, people, outside):
    source = write(tmp_path / "a.mp4", people[0])
    (outcome,) = protect_files(painted, source, tmp_path / "out", options(outside=outside))
    assert outcome.state == "written" and outcome.ok
    assert outcome.result == tmp_path / "out" / "a.mp4"
    assert outcome.tally.frames == len(people[0])
    assert f"{len(people[0])} frames of 96×96" in str(outcome)
    assert len(outcome.tally.tracks) == 1 and not outcome.tally.faceless
    for (made, _), original in zip(read(outcome.result), people[0], strict=True):
        chin = int(OffTheScreen().find(original)[0, 3])
        head = on_screen(original)
        head[chin:] = False
        assert made[head][:, 0].mean() > 200 and made[head][:, 1:].max() < 90  # all is painted
        corner = made[:6, :6].astype(int)
        wanted = np.zeros(3) if outside == "black" else original[:6, :6].mean((0, 1))
        assert np.abs(corner.mean((0, 1)) - wanted).max() < 12


def test_background_is_blurred_beyond_recognition(tmp_path, people):
    texture = np.random.default_rng(0).integers(0, 2, (96, 60, 1), np.uint8) * 60
    wall = (GREEN - texture.astype(int) // 2).astype(np.uint8)  # (96, 60, 3)
    pictures = [np.concatenate([picture, wall], 1) for picture in people[0]]
    source = write(tmp_path / "a.mp4", pictures)
    (outcome,) = protect_files(painted, source, tmp_path / "out", options())
    for made, _ in read(outcome.result):
        assert made[:, 120:].std((0, 1)).max() < 8 < pictures[0][:, 120:].std((0, 1)).min()


def test_every_person_is_protected(tmp_path, people):
    pictures = [np.concatenate(pair, 1) for pair in zip(*people, strict=True)]
    source, shapes = write(tmp_path / "a.mp4", pictures), []

    def protector(clips):
        shapes.append(tuple(clips.shape))
        return painted(clips)

    (outcome,) = protect_files(protector, source, tmp_path / "out", options(outside="keep"))
    assert len(outcome.tally.tracks) == 2 and set(shapes) == {(2, 16, 3, 32, 32)}
    for made, _ in read(outcome.result):
        assert (made[50, [48, 144], 0] > 200).all() and (made[50, [48, 144], 1] < 60).all()


def test_a_protector_is_told_which_face_of_which_video_it_sees(tmp_path, people):
    pictures = [np.concatenate(pair, 1) for pair in zip(*people, strict=True)]
    for name in ("a.mp4", "b.mp4"):
        write(tmp_path / "in" / name, pictures if name == "a.mp4" else pictures[::-1])
    told = []

    def protector(clips, names):
        told.append(tuple(names))
        return clips

    made = protect_files(protector, tmp_path / "in", tmp_path / "out", options(), named=True)
    assert [outcome.state for outcome in made] == ["written"] * 2
    videos = [{name.split()[0] for name in names} for names in told]
    assert len(videos[0] | videos[-1]) == 2 and all(len(video) == 1 for video in videos)
    assert {len(set(names)) for names in told} == {2}


def test_a_protector_of_a_runs_clips_leaves_videos_of_others_with_a_sentence(tmp_path, people):
    known = by_clip(SimpleNamespace(table={"clip": ["1001_DFA_HAP_XX"]}), [0.5])
    source = write(tmp_path / "a.mp4", people[0])

    def protector(clips, names):
        return torch.stack([clip * known[name] for clip, name in zip(clips, names, strict=True)])

    (outcome,) = protect_files(protector, source, tmp_path / "out", options(), named=True)
    assert outcome.state == "failed" and "the clips of its run alone" in str(outcome)


def test_a_first_pass_has_seen_all_of_a_video_before_the_first_frame_is_made(tmp_path, people):
    class Counting:
        """Shows how many parts a video has, in tenths of white."""

        def for_video(self, rate):
            seen = []

            def count(clips, names):
                seen.append(names)
                return clips

            def shown(clips, names):
                return torch.full_like(clips, len(seen) / 10)

            return VideoProtector(shown, first_pass=count)

    source = write(tmp_path / "a.mp4", people[0] * 3, rate=24)
    how = options(frame="whole", exact=True)
    (outcome,) = protect_files(Counting(), source, tmp_path / "out", how)
    levels = [made.mean() / 25.5 for made, _ in read(outcome.result)]
    assert len(levels) == 48 and levels == pytest.approx([3] * 48, abs=0.2)


def test_frames_without_a_face_are_black_and_counted(tmp_path, people):
    pictures = people[0][:12] + empty(20) + people[0][:12]
    source = write(tmp_path / "a.mp4", pictures)
    (outcome,) = protect_files(painted, source, tmp_path / "out", options(outside="keep"))
    black = [made.max() < 20 for made, _ in read(outcome.result)]
    assert len(black) == 44 and black[14:30] == [True] * 16 and not any(black[:12] + black[32:])
    assert outcome.tally.faceless == sum(black)
    assert f"no face found in {sum(black)} frames" in str(outcome) and outcome.ok


def test_a_head_alone_says_nothing_of_where_it_was_or_of_the_scene(tmp_path, people):
    """A figure that is the same wherever its face was: then so is the picture."""

    def drawn(clips, names):
        return torch.full((*clips.shape[:2], 4, *clips.shape[3:]), 0.5)

    def at_rate(rate):
        return VideoProtector(drawn, figure_square=lambda box: box)

    protector = SimpleNamespace(for_video=at_rate)
    walked = [
        np.roll(np.pad(picture, ((0, 0), (0, 40 + 2 * i), (0, 0)), mode="edge"), i, 1)[:, :136]
        for i, picture in enumerate(people[0])
    ]
    source = write(tmp_path / "a.mp4", [*walked, *[walked[0] * 0 + np.uint8(GREEN)] * 20])
    (outcome,) = protect_files(protector, source, tmp_path / "out", options(frame="alone"))
    pictures = np.stack([made for made, _ in read(outcome.result)]).astype(int)
    shown = len(pictures) - outcome.tally.faceless
    wanted = 128 + scene.GREY * (1 - 128 / 255)
    assert pictures.shape[1:] == (32, 32, 3) and shown >= len(walked)
    assert np.abs(pictures[:shown] - wanted).max() < 8 and pictures[shown:].max() < 20
    boxes = np.array([head.box for heads in outcome.tally for head in heads])
    assert np.ptp(boxes[:, 0]) > 10


def test_of_two_heads_one_at_a_time_is_shown_alone(tmp_path, people):
    both = [np.concatenate(pair, 1) for pair in zip(*people, strict=False)]
    source = write(tmp_path / "a.mp4", both)
    how = options(frame="alone", preview=True, exact=True)
    (outcome,) = protect_files(painted, source, tmp_path / "out", how)
    assert "2 faces followed, one at a time shown" in str(outcome)
    made = np.stack([made for made, _ in read(outcome.result)])
    assert made.shape == (len(both), 32, 64, 3)
    assert made[:, :, 36:, 0].min() > 200 > 60 > made[:, :, 36:, 1:].max()
    assert on_screen(made[0, :, :32]).mean() > 0.5  # beside it the head, not the picture


def test_a_video_without_any_face_is_not_written(tmp_path, people):
    write(tmp_path / "in" / "a.mp4", empty(8))
    write(tmp_path / "in" / "b.mp4", people[0])
    outcomes = protect_files(painted, tmp_path / "in", tmp_path / "out", options())
    assert states(outcomes) == {"a.mp4": "failed", "b.mp4": "written"}
    assert "--frame whole" in str(outcomes[0]) and not outcomes[0].ok
    assert [p.name for p in (tmp_path / "out").glob("*.mp4")] == ["b.mp4"]


def test_whole_pictures_become_the_protected_centre_square(tmp_path, people):
    wide = [np.pad(p, ((0, 0), (20, 20), (0, 0))) for p in people[0]]
    source = write(tmp_path / "a.mp4", wide)
    how = options(frame="whole", exact=True)
    (outcome,) = protect_files(lambda clips: 1 - clips, source, tmp_path / "out", how)
    for (made, _), original in zip(read(outcome.result), people[0], strict=True):
        wanted = 255 - scene.resized(original, 32, 32).numpy().astype(int)
        assert made.shape == (32, 32, 3) and np.abs(made - wanted).mean() < 4


@pytest.mark.parametrize("frame", ["face", "alone", "whole"])
def test_clips_are_whole_and_their_padding_is_cut_off(tmp_path, people, frame):
    source, seen = write(tmp_path / "a.mp4", people[0] + people[0][:5]), []

    def protector(clips):
        seen.append(clips.clone())
        return clips

    (outcome,) = protect_files(protector, source, tmp_path / "out", options(frame=frame))
    assert [tuple(clips.shape) for clips in seen] == [(1, 16, 3, 32, 32)] * 2
    assert all(torch.equal(frame, seen[1][0, 4]) for frame in seen[1][0, 5:])
    assert len(read(outcome.result)) == outcome.tally.frames == 21


@pytest.mark.parametrize("frame", ["face", "alone", "whole"])
def test_variable_frame_rates_stay_variable(tmp_path, people, frame):
    stamps = (0, 33, 100, 133, 400, 1400, 1433, 1466, 1500, 1700, 1800, 2500)
    times = [Fraction(stamp, 1000) for stamp in stamps]
    source = write(tmp_path / "a.mp4", people[0][:12], times, rate=30)
    (outcome,) = protect_files(painted, source, tmp_path / "out", options(frame=frame))
    kept = [float(time) * 1000 for _, time in read(outcome.result)]
    np.testing.assert_allclose(kept, stamps, atol=1)


def test_a_part_is_protected_from_start_to_end(tmp_path, people):
    source = write(tmp_path / "a.mp4", people[0])
    how = options(frame="whole", size=96, start=0.5, end=1)
    (outcome,) = protect_files(lambda clips: clips, source, tmp_path / "out", how)
    made = read(outcome.result)
    assert [float(time * 12) for _, time in made] == pytest.approx(range(6), abs=0.01)
    assert np.abs(made[0][0] - people[0][6].astype(int)).mean() < 6
    assert "96×96, 0.5 s" in str(outcome)


@pytest.mark.parametrize("frame", ["face", "whole"])
def test_preview_shows_both_and_has_a_name_of_its_own(tmp_path, people, frame):
    source = write(tmp_path / "a.mp4", people[0])
    how = options(frame=frame, preview=True)
    (outcome,) = protect_files(painted, source, tmp_path / "out", how)
    made, side = read(outcome.result)[3][0], 96 if frame == "face" else 32
    assert outcome.result.name == "a.preview.mp4" and made.shape == (side, 2 * side, 3)
    original = scene.resized(people[0][3], side, side).numpy().astype(int)
    assert np.abs(made[:, :side] - original).mean() < 8
    assert made[side // 2, side + side // 2, 0] > 200 and "not to be passed on" in str(outcome)


def test_memory_does_not_grow_with_the_length(tmp_path, people, monkeypatch):
    source, read_so_far, most = write(tmp_path / "a.mp4", people[0] * 25), [0], [0]
    convert = heads.Picture

    def counted(*parts):
        read_so_far[0] += 1
        return convert(*parts)

    monkeypatch.setattr(heads, "Picture", counted)

    class Slow(Writer):
        written = 0

        def write(self, *frame):
            super().write(*frame)
            Slow.written += 1
            most[0] = max(most[0], read_so_far[0] // 3 - Slow.written)  # each is made three times

    monkeypatch.setattr(deploying, "Writer", Slow)
    (outcome,) = protect_files(painted, source, tmp_path / "out", options())
    assert outcome.tally.frames == 400 and most[0] < 60


# --- sound and what else a file carries -----------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
def test_sound_is_left_out_unless_asked_for_and_both_are_said(tmp_path, people, keep):
    about = {"title": "Holiday", "location": "+48.1+11.5/"}
    how = {"size": (96, 96), "rate": 12, "draw": lambda k, size: people[0][k], "sound": "aac"}
    source = encode(tmp_path / "a.mp4", count=len(people[0]), about=about, **how)
    (outcome,) = protect_files(painted, source, tmp_path / "out", options(keep_audio=keep))
    with av.open(str(outcome.result)) as made:
        assert len(made.streams.audio) == keep
        kept = {"major_brand", "minor_version", "compatible_brands", "comment"}
        assert set(made.metadata) <= kept and made.metadata["comment"].startswith(plan.MARK)
    assert ("kept" if keep else "left out") in str(outcome)
    assert "voice names its speaker" in str(outcome)


# --- files ----------------------------------------------------------------------------------------


def test_names_that_would_collide_do_not(tmp_path, people):
    for name in ("a.mp4", "a.mov", "A.mp4", "a.mov.mp4", "sub/a.mp4"):
        write(tmp_path / "in" / name, people[0][:2])
    outcomes = protect_files(painted, tmp_path / "in", tmp_path / "out", options(frame="whole"))
    results = [str(outcome.result.relative_to(tmp_path / "out")) for outcome in outcomes]
    assert all(outcome.state == "written" for outcome in outcomes)
    assert len({name.casefold() for name in results}) == 5 and "sub/a.mp4" in results


WAYS = ("the same folder", "the file's folder", "a link to the folder", "a hard link")


@pytest.mark.parametrize("way", WAYS)
def test_originals_are_never_written_over(tmp_path, people, way):
    source = write(tmp_path / "in" / "a.mp4", people[0])
    before, out, what = source.read_bytes(), tmp_path / "in", tmp_path / "in"
    if way == "the file's folder":
        what = source
    elif way == "a link to the folder":
        out = tmp_path / "link"
        out.symlink_to(tmp_path / "in")
    elif way == "a hard link":
        out = tmp_path / "out"
        out.mkdir()
        os.link(source, out / "a.mp4")
    (outcome,) = protect_files(painted, what, out, options(overwrite=True))
    assert outcome.state == "left out" and not outcome.ok and "written over" in str(outcome)
    assert source.read_bytes() == before


def test_results_are_kept_resumed_and_replaced_on_request_only(tmp_path, people):
    calls = itertools.count()

    def protector(clips):
        next(calls)
        return painted(clips)

    for name in ("a.mp4", "b.mp4"):
        write(tmp_path / "in" / name, people[0])
    result = tmp_path / "out" / "a.mp4"

    def again(**how):
        made = protect_files(protector, tmp_path / "in", tmp_path / "out", options(**how))
        assert [outcome.source.name for outcome in made] == ["a.mp4", "b.mp4"]
        return [outcome.state for outcome in made]

    assert again() == ["written", "written"]
    assert again() == ["finished", "finished"] and next(calls) == 2
    result.unlink()
    assert again() == ["written", "finished"] and next(calls) == 4
    kept = result.read_bytes()
    assert again(outside="black") == again(protector="another") == ["exists", "exists"]
    write(tmp_path / "in" / "a.mp4", people[1])  # another video of the same name
    assert again() == ["exists", "finished"] and result.read_bytes() == kept
    assert again(overwrite=True) == ["written", "written"] and result.read_bytes() != kept
    write(result, people[0])  # by somebody else
    assert again() == ["exists", "finished"]


def test_whoever_holds_an_original_and_not_the_key_cannot_tell_what_was_made_of_it(
    tmp_path, people, monkeypatch
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    source, marks, names = write(tmp_path / "a.mp4", people[0][:2]), [], []
    for given in ("", "a secret", None):  # None: one that is made, and kept for later calls
        monkeypatch.delenv("PPFER_KEY") if given is None else monkeypatch.setenv("PPFER_KEY", given)
        for _ in range(2):
            plan.key.cache_clear()
            marks.append(plan.mark(source, options()))
            names.append(plan.fingerprint(source))
    plan.key.cache_clear()
    assert len(set(marks)) == len(set(names)) == 3 and marks[::2] == marks[1::2]
    kept = tmp_path / "home" / "ppfer" / "key"
    assert len(kept.read_bytes()) == 32 and kept.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("there", ["a file", "a folder"])
def test_what_lies_where_a_report_belongs_is_not_written_over(tmp_path, people, there):
    sources = [write(tmp_path / "in" / name, people[0][:2]) for name in ("a.mp4", "b.mp4")]
    log = tmp_path / "out" / "a.mp4.json"
    log.mkdir(parents=True) if there == "a folder" else write_json(log, {"title": "mine"})
    call = {"report": True, "frame": "alone"}
    outcomes = protect_files(painted, sources, tmp_path / "out", options(**call))
    assert [outcome.state for outcome in outcomes] == ["exists", "written"]
    assert str(log) in str(outcomes[0]) and not log.with_suffix("").exists()
    first, second = protect_files(
        painted, sources, tmp_path / "out", options(**call, overwrite=True)
    )
    if there == "a folder":
        assert first.state == "failed" and "could not be written" in str(first)
    else:
        assert first.state == "written" and "frames_without_face" in log.read_text()
    assert second.state == "written"


def test_what_is_no_video_is_passed_over_with_a_word(tmp_path, people):
    folder = tmp_path / "in"
    write(folder / "deep" / "er" / "a.mp4", people[0])
    (folder / "._a.mp4").write_bytes(b"\x00\x05\x16\x07\x00")
    write(folder / ".hidden.mp4", people[0][:2])
    write(folder / ".trash" / "b.mp4", people[0][:2])
    (folder / "notes.txt").write_text("hello")
    (folder / "link").symlink_to(tmp_path)
    first = protect_files(painted, folder, folder / "out", options())
    second = protect_files(painted, folder, folder / "out", options())
    passed = {".trash", "._a.mp4", ".hidden.mp4", "link", "in"}
    (others,) = [outcome for outcome in first if outcome.source == folder]
    assert "no videos by their names: 1, e.g. notes.txt" in str(others)
    assert states(first) == {"a.mp4": "written", **dict.fromkeys(passed, "passed over")}
    passed.add("out")
    assert states(second) == {"a.mp4": "finished", **dict.fromkeys(passed, "passed over")}
    assert (folder / "out" / "deep" / "er" / "a.mp4").exists()
    assert all(outcome.ok for outcome in second)


def test_whatever_might_be_a_picture_of_somebody_and_is_left_out_is_no_success(
    tmp_path, people, monkeypatch
):
    folder = tmp_path / "in"
    write(folder / "a.mp4", people[0][:2])
    write(folder / f"{'m' * 249}.mp4", people[0][:2])
    (folder / "b.HEIC").write_bytes(b"anything")
    os.mkfifo(folder / "p.mp4")
    walk = os.walk

    def closed(top, onerror, **how):
        onerror(PermissionError(13, "Permission denied", str(folder / "locked")))
        yield from walk(top, **how)

    monkeypatch.setattr(os, "walk", closed)
    outcomes = protect_files(painted, folder, tmp_path / "out", options(report=True, frame="alone"))
    found = {o.source.name: (o.state, str(o)) for o in outcomes}
    assert found["a.mp4"][0] == "written" and found["b.HEIC"][0] == "left out"
    assert "Permission denied" in found["locked"][1] and "regular file" in found["p.mp4"][1]
    assert "too long" in found[f"{'m' * 249}.mp4"][1]
    assert [o.source.name for o in outcomes if o.ok] == ["a.mp4"]
    log = tmp_path / "out" / "a.mp4.json"
    log.unlink()  # a result without its report is made again, and a report without its result goes
    assert again_at(tmp_path, "alone") == "written" and log.exists()
    assert again_at(tmp_path, "whole", overwrite=True) == "written" and not log.exists()


def again_at(tmp_path, frame, **how):
    given = options(report=True, frame=frame, **how)
    return protect_files(painted, tmp_path / "in" / "a.mp4", tmp_path / "out", given)[0].state


def test_a_pause_or_a_rate_that_nobody_knows_does_not_slow_anything_down(tmp_path, people):
    """At 24 pictures a second and then none for a minute, two a second on average."""
    times = [*range(48), 48 + 24 * 60]
    how = {"size": (96, 96), "count": 49, "times": times, "unit": Fraction(1, 24)}
    source = encode(tmp_path / "a.mkv", draw=lambda k, size: people[0][k % 12], **how)
    rates = []

    def made(rate):
        rates.append(rate)
        return VideoProtector(lambda clips, names: painted(clips), 4)

    (outcome,) = protect_files(
        SimpleNamespace(for_video=made), source, tmp_path / "out", options(frame="alone")
    )
    assert outcome.ok and rates == [pytest.approx(24, rel=0.05)]
    nothing = SimpleNamespace(average_rate=None, codec_context=SimpleNamespace(framerate=None))
    nothing.guessed_rate = Fraction(1000)
    assert frame_rate(nothing) == 25
    nothing.guessed_rate = Fraction(30)
    assert frame_rate(nothing) == 30


def test_what_a_killed_process_left_half_written_is_removed(tmp_path, people):
    write(tmp_path / "in" / "a.mp4", people[0])
    out, nobody = tmp_path / "out", 2**22  # more than any process's number
    out.mkdir()
    names = f".{nobody:x}-0.mp4", f".{os.getpid():x}-0.mp4", f".{nobody:x}-1.mp4", ".my-0.mp4"
    for name in names:
        (out / name).write_bytes(b"half")
        if name != names[2]:  # that one is being written, perhaps by another machine
            os.utime(out / name, (0, 0))
    protect_files(painted, tmp_path / "in", out, options())
    assert {path.name for path in out.iterdir()} == {"a.mp4", *names[1:]}


def test_one_damaged_video_costs_itself_only(tmp_path, people):
    write(tmp_path / "in" / "b.mp4", people[0])
    (tmp_path / "in" / "a.mp4").write_bytes(b"no video at all" * 100)
    (tmp_path / "in" / "c.mp4").touch()
    told = []
    outcomes = protect_files(
        painted, tmp_path / "in", tmp_path / "out", options(), on_outcome=told.append
    )
    assert states(outcomes) == {"a.mp4": "failed", "b.mp4": "written", "c.mp4": "failed"}
    assert all(outcome.source.name in str(outcome) for outcome in outcomes) and len(told) == 3


def test_names_that_are_not_utf8(tmp_path, people):
    source = write(tmp_path / "plain.mp4", people[0])
    name = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    os.rename(source, name)
    (outcome,) = protect_files(painted, tmp_path, tmp_path / "out", options())
    assert outcome.state == "written"
    assert os.path.exists(os.fsencode(tmp_path / "out") + b"/caf\xe9.mp4")
    str(outcome).encode()
    again = protect_files(painted, tmp_path, tmp_path / "out", options())
    assert sorted(outcome.state for outcome in again) == ["finished", "passed over"]


def test_a_broken_protector_is_said_and_leaves_nothing(tmp_path, people):
    source, threads = write(tmp_path / "a.mp4", people[0] * 5), threading.active_count()
    how = options()
    (outcome,) = protect_files(lambda clips: clips[..., :16], source, tmp_path / "out", how)
    assert outcome.state == "failed" and "the protector" in str(outcome)
    assert list((tmp_path / "out").iterdir()) == [] and threading.active_count() == threads


def test_mistakes_are_sentences(tmp_path, people):
    (tmp_path / "file").touch()
    write(tmp_path / "a.mp4", people[0][:2])
    for what, out in (("nothing", "out"), ("file", "out"), ("a.mp4", "file")):
        with pytest.raises(PpferError):
            protect_files(painted, tmp_path / what, tmp_path / out, options())
    (tmp_path / "empty").mkdir()
    with pytest.raises(PpferError, match="no video in"):
        protect_files(painted, tmp_path / "empty", tmp_path / "out", options())
    for bad in ({"frame": "half"}, {"outside": "see"}, {"start": 2, "end": 1}, {"quality": 60}):
        with pytest.raises(PpferError):
            options(**bad)
