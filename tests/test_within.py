"""Attackers on numbers and symbols, as the benchmark on real people runs them."""

import numpy as np
import pytest
import torch

from ppfer.config import REPO


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
    for attack, fit in within.ON_NUMBERS.items():
        torch.manual_seed(0)
        named = within.held_out(fit, numbers, people, said)
        assert within.pooled(named, people, 1) >= (90, 96), attack
        shuffled = np.random.default_rng(1).permutation(people)
        by_chance = within.held_out(fit, numbers, shuffled, said)
        assert within.pooled(by_chance, shuffled, 1)[0] < 48, attack


def test_who_counts_symbols_names_people_by_their_histograms(within):
    people = np.arange(4).repeat(32)
    fold = np.tile([0, 1], 64)
    rng = np.random.default_rng(0)
    leaning = np.where(rng.random(128) < 0.5, people, rng.integers(4, size=128))
    for symbols, low, high in ((leaning, 12, 16), (rng.integers(4, size=128), 0, 8)):
        named = within.held_out(within.counting, symbols, people, fold)
        right, tried = within.pooled(named, people, 8)
        assert tried == 16 and low <= right <= high
    said = within.counting(np.array([0, 0, 1]), np.array([0, 0, 1]), 2)(np.array([7]))
    assert said.shape == (1, 2)  # a symbol that nobody showed


def test_a_persons_own_mean_is_taken_off_the_scores(within, acted):
    numbers, people, said, felt = acted
    stranger = people == 3
    right = {}
    for own in (False, True):
        symbols, means = within.Names(own).learn(numbers, people, felt, ~stranger)
        assert np.array_equal(symbols, means)
        right[own] = int((means == felt)[stranger].sum())
    assert right[True] >= 22 and right[False] < 16  # of 24
