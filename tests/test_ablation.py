"""Six tasks are six rows of switches, and what runs follows from them."""

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

from ppfer import protect
from ppfer.method.networks import classification
from ppfer.show.diagram import diagram
from ppfer.study.protectors.ablation import FULL, TASKS, table4


def switches(task) -> tuple[bool, ...]:
    return task.transform, True, task.controller, task.compensator, task.compensation_controller


def test_switches_are_the_papers_table_4():
    x, o = False, True
    one, two, three = (x, o, o, o, o), (x, o, x, o, o), (x, o, o, x, x)
    four, five, six = (o, o, o, o, x), (o, o, o, x, x), (o, o, x, x, x)
    assert [switches(t) for t in TASKS] == [one, two, three, four, five, six]
    assert [t.number for t in TASKS] == [1, 2, 3, 4, 5, 6]


def test_stages_follow_from_switches(tiny_run):
    assert [(t.enhancer, t.compensation) for t in (*TASKS, FULL)] == [
        ("privacy/frames", "compensation/task3"),
        ("joint/frames", "compensation/task2_g"),
        ("privacy/frames", ""),
        ("privacy", "compensation/enhanced-mse"),
        ("privacy", ""),
        ("joint/bands", ""),
        ("privacy", "compensation"),
    ]
    assert (TASKS[4].protector, FULL.protector) == ("enhanced", "ppfer")  # trained once
    assert all(t.protector in tiny_run.protectors for t in TASKS)


def test_protectors_have_the_parts_their_switches_say(tiny_run):
    for task in TASKS:
        for need in (task.enhancer, f"protected/{task.source}", task.compensation):
            if need:
                tiny_run.ensure(need)
        made = task.build(tiny_run)
        enhancer = made.enhancer if task.compensator else made
        assert isinstance(made, protect.PPFER) == task.compensator
        kind = protect.PrivacyEnhancer if task.transform else protect.FrameEnhancer
        assert isinstance(enhancer, kind)


def test_compensator_without_controller_does_not_need_one(tiny_run):
    assert "expression" not in tiny_run.stage("compensation/enhanced-mse").needs()
    assert "expression" in tiny_run.stage("compensation/task3").needs()


def test_joint_training_reaches_enhancer_and_recognizer():
    torch.manual_seed(0)
    enhancer = protect.FrameEnhancer(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid()))
    recognizer = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 16, 6))
    objective = classification(nn.Sequential(enhancer, recognizer))
    objective(torch.rand(2, 2, 3, 4, 4), torch.tensor([0, 5])).backward()
    for p in objective.parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0


def test_table4_has_a_row_for_every_task(tiny_run):
    rows = table4(tiny_run, (TASKS[4], TASKS[5], FULL))
    names = ["Task 5", "Task 6", "Full method", "Task 5, run long", "Full method, run long"]
    assert [row["approach"] for row in rows] == names
    test = len(tiny_run.parts["test"])
    assert all(row["plr"].n == row["acc_retrained"].n == test for row in rows)
    assert rows[1]["what_ran"] == "U-Nets on both bands jointly with F_u; no F_fc"


@pytest.mark.parametrize("task", [*TASKS, FULL], ids=lambda t: t.title)
def test_diagram_draws_the_parts_that_are_there(task):
    figure = diagram((task,))
    words = {text.get_text() for text in figure.axes[0].texts}
    plt.close(figure)
    assert ({"split", "merge", "$F_{hpr}$", "$F_{lpr}$"} <= words) == task.transform
    assert ("$F_{pr}$" in words) != task.transform
    assert any("$C_{hpr}$" in w or "$C_{pr}$" in w for w in words) == task.controller
    assert any("as a whole" in w for w in words) != task.controller
    assert ("$F_{fc}$" in words) == task.compensator
    assert ("$C_{fc}$" in words) == task.compensation_controller
    assert ("MSE" in words) == (task.compensator and not task.compensation_controller)
