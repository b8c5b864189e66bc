"""Who is in a clip: people who do not exist, each made from two numbers."""

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from ppfer.twin.head import load_head
from ppfer.twin.paint import Look, paint

SKIN = {  # from fair to dark
    "Caucasian": ((0.95, 0.80, 0.71), (0.80, 0.60, 0.48)),
    "African American": ((0.62, 0.42, 0.31), (0.34, 0.21, 0.15)),
    "Asian": ((0.93, 0.77, 0.63), (0.78, 0.58, 0.43)),
}
# fmt: off
HAIRS = np.array([(0.09, 0.07, 0.06), (0.20, 0.13, 0.09), (0.36, 0.24, 0.15), (0.55, 0.30, 0.16),
                  (0.76, 0.60, 0.36)])
IRISES = np.array([(0.25, 0.15, 0.08), (0.38, 0.25, 0.13), (0.33, 0.38, 0.22), (0.35, 0.48, 0.58),
                   (0.45, 0.50, 0.52)])
SHIRTS = np.array([(0.20, 0.22, 0.26), (0.24, 0.30, 0.42), (0.45, 0.44, 0.42), (0.40, 0.24, 0.25)])
# fmt: on
DONOR = 1999  # an actor whom no data set of ours holds: the face that others are hidden behind
STYLES = {
    "Male": ("short", "buzz", "volume", "bald", "short", "bob"),
    "Female": ("long", "bob", "fringe", "tied", "volume", "long"),
}


def seeded(*key: object) -> np.random.Generator:
    """A generator seeded by the words of `key`, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


@dataclass(frozen=True)
class Actor:
    """Someone who does not exist. Everything about the face follows from `seed` and `id`."""

    id: int
    seed: int = 0

    @functools.cached_property
    def demographics(self) -> dict[str, str | int]:
        """A row of VideoDemographics.csv.

        Twelve consecutive actors hold both sexes and a mix of ancestries like CREMA-D's.
        """
        rng, place = seeded(self.seed, "demographics", self.id), self.id % 12
        race = "African American" if place in (3, 6, 10) else "Asian" if place == 1 else "Caucasian"
        age = int(20 + 54 * rng.beta(1.1, 2.4))
        hispanic = race == "Caucasian" and rng.random() < 0.15
        return {
            "ActorID": self.id,
            "Age": age,
            "Sex": ("Male", "Female")[self.id % 2],
            "Race": race,
            "Ethnicity": "Hispanic" if hispanic else "Not Hispanic",
        }


def look(actor: Actor) -> Look:
    """The face of an actor, drawn around what the head model knows of sex, age and ancestry."""
    rng, person = seeded(actor.seed, "look", actor.id), actor.demographics
    # the shape: what is known of such people, and chance around it
    male, race, age = person["Sex"] == "Male", person["Race"], person["Age"]
    white = race == "Caucasian"
    model = load_head(torch.device("cpu")).model
    grown = 0.62 + 0.38 * (age - 20) / 60  # the body model's age: 0.62 at 20, 1 at 80
    known = np.array(
        [1, male, grown, rng.beta(3, 3), race == "African American", race == "Asian"], np.float64
    )
    shape = known @ model["regression"] + 0.8 * model["residual"] * rng.normal(size=60)
    # colours, hair greying with age
    fair, dark = np.array(SKIN[race])
    skin = fair + (dark - fair) * rng.random() + rng.normal(0, 0.012, 3)
    shares = (0.25, 0.35, 0.2, 0.08, 0.12) if white else (0.85, 0.15, 0, 0, 0)
    hair = HAIRS[rng.choice(5, p=shares)] * rng.uniform(0.8, 1.2)
    grey = np.clip((age - 50) / 25 + rng.normal(0, 0.15), 0, 0.85)
    hair = hair + (rng.uniform(0.55, 0.8) - hair) * grey
    iris = IRISES[rng.choice(5 if white else 2)] * rng.uniform(0.85, 1.15)
    if male:
        lip = skin * [0.88, 0.62, 0.62]
    else:
        lip = skin * [0.92, rng.uniform(0.45, 0.65), rng.uniform(0.5, 0.65)]
    # what tells people of one kind apart
    bearded = male * (rng.random() < 0.45)
    thick = rng.uniform(0.9, 1.5) if male else rng.uniform(0.6, 1.1)
    return Look(
        shape=shape,
        skin=skin,
        hair=hair,
        iris=iris,
        lip=lip,
        shirt=SHIRTS[rng.choice(4)],
        style=STYLES[person["Sex"]][rng.choice(6)],
        hairline=rng.normal(0, 0.04) + 0.06 * male * (age > 50),
        volume=rng.uniform(0.7, 1.4),
        brow=(thick, rng.normal(0, 0.015), rng.normal(0, 0.012), rng.uniform(0.55, 0.9)),
        freckles=rng.uniform(0.4, 1) * white * (rng.random() < 0.25),
        beard=bearded * rng.choice([0.25, 0.4, 0.8, 0.9]),
        moustache=bearded * rng.uniform(0.3, 0.9),
        seed=int(rng.integers(2**31)),
    )


@functools.lru_cache(maxsize=256)
def appearance(actor: Actor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An actor's resting vertices (V, 3), which faces (F,) there are, texture (rows, 512, 3)."""
    model, face = load_head(torch.device("cpu")), look(actor)
    return *model.neutral(face), paint(face, model.parts)
