"""Clips drawn: into memory, or as files in CREMA-D's and DFEW's layout."""

import functools
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ppfer.base.device import single_thread_pool
from ppfer.base.errors import PpferError
from ppfer.base.files import atomic
from ppfer.data.words import DFEW_EMOTIONS
from ppfer.twin import acting
from ppfer.twin.acting import FIRST_ACTOR, FPS, WILD_ACTOR, ClipSpec
from ppfer.twin.camera import record, shot
from ppfer.twin.head import draw, load_head, pose_vertices, project
from ppfer.twin.people import Actor, appearance
from ppfer.twin.raster import settled
from ppfer.video.writer import write_video

CRF = 28  # x264's quality: about 4 KB a clip at 96 pixels
BATCH = 8  # clips a thread of `generate` draws and writes at a time


def render_clips(
    specs: list[ClipSpec],
    size: int = 96,
    device: torch.device | str | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    coverage: bool = False,
    times: Sequence[int] | None = None,
) -> Tensor:
    """Draw N clips of equal length, T frames.

    Args:
        device: None: a GPU if there is one.
        progress: called with the number of clips drawn so far.
        times: which of the T frames to draw, in order; None: all. A shutter that stays open mixes
            in the frame drawn before.

    Returns:
        (N, T, 3, size, size) uint8 sRGB on `device`; with `coverage` the head's, 0 to 255, is a
        fourth channel.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    times = list(range(specs[0].frames) if times is None else times)
    model, frames = load_head(device), len(times)
    put = functools.partial(torch.as_tensor, device=device)
    shown_as = [spec.face or spec.actor for spec in specs]
    actors = list(dict.fromkeys(shown_as))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # NumPy lets go of Python's lock
        parts = zip(*pool.map(appearance, actors), strict=True)
    neutral, shown, textures = (put(np.stack(part)) for part in parts)
    places = {actor: i for i, actor in enumerate(actors)}

    out = torch.empty(len(specs), frames, 4, size, size, dtype=torch.uint8, device=device)
    gpu, inference = device.type != "cpu", torch.is_inference_mode_enabled()
    at_once = max(1, 512 // frames) if gpu else 1

    @torch.inference_mode(inference)  # a thread does not take its maker's mode
    def filmed(first: int) -> int:
        batch = specs[first : first + at_once]
        moves = [acting.motion(spec) for spec in batch]
        played = (
            np.concatenate([move.actions[times] for move in moves]),  # (n·T, 52)
            np.concatenate([move.pose[times] for move in moves]),  # (n·T, 6)
            np.stack([move.lamp for move in moves]),  # (n, 9)
            np.stack([acting.background(spec, size) for spec in batch]),  # (n, 3, size, size)
            np.stack([shot(s.name, s.frames, s.seed, s.difficulty)[times] for s in batch]),
        )
        actions, pose, lamp, behind, shots = (put(part, dtype=torch.float32) for part in played)
        here = shown_as[first : first + len(batch)]
        which = put([places[face] for face in here]).repeat_interleave(frames)
        lamp, behind = (part.repeat_interleave(frames, 0) for part in (lamp, behind))
        drawn = draw(model, neutral, shown, textures, which, actions, pose, lamp, behind, size)
        drawn = drawn.view(len(batch), frames, 4, size, size)
        if any(spec.difficulty for spec in batch):
            seen = record(drawn[:, :, :3].float() / 255, shots)
            drawn[:, :, :3] = seen.mul(255).round().to(torch.uint8)
        out[first : first + len(batch)] = drawn
        return first + len(batch)

    # beside a GPU, one thread acts the next clips while the other draws
    with single_thread_pool(2 if gpu else 0) as pool:
        for done in pool.map(filmed, range(0, len(specs), at_once)):
            if progress:
                progress(done)
    return out if coverage else out[:, :, :3]


def landmarks(spec: ClipSpec) -> np.ndarray:
    """The 68 facial landmarks of a clip, in iBUG's order: (T, 68, 2), x and y as shares of the
    picture's width and height.
    """
    model, moves = load_head(torch.device("cpu")), acting.motion(spec)
    actions, pose = map(torch.from_numpy, (moves.actions, moves.pose))
    neutral = torch.from_numpy(appearance(spec.face or spec.actor)[0][model.landmarks.vertices])
    vertices = pose_vertices(model.landmarks, neutral.double(), actions, pose)
    return settled(project(vertices, pose, 1.0)[..., :2].numpy()).astype(np.float32)


def table(specs: list[ClipSpec]) -> pd.DataFrame:
    """The index of clips in memory, with the columns of `ppfer.data.index`; `path` is empty."""
    rows = [
        {"clip": s.name, "path": "", "actor": str(s.actor.id), "emotion": s.emotion}
        | {"sentence": s.sentence, "level": s.level}
        | {"sex": who["Sex"], "age": str(who["Age"]), "race": who["Race"]}
        for s, who in ((spec, spec.actor.demographics) for spec in specs)
    ]
    return pd.DataFrame(rows)


def generate(
    out: Path,
    *,
    actors: int = 12,
    size: int = 96,
    frames: int = 16,
    seed: int = 0,
    wild: int = 1400,
    device: torch.device | str | None = None,
    difficulty: float = acting.DIFFICULTY,
) -> None:
    """Write the twin as files: `VideoMP4/`, `VideoDemographics.csv`, and `wild/` in DFEW's layout.

    A clip that is already there is left alone, so an interrupted run resumes.

    Args:
        actors: people of the main set, 82 clips each.
        frames: in a clip, at 12 a second.
        wild: clips of the wild set.
        difficulty: how ambiguous they are, 0 clean studio acting (see `data/README.md`).

    Raises:
        PpferError: a number out of range, or `out` holds clips made with other settings.
    """
    out = Path(out)
    numbered = 1 <= actors <= WILD_ACTOR - FIRST_ACTOR
    if not (numbered and wild >= 0 and frames >= 2 and size >= 16):
        raise PpferError(
            f"the twin takes actors >= 1 numbered below {WILD_ACTOR}, wild >= 0, frames >= 2 and "
            f"size >= 16, not actors={actors} from {FIRST_ACTOR}, wild={wild}, frames={frames}, "
            f"size={size}"
        )
    # clips of other settings are never mixed into a folder
    recipe = {"size": size, "frames": frames, "seed": seed, "fps": FPS, "difficulty": difficulty}
    note = out / "twin.json"
    if note.exists() and json.loads(note.read_text("utf-8")) != recipe:
        raise PpferError(
            f"{out} holds clips made with {note.read_text('utf-8').strip()}; give an empty folder"
        )
    # labels first: they are small, and say what the folder will hold
    main = acting.main_specs(actors, frames, seed, difficulty)
    other = acting.wild_specs(wild, frames, seed, difficulty)
    jobs = _places(main, out / "VideoMP4") + _places(other, out / "wild" / "Clip" / "original")
    people = [Actor(FIRST_ACTOR + i, seed).demographics for i in range(actors)]
    pd.DataFrame(people).to_csv(out / "VideoDemographics.csv", index=False)
    if other:
        _write_wild_labels(other, out / "wild" / "EmoLabel_DataSplit")
    with atomic(note) as partial:
        partial.write_text(json.dumps(recipe) + "\n", "utf-8")
    # what an earlier, interrupted call has drawn stays
    todo = [job for job in jobs if not job[1].exists()]
    batches = [todo[i : i + BATCH] for i in range(0, len(todo), BATCH)]

    def write(jobs: list[tuple[ClipSpec, Path]]) -> None:
        clips = render_clips([spec for spec, _ in jobs], size, device).cpu()
        for clip, (_, path) in zip(clips, jobs, strict=True):
            write_video(path, clip, FPS, crf=CRF)

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(write, batches))  # a list, so that a thread's error is raised here


def _places(specs: list[ClipSpec], folder: Path) -> list[tuple[ClipSpec, Path]]:
    """Each clip with the file it goes to, in a folder that is made here."""
    if specs:
        folder.mkdir(parents=True, exist_ok=True)
    return [(spec, folder / f"{spec.name}.mp4") for spec in specs]


def _write_wild_labels(specs: list[ClipSpec], folder: Path) -> None:
    """DFEW's split files; whoever is tested, one person in five, is never in training."""
    for part in ("train", "test"):
        rows = [
            (spec.name, DFEW_EMOTIONS.index(spec.emotion) + 1)
            for spec in specs
            if ((spec.actor.id - WILD_ACTOR) % 5 == 4) == (part == "test")
        ]
        path = folder / f"{part}(single-labeled)" / "set_1.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows, columns=["video_name", "label"]).to_csv(path, index=False)
