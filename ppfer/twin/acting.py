"""What actors do: which clips there are, what is said and felt in them, how faces and light move.

Every clip is seeded by the data set's seed and its own name alone, so any subset, in any order and
batch, gives the same clips. The order in which random numbers are drawn is part of that promise.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ppfer.base.errors import PpferError
from ppfer.data.words import DFEW_EMOTIONS, EMOTION_CODES, SENTENCES
from ppfer.twin.head import load_head
from ppfer.twin.paint import noise
from ppfer.twin.people import Actor, seeded
from ppfer.twin.raster import settled, smoothstep

FPS = 12
FIRST_ACTOR, WILD_ACTOR = 1001, 5001  # from here on actors of the main and of the wild set count
DIFFICULTY = 1.0  # how ambiguous clips are; 0 is clean studio acting
WILD_PEOPLE = 150  # how many there are: painting a face takes longer than drawing a clip


# --- which clips --------------------------------------------------------------


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
    difficulty: float = DIFFICULTY
    face: Actor | None = None  # who is shown moving like the actor; None: the actor

    def __post_init__(self) -> None:
        if not 0 <= self.difficulty <= 2:
            raise PpferError(f"a difficulty lies between 0 and 2, not at {self.difficulty:g}")


def actor_specs(actor: Actor, frames: int = 16, difficulty: float = DIFFICULTY) -> list[ClipSpec]:
    """The 82 clips of an actor as CREMA-D records them.

    Sentence IEO at three levels (neutral once), the others at XX.
    """
    specs = []
    for sentence in SENTENCES:
        for code, emotion in EMOTION_CODES.items():
            graded = sentence == "IEO" and emotion != "neutral"
            for level in ("LO", "MD", "HI") if graded else ("XX",):
                name = f"{actor.id}_{sentence}_{code}_{level}"
                fields = (name, actor, sentence, emotion, level, frames, actor.seed)
                specs.append(ClipSpec(*fields, difficulty=difficulty))
    return specs


def main_specs(
    actors: int = 12, frames: int = 16, seed: int = 0, difficulty: float = DIFFICULTY
) -> list[ClipSpec]:
    """All clips of `actors` consecutive actors."""
    people = [Actor(FIRST_ACTOR + i, seed) for i in range(actors)]
    return [spec for actor in people for spec in actor_specs(actor, frames, difficulty)]


def wild_specs(
    clips: int = 1400, frames: int = 16, seed: int = 0, difficulty: float = DIFFICULTY
) -> list[ClipSpec]:
    """The wild set, named 00001 upwards; fewer clips are a prefix of more.

    `WILD_PEOPLE` actors and DFEW's seven expressions take turns.
    """
    specs, sentences = [], list(SENTENCES)
    for i in range(clips):
        name, actor = f"{i + 1:05d}", Actor(WILD_ACTOR + i % WILD_PEOPLE, seed)
        sentence = sentences[seeded(seed, name, "says").integers(12)]
        emotion = DFEW_EMOTIONS[i % 7]
        more = {"frames": frames, "seed": seed, "wild": True, "difficulty": difficulty}
        specs.append(ClipSpec(name, actor, sentence, emotion, **more))
    return specs


def background(spec: ClipSpec, size: int) -> np.ndarray:
    """Linear light (3, size, size): CREMA-D's green screen, or in the wild set anything at all."""
    rng = seeded(spec.seed, spec.name, "background")
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    if not spec.wild:
        bright = rng.uniform(0.85, 1.1)
        shade = bright * (1 - 0.12 * (x - rng.uniform(-0.4, 0.4)) ** 2 - 0.06 * y)
        return np.array([0.06, 0.30, 0.11])[:, None, None] * shade
    base, tint = rng.uniform(0.03, 0.6), rng.uniform(0.5, 1.5, 3)
    clouds = sum(
        noise(int(rng.integers(2**31)), size, size, 2 ** (k + 2)) / (k + 1) for k in range(3)
    )
    picture = base * tint[:, None, None] * (0.4 + clouds)
    for _ in range(rng.integers(0, 6)):  # furniture
        cx, cy, w, h = rng.uniform(-1, 1), rng.uniform(-1, 1), *rng.uniform(0.1, 0.7, 2)
        covered = (np.abs(x - cx) < w) & (np.abs(y - cy) < h)
        picture[:, covered] *= rng.uniform(0.4, 1.8, (3, 1))
    return settled(picture.clip(0, 1))


# --- how it moves -------------------------------------------------------------

# Facial actions at the apex of an expression, after EMFACS (Friesen & Ekman, 1983); a name without
# a side means both sides.
# fmt: off
APEX = {
    "angry": {"browDown": 1.1, "eyeSquint": 0.3, "eyeWide": 0.15, "noseSneer": 0.4,
              "mouthPress": 0.7, "mouthFrown": 0.35, "mouthRollLower": 0.25, "jawForward": 0.3},
    "disgust": {"noseSneer": 1.0, "mouthUpperUp": 0.65, "browDown": 0.45, "eyeSquint": 0.45,
                "cheekSquint": 0.4, "mouthFrown": 0.35, "mouthShrugLower": 0.3},
    "fear": {"browInnerUp": 0.85, "browOuterUp": 0.45, "browDown": 0.25, "eyeWide": 0.9,
             "mouthStretch": 0.7, "mouthLowerDown": 0.35, "jawOpen": 0.12},
    "happy": {"mouthSmile": 1.0, "cheekSquint": 0.8, "eyeSquint": 0.3, "mouthUpperUp": 0.2,
              "mouthDimple": 0.3},
    "neutral": {},
    "sad": {"browInnerUp": 0.9, "browDown": 0.25, "mouthFrown": 0.85, "mouthShrugLower": 0.55,
            "eyeLookDown": 0.35, "eyeBlink": 0.15},
    "surprise": {"browInnerUp": 0.9, "browOuterUp": 0.95, "eyeWide": 0.75, "jawOpen": 0.5,
                 "mouthFunnel": 0.2},
}
# fmt: on
# How it unfolds: onset and offset (s), and the head's yaw, pitch and roll (degrees) at the apex.
COURSE = {
    "angry": (0.12, 0.45, (0, 5, 0)),
    "disgust": (0.25, 0.35, (9, -4, 3)),
    "fear": (0.10, 0.25, (-4, -6, 0)),
    "happy": (0.30, 0.55, (0, -3, 4)),
    "neutral": (0.3, 0.3, (0, 0, 0)),
    "sad": (0.55, 0.8, (-3, 8, -3)),
    "surprise": (0.07, 0.2, (0, -7, 0)),
}
VISEMES = {
    "a": {"jawOpen": 0.5, "mouthLowerDown": 0.2},
    "e": {"jawOpen": 0.28, "mouthStretch": 0.25, "mouthUpperUp": 0.12},
    "i": {"jawOpen": 0.15, "mouthStretch": 0.35},
    "o": {"jawOpen": 0.35, "mouthFunnel": 0.6},
    "u": {"mouthPucker": 0.7, "jawOpen": 0.12},
    "m": {"mouthPress": 0.35, "mouthRollLower": 0.35, "mouthRollUpper": 0.2},
    "f": {"mouthRollLower": 0.5, "mouthUpperUp": 0.2},
    "t": {"jawOpen": 0.12, "mouthLowerDown": 0.2},
    " ": {},
}
ALIKE = {"a": "a", "e": "eh", "i": "iy", "o": "o", "u": "uwq", "m": "mbp", "f": "fv", " ": " "}
VISEME = {letter: shape for shape, letters in ALIKE.items() for letter in letters}  # else "t"
STRENGTH = {"LO": (0.45, 0.65), "MD": (0.75, 1.0), "HI": (1.25, 1.5), "XX": (0.7, 1.35)}
WILD_STRENGTH = (1.0, 1.5)  # films show expressions at their strongest
BRIEF, WILD_BRIEF = 0.4, 0.1  # share of clips whose expression peaks only for a moment
GAIN = 1.15  # over EMFACS's amplitudes, for pictures this small
MOOD = 0.3  # share of the peak that colours the whole clip, before onset and after offset
RESTING = 0.03  # spread of a resting face's bias towards each expression
FLASH = 0.3  # the strongest brow flash; they come in any mood
HUSH = 0.5  # how far an expression quiets the mouth
# What a difficulty of 1 adds. A clip loses up to this share of its strength (0.15 if not named) ...
WEAKER = {"sad": 0.35, "fear": 0.4}
# ... leans towards another expression, by up to SECOND of that one's strength ...
MIXED = {
    "angry": {"disgust": 0.6, "sad": 0.2, "fear": 0.2},
    "disgust": {"angry": 0.6, "sad": 0.4},
    "fear": {"sad": 0.8, "surprise": 0.2},
    "happy": {"disgust": 0.5, "surprise": 0.5},
    "neutral": {"sad": 0.4, "fear": 0.3, "angry": 0.15, "happy": 0.15},
    "sad": {"fear": 0.7, "disgust": 0.15, "angry": 0.15},
    "surprise": {"fear": 1.0},
}
SECOND = 0.35
# ... or shows that one instead: a share of clips (0.03 if not named), by level ...
SLIP = {"sad": 0.07, "fear": 0.08, "neutral": 0.06}
SLIP_AT = {"LO": 1.6, "MD": 1.0, "HI": 0.4, "XX": 1.0}
LEFT_OUT = 0.1  # ... leaves out this many more of its parts, ...
BORROWED = 0.4  # ... borrows one from elsewhere, ...
LEFTOVER = 0.4  # ... starts in the mood of the clip before, ...
HEARD = 0.5  # ... and is spoken over: this share of HUSH is gone.
WILD_DOUBT = 0.5  # how much of all this the wild set has
LIMIT, HARD_LIMIT = 1.7, 1.1  # of an action; 1 is the model's full one
HARD = ("eyeBlink", "eyeLook", "jawOpen")  # these look broken when overdone


@dataclass(frozen=True)
class Motion:
    """Everything of a clip that changes or is lit: arrays for `ppfer.twin.head.draw`."""

    actions: np.ndarray  # (T, 52) facial actions
    pose: np.ndarray  # (T, 6): yaw, pitch, roll in rad; shift x, y in shares of the picture; scale
    lamp: np.ndarray  # (9,): unit vector to the key light, its colour, the fill's colour


class Face:
    """Facial actions over time, (T, 52), added to by name; `lopsided` is by how much the left side
    does more than usual, and the right side less.
    """

    def __init__(self, frames: int, lopsided: float) -> None:
        self.number = load_head(torch.device("cpu")).action
        self.actions = np.zeros((frames, len(self.number)))
        self.gains = {"": 1.0, "Left": 1 + lopsided, "Right": 1 - lopsided}

    def add(self, name: str, amount: np.ndarray | float) -> None:
        """Adds an action, constant or (T,); to both sides if the name has sides but says none."""
        for side, gain in self.gains.items():
            if name + side in self.number:
                self.actions[:, self.number[name + side]] += gain * amount

    def add_all(self, apex: dict[str, float], amount: np.ndarray | float) -> None:
        """Adds an expression by its actions at the apex."""
        for name, most in apex.items():
            self.add(name, most * amount)

    def limited(self) -> np.ndarray:
        """The sum, within what a face can do."""
        limits = [HARD_LIMIT if name.startswith(HARD) else LIMIT for name in self.number]
        return np.clip(self.actions, 0, limits)


def motion(spec: ClipSpec) -> Motion:
    """How the face moves in a clip: expression, speech, blinks, gaze, head, light."""
    rng = seeded(spec.seed, spec.name, "motion")
    style = seeded(spec.actor.seed, "style", spec.actor.id)  # an actor's own way of moving
    seconds = np.arange(spec.frames) / FPS
    face = Face(spec.frames, lopsided=style.normal(0, 0.12))
    course, mood = _course(spec, rng, seconds)
    doubt = spec.difficulty * (WILD_DOUBT if spec.wild else 1)
    unsure = seeded(spec.seed, spec.name, "doubt")
    weaker = 1 - doubt * WEAKER.get(spec.emotion, 0.15) * unsure.random()
    slips = unsure.random() < doubt * SLIP.get(spec.emotion, 0.03) * SLIP_AT[spec.level]
    second = unsure.choice(list(MIXED[spec.emotion]), p=list(MIXED[spec.emotion].values()))
    share = unsure.random()  # of the second expression, where the first falls short
    weaker, much = (0.3 * weaker, 0.7 + 0.4 * share) if slips else (weaker, doubt * SECOND * share)
    when = np.clip(course, 0, 1)
    _express(face, spec.emotion, weaker * (mood + course), rng, style, doubt)
    face.add_all(APEX[second], much * when)
    _distract(face, when, unsure, seconds, doubt)
    hush = HUSH * (1 - HEARD * doubt)
    for name, amount in _speech(spec, rng, seconds).items():
        loud = 0.75 + 0.25 * style.random()
        face.add(name, amount * loud * (1 - hush * when))
    _fidget(face, rng, seconds)
    spread = 1.6 if spec.wild else 1.0
    turns = (weaker, COURSE[spec.emotion][2]), (much, COURSE[second][2])
    turn = course[:, None] * sum(amount * np.array(degrees) for amount, degrees in turns)
    pose = _pose(turn, rng, seconds, spread)
    return Motion(*map(settled, (face.limited(), pose, _lamp(rng, spread))))


def _course(
    spec: ClipSpec, rng: np.random.Generator, seconds: np.ndarray
) -> tuple[np.ndarray, float]:
    """Strength of the expression over time (T,), and of the mood it leaves throughout.

    Over time: onset, hold, offset; a share of clips (`BRIEF`) peak only for a moment.
    """
    rise, fall, _ = COURSE[spec.emotion]
    rise, fall = rise * rng.lognormal(0, 0.25), fall * rng.lognormal(0, 0.25)
    length = seconds[-1] + 1 / FPS
    start = rng.uniform(0.05, 0.3) * length
    brief = rng.random() < (WILD_BRIEF if spec.wild else BRIEF)
    hold = rng.uniform(0.05, 0.2) if brief else rng.uniform(0.3, 0.7) * length
    if brief:
        start = rng.uniform(0.05, 0.55) * length
    onset = smoothstep((seconds - start) / rise)
    envelope = onset * (1 - smoothstep((seconds - start - rise - hold) / fall))
    if spec.emotion == "fear":  # trembles
        envelope = envelope * (1 + 0.15 * np.sin(seconds * 2 * np.pi * rng.uniform(3.5, 5)))
    if spec.emotion == "happy":  # bounces
        envelope = envelope * (1 + 0.12 * np.sin(seconds * 2 * np.pi * rng.uniform(1.8, 2.6)))
    strength = rng.uniform(*(WILD_STRENGTH if spec.wild else STRENGTH[spec.level]))
    return envelope * strength, MOOD * strength


def _express(
    face: Face,
    emotion: str,
    strength: np.ndarray,
    rng: np.random.Generator,
    style: np.random.Generator,
    doubt: float,
) -> None:
    """Adds an expression of a strength (T,), and what is left of the others in a face at rest."""
    names = sorted({name for apex in APEX.values() for name in apex})
    habit = {name: style.lognormal(0, 0.2 * (1 + doubt)) for name in names}
    for name, apex in APEX[emotion].items():
        present = rng.random() > 0.12 + LEFT_OUT * doubt  # people leave parts out
        face.add(name, present * apex * habit[name] * rng.lognormal(0, 0.2) * GAIN * strength)
    for other in ("angry", "disgust", "fear", "happy", "sad"):
        # a resting face is not blank, nor the same each time
        bias = abs(style.normal(0, RESTING)) + abs(rng.normal(0, RESTING))
        face.add_all(APEX[other], bias)


def _distract(
    face: Face, when: np.ndarray, rng: np.random.Generator, seconds: np.ndarray, doubt: float
) -> None:
    """Adds what belongs to no expression meant, by how much `doubt` there is: a part of another
    in the course (T,) of what is meant, the mood of the clip before.
    """
    others = ("angry", "disgust", "fear", "happy", "sad")
    borrowed = rng.choice(sorted({name for other in others for name in APEX[other]}))
    face.add(borrowed, doubt * BORROWED * rng.random() * when)
    left = rng.random() * np.exp(-seconds / rng.uniform(0.2, 0.6))
    face.add_all(APEX[rng.choice(others)], doubt * LEFTOVER * left)


def _speech(spec: ClipSpec, rng: np.random.Generator, seconds: np.ndarray) -> dict[str, np.ndarray]:
    """Mouth actions (T,) for the spec's sentence, its letters spread over most of the clip."""
    text = SENTENCES[spec.sentence]
    letters = [VISEME.get(letter, "t") for letter in text if letter.isalpha() or letter == " "]
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


def _fidget(face: Face, rng: np.random.Generator, seconds: np.ndarray) -> None:
    """Adds what a face does in any mood: a flash of the brows, one or two blinks, a moving gaze."""
    length = len(seconds) / FPS
    flash = np.exp(-(((seconds - rng.uniform(0, length)) / 0.15) ** 2))
    brow = "browOuterUp" if rng.random() < 0.5 else "browInnerUp"
    face.add(brow, flash * rng.uniform(0, FLASH))
    blinks = rng.integers(1, 3)
    moments = rng.uniform(-0.3, length + 0.3, blinks)
    face.add("eyeBlink", 0.95 * sum(np.exp(-(((seconds - at) / 0.07) ** 2)) for at in moments))

    gaze = rng.normal(0, 0.22, 2)
    speed, phase = rng.uniform(1, 4, 2), rng.uniform(0, 6, 2)
    x, y = (gaze + 0.15 * np.sin(seconds[:, None] * speed + phase)).T
    looks = {"InRight": x, "OutLeft": x, "InLeft": -x, "OutRight": -x, "Up": y, "Down": -y}
    for way, amount in looks.items():
        face.add("eyeLook" + way, np.clip(amount, 0, 1))


def _pose(
    turn: np.ndarray, rng: np.random.Generator, seconds: np.ndarray, spread: float
) -> np.ndarray:
    """The head's pose (T, 6): how it is held, sways, and turns (T, 3), in degrees, with the
    expression; `spread` is how far from straight, 1 in front of a green screen.
    """
    rest = rng.normal(0, 1, 3) * [6, 3.5, 2.5] * spread
    waves = [np.sin(seconds * rng.uniform(1.5, 5) + rng.uniform(0, 6)) for _ in range(3)]
    sway = np.stack(waves, 1) * rng.uniform(0.5, 3, 3)
    degrees = rest + sway + turn * rng.lognormal(0, 0.3)
    shift = rng.normal(0, 0.015, 2) * spread
    drift = [np.sin(seconds * 2 + rng.uniform(0, 6)) for _ in range(2)]
    shift = shift + 0.01 * np.stack(drift, 1)
    scale = np.clip(rng.normal(1, 0.03 * spread), 0.85, 1.15)
    return np.concatenate([np.radians(degrees), shift, np.full((len(seconds), 1), scale)], 1)


def _lamp(rng: np.random.Generator, spread: float) -> np.ndarray:
    """A light (9,): from where, its colour, and the sky's; `spread` as in `_pose`."""
    across, up = rng.uniform(-0.9, 0.9) * min(spread, 1.3), rng.uniform(-0.1, 0.9)
    toward = np.array([across, up, 1.0])
    key = rng.uniform(0.6, 0.95) * (1 + rng.normal(0, 0.03 * spread**2, 3))
    fill = rng.uniform(0.2, 0.4) * (1 + rng.normal(0, 0.03 * spread**2, 3))
    return np.concatenate([toward / np.linalg.norm(toward), key, fill])
