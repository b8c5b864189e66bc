"""Attackers who hold numbers or symbols, and a codebook whose symbols are names of expressions.

All of it is small enough for ten people, and trains in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
FLAT = 3.0  # ridge's penalty, in mean eigenvalues of the features' covariance
LEAST = 1e-3  # added to every deviation: some of the landmarker's actions never move
STEPS, BATCH, RATE = 400, 64, 1e-3  # of a network

Fold = tuple[np.ndarray, np.ndarray]  # which clips are learned from and which named, (n,) bool
Fit = Callable[[np.ndarray, np.ndarray, int], Callable[[np.ndarray], np.ndarray]]


def folds(values: np.ndarray) -> Iterator[Fold]:
    """Each of the values (n,) held out in turn."""
    for value in np.unique(values):
        yield values != value, values == value


def held_out(fit: Fit, given: np.ndarray, labels: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Log-probabilities (n, K) of every clip, by a classifier that did not see its fold."""
    classes = labels.max() + 1
    said = np.zeros((len(labels), classes))
    for train, test in folds(by):
        said[test] = fit(given[train], labels[train], classes)(given[test])
    return said


def pooled(said: np.ndarray, labels: np.ndarray, clips: int) -> tuple[int, int]:
    """How often log-probabilities (n, K), added over so many clips of a person, name them; of how
    many.
    """
    rng, right, tried = np.random.default_rng(0), 0, 0
    for who in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == who))
        for first in range(0, len(own) - clips + 1, clips):
            right += int(said[own[first : first + clips]].sum(0).argmax() == who)
            tried += 1
    return right, tried


# --- on numbers (n, T, 55) ----------------------------------------------------------


def statistics(numbers: np.ndarray) -> np.ndarray:
    """Of each clip (n, T, 55) the mean, the deviation and quantiles over time: (n, 385)."""
    over = np.quantile(numbers, QUANTILES, axis=1)
    return np.concatenate([numbers.mean(1), numbers.std(1), *over], 1)


def ridge(given: np.ndarray, labels: np.ndarray, classes: int) -> Callable:
    """Scores (n, K) linear in features (n, D), fitted to the labels by ridge regression.

    In its dual form: there are fewer clips than features.
    """
    mean, scale = given.mean(0), given.std(0) + LEAST
    features, wanted = (given - mean) / scale, np.eye(classes)[labels] - 1 / classes
    gram = features @ features.T
    flat = FLAT * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = features.T @ np.linalg.solve(gram + flat, wanted)
    return lambda new: (new - mean) / scale @ weights


def linear(given: np.ndarray, labels: np.ndarray, classes: int) -> Callable:
    """An attacker: `ridge` on statistics; ten times its scores are taken as log-odds."""
    scores = ridge(statistics(given), labels, classes)
    return lambda new: _normal(10 * scores(statistics(new)))


class Convolution(nn.Module):
    """Sequences (n, T, D) to logits (n, K)."""

    def __init__(self, width: int, classes: int, hidden: int = 128):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(width, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Conv1d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * hidden, classes))

    def forward(self, numbers: Tensor) -> Tensor:
        seen = self.body(numbers.transpose(1, 2))  # (n, hidden, T)
        return self.head(torch.cat([seen.mean(2), seen.amax(2)], 1))


def perceptron(given: np.ndarray, labels: np.ndarray, classes: int) -> Callable:
    """An attacker: a network on statistics."""
    width, hidden = statistics(given[:1]).shape[1], 256
    layers = nn.Dropout(0.2), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(0.5)
    said = _trained(nn.Sequential(*layers, nn.Linear(hidden, classes)), statistics(given), labels)
    return lambda new: said(statistics(new))


def convolution(given: np.ndarray, labels: np.ndarray, classes: int) -> Callable:
    """An attacker: a network on the sequence."""
    return _trained(Convolution(given.shape[2], classes), given, labels)


def _trained(net: nn.Module, given: np.ndarray, labels: np.ndarray) -> Callable:
    axes = tuple(range(given.ndim - 1))
    mean, scale = given.mean(axes), given.std(axes) + LEAST
    put = lambda part: torch.as_tensor((part - mean) / scale, dtype=torch.float32)  # noqa: E731
    features, wanted = put(given), torch.as_tensor(labels)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    for _ in range(STEPS):
        batch = torch.randint(len(features), (BATCH,))
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(features[batch]), wanted[batch], label_smoothing=0.05).backward()
        optimizer.step()
        schedule.step()
    net.eval()

    @torch.inference_mode()
    def said(new: np.ndarray) -> np.ndarray:
        return net(put(new)).log_softmax(1).numpy()

    return said


def _normal(scores: np.ndarray) -> np.ndarray:
    return torch.as_tensor(scores).log_softmax(1).numpy()


ON_NUMBERS = {"linear": linear, "MLP": perceptron, "convolution": convolution}

# --- on symbols (n,) ------------------------------------------------------------------


def counting(given: np.ndarray, labels: np.ndarray, classes: int, unseen: float = 0.5) -> Callable:
    """An attacker: naive Bayes on each person's histogram of symbols, each counted `unseen` times
    before it is seen.
    """
    known = {symbol: i for i, symbol in enumerate(np.unique(given))}
    counts = np.full((classes, len(known) + 1), unseen)  # the last: symbols nobody showed
    np.add.at(counts, (labels, [known[symbol] for symbol in given]), 1)
    odds = np.log(counts / counts.sum(1, keepdims=True)).T
    return lambda new: odds[[known.get(symbol, -1) for symbol in new]]


# --- a codebook whose symbols are names -------------------------------------------------


@dataclass(frozen=True)
class Names:
    """The codebook of six symbols: a clip becomes the name of its expression.

    Whoever is read as angry whatever they do would be known by it. So each person's mean scores
    are taken off before the highest gives the name; no label goes into that.

    Attributes:
        own: whether that is done.
    """

    own: bool = True

    def learn(
        self, numbers: np.ndarray, people: np.ndarray, emotions: np.ndarray, known: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of all clips (n, T, 55) the symbols (n,) and the expressions they stand for (n,), here
        the same, after learning from those `known`, (n,) bool.
        """
        features = statistics(numbers)
        scores = ridge(features[known], emotions[known], emotions.max() + 1)(features)
        for who in np.unique(people) if self.own else ():
            scores[people == who] -= scores[people == who].mean(0)
        names = scores.argmax(1)
        return names, names
