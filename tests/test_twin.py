"""The twin: its clips' names, making them again, and that faces are whole, alive and different."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ppfer import twin, video
from ppfer.base.errors import PpferError
from ppfer.config import REPO
from ppfer.data import index, readers
from ppfer.data.words import DFEW_EMOTIONS
from ppfer.twin import files
from ppfer.twin.acting import APEX, FPS, main_specs, motion, wild_specs
from ppfer.twin.camera import record, shot
from ppfer.twin.head import load_head, pose_vertices, project
from ppfer.twin.people import appearance, look
from ppfer.twin.raster import rasterize

SHIPPED = Path(__file__).parent.parent / "data" / "twin"
ACTORS = [twin.Actor(1001 + i) for i in range(6)]


def spec(
    actor: twin.Actor, emotion: str, sentence: str = "IEO", level: str = "HI", frames: int = 3
) -> twin.ClipSpec:
    name = f"{actor.id}_{sentence}_{emotion}_{level}"
    return twin.ClipSpec(name, actor, sentence, emotion, level, frames, actor.seed)


def test_rasterizer_agrees_with_testing_every_pixel() -> None:
    rng = np.random.default_rng(0)
    xy, z = rng.uniform(-4, 36, (2, 60, 2)), rng.uniform(-1, 1, (2, 60, 1))
    points = torch.from_numpy(np.concatenate([xy, z], 2)).float()
    faces = torch.arange(60).view(20, 3)
    pixel, face, weights = rasterize(points, faces, 32)
    found = torch.full((2 * 32 * 32,), -1)
    found[pixel] = face
    y, x = np.mgrid[:32, :32] + 0.5
    for n in range(2):
        nearest, which = np.full((32, 32), -np.inf), np.full((32, 32), -1)
        for f, (a, b, c) in enumerate(points[n][faces].double().numpy()):
            area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
            if area >= 0:  # seen from behind: y points down
                continue
            wa = ((b[0] - x) * (c[1] - y) - (b[1] - y) * (c[0] - x)) / area
            wb = ((c[0] - x) * (a[1] - y) - (c[1] - y) * (a[0] - x)) / area
            depth = wa * a[2] + wb * b[2] + (1 - wa - wb) * c[2]
            here = (wa >= 0) & (wb >= 0) & (wa + wb <= 1) & (depth > nearest)
            nearest[here], which[here] = depth[here], f
        same = found.view(2, 32, 32)[n].numpy() == which
        assert same.mean() > 0.998  # ties on edges may fall either way
    assert weights.min() > -1e-3
    assert torch.allclose(weights.sum(1), torch.ones(len(weights)), atol=1e-3)


DRAWS = """
import hashlib
import ppfer, numpy as np
from ppfer import twin
from ppfer.twin.acting import main_specs, wild_specs
from ppfer.twin.camera import shot
from ppfer.twin.people import appearance

clips = [main_specs(2)[-1], *wild_specs(3)]
moves = [part for clip in clips for part in vars(twin.motion(clip)).values()]
drawn = [*appearance(clips[0].actor), twin.landmarks(clips[0]), *moves]
drawn += [shot(clip.name, 4, 0, 1.0) for clip in clips]
print(hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in drawn)).hexdigest())
"""


def test_people_and_acting_are_the_same_on_every_processor() -> None:
    """NumPy's exponentials, angles and products have other last digits on older ones."""
    simd = np.show_config("dicts")["SIMD Extensions"]["found"]
    older = {"NPY_DISABLE_CPU_FEATURES": " ".join(simd), "OPENBLAS_CORETYPE": "Nehalem"}
    said = [
        subprocess.run(
            [sys.executable, "-c", DRAWS], env=os.environ | env, capture_output=True, text=True
        )
        for env in ({}, older)
    ]
    assert len(said[0].stdout) == 65, said[0].stderr
    assert said[0].stdout == said[1].stdout


def test_ninety_one_actors_give_crema_ds_file_list() -> None:
    names = [s.name for s in main_specs(91)]
    assert len(names) == len(set(names)) == 91 * 82
    table = pd.DataFrame([readers.cremad_labels(name, {}) for name in names])
    assert len(table) == 91 * 82 and table.actor.nunique() == 91 and table.sentence.nunique() == 12
    assert (table.groupby("actor").size() == 82).all()
    assert dict(table.level.value_counts()) == {"XX": 91 * 67, "LO": 455, "MD": 455, "HI": 455}
    assert set(table.emotion) == {"angry", "disgust", "fear", "happy", "neutral", "sad"}


def test_a_clip_depends_on_its_name_and_seed_and_on_nothing_around_it() -> None:
    a, b = spec(ACTORS[0], "happy"), spec(ACTORS[1], "sad")
    both, alone = twin.render_clips([a, b], 48, "cpu"), twin.render_clips([b], 48, "cpu")
    assert both.shape == (2, 3, 3, 48, 48) and both.dtype == torch.uint8
    assert torch.equal(both[1], alone[0])
    with torch.inference_mode():  # as protectors are called
        assert torch.equal(twin.render_clips([b], 48, "cpu"), alone)
    other = twin.render_clips([spec(twin.Actor(ACTORS[1].id, seed=1), "sad")], 48, "cpu")
    assert (other.float() - alone.float()).abs().mean() > 2


def test_a_smaller_set_is_a_prefix_of_a_larger_one() -> None:
    assert wild_specs(200) == wild_specs(900)[:200] and main_specs(2) == main_specs(5)[: 2 * 82]


def test_generated_files_are_indexed_whole_resume_and_repeat(tmp_path: Path) -> None:
    twin.generate(tmp_path, actors=1, size=32, frames=2, wild=7, device="cpu")
    main, wild = index.index(tmp_path), index.index(tmp_path / "wild")
    assert (len(main.table), len(main.rejected)) == (82, 0)
    assert (len(wild.table), len(wild.rejected)) == (7, 0)
    assert wild.table.emotion.nunique() == 7
    clip = tmp_path / "VideoMP4" / "1001_DFA_ANG_XX.mp4"
    bytes_before, untouched = clip.read_bytes(), tmp_path / "VideoMP4" / "1001_DFA_HAP_XX.mp4"
    written = untouched.stat().st_mtime_ns
    clip.unlink()
    twin.generate(tmp_path, actors=1, size=32, frames=2, wild=7, device="cpu")
    assert clip.read_bytes() == bytes_before and untouched.stat().st_mtime_ns == written
    with pytest.raises(PpferError, match="made with"):
        twin.generate(tmp_path, actors=1, size=48, frames=2, wild=7, device="cpu")
    with pytest.raises(PpferError, match="actors"):
        twin.generate(tmp_path / "none", actors=0)


def test_drawn_clips_carry_the_index_columns() -> None:
    specs = wild_specs(7, frames=2)
    table = files.table(specs)
    columns = "clip path actor emotion sentence level sex age race"
    assert list(table.columns) == columns.split()
    assert list(table.emotion) == list(DFEW_EMOTIONS)
    assert list(table["clip"]) == [s.name for s in specs]
    assert not set(table.actor) & {str(s.actor.id) for s in main_specs(91)}


def test_no_hole_in_any_face() -> None:
    """Every point between the landmarks is covered, whatever the hair, pose and expression."""
    rng = np.random.default_rng(0)
    for i in range(0, 24, 2):
        clip = spec(twin.Actor(1001 + i), DFEW_EMOTIONS[i % 7], frames=2)
        coverage = twin.render_clips([clip], 64, "cpu", coverage=True)[0, :, 3]
        for t, points in enumerate(twin.landmarks(clip)):
            # convex combinations, many near the rim
            inside = rng.dirichlet([0.3] * 68, 400) @ points
            inside = points.mean(0) + 0.92 * (inside - points.mean(0))
            column, row = (inside.T * 64).astype(int).clip(0, 63)
            assert (coverage[t].numpy()[row, column] == 255).all(), clip.name


def test_short_haired_heads_have_no_interior_hole() -> None:
    close = ("bald", "buzz", "short", "tied")
    for actor in (a for a in map(twin.Actor, range(1001, 1025)) if look(a).style in close):
        clip = spec(actor, "neutral", frames=2)
        empty = twin.render_clips([clip], 64, "cpu", coverage=True)[None, 0, 1:2, 3] == 0
        outside = torch.nn.functional.pad(empty.float(), (1, 1, 1, 0), value=1.0)
        reached = torch.zeros_like(outside)
        reached[..., 0, :] = 1
        for _ in range(200):  # flood from the top edge
            reached = torch.nn.functional.max_pool2d(reached, 3, 1, 1) * outside
        assert torch.equal(reached, outside), actor


def test_expressions_move_the_landmarks_they_should() -> None:
    def mean(emotion: str) -> np.ndarray:  # actions at the apex only: no pose, speech or chance
        model = load_head(torch.device("cpu"))
        actions = torch.zeros(1, len(model.action))
        for name, amount in APEX[emotion].items():
            for side in ("", "Left", "Right"):
                if name + side in model.action:
                    actions[0, model.action[name + side]] = amount
        still = torch.tensor([[0.0, 0, 0, 0, 0, 1]])
        faces = torch.from_numpy(np.stack([appearance(actor)[0] for actor in ACTORS]))
        posed = pose_vertices(model, faces, actions, still)[:, model.landmarks.vertices]
        return project(posed, still, 96).mean(0).numpy()

    neutral, shapes = mean("neutral"), {emotion: mean(emotion) for emotion in APEX}
    # pixels at 96, down is positive
    moved = {emotion: (shape - neutral)[:, 1] for emotion, shape in shapes.items()}
    corners, inner_brow, upper_lids = [48, 54], [21, 22], [37, 38, 43, 44]
    assert moved["happy"][corners].mean() < -1 and moved["sad"][corners].mean() > 0.5
    assert moved["angry"][inner_brow].mean() > 0.5 and moved["sad"][inner_brow].mean() < -0.5
    assert moved["fear"][upper_lids].mean() < -0.3 and moved["disgust"][31:36].mean() < -0.3
    assert moved["surprise"][57] > 2  # the lower lip falls
    for emotion, shape in shapes.items():
        if emotion != "neutral":
            assert np.abs(shape - neutral).max() > 1.5, emotion


def test_speech_moves_the_mouth_even_without_an_expression() -> None:
    for sentence in ("DFA", "IWW", "TSI"):
        points = twin.landmarks(spec(ACTORS[2], "neutral", sentence, "XX", 16))
        lips, eyes = points[:, 66] - points[:, 62], points[:, 36] - points[:, 45]
        gap = np.linalg.norm(lips, axis=1) / np.linalg.norm(eyes, axis=1)
        assert gap.max() - gap.min() > 0.03


def test_actors_look_more_like_themselves_than_like_each_other() -> None:
    acts = ("happy", "DFA"), ("sad", "IWW"), ("neutral", "TSI")
    specs = [spec(actor, *act, "XX", 2) for actor in ACTORS for act in acts]
    frames = twin.render_clips(specs, 48, "cpu")[:, 1].float().flatten(1)
    distance = torch.cdist(frames, frames).fill_diagonal_(torch.inf)
    nearest = distance.argmin(1) // 3
    assert (nearest == torch.arange(len(specs)) // 3).float().mean() >= 0.8


def test_demographics_have_crema_ds_columns_and_mix() -> None:
    people = [twin.Actor(1001 + i).demographics for i in range(91)]
    assert list(people[0]) == ["ActorID", "Age", "Sex", "Race", "Ethnicity"]
    assert {p["Sex"] for p in people} == {"Male", "Female"}
    assert all(20 <= p["Age"] <= 74 for p in people)
    assert {p["Race"] for p in people[:12]} == {"Caucasian", "African American", "Asian"}


def test_a_donor_outside_the_data_set_can_be_drawn() -> None:
    donor = spec(twin.Actor(1999), "neutral", frames=2)
    assert twin.render_clips([donor], 48, "cpu").float().std() > 10
    assert twin.landmarks(donor).shape == (2, 68, 2)


def test_the_shipped_clips_are_complete_small_and_what_the_code_draws() -> None:
    main, wild = index.index(SHIPPED), index.index(SHIPPED / "wild")
    assert (len(main.table), len(main.rejected)) == (12 * 82, 0)
    assert (len(wild.table), len(wild.rejected)) == (1400, 0)
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 20_000_000
    made = json.loads((SHIPPED / "twin.json").read_text())
    specs = main_specs(difficulty=made["difficulty"])
    clip = next(s for s in specs if s.name == "1004_IEO_HAP_HI")
    decoded, rate = video.read_video(SHIPPED / "VideoMP4" / f"{clip.name}.mp4")
    assert decoded.shape == (16, 3, 96, 96) and rate == FPS
    error = (decoded.float() - twin.render_clips([clip], 96, "cpu")[0].float()) / 255
    assert -10 * torch.log10(error.square().mean()) > 28  # dB: compression, nothing else


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_draws_what_the_cpu_draws() -> None:
    clips = [spec(actor, "fear") for actor in ACTORS[:3]]
    gpu, cpu = (twin.render_clips(clips, 64, device).cpu().float() for device in ("cuda", "cpu"))
    assert (gpu - cpu).abs().mean() < 0.5


def test_difficulty_makes_expressions_weaker_and_pictures_worse_and_0_leaves_both_alone() -> None:
    clip = spec(ACTORS[0], "sad")
    still, clean, hard = (
        motion(replace(clip, emotion=emotion, difficulty=difficulty)).actions
        for emotion, difficulty in (("neutral", 0), ("sad", 0), ("sad", 1.5))
    )
    assert np.array_equal(clean, motion(replace(clip, difficulty=0)).actions)
    brow = load_head(torch.device("cpu")).action["mouthFrownLeft"]
    assert still[:, brow].mean() < clean[:, brow].mean() and not np.allclose(clean, hard)
    pixels, frames = torch.rand(2, 3, 3, 20, 20), 3  # 20: not a whole number of blocks
    shots = ([shot(f"clip {i}", frames, 0, d) for i in range(2)] for d in (0, 2))
    easy, worse = (torch.as_tensor(np.stack(both), dtype=torch.float32) for both in shots)
    assert torch.allclose(record(pixels, easy), pixels, atol=2e-4)
    seen = record(pixels, worse)
    assert seen.shape == pixels.shape and 0.02 < (seen - pixels).abs().mean() < 0.5
    assert 0 <= seen.min() and seen.max() <= 1


def test_a_clip_keeps_its_motion_on_a_strangers_face() -> None:
    clip, face = spec(ACTORS[0], "happy"), ACTORS[1]
    lent = replace(clip, face=face)
    assert np.array_equal(motion(clip).actions, motion(lent).actions)
    own, other = (twin.render_clips([s], 48, "cpu").float() for s in (clip, lent))
    assert (own - other).abs().mean() > 2
    assert (twin.landmarks(clip) != twin.landmarks(lent)).any()


def test_a_difficulty_beyond_what_is_calibrated_is_refused() -> None:
    with pytest.raises(PpferError, match="between 0 and 2, not at -1"):
        main_specs(1, difficulty=-1)


def test_calibration_counts_every_clip_by_expression_and_by_level(tiny_run) -> None:
    path = REPO / "data" / "calibrate.py"
    module = module_from_spec(spec_from_file_location("calibrate", path))
    module.__spec__.loader.exec_module(module)
    found, clips = module.accuracies(tiny_run), len(tiny_run.parts["test"])
    assert found["all"].n == found["XX"].n == clips
    assert sum(found[name].k for name in tiny_run.classes("emotion")) == found["all"].k
