"""Can people whom no attacker has seen be told apart? Linkage on an open set.

Naming one of 91 known people is a closed question. Here a third of the people are strangers: the
attacker learns on pairs (original, protected) of the others to say of a protected frame what V_pl's
embedding says of the original. Then the strangers' originals are enrolled, and every protected test
clip of theirs is matched to the nearest.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import nets
from ppfer.measure import Linked
from ppfer.method.networks import Objective, OnProtected, new_classifier
from ppfer.run.run import Run
from ppfer.run.stage import stage
from ppfer.study.attacks import with_body

STRANGERS = 3  # one person of so many is one
ENROLLED = 8  # clips of each stranger's originals


class Embedder(nn.Module):
    """A classifier without its last layer: (N, 3, H, W) → (N, D) of length 1."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, frames: Tensor) -> Tensor:
        return F.normalize(self.body(frames).float(), dim=-1)


class Unlike(nn.Module):
    """1 − cosine of embeddings (B, D) to what a frozen teacher says of originals (B, 3, H, W)."""

    def __init__(self, teacher: nn.Module):
        super().__init__()
        self.teacher = teacher

    def forward(self, embeddings: Tensor, original: Tensor) -> Tensor:
        return (1 - (embeddings * self.teacher(original)).sum(-1)).mean()


def strangers(run: Run) -> np.ndarray:
    """Labels of the people kept from the attacker."""
    people = len(run.classes("actor"))
    return np.linspace(0, people - 1, max(2, people // STRANGERS)).astype(int)


def linked(probes: Tensor, whose: np.ndarray, gallery: Tensor, enrolled: np.ndarray) -> Linked:
    """How often the enrolled person nearest to a clip is the right one, and the rate at which as
    many pairs of two people are accepted as pairs of one are refused: of embeddings (n, D) of
    clips and (m, D) of the enrolled, of length 1, each with their labels.
    """
    scores = (probes @ gallery.T).numpy()  # (n, m)
    same, hits = whose[:, None] == enrolled, enrolled[scores.argmax(1)] == whose
    thresholds = np.unique(scores)
    refused = np.searchsorted(np.sort(scores[same]), thresholds) / same.sum()
    accepted = 1 - np.searchsorted(np.sort(scores[~same]), thresholds) / (~same).sum()
    at = np.abs(refused - accepted).argmin()
    return Linked(int(hits.sum()), len(hits), float(refused[at] + accepted[at]) / 2)


@stage("linkage/{protector}", needs=("identity",), notebook="11")
class Linkage(OnProtected):
    """V_pl's embedding distilled on pairs of known people, tried on strangers."""

    trains = "attack"
    best = (("val_cosine", max),)

    def known(self, part: str) -> np.ndarray:
        """Clips of a part that show no stranger."""
        index = self.run.parts[part]
        return index[~np.isin(self.run.labels("actor")[index], strangers(self.run))]

    def net(self) -> nn.Module:
        return Embedder(new_classifier(self.config, 0))

    def start(self) -> nn.Module:
        net = self.net()
        with_body(net.body, self.run.get("identity"))
        return net

    def teacher(self) -> nn.Module:
        """V_pl's embedding of originals."""
        return nets.freeze(self.start()).to(self.run.device)

    def objective(self, net: nn.Module) -> nn.Module:
        return Objective(net, Unlike(self.teacher()))

    def batches(self) -> Callable:
        return self.pairs(self.known("train"))

    def measure(self, net: nn.Module) -> dict[str, float]:
        validation = self.known("val")
        pupil, teacher = (
            self.run.logits(judge, store, validation, per_frame=True)
            for judge, store in ((net, self.store), (self.teacher(), "clips"))
        )
        return {"val_cosine": float((pupil * teacher).sum(-1).mean())}

    def report(self, net: nn.Module) -> dict:
        run, actors, unseen = self.run, self.run.labels("actor"), strangers(self.run)
        train, test = run.parts["train"], run.parts["test"]
        probes = test[np.isin(actors[test], unseen)]
        gallery = np.concatenate([train[actors[train] == who][:ENROLLED] for who in unseen])
        shown = clip_embeddings(run.logits(net, self.store, probes, per_frame=True))
        known = clip_embeddings(run.logits(self.teacher(), "clips", gallery, per_frame=True))
        people = torch.stack([known[actors[gallery] == who].mean(0) for who in unseen])
        result = linked(shown, actors[probes], F.normalize(people, dim=-1), unseen)
        return {"people": len(unseen), "test": result.to_dict()}


def clip_embeddings(frames: Tensor) -> Tensor:
    """(n, T, D) of frames → (n, D) of clips, of length 1."""
    return F.normalize(frames.mean(1), dim=-1)
