"""Six tasks are six rows of switches: what runs follows from them, and the diagram shows it."""

import pytest
import torch
from torch import nn

from ppfer import ablation, paper, protect, tables
from ppfer.ablation import FULL, TASKS, JointObjective


def switches(task) -> tuple[bool, ...]:
    return task.transform, True, task.controller, task.compensator, task.compensation_controller


def test_switches_are_the_papers_table_4():
    x, o = False, True
    assert [switches(t) for t in TASKS] == [
        (x, o, o, o, o),
        (x, o, x, o, o),
        (x, o, o, x, x),
        (o, o, o, o, x),
        (o, o, o, x, x),
        (o, o, x, x, x),
    ]
    assert [t.number for t in TASKS] == [1, 2, 3, 4, 5, 6]


def test_stages_follow_from_switches():
    assert [(t.enhancer, t.compensation) for t in (*TASKS, FULL)] == [
        ("privacy/frames", "compensation/task3"), ("joint/frames", "compensation/task2_g"), ("privacy/frames", ""),
        ("privacy", "compensation/enhanced-mse"), ("privacy", ""), ("joint/bands", ""), ("privacy", "compensation")]  # fmt: skip
    assert (
        TASKS[4].protector == "enhanced" and FULL.protector == "ppfer"
    )  # not trained a second time
    assert all(t.protector in tables.PROTECTORS for t in TASKS)


def test_protectors_have_the_parts_their_switches_say(tiny_run):
    for task in TASKS:
        for need in (task.enhancer, f"protected/{task.source}", task.compensation):
            if need:
                tables.ensure(tiny_run, need)
        made = task.build(tiny_run)
        enhancer = made.enhancer if task.compensator else made
        assert isinstance(made, protect.PPFER) == task.compensator
        assert isinstance(
            enhancer, protect.PrivacyEnhancer if task.transform else protect.FrameEnhancer
        )


def test_compensator_without_controller_does_not_need_one(tiny_run):
    assert "expression" not in tiny_run.describe("compensation/enhanced-mse").needs
    assert "expression" in tiny_run.describe("compensation/task3").needs


def test_joint_training_reaches_enhancer_and_recognizer():
    torch.manual_seed(0)
    enhancer = protect.FrameEnhancer(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid()))
    recognizer = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 16, 6))
    JointObjective(enhancer, recognizer, 0.0)(
        torch.rand(2, 2, 3, 4, 4), torch.tensor([0, 5])
    ).backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0
        for net in (enhancer, recognizer)
        for p in net.parameters()
    )


def test_table4_has_a_row_for_every_task(tiny_run):
    rows = ablation.table4(tiny_run, (TASKS[4], TASKS[5], FULL))
    assert [row["approach"] for row in rows] == ["Task 5", "Task 6", "Full method"]
    assert all(
        row["plr"].n == row["acc_retrained"].n == len(tiny_run.parts["test"]) for row in rows
    )
    assert rows[1]["what_ran"] == "U-Nets on both bands jointly with F_u; no F_fc"


@pytest.mark.parametrize("task", [*TASKS, FULL], ids=lambda t: t.title)
def test_diagram_draws_the_parts_that_are_there(task):
    import matplotlib.pyplot as plt

    figure = ablation.diagram((task,))
    words = {text.get_text() for text in figure.axes[0].texts}
    plt.close(figure)
    assert ({"split", "merge", "$F_{hpr}$", "$F_{lpr}$"} <= words) == task.transform and (
        "$F_{pr}$" in words
    ) != task.transform
    assert (
        any("$C_{hpr}$" in w or "$C_{pr}$" in w for w in words)
        == task.controller
        == (not any("as a whole" in w for w in words))
    )
    assert ("$F_{fc}$" in words) == task.compensator and (
        "$C_{fc}$" in words
    ) == task.compensation_controller
    assert ("MSE" in words) == (task.compensator and not task.compensation_controller)


# -- the paper's numbers ---------------------------------------------------------------------------------------------


def test_leakage_ratios_are_whole_clips_and_seven_accuracies_are_not():
    plr = [cells["plr"] for table in (paper.TABLE1, paper.TABLE4) for cells in table.values()]
    assert [paper.count_of(p) for p in plr] == [
        2232,
        48,
        1986,
        737,
        23,
        82,
        45,
        290,
        736,
        288,
        47,
        46,
        714,
        45,
    ]
    odd = {
        cells["acc"]
        for table in (paper.TABLE1, paper.TABLE4)
        for cells in table.values()
        if paper.count_of(cells["acc"]) is None
    }
    assert odd == {87.201, 71.827, 78.843, 72.429, 54.487, 61.187, 68.831}


def row(name: str, plr: int, acc: int, n: int = 300) -> dict:
    return {
        "approach": name,
        "what_ran": "",
        "plr": {"k": plr, "n": n},
        "plr_retrained": {"k": n, "n": n},
        "acc": {"k": 0, "n": n},
        "acc_retrained": {"k": acc, "n": n},
    }


def test_contradictions_are_those_that_intervals_tell_apart():
    rows = [
        row("Gaussian blur 2", 270, 240),
        row("Optical flow", 299, 60),
        row("PPFER (C)", 25, 100),
    ]
    kept, contradicted = paper.orderings(rows, paper.TABLE1)
    assert any("PLR" in s and "Gaussian blur 2" in s and "PPFER" in s for s in kept)
    (wrong,) = (s for s in contradicted if s.startswith("PLR") and "Gaussian blur 2" in s)
    assert wrong == (
        "PLR: the paper has Gaussian blur 2 (88.978) above Optical flow (1.03); "
        "here 90.0 % (270/300; 86.1–92.9) against 99.7 % (299/300; 98.1–99.9)"
    )
    assert not any(
        "Gaussian blur 2" in s and "PPFER" in s and "ACC" in s for s in contradicted + kept
    )  # 77.8 and 78.8 overlap in the paper


def test_discrepancies_say_what_is_reproduced_and_what_was_not_run(tmp_path):
    import json

    (tmp_path / "table1.json").write_text(
        json.dumps(
            [
                row("No privacy preservation", 300, 262),
                {"approach": "Optical flow", "what_ran": "left out"},
            ]
        )
    )
    page = paper.discrepancies(tmp_path)
    assert (
        "| No privacy preservation | plr | 100 | 2232 | 100.0 % (300/300; 98.7–100.0) | yes |"
        in page
    )
    assert "| Optical flow | plr | 1.03 | 23 | | not run |" in page
    assert "### Table 3\n\nNot made yet." in page and "7 of the 13 accuracies" in page


def test_figure1_marks_the_papers_points_as_theirs():
    import matplotlib.pyplot as plt

    figure = paper.figure1(
        [
            row("Gaussian blur 2", 270, 240),
            row("PPFER (C)", 25, 100),
            {"approach": "Optical flow", "what_ran": "left out"},
        ]
    )
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    counts = [len(c.get_offsets()) for c in figure.axes[0].collections]
    plt.close(figure)
    assert labels == [
        "ours, V_pl frozen",
        "ours, V_pl retrained",
        "the paper's, on CREMA-D",
        "1  Gaussian blur 2",
        "2  PPFER (C)",
    ] and counts == [2, 2, 2]
