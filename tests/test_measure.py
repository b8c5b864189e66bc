"""Counts, intervals and the three attackers, against closed forms and libraries."""

import json
import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ppfer.base.errors import PpferError
from ppfer.cli.compare import over_seeds
from ppfer.measure import (
    Rate,
    by_group,
    chance,
    leakage,
    logits,
    markdown,
    mcnemar,
    per_class,
    private_first,
    remapped_leakage,
    write_table,
)

CPU = torch.device("cpu")


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_solves_the_score_equation(kn):
    """Both ends p of the Wilson interval satisfy (p̂ − p)² = z² p (1 − p) / n, and enclose p̂."""
    rate = Rate(*kn)
    for p in rate.interval:
        spread = 1.959963984540054**2 * p * (1 - p) / rate.n
        assert (rate.value - p) ** 2 == pytest.approx(spread, abs=1e-9)
    assert rate.interval[0] <= rate.value + 1e-12 and rate.value <= rate.interval[1] + 1e-12


def test_the_papers_interval():
    """PPFER's row of Table 1: 45 of 2,232 clips."""
    low, high = Rate(45, 2232).interval
    assert (round(100 * low, 1), round(100 * high, 1)) == (1.5, 2.7)
    assert str(Rate(45, 2232)) == "2.0 % (45/2232; 1.5–2.7)"


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_a_binomial_test_of_the_clips_that_differ(pairs):
    a, b = np.array(pairs).T
    only_a, only_b, p = mcnemar(a, b)
    assert only_a - only_b == a.sum() - b.sum() and only_a + only_b == (a != b).sum()
    assert mcnemar(b, a) == (only_b, only_a, p)
    n, off = only_a + only_b, abs(only_a - only_b)
    coin = {k: math.comb(n, k) / 2**n for k in range(n + 1)}
    assert p == pytest.approx(sum(share for k, share in coin.items() if abs(2 * k - n) >= off))


def logits_naming(names: torch.Tensor, classes: int) -> torch.Tensor:
    return nn.functional.one_hot(names, classes).float() * 9


def test_leakage_of_a_known_validator():
    truth = np.array([0, 1, 2, 0])
    # right on 2, 3, 0, 3 of 3 frames
    named = torch.tensor([[0, 0, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]])
    rates = leakage(logits_naming(named, 3), truth)
    assert rates["all_frames"] == Rate(8, 12)
    assert rates["clip"] == Rate(3, 4)
    assert rates["random_frame"].n == 4 and 2 <= rates["random_frame"].k <= 3


def test_random_frame_is_seeded():
    said = torch.randn(200, 8, 5, generator=torch.Generator().manual_seed(0))
    truth = np.arange(200) % 5
    assert leakage(said, truth, seed=1) == leakage(said, truth, seed=1)
    assert len({leakage(said, truth, seed=s)["random_frame"].k for s in range(5)}) > 1


def test_a_permutation_of_identities_does_not_hide_them():
    """A protector that swaps names scores PLR 0, and the remapping attacker undoes it."""
    truth = np.arange(40) % 4
    said = logits_naming(torch.as_tensor((truth + 1) % 4)[:, None].expand(40, 3), 4)
    assert leakage(said, truth)["all_frames"].k == 0
    assert remapped_leakage(said[:20], truth[:20], said[20:], truth[20:]) == Rate(60, 60)


def test_per_class_adds_up_to_the_average():
    labels = np.array([0, 0, 1, 2, 2, 2])
    rows = per_class(logits_naming(torch.tensor([0, 1, 1, 2, 0, 2]), 3), labels, ["a", "b", "c"])
    assert rows.pop("uar") == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)
    assert rows == {"a": Rate(1, 2), "b": Rate(1, 1), "c": Rate(2, 3), "average": Rate(4, 6)}
    rare = per_class(torch.eye(2)[[0] * 10], np.array([0] * 9 + [1]), ["a", "b", "nobody shows it"])
    assert rare["average"] == Rate(9, 10) and rare["uar"] == 0.5


def test_chance_is_the_share_of_the_commonest():
    assert chance(np.arange(12) % 3) == pytest.approx(1 / 3)
    assert chance(np.array([0, 0, 0, 1])) == 0.75


def test_by_group_partitions():
    hits = np.array([True, False, True, True])
    assert by_group(hits, ["x", "x", "y", ""]) == {"": Rate(1, 1), "x": Rate(1, 2), "y": Rate(1, 1)}


def test_logits_follow_the_index():
    """Frame and clip logits come in the order asked for, whatever the batch size."""
    clips = torch.randint(0, 256, (7, 2, 3, 4, 4), dtype=torch.uint8)

    class Mean(nn.Module):
        def forward(self, x):
            return x.flatten(1).mean(1, keepdim=True)

    index = np.array([5, 0, 3, 3, 6])
    expected = clips[torch.as_tensor(index)].float() / 255
    for batch in (1, 2, 64):
        frames = logits(Mean(), clips, index, per_frame=True, device=CPU, batch=batch)
        torch.testing.assert_close(frames[..., 0], expected.flatten(2).mean(2))
        whole = logits(Mean(), clips, index, per_frame=False, device=CPU, batch=batch)
        torch.testing.assert_close(whole[:, 0], expected.flatten(1).mean(1))


def test_tables_keep_counts(tmp_path):
    note = {"approach": "b", "note": "x"}
    rows = write_table([{"approach": "a", "plr": Rate(1, 4)}, note], tmp_path, "t")
    assert rows == [{"approach": "a", "plr": {"k": 1, "n": 4}}, note]
    assert json.loads((tmp_path / "t.json").read_text()) == rows
    assert "25.0 % (1/4; 4.6–69.9)" in (tmp_path / "t.md").read_text()
    assert markdown(rows).count("\n") == 4


def test_seeds_side_by_side(tmp_path):
    same = {"approach": "PPFER (C)", "acc": {"k": 150, "n": 200}}
    tables = [[same | {"what_ran": f"{k}", "plr": {"k": k, "n": 200}}] for k in (2, 4, 6)]
    (row,) = write_table(over_seeds(tables), tmp_path, "seeds")
    plr, acc = {"k": [2, 4, 6], "n": 200}, {"k": [150] * 3, "n": 200}
    assert row == {"approach": "PPFER (C)", "plr": plr, "acc": acc}
    printed = (tmp_path / "seeds.md").read_text()
    assert "2.0 ± 1.0 % (2, 4, 6 of 200)" in printed
    assert "75.0 ± 0.0 % (150, 150, 150 of 200)" in printed


def test_the_worst_attack_counts_frames_in_one_seed_and_clips_in_another(tmp_path):
    cells = {"k": 40, "n": 800, "attack": "all frames"}, {"k": 3, "n": 100, "attack": "clip"}
    tables = [[{"approach": "Live", "plr_worst": cell}] for cell in cells]
    (row,) = write_table(over_seeds(tables), tmp_path, "seeds")
    assert row["plr_worst"] == {"k": [40, 3], "n": [800, 100]}
    assert "4.0 ± 1.4 % (40/800, 3/100)" in markdown([row])


DIFFERENT = {"approach": "G"}, "different rows"
FEWER = {"plr": {"k": 1, "n": 199}}, "measured 200, 199 clips"


@pytest.mark.parametrize(("other", "says"), [DIFFERENT, FEWER])
def test_runs_that_differ_are_not_put_side_by_side(other, says):
    row = {"approach": "PPFER (C)", "plr": {"k": 2, "n": 200}}
    with pytest.raises(PpferError, match=says):
        over_seeds([[row], [row | other]])


def test_the_most_private_epoch_is_never_traded_for_a_pretty_one():
    """Privacy comes first, then the least distance; the authors' code keeps the least private."""
    rule = private_first(chance=0.1, slack=0.01, then="val_l1")
    leaky = {"val_plr": 0.9, "val_l1": 0.0}
    private = {"val_plr": 0.05, "val_l1": 0.3}
    pretty = {"val_plr": 0.11, "val_l1": 0.2}
    assert sorted([leaky, private, pretty], key=rule) == [pretty, private, leaky]


def test_a_table_leaves_nothing_of_a_killed_one(tmp_path):
    left = tmp_path / ".3fffff-1.json"  # Linux has no process of so high a number
    left.touch()
    os.utime(left, (0, 0))
    write_table([{"approach": "C"}], tmp_path, "main")
    assert {path.name for path in tmp_path.iterdir()} == {"main.json", "main.md"}
