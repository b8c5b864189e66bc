"""The drawing of an ablation task shows the parts that are there, and no other."""

import matplotlib.pyplot as plt
import pytest

from ppfer.show.diagram import diagram
from ppfer.study.protectors.ablation import FULL, TASKS


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
