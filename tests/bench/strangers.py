"""Are people whom no attacker has seen told by how they move? `linkage` asks it of pixels; here it
is asked of the numbers that are read back off a protected clip.

    python tests/bench/strangers.py [--profile twin] [--runs DIR] --out DIR

The attacker has clips of other people, original and protected, and learns from the statistics of
their numbers which directions tell people apart (Fisher 1936), whether a clip is protected or not.
How many directions, and how far their covariance is shrunk, is what links most of a third of those
people when it is learned from the others. Then strangers' originals are enrolled, as for
`linkage`, and their protected test clips matched to the nearest. Writes ``strangers.json``.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import common
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ppfer.base.files import write_json
from ppfer.config import load_config
from ppfer.measure import HELD, Linked, pooled, write_table
from ppfer.run.names import RUNS, made_in
from ppfer.run.run import Run
from ppfer.study.attacks.linkage import ENROLLED, linked, strangers
from ppfer.study.attacks.within import SHRINKAGES
from ppfer.study.catalogue import open_run
from ppfer.study.protectors.names import statistics

ASKED = ("none", "donor", "reenactment", "codebook")
DIRECTIONS = (3, 6, 12, 24, 48)


def learned(given: list[Tensor], whose: np.ndarray, shrinkage: float, count: int) -> Tensor:
    """(K, count): directions that tell people apart in features (n, K) of their clips, original and
    protected, in units of what differs between the clips of one person.
    """
    own = F.one_hot(torch.as_tensor(np.unique(whose, return_inverse=True)[1])).double()
    x, own = torch.cat(given), own.repeat(len(given), 1)
    means = own.T @ x / own.sum(0)[:, None]
    apart = x - own @ means
    spread = apart.T @ apart / len(x)
    sphere = spread.trace() / len(spread) * torch.eye(len(spread)).to(spread)
    values, vectors = torch.linalg.eigh(spread.lerp(sphere, shrinkage))
    white = vectors * values.rsqrt()
    return white @ torch.linalg.svd(means @ white, full_matrices=False)[2][:count].T


def matched(
    run: Run, sources: list[Tensor], people: np.ndarray, others: np.ndarray, *how: float
) -> tuple[Linked, dict]:
    """Protected clips of some people matched to their originals by what clips of others taught;
    of so many clips of a person together, too.
    """
    actors, train = run.labels("actor"), run.parts["train"]
    known = np.concatenate([run.parts["train"], run.parts["val"]])
    known = known[np.isin(actors[known], others)]
    scaled = [(x - x[known].mean(0)) / (x[known].std(0) + 1e-3) for x in sources]
    seen = learned([x[known] for x in scaled], actors[known], *how)
    original, protected = (F.normalize(x @ seen, dim=-1).float() for x in scaled)

    gallery = [original[train[actors[train] == who][:ENROLLED]].mean(0) for who in people]
    gallery = F.normalize(torch.stack(gallery), dim=-1)
    probes = run.parts["test"][np.isin(actors[run.parts["test"]], people)]
    shown, whose = protected[probes], actors[probes]
    scores, place = shown @ gallery.T, np.searchsorted(people, whose)
    held = {clips: pooled(scores, place, clips) for clips in HELD}
    return linked(shown, whose, gallery, people), held


def row_of(run: Run, name: str) -> dict:
    """How often strangers' clips are matched, from one clip and from several."""
    names = ("none", name)
    sources = [statistics(run.get(f"numbers/{n}").cpu()).double() for n in names]
    unseen = strangers(run)
    known = np.setdiff1d(run.labels("actor"), unseen)
    third, rest = known[::3], np.setdiff1d(known, known[::3])

    def right(how: tuple) -> int:
        return matched(run, sources, third, rest, *how)[0].k

    how = max(itertools.product(SHRINKAGES, DIRECTIONS), key=right)
    single, held = matched(run, sources, unseen, known, *how)
    about = {"approach": run.protector(name).title, "strangers": len(unseen), "1 clip": single}
    about |= {f"{clips} clips": held[clips] for clips in HELD if clips > 1 and held[clips].n}
    return about | {"shrinkage": how[0], "directions": how[1]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="twin")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    common.pick_device([])
    run = open_run(load_config(given.profile), given.runs)
    for stage in ("clips", "split", *(f"numbers/{name}" for name in ASKED)):
        run.ensure(stage)
    made = [row_of(run, name) for name in ASKED]
    write_table(made, given.out, "strangers")
    stages = {f"numbers/{name}" for name in ASKED}
    about = {k: v for k, v in made_in(run.dir).items() if k in stages | {"clips"}}
    write_json(given.out / "strangers_manifest.json", about)
    for row in made:
        print(row)
