"""Linkage of people no attacker has seen, and the facial actions that are still read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ppfer.config import load_config
from ppfer.measure import Linked, as_rate
from ppfer.study import catalogue
from ppfer.study.attacks.actions import QUARTERS, r_squared
from ppfer.study.attacks.linkage import linked, strangers
from ppfer.twin.head import load_head


def test_embeddings_that_tell_people_apart_link_all_and_others_none():
    people, whose = np.arange(20), np.repeat(np.arange(20), 30)
    gallery = torch.eye(20)
    sure = linked(gallery[whose], whose, gallery, people)
    assert (sure.k, sure.n, sure.eer) == (600, 600, 0)
    noise = torch.Generator().manual_seed(0)
    said = F.normalize(torch.randn(600, 20, generator=noise), dim=-1)
    blind = linked(said, whose, gallery, people)
    assert blind.value < 3 / 20 and blind.eer == pytest.approx(0.5, abs=0.05)
    assert as_rate(sure.to_dict()) == sure and "EER 0.0 %" in str(sure)
    assert isinstance(as_rate({"k": 1, "n": 2, "eer": 0.3}), Linked)


def test_the_attacker_never_sees_a_strangers_clip(tiny_run):
    stage, unseen = tiny_run.stage("linkage/none"), strangers(tiny_run)
    assert 2 <= len(unseen) < len(tiny_run.classes("actor"))
    shown = stage.batches()
    assert shown(0)[0].shape == shown(0)[1].shape  # the same frames, protected and not
    for part in ("train", "val"):
        assert not np.isin(tiny_run.labels("actor")[stage.known(part)], unseen).any()


def test_a_pupil_that_is_shown_originals_says_what_the_teacher_says(tiny_run):
    tiny_run.ensure("linkage/none")
    assert tiny_run.summary("linkage/none")["best"]["val_cosine"] > 0.5
    net = tiny_run.get("linkage/none")
    said = net(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(said.norm(dim=-1), torch.ones(2))


def test_r_squared_is_one_for_the_truth_and_zero_for_the_mean():
    true = np.random.default_rng(0).random((50, QUARTERS, 3))
    assert r_squared(true, true) == pytest.approx(1)
    mean = np.broadcast_to(true.mean((0, 1)), true.shape)
    assert r_squared(mean, true) == pytest.approx(0)


def test_actions_are_what_the_twin_was_drawn_with(tmp_path):
    run = catalogue.open_run(load_config("smoke"), tmp_path, "cpu")
    for name in ("clips", "split", "protected/none", "recognizer/none", "motions", "actions/none"):
        run.make(name, load=False)
    true = run.get("motions")
    assert true.shape == (len(run.table), QUARTERS, 52) and true.min() >= 0
    happy, sad = (true[run.table.emotion == word] for word in ("happy", "sad"))
    smile = load_head(torch.device("cpu")).action["mouthSmileLeft"]
    assert happy[..., smile].mean() > 2 * sad[..., smile].mean()
    said = run.summary("actions/none")["test"]
    assert said["actions_r2"] < 1 and len(said["each"]) == 30
