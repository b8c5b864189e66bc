"""Attackers on numbers and symbols, as the benchmark on real people runs them."""

import numpy as np
import pytest
import torch

from ppfer.config import REPO
from ppfer.measure import pooled


@pytest.fixture
def within(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "tests" / "bench"))
    import within

    return within


@pytest.fixture
def acted():
    """Clips (96, 4, 55) of four people who say two things with three expressions, four times each:
    a person's own offset is five times as large as what an expression adds.
    """
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(range(n) for n in (4, 2, 3, 4)), indexing="ij"), -1)
    people, said, felt, _ = grid.reshape(-1, 4).T
    own, shown = 5 * rng.normal(size=(4, 55)), rng.normal(size=(3, 55))
    numbers = rng.normal(0, 0.3, (96, 4, 55)) + own[people, None] + shown[felt, None]
    return numbers, people, said, felt


def test_attackers_name_people_by_their_numbers_and_by_chance_without(within, acted, monkeypatch):
    monkeypatch.setattr(within, "STEPS", 80)
    numbers, people, said, _ = acted
    numbers = numbers.astype(np.float32)
    for attack in (within.SOLVED, *within.ATTACKERS):
        named = within.held_out(within.by_numbers(attack, numbers, people), people, said)
        assert pooled(named, people, 1).k >= 80, attack
        shuffled = np.random.default_rng(1).permutation(people)
        by_chance = within.held_out(within.by_numbers(attack, numbers, shuffled), shuffled, said)
        assert pooled(by_chance, shuffled, 1).k < 48, attack


def test_who_counts_symbols_names_people_by_their_histograms(within):
    people, fold = np.arange(4).repeat(32), np.tile([0, 1], 64)
    rng = np.random.default_rng(0)
    leaning = np.where(rng.random(128) < 0.5, people, rng.integers(4, size=128))
    for symbols, low, high in ((leaning, 12, 16), (rng.integers(4, size=128), 0, 8)):
        named = within.held_out(within.by_symbols(symbols, people), people, fold)
        together = pooled(named, people, 8)
        assert together.n == 16 and low <= together.k <= high


def test_several_clips_are_pooled_by_person():
    """Each clip speaks a little for its person: sixteen say it clearly, and what is left over of a
    person's clips is not asked.
    """
    people = np.arange(3).repeat(20)
    rng = np.random.default_rng(0)
    answers = torch.as_tensor(rng.normal(size=(60, 3)))
    answers[np.arange(60), people] += 0.7
    one, many = (pooled(answers.log_softmax(1), people, clips) for clips in (1, 16))
    assert one.n == 60 and many.n == 3 and one.value < 0.8 and many.k == 3
    assert pooled(answers, people, 21).n == 0


def test_a_persons_own_mean_is_taken_off_the_scores(within, acted):
    numbers, people, said, felt = acted
    stranger = people == 3
    right = {}
    for own in (False, True):
        named = within.Names(own).learn(numbers, people, felt, ~stranger)
        right[own] = int((named == felt)[stranger].sum())
    assert right[True] >= 22 and right[False] < 16  # of 24
