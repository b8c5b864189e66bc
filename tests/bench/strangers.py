"""Are people whom no attacker has seen told apart? `linkage` asks it of a network on pixels; here
it is asked of who solves and does not train.

    python tests/bench/strangers.py [--profile twin] [--runs DIR] --out DIR

Everybody is a stranger once: people are dealt out into three groups, and whoever attacks one of
them has clips of the other two, original and protected. He sees the statistics of the numbers that
are read back off a clip (of the perfect swap, and of it alone, the true ones), or its thumbnails,
and learns which directions tell people apart, whether a clip is protected or not (Fisher 1936). How
many directions, and how far their covariance is shrunk, is what matches most of one of his groups
when it is learned from the other. Then strangers are enrolled, by their originals or by these as
he protects them himself, since anybody can: by the mean of their training clips, to the nearest of
which their protected test clips are matched. Writes ``strangers.json``.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ppfer.base.files import write_json
from ppfer.config import load_config
from ppfer.measure import HELD, Rate, pooled, write_table
from ppfer.run.names import RUNS, made_in
from ppfer.run.run import Run
from ppfer.study.attacks.features import Moments
from ppfer.study.catalogue import open_run
from ppfer.study.protectors.names import statistics

ASKED = ("none", "ppfer", "live", "donor", "reenactment", "codebook")
GROUPS = 3
SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.9)
DIRECTIONS = (3, 6, 12, 24, 48)


def features(run: Run, name: str) -> dict[str, Tensor]:
    """What an attacker sees of a protector's clips, (n, K), by what it is."""
    common.complete(run, f"protected/{name}", f"numbers/{name}")
    numbers = statistics(run.get(f"numbers/{name}").cpu())
    thumbnails = run.logits(Moments(), f"protected/{name}").cpu()
    return {"numbers": numbers.double(), "thumbnails": thumbnails.double()}


def learned(sources: list[Tensor], whose: np.ndarray, known: np.ndarray) -> Callable[[float], list]:
    """Shrinkage → sources (n, K), original and protected, in directions (n, most) that tell people
    of the known clips apart, in units of what differs between the clips of one of them, the best
    first.
    """
    sources = [(x - x[known].mean(0)) / (x[known].std(0) + 1e-3) for x in sources]
    own = F.one_hot(torch.as_tensor(np.unique(whose[known], return_inverse=True)[1])).double()
    x, own = torch.cat([x[known] for x in sources]), own.repeat(len(sources), 1)
    means = own.T @ x / own.sum(0)[:, None]
    apart = x - own @ means
    values, vectors = torch.linalg.eigh(apart.T @ apart / len(x))

    def shrunk(shrinkage: float) -> list[Tensor]:
        white = vectors * values.lerp(values.mean(), shrinkage).rsqrt()
        found = white @ torch.linalg.svd(means @ white, full_matrices=False)[2].T
        return [x @ found[:, : DIRECTIONS[-1]] for x in sources]

    return shrunk


def matched(run: Run, seen: list[Tensor], people: np.ndarray, count: int) -> dict[int, Rate]:
    """How often people's test clips in the last source are nearest to their own training clips in
    the first, from so many clips of a person, by the first `count` directions.
    """
    enrolled, shown = (F.normalize(seen[i][:, :count], dim=-1).float() for i in (0, -1))
    actors, train, test = run.labels("actor"), run.parts["train"], run.parts["test"]
    gallery = torch.stack([enrolled[train[actors[train] == who]].mean(0) for who in people])
    test = test[np.isin(actors[test], people)]
    scores = shown[test] @ F.normalize(gallery, dim=-1).T
    place = np.searchsorted(people, actors[test])
    return {clips: pooled(scores, place, clips) for clips in HELD}


def against(run: Run, sources: list[Tensor], group: int) -> dict[int, Rate]:
    """What an attacker of one group matches."""
    actors = run.labels("actor")
    groups = [np.unique(actors)[i::GROUPS] for i in range(GROUPS)]
    strangers, tried, *others = (groups[(group + i) % GROUPS] for i in range(GROUPS))
    seen = np.concatenate([run.parts["train"], run.parts["val"]])

    def known(people: np.ndarray) -> np.ndarray:
        return seen[np.isin(actors[seen], people)]

    rest, found = np.concatenate(others), {}
    shrunk = learned(sources, actors, known(rest))
    for shrinkage in SHRINKAGES:
        space = shrunk(shrinkage)
        for count in DIRECTIONS:
            found[shrinkage, count] = matched(run, space, np.sort(tried), count)[1].k
    shrinkage, count = max(found, key=found.get)
    space = learned(sources, actors, known(np.concatenate([tried, rest])))(shrinkage)
    return matched(run, space, strangers, count)


def rows_of(run: Run) -> list[dict]:
    """A row for each approach, for what is seen of it and for how strangers are enrolled."""
    made, originals = [], features(run, "none")
    for name in ASKED:
        protected = originals if name == "none" else features(run, name)
        ways = ("protected",) if name == "none" else ("originals", "protected")
        for kind, enrolled in itertools.product(originals, ways):
            sources = [originals[kind]] * (enrolled == "originals") + [protected[kind]]
            row = {"approach": run.protector(name).title, "seen": kind, "enrolled": enrolled}
            groups = [against(run, sources, group) for group in range(GROUPS)]
            for clips in HELD:
                rates = [group[clips] for group in groups]
                total = Rate(sum(r.k for r in rates), sum(r.n for r in rates))
                row |= {f"{clips} clip{'s' * (clips > 1)}": total}
            made.append(row)
            print(row, flush=True)
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="twin")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    run = open_run(load_config(given.profile), given.runs)
    common.complete(run, "split")
    write_table(rows_of(run), given.out, "strangers")
    needed = ["clips", "split", *(f"numbers/{name}" for name in ASKED)]
    about = {k: v for k, v in made_in(run.dir).items() if k in needed}
    write_json(given.out / "strangers_manifest.json", about)
