"""Strangers matched by who solves: what tells people apart is found, nothing else is."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ppfer.config import REPO

PEOPLE, CLIPS = 12, 40


@pytest.fixture
def strangers(monkeypatch):
    monkeypatch.syspath_prepend(str(REPO / "tests" / "bench"))
    return importlib.import_module("strangers")


@pytest.fixture
def run():
    """Labels and parts of 12 people with 40 clips each, 20 of them for testing."""
    whose, which = np.repeat(np.arange(PEOPLE), CLIPS), np.tile(np.arange(CLIPS), PEOPLE)
    parts = {"train": which < 16, "val": (16 <= which) & (which < 20), "test": which >= 20}
    parts = {part: np.flatnonzero(mine) for part, mine in parts.items()}
    return SimpleNamespace(labels=lambda kind: whose, parts=parts)


def seen(of_person: float) -> torch.Tensor:
    """Features (480, 30): noise, and in three of them so much of a person's own."""
    draw = torch.Generator().manual_seed(0)
    own = torch.zeros(PEOPLE, 30).double()
    own[:, :3] = torch.randn(PEOPLE, 3, generator=draw, dtype=torch.double) * of_person
    noise = torch.randn(PEOPLE * CLIPS, 30, generator=draw, dtype=torch.double)
    return own.repeat_interleave(CLIPS, 0) + noise


def named(strangers, run, *sources: torch.Tensor) -> int:
    """Of 240 test clips, guessing 60."""
    groups = [strangers.against(run, list(sources), group)[1] for group in range(strangers.GROUPS)]
    assert sum(rate.n for rate in groups) == 240  # everybody is a stranger once
    return sum(rate.k for rate in groups)


def test_what_is_a_persons_own_is_found_in_noise(strangers, run):
    assert named(strangers, run, seen(3)) > 200
    assert 40 < named(strangers, run, seen(0)) < 80


def test_originals_are_matched_with_protected_clips_by_what_they_share(strangers, run):
    assert named(strangers, run, seen(3), 2 * seen(3) + 5) > 200
    assert 40 < named(strangers, run, seen(3), seen(0)) < 80
