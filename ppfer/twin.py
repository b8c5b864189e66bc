"""The twin: seeded synthetic talking-face clips with CREMA-D's shape, and a "wild" set of other faces in DFEW's layout.

Nothing here is a recording. A linear head model (`data/head_model.npz`, see `data/README.md`) is given a shape, a skin and a
way of moving per actor, and an expression, a sentence, a pose and a light per clip; `ppfer.render` draws it. Every clip is
seeded by the data set's seed and its own name alone, so any subset, in any order and batch, gives the same clips.
"""

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ppfer import render

if TYPE_CHECKING:
    import pandas as pd

HEAD_MODEL = Path(__file__).parent.parent / "data" / "head_model.npz"
FPS = 12
CODES = {"ANG": "angry", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
WILD = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")  # DFEW's labels 1 to 7
WILD_ACTOR = 5001  # actors of the wild set count from here
SENTENCES = {
    "IEO": "it's eleven o'clock", "TIE": "that is exactly what happened", "IOM": "i'm on my way to the meeting",
    "IWW": "i wonder what this is about", "TAI": "the airplane is almost full", "MTI": "maybe tomorrow it will be cold",
    "IWL": "i would like a new alarm clock", "ITH": "i think i have a doctor's appointment", "DFA": "don't forget a jacket",
    "ITS": "i think i've seen this before", "TSI": "the surface is slick", "WSI": "we'll stop in a couple of minutes",
}
# Facial actions at the apex, after EMFACS (Friesen & Ekman 1983); a name without a side means both sides.
APEX = {
    "angry": {"browDown": 0.95, "eyeSquint": 0.3, "eyeWide": 0.15, "noseSneer": 0.35, "mouthPress": 0.6, "mouthFrown": 0.3,
              "mouthRollLower": 0.25, "jawForward": 0.3},
    "disgust": {"noseSneer": 1.0, "mouthUpperUp": 0.65, "browDown": 0.45, "eyeSquint": 0.45, "cheekSquint": 0.4,
                "mouthFrown": 0.35, "mouthShrugLower": 0.3},
    "fear": {"browInnerUp": 0.85, "browOuterUp": 0.45, "browDown": 0.25, "eyeWide": 0.9, "mouthStretch": 0.7,
             "mouthLowerDown": 0.35, "jawOpen": 0.12},
    "happy": {"mouthSmile": 0.85, "cheekSquint": 0.7, "eyeSquint": 0.3, "mouthUpperUp": 0.2, "mouthDimple": 0.3},
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
LEVELS = {"LO": (0.35, 0.5), "MD": (0.55, 0.75), "HI": (0.95, 1.1), "XX": (0.5, 1.0)}


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
        return {"ActorID": self.id, "Age": int(rng.integers(20, 75)), "Sex": ("Male", "Female")[self.id % 2],
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
