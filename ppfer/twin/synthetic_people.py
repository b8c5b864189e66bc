"""Strangers to learn movements from: thousands of synthetic people in no particular mood.

Nobody here is in any data set: numbers count from `FIRST`, and a face goes with several head
shapes. Half of the faces act; in the others facial actions are mixed at random, so that a network
that reads them learns no expression by heart. Heads turn widely, light and background are anything
at all, and some wear spectacles.
"""

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
from ppfer.twin.paint import paint, skin_chart
from ppfer.twin.people import Actor, look, seeded
from ppfer.twin.raster import settled

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
    """Frames of P faces, and what moves in them."""

    frames: Tensor  # (P, F, 3, S, S) uint8
    # (P, F, 55): 52 facial actions in the head model's order (ARKit's names), 0 at rest and 1 fully
    # there; yaw, pitch and roll in rad
    numbers: Tensor


def crowd(
    people: int,
    device: torch.device,
    first: int = FIRST,
    progress: Callable[[int], None] = lambda done: None,
) -> Crowd:
    """Draw a crowd of P = people · SHAPES faces, on `device`: painted faces, counted from `first`,
    on `SHAPES` heads each, `FRAMES` times. The same numbers give the same pictures.
    """
    # everything random is drawn before the first picture, whatever the device
    rng = seeded("crowd", first, people)
    each, total = SHAPES * FRAMES, people * SHAPES * FRAMES
    put = functools.partial(torch.as_tensor, dtype=torch.float32, device=device)
    drawn = (settled(draws(rng, total)) for draws in (acted_actions, random_poses, random_lamps))
    actions, pose, lamp = map(put, drawn)
    specs = [  # of backgrounds: one in four a green screen, the others anything
        ClipSpec(f"crowd {first + i}", Actor(first), "IEO", "neutral", wild=i % 4 > 0)
        for i in range(min(BEHIND, people))
    ]
    behind = put(np.stack([background(spec, SIDE) for spec in specs]))
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
    jobs = -1 if people >= MANY else 1  # of as many processes as there are cores, a thread each
    pool = joblib.Parallel(jobs, return_as="generator", max_nbytes=None)
    return pool(joblib.delayed(stranger)(number) for number in range(first, first + people))


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
    angle, y = skin_chart()
    angle = np.abs(angle)
    wide, tall, thick = rng.uniform(0.26, 0.34), rng.uniform(0.13, 0.2), rng.uniform(0.015, 0.035)
    square = rng.choice([2, 4])
    lens = ((np.abs(angle - 0.43) / wide) ** square + (np.abs(y) / tall) ** square) ** (1 / square)
    rim = np.abs(lens - 1) * tall < thick
    bars = (np.abs(y - 0.03) < thick) & ((angle < 0.43 - wide) | (angle > 0.43 + wide))
    out = texture.copy()
    out[: len(y)][rim | (bars & (angle < 1.5))] = rng.integers(0, 110, 3)
    return out


# --- how ----------------------------------------------------------------------


@functools.cache
def _mixture() -> list[tuple[np.ndarray, tuple[float, ...], float]]:
    """What a movement is mixed of: sets of action vectors (K, 52), about how many of each set are
    there at a time, and how strong at most.
    """
    names = list(load_head(torch.device("cpu")).action)
    bases = dict.fromkeys(name.removesuffix("Left").removesuffix("Right") for name in names)
    parts = [{name: 1} for name in (*names, *bases) if not name.startswith("eyeLook")]
    sideways = (
        {"eyeLookInRight": 1, "eyeLookOutLeft": 1},
        {"eyeLookInLeft": 1, "eyeLookOutRight": 1},
    )
    sets = (
        (parts, (0.5, 2, 5), 1.2),
        (filter(None, APEX.values()), (0, 0.7, 1.3), 1.5),
        (filter(None, VISEMES.values()), (0, 1, 1.5), 1.1),
        ((*sideways, {"eyeLookUp": 1}, {"eyeLookDown": 1}), (1.2,), 0.9),
        ([{"eyeBlink": 1}], (0.2,), 1.1),
    )
    return [(np.stack(list(map(_vector, every))), many, most) for every, many, most in sets]


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
    """Facial actions (count, 52), every frame on its own: a few single ones, parts of an
    expression, a mouth's shape, a gaze, and sometimes a blink.
    """
    face = Face(count, lopsided=0)
    total = np.abs(rng.normal(0, 0.02, face.actions.shape))  # no face is quite at rest
    for patterns, many, most in _mixture():
        chances = rng.random((count, len(patterns)))
        there = chances < rng.choice(many, (count, 1)) / len(patterns)
        total += (there * most * rng.beta(1.2, 1.2, there.shape)) @ patterns
    total *= rng.lognormal(0, 0.25, total.shape) * (rng.random(total.shape) > 0.15)
    lopsided = rng.normal(0, 0.15, count)
    for name, column in face.number.items():
        side = name.endswith("Left") - name.endswith("Right")
        total[:, column] *= 1 + side * lopsided
    face.actions = total
    return face.limited()


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
