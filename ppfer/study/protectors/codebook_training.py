"""How the codebook learns: synthetic strangers who act CREMA-D's clips, and an encoder that is to
hide from two adversaries whose clip it was.

Stages: strangers, codebook.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ppfer.base.progress import Progress
from ppfer.base.weights import load_weights, save_tensors, save_weights
from ppfer.data.words import EMOTIONS
from ppfer.method.privacy import privacy_loss
from ppfer.run.stage import Stage, stage
from ppfer.study.protectors import regressor
from ppfer.study.protectors.codebook import (
    CODE,
    FINEST,
    FRAMES,
    HIDDEN,
    NUMBERS,
    Codebook,
    kmeans,
    probe,
)
from ppfer.twin.acting import ClipSpec, actor_specs, motion
from ppfer.twin.files import render_clips
from ppfer.twin.people import DONOR, Actor

NOISE = 0.1  # on the code while it is learned, so that what is finer than that is not used
UPDATES = 2  # of the adversaries for each of the encoder
FIRST = 20_001  # number of the first stranger: nobody else's
HELD_OUT = 8  # one stranger of so many is kept for validation
TOLD = 0.5  # weight of telling what the donor would have done
CLEAR = 8.0  # weight of clear expression, when performances are chosen
AT_ONCE = 512  # clips rendered and read at a time


@stage("strangers", needs=("regressor",), settings=("codebook_people",), notebook="11")
class Strangers(Stage):
    """Numbers of synthetic strangers who act all of CREMA-D's clips, and of the donor in each."""

    def make(self, folder: Path) -> dict:
        people, net = self.config.codebook_people, self.run.get("regressor")
        specs = [s for i in range(people) for s in actor_specs(Actor(FIRST + i), FRAMES)]
        progress = Progress("strangers: drawing and reading", len(specs), "clips")
        numbers, device = [], self.run.device
        for start in range(0, len(specs), AT_ONCE):
            clips = render_clips(specs[start : start + AT_ONCE], regressor.SIDE, device)
            with torch.inference_mode():
                read = [net(part.flatten(0, 1).float() / 255) for part in clips.split(64)]
            numbers.append(torch.cat(read).unflatten(0, (-1, FRAMES)).half().cpu())
            progress.update(min(start + AT_ONCE, len(specs)))
        acted = joblib.Parallel(n_jobs=-1, batch_size=64)(map(joblib.delayed(donors), specs))
        tensors = {
            "numbers": torch.cat(numbers),
            "donors": torch.from_numpy(np.stack(acted)).half(),
            "who": torch.tensor([s.actor.id - FIRST for s in specs]),
            "emotion": torch.tensor([EMOTIONS.index(s.emotion) for s in specs]),
        }
        save_tensors(tensors, folder / "strangers.safetensors")
        return {"people": people, "clips": len(specs)}

    def load(self, folder: Path) -> dict[str, Tensor]:
        """Tensors "numbers", "donors" (N, FRAMES, 55), "who", "emotion" (N,)."""
        found = load_file(folder / "strangers.safetensors", device=str(self.run.device))
        return {key: x.float() if x.is_floating_point() else x for key, x in found.items()}


def donors(spec: ClipSpec) -> np.ndarray:
    """What the donor would have done in a clip: numbers (T, 55)."""
    done = motion(replace(spec, actor=Actor(DONOR)))
    return np.concatenate([done.actions, done.pose[:, :3]], 1).astype(np.float32)


def head(classes: int, width: int) -> nn.Module:
    """Codes (B, CODE) to logits over people or expressions."""
    return nn.Sequential(
        nn.Linear(CODE, width), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, classes),
    )  # fmt: skip


class CodeObjective(nn.Module):
    """The encoder's and the adversaries' steps on successive batches, as in `live`.

    `UPDATES` steps of three train the adversaries on the code. The third trains the encoder:
    CE(expression) + `TOLD` · squared error of the donor's numbers + weight · (CE to uniform of
    both adversaries). `people` are told apart; `scale` (2, 55) is the mean and deviation of the
    donor's numbers.
    """

    alternates = True  # see `ppfer.run.loop.fit`

    def __init__(self, net: Codebook, people: int, scale: Tensor, weight: float):
        super().__init__()
        self.net, self.weight = net, weight
        self.expression = head(len(EMOTIONS), 512)
        self.donor = nn.Sequential(
            nn.Linear(CODE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, FRAMES * NUMBERS)
        )
        self.adversaries = nn.ModuleList(head(people, width) for width in (512, 1024))
        self.register_buffer("scale", scale)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, numbers: Tensor, donors: Tensor, who: Tensor, emotion: Tensor) -> Tensor:
        """Clips' numbers and the donor's (B, FRAMES, 55), labels (B,) → scalar."""
        encoding = int(self.step) % (UPDATES + 1) == UPDATES
        self.step += 1
        for adversary in self.adversaries:
            adversary.requires_grad_(not encoding)
        with torch.set_grad_enabled(encoding):
            code = self.net(numbers)
            code = code + NOISE * torch.randn_like(code)
        logits = [adversary(code) for adversary in self.adversaries]
        if not encoding:
            return sum(F.cross_entropy(each, who) for each in logits)
        told = self.donor(code).unflatten(1, (FRAMES, NUMBERS))
        mean, std = self.scale
        loss = F.cross_entropy(self.expression(code), emotion)
        loss = loss + TOLD * F.mse_loss(told, (donors - mean) / std)
        hidden = sum(privacy_loss(each, who, "uniform") for each in logits)
        return loss + self.weight * hidden


def fill(book: Codebook, numbers: Tensor, donors: Tensor, emotions: Tensor) -> None:
    """Make the symbols of a trained encoder: k-means of the codes of the strangers' clips, numbers
    (N, FRAMES, 55), each named after what most of its clips show and performed by the donor.
    """
    codes = torch.cat([book(part) for part in numbers.split(4096)])
    centres, own = kmeans(codes, torch.ones(len(codes), device=codes.device), FINEST)
    shown = F.one_hot(emotions, len(EMOTIONS)).float()
    votes = torch.zeros(FINEST, len(EMOTIONS), device=codes.device).index_add_(0, own, shown)
    book.centres.copy_(centres)
    book.share.copy_(votes.sum(1) / len(codes))
    book.named.copy_(votes.argmax(1))
    nearest = donors[torch.cdist(centres, codes).argmin(1)]
    book.performances.copy_(donors[performing(nearest, votes.argmax(1), donors, emotions)])


def performing(
    wanted: Tensor, named: Tensor, donors: Tensor, emotions: Tensor, clarity: float = CLEAR
) -> Tensor:
    """Which of the donor's clips stands for each symbol, no clip for two: one that shows what the
    symbol is named after, clearly (by ridge regression of all that the donor does), and is like
    the one wanted. That one may show another expression, or hardly any: recognizers that were
    trained on ordinary clips read less of it.

    Args:
        wanted: (M, FRAMES, 55) the donor in the clip nearest to each centre.
        named: (M,) expressions of the symbols.
        donors, emotions: (N, FRAMES, 55) and (N,), all that the donor does.
        clarity: weight of clear expression against likeness.

    Returns:
        (M,) places among the N.
    """
    x = F.pad(donors.flatten(1), (0, 1), value=1.0)
    shown = F.one_hot(emotions, len(EMOTIONS)).float()
    ridge = torch.eye(x.shape[1], device=x.device)
    clear = x @ torch.linalg.solve(x.mT @ x + ridge, x.mT @ shown)  # (N, expressions)
    scale = donors.std((0, 1)) + 1e-2
    apart = torch.cdist(*((part / scale).flatten(1) for part in (wanted, donors))).square()
    cost = apart / wanted[0].numel() - clarity * clear.T[named]
    cost = cost.masked_fill(named[:, None] != emotions, torch.inf)
    chosen = torch.zeros_like(named)
    for row in cost.amin(1).argsort():  # the surest first
        chosen[row] = cost[row].argmin()
        cost[:, chosen[row]] = torch.inf
    return chosen


@stage(
    "codebook",
    needs=("strangers",),
    settings=("codebook_weights", "codebook_privacy"),
    notebook="11",
)
class CodebookTraining(regressor.Shipped):
    """The codebook."""

    def needs(self) -> tuple[str, ...]:
        return () if self.given else super().needs()

    def make(self, folder: Path) -> dict:
        summary = super().make(folder)
        if self.given:
            return summary
        net = load_weights(self.net(), folder / "weights.safetensors").to(self.run.device).eval()
        with torch.inference_mode():
            fill(net, *(self.known[key] for key in ("numbers", "donors", "emotion")))
            net.probe.copy_(probe(self.run.get("regressor"), self.run.device))
        save_weights(net, folder / "weights.safetensors")
        return summary | self.strangers_named(net)

    def net(self) -> Codebook:
        return Codebook()

    def start(self) -> Codebook:
        net, numbers = self.net().to(self.run.device), self.known["numbers"]
        net.mean.copy_(numbers.mean((0, 1)))
        net.std.copy_(numbers.std((0, 1)) + 1e-3)
        return net

    @functools.cached_property
    def parts(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The strangers to learn from, and those to validate on."""
        found = self.run.get("strangers")
        held = found["who"] % HELD_OUT == HELD_OUT - 1
        if not held.any():  # too few to keep one
            return found, found
        return tuple({key: x[rows] for key, x in found.items()} for rows in (~held, held))

    @property
    def known(self) -> dict[str, Tensor]:
        """The strangers to learn from."""
        return self.parts[0]

    def objective(self, net: Codebook) -> nn.Module:
        donors, people = self.known["donors"], self.config.codebook_people
        scale = torch.stack([donors.mean((0, 1)), donors.std((0, 1)) + 1e-2])
        return CodeObjective(net, people, scale, self.config.codebook_privacy)

    def batches(self) -> Callable[[int], tuple]:
        data = [self.known[key] for key in ("numbers", "donors", "who", "emotion")]
        count, size, seed = len(data[0]), self.train.batch, self.seed

        def batch(step: int) -> tuple[Tensor, ...]:
            g = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
            rows = torch.randint(count, (size,), generator=g).to(data[0].device)
            return tuple(x[rows] for x in data)

        return batch

    def strangers_named(self, net: Codebook) -> dict:
        """Of the strangers held out: clips whose expression the symbol names, symbols used."""
        held, count = self.parts[1], self.config.codebook_symbols
        with torch.inference_mode():
            symbols = net.symbols(held["numbers"], count)
            right = (net.expressions(symbols, count) == held["emotion"]).float().mean()
        return {"val_expression": float(right), "val_symbols": len(symbols.unique())}
