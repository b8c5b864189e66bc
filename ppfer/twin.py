"""The twin: seeded synthetic talking-face clips with CREMA-D's shape, and a "wild" set of other faces in DFEW's layout.

Nothing here is a recording. A linear head model (`data/head_model.npz`, see `data/README.md`) is given a shape, a skin and a
way of moving per actor, and an expression, a sentence, a pose and a light per clip; `ppfer.render` draws it. Every clip is
seeded by the data set's seed and its own name alone, so any subset, in any order and batch, gives the same clips.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ppfer import render
from ppfer.config import PpferError
from ppfer.store import write_video

if TYPE_CHECKING:
    import pandas as pd

FPS = 12
CRF = 23  # quality of the files: about 6 KB a clip at 96 pixels
CODES = {"ANG": "angry", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
WILD = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")  # DFEW's labels 1 to 7
WILD_ACTOR, WILD_PEOPLE = 5001, 150  # actors of the wild set count from here; painting a face takes longer than a clip
SENTENCES = {
    "IEO": "it's eleven o'clock", "TIE": "that is exactly what happened", "IOM": "i'm on my way to the meeting",
    "IWW": "i wonder what this is about", "TAI": "the airplane is almost full", "MTI": "maybe tomorrow it will be cold",
    "IWL": "i would like a new alarm clock", "ITH": "i think i have a doctor's appointment", "DFA": "don't forget a jacket",
    "ITS": "i think i've seen this before", "TSI": "the surface is slick", "WSI": "we'll stop in a couple of minutes",
}
# Facial actions at the apex, after EMFACS (Friesen & Ekman 1983); a name without a side means both sides.
APEX = {
    "angry": {"browDown": 1.1, "eyeSquint": 0.3, "eyeWide": 0.15, "noseSneer": 0.4, "mouthPress": 0.7, "mouthFrown": 0.35,
              "mouthRollLower": 0.25, "jawForward": 0.3},
    "disgust": {"noseSneer": 1.0, "mouthUpperUp": 0.65, "browDown": 0.45, "eyeSquint": 0.45, "cheekSquint": 0.4,
                "mouthFrown": 0.35, "mouthShrugLower": 0.3},
    "fear": {"browInnerUp": 0.85, "browOuterUp": 0.45, "browDown": 0.25, "eyeWide": 0.9, "mouthStretch": 0.7,
             "mouthLowerDown": 0.35, "jawOpen": 0.12},
    "happy": {"mouthSmile": 1.0, "cheekSquint": 0.8, "eyeSquint": 0.3, "mouthUpperUp": 0.2, "mouthDimple": 0.3},
    "neutral": {},
    "sad": {"browInnerUp": 0.9, "browDown": 0.25, "mouthFrown": 0.85, "mouthShrugLower": 0.55, "eyeLookDown": 0.35,
            "eyeBlink": 0.15},
    "surprise": {"browInnerUp": 0.9, "browOuterUp": 0.95, "eyeWide": 0.75, "jawOpen": 0.5, "mouthFunnel": 0.2},
}
# How an expression unfolds: onset and offset in seconds, and head movement (yaw, pitch, roll in degrees) at the apex.
COURSE = {
    "angry": (0.12, 0.45, (0, 5, 0)), "disgust": (0.25, 0.35, (9, -4, 3)), "fear": (0.10, 0.25, (-4, -6, 0)),
    "happy": (0.30, 0.55, (0, -3, 4)), "neutral": (0.3, 0.3, (0, 0, 0)), "sad": (0.55, 0.8, (-3, 8, -3)),
    "surprise": (0.07, 0.2, (0, -7, 0)),
}
VISEMES = {
    "a": {"jawOpen": 0.5, "mouthLowerDown": 0.2}, "e": {"jawOpen": 0.28, "mouthStretch": 0.25, "mouthUpperUp": 0.12},
    "i": {"jawOpen": 0.15, "mouthStretch": 0.35}, "o": {"jawOpen": 0.35, "mouthFunnel": 0.6},
    "u": {"mouthPucker": 0.7, "jawOpen": 0.12}, "m": {"mouthPress": 0.35, "mouthRollLower": 0.35, "mouthRollUpper": 0.2},
    "f": {"mouthRollLower": 0.5, "mouthUpperUp": 0.2}, "t": {"jawOpen": 0.12, "mouthLowerDown": 0.2}, " ": {},
}
LETTERS = {**dict.fromkeys("a", "a"), **dict.fromkeys("eh", "e"), **dict.fromkeys("iy", "i"), **dict.fromkeys("o", "o"),
           **dict.fromkeys("uwq", "u"), **dict.fromkeys("mbp", "m"), **dict.fromkeys("fv", "f"), " ": " "}
LEVELS = {"LO": (0.45, 0.65), "MD": (0.75, 1.0), "HI": (1.25, 1.5), "XX": (0.7, 1.35)}
WILD_LEVEL = (1.0, 1.5)  # films show expressions at their strongest
BRIEF, WILD_BRIEF = 0.4, 0.1  # share of clips whose expression peaks only for a moment
GAIN = 1.15  # over EMFACS's amplitudes, for pictures this small
MOOD = 0.3  # share of the peak that colours the whole clip, before the onset, at the apex and after the offset
RESTING, FLASH, HUSH = 0.03, 0.3, 0.5  # a resting face's bias, brow flashes in any mood, how far an expression quiets the mouth


@dataclass(frozen=True)
class Actor:
    """Someone who does not exist. Everything about the face follows from `seed` and `id`."""

    id: int
    seed: int = 0

    @functools.cached_property
    def demographics(self) -> dict[str, str | int]:
        """A row of VideoDemographics.csv; twelve consecutive actors hold both sexes and a mix like CREMA-D's."""
        rng, place = _rng(self.seed, "demographics", self.id), self.id % 12
        race = "African American" if place in (3, 6, 10) else "Asian" if place == 1 else "Caucasian"
        return {"ActorID": self.id, "Age": int(20 + 54 * rng.beta(1.1, 2.4)), "Sex": ("Male", "Female")[self.id % 2],
                "Race": race, "Ethnicity": "Hispanic" if race == "Caucasian" and rng.random() < 0.15 else "Not Hispanic"}


@dataclass(frozen=True)
class ClipSpec:
    """One clip before it is drawn: who says what, how, and how strongly."""

    name: str
    actor: Actor
    sentence: str
    emotion: str
    level: str = "XX"
    frames: int = 16
    seed: int = 0
    wild: bool = False


def _rng(*key: object) -> np.random.Generator:
    """A generator seeded by the words of `key`, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _smooth(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


# --- who -----------------------------------------------------------------------------------------------------------------

SKIN = {"Caucasian": ((0.95, 0.80, 0.71), (0.80, 0.60, 0.48)), "African American": ((0.62, 0.42, 0.31), (0.34, 0.21, 0.15)),
        "Asian": ((0.93, 0.77, 0.63), (0.78, 0.58, 0.43))}
HAIRS = np.array([(0.09, 0.07, 0.06), (0.20, 0.13, 0.09), (0.36, 0.24, 0.15), (0.55, 0.30, 0.16), (0.76, 0.60, 0.36)])
IRISES = np.array([(0.25, 0.15, 0.08), (0.38, 0.25, 0.13), (0.33, 0.38, 0.22), (0.35, 0.48, 0.58), (0.45, 0.50, 0.52)])
SHIRTS = np.array([(0.20, 0.22, 0.26), (0.24, 0.30, 0.42), (0.45, 0.44, 0.42), (0.40, 0.24, 0.25)])
STYLES = {"Male": ("short", "buzz", "volume", "bald", "short", "bob"), "Female": ("long", "bob", "fringe", "tied", "volume", "long")}


def look(actor: Actor) -> render.Look:
    """The face of an actor, drawn around what the head model knows of sex, age and ancestry."""
    rng, who = _rng(actor.seed, "look", actor.id), actor.demographics
    male, race, age = who["Sex"] == "Male", who["Race"], who["Age"]
    model = render.head(torch.device("cpu")).model
    covariates = [1, male, 0.62 + 0.38 * (age - 20) / 60, rng.beta(3, 3), race == "African American", race == "Asian"]
    shape = np.array(covariates, np.float64) @ model["regression"] + 0.8 * model["residual"] * rng.normal(size=60)
    fair, dark = np.array(SKIN[race])
    skin = fair + (dark - fair) * rng.random() + rng.normal(0, 0.012, 3)
    weights = (0.25, 0.35, 0.2, 0.08, 0.12) if race == "Caucasian" else (0.85, 0.15, 0, 0, 0)
    hair = HAIRS[rng.choice(5, p=weights)] * rng.uniform(0.8, 1.2)
    grey = np.clip((age - 50) / 25 + rng.normal(0, 0.15), 0, 0.85)
    hair = hair + (rng.uniform(0.55, 0.8) - hair) * grey
    iris = IRISES[rng.choice(5) if race == "Caucasian" else rng.choice(2)] * rng.uniform(0.85, 1.15)
    lip = skin * [0.88, 0.62, 0.62] if male else skin * [0.92, rng.uniform(0.45, 0.65), rng.uniform(0.5, 0.65)]
    bearded = male * (rng.random() < 0.45)
    thick = rng.uniform(0.9, 1.5) if male else rng.uniform(0.6, 1.1)
    return render.Look(
        shape=shape, skin=skin, hair=hair, iris=iris, lip=lip, shirt=SHIRTS[rng.choice(4)],
        style=STYLES[who["Sex"]][rng.choice(6)], hairline=rng.normal(0, 0.04) + 0.06 * male * (age > 50),
        volume=rng.uniform(0.7, 1.4), brow=(thick, rng.normal(0, 0.015), rng.normal(0, 0.012), rng.uniform(0.55, 0.9)),
        freckles=rng.uniform(0.4, 1) * (race == "Caucasian") * (rng.random() < 0.25),
        beard=bearded * rng.choice([0.25, 0.4, 0.8, 0.9]), moustache=bearded * rng.uniform(0.3, 0.9), seed=int(rng.integers(2**31)))


@functools.lru_cache(maxsize=256)
def _appearance(actor: Actor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Resting vertices, which faces there are, and texture of an actor."""
    model, face = render.head(torch.device("cpu")), look(actor)
    return *model.neutral(face), model.paint(face)


# --- what ----------------------------------------------------------------------------------------------------------------


def actor_specs(actor: Actor, frames: int = 16) -> list[ClipSpec]:
    """The 82 clips of an actor as CREMA-D records them: IEO at three levels (neutral once), the others at XX."""
    specs = []
    for sentence in SENTENCES:
        for code, emotion in CODES.items():
            for level in ("LO", "MD", "HI") if sentence == "IEO" and code != "NEU" else ("XX",):
                name = f"{actor.id}_{sentence}_{code}_{level}"
                specs.append(ClipSpec(name, actor, sentence, emotion, level, frames, actor.seed))
    return specs


def main_specs(actors: int = 12, frames: int = 16, seed: int = 0, first_actor: int = 1001) -> list[ClipSpec]:
    """All clips of `actors` consecutive actors."""
    return [spec for i in range(actors) for spec in actor_specs(Actor(first_actor + i, seed), frames)]


def wild_specs(clips: int = 1400, frames: int = 16, seed: int = 0) -> list[ClipSpec]:
    """The wild set: `WILD_PEOPLE` actors and seven expressions in turn, named 00001 upwards; fewer clips are a prefix of more."""
    names, sentences = [f"{i + 1:05d}" for i in range(clips)], list(SENTENCES)
    return [ClipSpec(name, Actor(WILD_ACTOR + i % WILD_PEOPLE, seed), sentences[_rng(seed, name, "says").integers(12)], WILD[i % 7],
                     "XX", frames, seed, wild=True) for i, name in enumerate(names)]


@dataclass(frozen=True)
class Motion:
    """Everything of a clip that changes: actions (T, 52), pose (T, 6), lamp (9,), and its background (3, S, S) when drawn."""

    actions: np.ndarray
    pose: np.ndarray
    lamp: np.ndarray


def motion(spec: ClipSpec) -> Motion:
    """How the face moves in a clip: speech, expression, blinks, gaze, head, light."""
    rng, names = _rng(spec.seed, spec.name, "motion"), render.head(torch.device("cpu")).action
    style = _rng(spec.actor.seed, "style", spec.actor.id)
    seconds = np.arange(spec.frames) / FPS
    length = spec.frames / FPS
    actions = np.zeros((spec.frames, len(names)))
    tilt = dict(zip(("Left", "Right"), 1 + style.normal(0, 0.12) * np.array([1, -1]), strict=True))  # lopsided people

    def add(name: str, amount: np.ndarray) -> None:
        for side, gain in {"": 1.0, **tilt}.items():
            if name + side in names:
                actions[:, names[name + side]] += gain * amount

    course, mood, turn = _course(spec, rng, seconds)
    gains = {name: style.lognormal(0, 0.2) for name in sorted({n for apex in APEX.values() for n in apex})}
    for name, apex in APEX[spec.emotion].items():
        present = rng.random() > 0.12  # people leave parts of an expression out
        add(name, present * apex * gains[name] * rng.lognormal(0, 0.2) * GAIN * (mood + course))
    for other in ("angry", "disgust", "fear", "happy", "sad"):  # a resting face is not blank, nor the same each time
        bias = abs(style.normal(0, RESTING)) + abs(rng.normal(0, RESTING))
        for name, apex in APEX[other].items():
            add(name, np.full(spec.frames, bias * apex))
    for name, amount in _speech(spec, rng, seconds).items():
        add(name, amount * (0.75 + 0.25 * style.random()) * (1 - HUSH * np.clip(course, 0, 1)))
    flash = np.exp(-(((seconds - rng.uniform(0, length)) / 0.15) ** 2))  # conversational brow flashes, in any mood
    add("browOuterUp" if rng.random() < 0.5 else "browInnerUp", flash * rng.uniform(0, FLASH))
    blinks = sum(np.exp(-(((seconds - at) / 0.07) ** 2)) for at in rng.uniform(-0.3, length + 0.3, rng.integers(1, 3)))
    add("eyeBlink", 0.95 * blinks)
    gaze = rng.normal(0, 0.22, 2) + 0.15 * np.sin(seconds[:, None] * rng.uniform(1, 4, 2) + rng.uniform(0, 6, 2))
    for sign, inner, outer in ((1, "eyeLookInRight", "eyeLookOutLeft"), (-1, "eyeLookInLeft", "eyeLookOutRight")):
        actions[:, [names[inner], names[outer]]] += np.clip(sign * gaze[:, :1], 0, 1)
    add("eyeLookUp", np.clip(gaze[:, 1], 0, 1))
    add("eyeLookDown", np.clip(-gaze[:, 1], 0, 1))

    spread = 1.6 if spec.wild else 1.0
    rest = rng.normal(0, 1, 3) * [6, 3.5, 2.5] * spread
    sway = np.stack([np.sin(seconds * rng.uniform(1.5, 5) + rng.uniform(0, 6)) for _ in range(3)], 1) * rng.uniform(0.5, 3, 3)
    degrees = rest + sway + course[:, None] * np.array(turn) * rng.lognormal(0, 0.3)
    shift = rng.normal(0, 0.015, 2) * spread + 0.01 * np.stack([np.sin(seconds * 2 + rng.uniform(0, 6)) for _ in range(2)], 1)
    scale = np.full((spec.frames, 1), np.clip(rng.normal(1, 0.03 * spread), 0.85, 1.15))
    pose = np.concatenate([np.radians(degrees), shift, scale], 1)

    toward = np.array([rng.uniform(-0.9, 0.9) * min(spread, 1.3), rng.uniform(-0.1, 0.9), 1.0])
    key = rng.uniform(0.6, 0.95) * (1 + rng.normal(0, 0.03 * spread**2, 3))
    fill = rng.uniform(0.2, 0.4) * (1 + rng.normal(0, 0.03 * spread**2, 3))
    lamp = np.concatenate([toward / np.linalg.norm(toward), key, fill])
    limit = np.array([1.1 if name.startswith(("eyeBlink", "eyeLook", "jawOpen")) else 1.7 for name in names])
    return Motion(np.clip(actions, 0, limit), pose, lamp)


def _course(spec: ClipSpec, rng: np.random.Generator, seconds: np.ndarray) -> tuple[np.ndarray, float, tuple]:
    """Strength of the expression over time, of the mood throughout, and the head's turn at the apex. Over time: onset, hold, offset; a share of clips (`BRIEF`) peak only for a moment."""
    rise, fall, turn = COURSE[spec.emotion]
    rise, fall = rise * rng.lognormal(0, 0.25), fall * rng.lognormal(0, 0.25)
    length = seconds[-1] + 1 / FPS
    start = rng.uniform(0.05, 0.3) * length
    brief = rng.random() < (WILD_BRIEF if spec.wild else BRIEF)
    hold = rng.uniform(0.05, 0.2) if brief else rng.uniform(0.3, 0.7) * length
    if brief:
        start = rng.uniform(0.05, 0.55) * length
    envelope = _smooth((seconds - start) / rise) * (1 - _smooth((seconds - start - rise - hold) / fall))
    if spec.emotion == "fear":  # trembles
        envelope = envelope * (1 + 0.15 * np.sin(seconds * 2 * np.pi * rng.uniform(3.5, 5)))
    if spec.emotion == "happy":  # bounces
        envelope = envelope * (1 + 0.12 * np.sin(seconds * 2 * np.pi * rng.uniform(1.8, 2.6)))
    strength = rng.uniform(*(WILD_LEVEL if spec.wild else LEVELS[spec.level]))
    return envelope * strength, MOOD * strength, turn


def _speech(spec: ClipSpec, rng: np.random.Generator, seconds: np.ndarray) -> dict[str, np.ndarray]:
    """Mouth actions over time for the spec's sentence, its letters spread over most of the clip."""
    letters = [LETTERS.get(letter, "t") for letter in SENTENCES[spec.sentence] if letter.isalpha() or letter == " "]
    length = seconds[-1] + 1 / FPS
    begin, end = rng.uniform(0, 0.15) * length, rng.uniform(0.8, 1.0) * length
    pace = np.cumsum(rng.lognormal(0, 0.2, len(letters)))
    at = begin + (end - begin) * pace / pace[-1]
    weight = np.exp(-(((seconds[:, None] - at) / 0.06) ** 2))  # (T, letters)
    weight /= np.maximum(weight.sum(1, keepdims=True), 1)
    loud = rng.uniform(0.6, 1.1)
    track: dict[str, np.ndarray] = {}
    for i, letter in enumerate(letters):
        for name, amount in VISEMES[letter].items():
            track[name] = track.get(name, 0) + loud * amount * weight[:, i]
    return track


def _background(spec: ClipSpec, size: int) -> np.ndarray:
    """Linear-light background (3, size, size): CREMA-D's green screen, or for the wild set anything at all."""
    rng = _rng(spec.seed, spec.name, "background")
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    if not spec.wild:
        shade = rng.uniform(0.85, 1.1) * (1 - 0.12 * (x - rng.uniform(-0.4, 0.4)) ** 2 - 0.06 * y)
        return np.array([0.06, 0.30, 0.11])[:, None, None] * shade
    picture = np.empty((3, size, size))
    base, tint = rng.uniform(0.03, 0.6), rng.uniform(0.5, 1.5, 3)
    noise = sum(render.noise(int(rng.integers(2**31)), size, size, 2 ** (k + 2)) / (k + 1) for k in range(3))
    picture[:] = base * tint[:, None, None] * (0.4 + noise)
    for _ in range(rng.integers(0, 6)):  # furniture
        cx, cy, w, h = rng.uniform(-1, 1), rng.uniform(-1, 1), *rng.uniform(0.1, 0.7, 2)
        picture[:, (np.abs(x - cx) < w) & (np.abs(y - cy) < h)] *= rng.uniform(0.4, 1.8, (3, 1))
    return picture.clip(0, 1)


# --- drawing -------------------------------------------------------------------------------------------------------------


def render_clips(specs: list[ClipSpec], size: int = 96, device: torch.device | str | None = None,
                 progress: Callable[[int], None] | None = None) -> Tensor:
    """Draw clips of equal length: uint8 (N, T, 3, size, size) on `device`; `progress` is told how many are drawn."""
    return _render(specs, size, device, progress)[:, :, :3]


def _faces(actors: list[Actor]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """`_appearance` of each actor, painted by several threads: NumPy lets go of Python's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(_appearance, actors))


def _render(specs: list[ClipSpec], size: int, device: torch.device | str | None, progress: Callable[[int], None] | None = None) -> Tensor:
    """As `render_clips`, with the head's coverage as a fourth channel."""
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model, frames = render.head(device), specs[0].frames
    actors = list(dict.fromkeys(spec.actor for spec in specs))
    put = functools.partial(torch.as_tensor, device=device)
    neutral, shown, texture = (put(np.stack(part)) for part in zip(*_faces(actors), strict=True))
    places = {actor: i for i, actor in enumerate(actors)}
    out = torch.empty(len(specs), frames, 4, size, size, dtype=torch.uint8, device=device)
    at_once = 1 if device.type == "cpu" else max(1, 512 // frames)

    def act(some: list[ClipSpec]) -> list[np.ndarray]:
        moves = [motion(spec) for spec in some]
        per_frame = [np.concatenate([getattr(m, key) for m in moves]) for key in ("actions", "pose")]
        return [*per_frame, np.stack([m.lamp for m in moves]), np.stack([_background(s, size) for s in some])]

    with ThreadPoolExecutor(1) as ahead:  # the next clips are acted while these are drawn
        acted = ahead.submit(act, specs[:at_once])
        for i in range(0, len(specs), at_once):
            some = specs[i : i + at_once]
            actions, pose, lamp, background = (put(part, dtype=torch.float32) for part in acted.result())
            acted = ahead.submit(act, specs[i + at_once : i + 2 * at_once]) if i + at_once < len(specs) else None
            which = put([places[s.actor] for s in some]).repeat_interleave(frames)
            lamp, background = (part.repeat_interleave(frames, 0) for part in (lamp, background))
            drawn = render.draw(model, neutral, shown, texture, which, actions, pose, lamp, background, size)
            out[i : i + at_once] = drawn.view(len(some), frames, 4, size, size)
            if progress:
                progress(i + len(some))
    return out


def landmarks(spec: ClipSpec) -> np.ndarray:
    """The 68 facial landmarks of a clip, iBUG's order: (T, 68, 2), x and y as shares of the picture's width and height."""
    model, moves = render.head(torch.device("cpu")), motion(spec)
    actions, pose = (torch.as_tensor(part, dtype=torch.float32) for part in (moves.actions, moves.pose))
    neutral = torch.from_numpy(_appearance(spec.actor)[0][model.landmarks.vertices])
    vertices = render.pose_vertices(model.landmarks, neutral, actions, pose)
    return render.project(vertices, pose, 1.0)[..., :2].numpy()


def table(specs: list[ClipSpec]) -> "pd.DataFrame":
    """The index of clips in memory, with the columns of `ppfer.data.index`; `path` is empty."""
    import pandas as pd

    people = [spec.actor.demographics for spec in specs]
    return pd.DataFrame({
        "clip": [s.name for s in specs], "path": "", "actor": [str(s.actor.id) for s in specs],
        "emotion": [s.emotion for s in specs], "sentence": [s.sentence for s in specs], "level": [s.level for s in specs],
        "sex": [p["Sex"] for p in people], "age": [str(p["Age"]) for p in people], "race": [p["Race"] for p in people]})


def generate_arrays(actors: int = 91, size: int = 112, frames: int = 16, seed: int = 0,
                    device: torch.device | str | None = None, *, wild: int = 0,
                    progress: Callable[[int], None] | None = None) -> tuple[Tensor, "pd.DataFrame"]:
    """The twin straight into memory.

    Args:
        wild: this many clips of the wild set instead of the main set.
        progress: called with the number of clips drawn so far.

    Returns:
        clips, uint8 (N, T, 3, size, size) on `device`, and their table (see `table`).
    """
    specs = wild_specs(wild, frames, seed) if wild else main_specs(actors, frames, seed)
    return render_clips(specs, size, device, progress), table(specs)


def generate(out: Path, *, actors: int = 12, size: int = 96, frames: int = 16, seed: int = 0, wild: int = 1400,
             device: torch.device | str | None = None, first_actor: int = 1001, workers: int = 2) -> None:
    """Write the twin as files: `VideoMP4/`, `VideoDemographics.csv`, and `wild/` in DFEW's layout.

    A clip that is already there is left alone, so an interrupted run resumes.

    Args:
        first_actor: number of the first actor; the wild set's people count from WILD_ACTOR.
        workers: threads that draw and encode.

    Raises:
        PpferError: a number out of range, or `out` holds clips made with other settings.
    """
    import pandas as pd

    out = Path(out)
    if not (actors >= 1 and wild >= 0 and frames >= 2 and size >= 16 and 1 <= first_actor <= WILD_ACTOR - actors):
        raise PpferError(f"the twin takes actors >= 1 numbered below {WILD_ACTOR}, wild >= 0, frames >= 2 and size >= 16, not "
                         f"actors={actors} from {first_actor}, wild={wild}, frames={frames}, size={size}")
    made = {"size": size, "frames": frames, "seed": seed, "fps": FPS}
    note = out / "twin.json"
    if note.exists() and json.loads(note.read_text()) != made:
        raise PpferError(f"{out} holds clips made with {note.read_text().strip()}; give an empty folder")
    main, other = main_specs(actors, frames, seed, first_actor), wild_specs(wild, frames, seed)
    people = [Actor(first_actor + i, seed).demographics for i in range(actors)]
    jobs = [(spec, out / "VideoMP4" / f"{spec.name}.mp4") for spec in main]
    jobs += [(spec, out / "wild" / "Clip" / "original" / f"{spec.name}.mp4") for spec in other]
    for folder in {path.parent for _, path in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(people).to_csv(out / "VideoDemographics.csv", index=False)
    test = {spec.actor for spec in other if (spec.actor.id - WILD_ACTOR) % 5 == 4}  # other people than in training
    for part in ("train", "test") if other else ():
        rows = [(s.name, WILD.index(s.emotion) + 1) for s in other if (s.actor in test) == (part == "test")]
        path = out / "wild" / "EmoLabel_DataSplit" / f"{part}(single-labeled)" / "set_1.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows, columns=["video_name", "label"]).to_csv(path, index=False)
    note.write_text(json.dumps(made) + "\n")
    todo = [job for job in jobs if not job[1].exists()]

    def work(some: list[tuple[ClipSpec, Path]]) -> None:
        for clip, (_, path) in zip(render_clips([spec for spec, _ in some], size, device).cpu(), some, strict=True):
            write_video(path, clip, FPS, crf=CRF)

    batch = 8
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for _ in pool.map(work, [todo[i : i + batch] for i in range(0, len(todo), batch)]):
            pass
