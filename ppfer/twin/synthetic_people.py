"""Strangers to learn movements from: thousands of synthetic people in no particular mood.

Nobody here is in any data set: numbers count from `FIRST`, and a face goes with several head
shapes. Half of the faces act; in the others facial actions are mixed at random, so that a network
that reads them learns no expression by heart. Heads turn widely, light and background are anything
at all, and some wear spectacles.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import joblib
import numpy as np
import torch
from torch import Tensor

from ppfer.data.words import SENTENCES
from ppfer.twin.acting import APEX, VISEMES, ClipSpec, Face, background, motion
from ppfer.twin.head import draw, load_head
from ppfer.twin.paint import CHART, SPAN, paint
from ppfer.twin.people import Actor, look, seeded

FIRST = 100_000  # of the people to learn from; actors and donor have lower numbers
HELD_OUT = 900_000  # of those to measure on
SHAPES = 4  # head shapes that one painted face goes with: painting takes longest
FRAMES = 10  # of each face
SIDE = 128  # pixels; a crop of them is looked at
BEHIND = 200  # backgrounds, shared by all
MANY = 64  # from here on, faces are painted in processes of their own
SPREAD = (14, 8, 6)  # of yaw, pitch and roll, degrees
MOST = 50  # of each
GLASSES = 0.2  # share of people who wear spectacles


@dataclass(frozen=True)
class Crowd:
    """Frames and what moves in them.

    Attributes:
        frames: (P, F, 3, S, S) uint8 of P faces.
        numbers: (P, F, 55): 52 facial actions in the head model's order (ARKit's names), 0 at rest
            and 1 fully there; yaw, pitch and roll in rad.
    """

    frames: Tensor
    numbers: Tensor


def crowd(
    people: int,
    device: torch.device,
    first: int = FIRST,
    progress: Callable[[int], None] = lambda done: None,
) -> Crowd:
    """Draw a crowd; the same numbers give the same pictures.

    Args:
        people: painted faces; each is drawn on `SHAPES` heads, `FRAMES` times.
        device: where to draw, and where the frames stay.
        first: number of the first.
        progress: told of each person drawn.

    Returns:
        P = people · SHAPES faces.
    """
    # everything random is drawn before the first picture, whatever the device
    rng = seeded("crowd", first, people)
    each, total = SHAPES * FRAMES, people * SHAPES * FRAMES
    put = functools.partial(torch.as_tensor, dtype=torch.float32, device=device)
    drawn = (draws(rng, total) for draws in (acted_actions, random_poses, random_lamps))
    actions, pose, lamp = map(put, drawn)
    behind = put(np.stack(_backgrounds(min(BEHIND, people), first)))
    place = torch.as_tensor(rng.integers(len(behind), size=total), device=device)
    frames = torch.empty(total, 3, SIDE, SIDE, dtype=torch.uint8, device=device)
    at_once = 1 if device.type == "cpu" else 10

    # faces are painted a few at a time and drawn on the device
    model, painted, done = load_head(device), _painted(people, first), 0
    while faces := list(itertools.islice(painted, at_once)):
        here = slice(done * each, (done + len(faces)) * each)
        which = torch.arange(len(faces) * SHAPES, device=device).repeat_interleave(FRAMES)
        vertices, shown, textures = (
            torch.as_tensor(np.concatenate(part), device=device) for part in zip(*faces)
        )
        textures = textures.repeat_interleave(SHAPES, 0)
        moved = actions[here], pose[here], lamp[here], behind[place[here]]
        drawn = draw(model, vertices, shown, textures, which, *moved, SIDE)
        frames[here] = drawn[:, :3]
        done += len(faces)
        progress(done)
    numbers = torch.cat([actions, pose[:, :3]], 1)
    return Crowd(*(part.unflatten(0, (-1, FRAMES)) for part in (frames, numbers)))


# --- who ----------------------------------------------------------------------


def _painted(people: int, first: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Of each person in order what `stranger` gives."""
    numbers = range(first, first + people)
    if people < MANY:
        yield from map(stranger, numbers)
        return
    pool = joblib.Parallel(-1, return_as="generator", max_nbytes=None)
    yield from pool(joblib.delayed(_stranger)(number) for number in numbers)


def _stranger(number: int) -> tuple[np.ndarray, ...]:
    """`stranger`, one of as many processes as there are cores."""
    torch.set_num_threads(1)
    return stranger(number)


def stranger(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One painted face on `SHAPES` heads: vertices (SHAPES, V, 3), which faces there are
    (SHAPES, F), texture (1, rows, 512, 3).
    """
    model, own = load_head(torch.device("cpu")), look(Actor(number))
    shapes = [look(Actor(number, seed=k)).shape for k in range(SHAPES)]
    vertices, shown = zip(*(model.neutral(replace(own, shape=shape)) for shape in shapes))
    rng, texture = seeded("spectacles", number), paint(own, model.parts)
    if rng.random() < GLASSES:
        texture = spectacled(texture, rng)
    return np.stack(vertices), np.stack(shown), texture[None]


def spectacled(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A texture (rows, 512, 3) with the rims of spectacles drawn on its skin."""
    (width, height), (low, high) = CHART, SPAN
    angle = np.abs((np.arange(width) + 0.5) / width * 2 * np.pi - np.pi)
    y = high - (np.arange(height) + 0.5)[:, None] / height * (high - low)
    wide, tall, thick = rng.uniform(0.26, 0.34), rng.uniform(0.13, 0.2), rng.uniform(0.015, 0.035)
    square = rng.choice([2, 4])
    lens = ((np.abs(angle - 0.43) / wide) ** square + (np.abs(y) / tall) ** square) ** (1 / square)
    rim = np.abs(lens - 1) * tall < thick
    bars = (np.abs(y - 0.03) < thick) & ((angle < 0.43 - wide) | (angle > 0.43 + wide))
    out = texture.copy()
    out[:height][rim | (bars & (angle < 1.5))] = rng.integers(0, 110, 3)
    return out


# --- how ----------------------------------------------------------------------


@functools.cache
def _patterns() -> dict[str, np.ndarray]:
    """Sets of action vectors (K, 52) that a movement is mixed of."""
    names = list(load_head(torch.device("cpu")).action)
    bases = dict.fromkeys(name.removesuffix("Left").removesuffix("Right") for name in names)
    gaze = [
        {"eyeLookInRight": 1, "eyeLookOutLeft": 1},
        {"eyeLookInLeft": 1, "eyeLookOutRight": 1},
        {"eyeLookUp": 1},
        {"eyeLookDown": 1},
    ]
    sets = {
        "parts": [{name: 1} for name in (*names, *bases) if not name.startswith("eyeLook")],
        "moods": [apex for apex in APEX.values() if apex],
        "speech": [shape for shape in VISEMES.values() if shape],
        "gaze": gaze,
        "lids": [{"eyeBlink": 1}],
    }
    return {key: np.stack([_vector(parts) for parts in every]) for key, every in sets.items()}


def _vector(parts: dict[str, float]) -> np.ndarray:
    face = Face(1, lopsided=0)
    face.add_all(parts, 1.0)
    return face.actions[0]


def acted_actions(rng: np.random.Generator, count: int) -> np.ndarray:
    """Facial actions (count, 52) of faces with `FRAMES` each: every second face is taken from an
    acted clip, of the others every frame is mixed on its own.
    """
    actions = mixed_actions(rng, count).reshape(-1, FRAMES, 52)
    for face in actions[::2]:
        number, difficulty = int(rng.integers(2**31)), rng.uniform()
        sentence, emotion = rng.choice(list(SENTENCES)), rng.choice(list(APEX))
        more = {"wild": True, "difficulty": difficulty, "seed": number}
        clip = ClipSpec(f"acted {number}", Actor(FIRST + number), sentence, emotion, **more)
        face[:] = motion(clip).actions[rng.choice(clip.frames, FRAMES, replace=False)]
    return actions.reshape(-1, 52)


def mixed_actions(rng: np.random.Generator, count: int) -> np.ndarray:
    """Facial actions (count, 52), every frame on its own.

    A few single ones, parts of an expression, a mouth's shape, a gaze, and sometimes a blink.
    """
    face = Face(count, lopsided=0)
    total = np.abs(rng.normal(0, 0.02, face.actions.shape))  # no face is quite at rest
    # how many of a set are there at a time, about, and how strong at most
    for key, (many, most) in MIXTURE.items():
        patterns = _patterns()[key]
        there = rng.random((count, len(patterns))) < np.atleast_1d(many)[
            rng.integers(np.size(many), size=(count, 1))
        ] / len(patterns)
        total += (there * most * rng.beta(1.2, 1.2, there.shape)) @ patterns
    total *= rng.lognormal(0, 0.25, total.shape) * (rng.random(total.shape) > 0.15)
    lopsided = rng.normal(0, 0.15, count)
    for name, column in face.number.items():
        side = name.endswith("Left") - name.endswith("Right")
        total[:, column] *= 1 + side * lopsided
    face.actions = total
    return face.limited()


MIXTURE = {
    "parts": ((0.5, 2, 5), 1.2),
    "moods": ((0, 0.7, 1.3), 1.5),
    "speech": ((0, 1, 1.5), 1.1),
    "gaze": (1.2, 0.9),
    "lids": (0.2, 1.1),
}


def random_poses(rng: np.random.Generator, count: int) -> np.ndarray:
    """Poses (count, 6) as `ppfer.twin.head.draw` takes them: turned widely, framed as a face finder
    does.
    """
    turned = np.radians(np.clip(rng.normal(0, SPREAD, (count, 3)), -MOST, MOST))
    shift, scale = rng.normal(0, 0.03, (count, 2)), rng.uniform(0.85, 1.3, (count, 1))
    return np.concatenate([turned, shift, scale], 1)


def random_lamps(rng: np.random.Generator, count: int) -> np.ndarray:
    """Lamps (count, 9), likewise: from anywhere in front, of any tint."""
    toward = np.stack(
        [rng.uniform(-1.3, 1.3, count), rng.uniform(-0.4, 1.1, count), np.ones(count)]
    )
    toward = (toward / np.linalg.norm(toward, axis=0)).T
    key = rng.uniform(0.4, 1.0, (count, 1)) * (1 + rng.normal(0, 0.08, (count, 3)))
    fill = rng.uniform(0.12, 0.5, (count, 1)) * (1 + rng.normal(0, 0.08, (count, 3)))
    return np.concatenate([toward, key, fill], 1)


def _backgrounds(count: int, first: int) -> list[np.ndarray]:
    """Linear light (3, SIDE, SIDE): one in four a green screen, the others anything."""
    specs = [
        ClipSpec(f"crowd {first + i}", Actor(first), "IEO", "neutral", wild=i % 4 > 0)
        for i in range(count)
    ]
    return [background(spec, SIDE) for spec in specs]
