"""Attackers and readers on few clips, each fold held out in turn, and a codebook whose symbols are
names of expressions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ppfer.study.attacks.within import (
    ATTACKERS,
    SOLVED,
    counted,
    discriminated,
    learned,
    statistics,
)
from ppfer.study.protectors import names

STEPS = 400  # of an attacker: there are few clips
EIGHTH = 8  # one clip of so many that are learned from is looked at while an attacker trains

Fold = tuple[np.ndarray, np.ndarray]  # which clips are learned from and which named, (n,) bool


def folds(values: np.ndarray) -> Iterator[Fold]:
    """Each of the values (n,) held out in turn."""
    for value in np.unique(values):
        yield values != value, values == value


def held_out(
    attack: Callable[[dict], torch.Tensor], labels: np.ndarray, by: np.ndarray
) -> torch.Tensor:
    """Log-probabilities (n, K) of every clip, by an attacker who did not see its fold.

    Args:
        attack: parts "train", "val" and "test", rows each, → log-probabilities of "test".
        labels: (n,) what is to be named, 0 to K − 1.
        by: (n,) values that are held out in turn.
    """
    found = torch.zeros(len(labels), int(labels.max()) + 1)
    for known, test in folds(by):
        rows = np.random.default_rng(0).permutation(np.flatnonzero(known))
        some = max(1, len(rows) // EIGHTH)
        parts = {"train": rows[some:], "val": rows[:some], "test": np.flatnonzero(test)}
        parts = {key: torch.as_tensor(part) for key, part in parts.items()}
        found[parts["test"]] = attack(parts)
    return found


def by_numbers(name: str, numbers: np.ndarray, labels: np.ndarray) -> Callable:
    """`SOLVED` or one of `ATTACKERS` on numbers (n, T, 55), for `held_out`."""
    seen, wanted = torch.as_tensor(numbers), torch.as_tensor(labels)
    if name == SOLVED:
        return lambda parts: discriminated(statistics(seen), wanted, parts)
    see, make = ATTACKERS[name]
    given = see(seen)
    return lambda parts: learned(make, given, wanted, parts, STEPS, 0)


def by_symbols(symbols: np.ndarray, labels: np.ndarray) -> Callable:
    """One who counts symbols (n,), for `held_out`."""
    shown, wanted = torch.as_tensor(symbols), torch.as_tensor(labels)
    return lambda parts: counted(shown, wanted, parts, int(shown.max()) + 1)


@dataclass(frozen=True)
class Names:
    """The protector `ppfer.study.protectors.names`, on clips whose numbers are there.

    Attributes:
        own: whether each person's mean scores are taken off.
    """

    own: bool = True

    def learn(
        self, numbers: np.ndarray, people: np.ndarray, emotions: np.ndarray, known: np.ndarray
    ) -> np.ndarray:
        """Of all clips (n, T, 55) the expression that is named, (n,), after learning from those
        `known`, (n,) bool.
        """
        given, felt = torch.as_tensor(numbers), torch.as_tensor(emotions)
        learned = names.ridge(given[known], felt[known], int(felt.max()) + 1)
        said = names.scores(learned, given)
        if self.own:
            said = said - names.own_means(said, torch.as_tensor(people))
        return said.argmax(1).numpy()
