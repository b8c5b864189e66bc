"""The ablation of the paper's Table 4: six tasks, each a row of switches, all through the same
stages.

A task's clips come from an enhancer (stage privacy or joint, on bands or on frames) and perhaps a
compensator (stage compensation, with or without its controller). Stage: joint/<bands|frames>,
enhancers and F_u trained as a whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ppfer import protect
from ppfer.measure import Rate, accuracy
from ppfer.method.networks import (
    classification,
    new_enhancer,
    new_recognizer,
    protected_by,
    protection,
    start_enhancer,
    with_weights,
)
from ppfer.run.run import Run
from ppfer.run.stage import Protector, stage
from ppfer.run.training import Training, trainable
from ppfer.study.tables import all_asked, prepare, table_row


@stage(
    "joint/{where}",
    needs=("pretrain", "identity", "recognizer/none"),
    settings=("bands", "adaptation.label_smoothing"),
    notebook="10",
    study=True,
)
class Joint(Training):
    """Enhancers on bands or frames trained together with F_u, no controller; F_u's own accuracy is
    in the summary.
    """

    per_frame = False

    def net(self) -> nn.Module:
        return new_enhancer(self.config, self.where)

    def start(self) -> nn.Module:
        self.run.room.put_aside()  # whole clips through U-Nets and an R3D network take much memory
        return start_enhancer(self.run, self.where)

    def objective(self, net: nn.Module) -> nn.Module:
        run, smoothing = self.run, self.config.adaptation.label_smoothing
        fresh = new_recognizer(self.config, len(run.classes("emotion")))
        recognizer = with_weights(fresh, run.get("recognizer/none"))
        self.recognizer = trainable(recognizer, run.device)
        # F_u on what the enhancers make of clips; both learn (paper §4.6, tasks 2 and 6)
        objective = classification(nn.Sequential(net, self.recognizer), smoothing)
        objective.captures = False  # a CUDA graph would hold all of its memory beside the clips
        return objective

    def batches(self) -> Callable:
        return self.draw("clips", self.run.labels("emotion"))

    def accuracy(self, net: nn.Module, part: str) -> Rate:
        """The jointly trained F_u on the enhanced clips of a part."""
        run, index = self.run, self.run.parts[part]
        enhanced = protected_by(run, net, run.tensor("clips")[torch.as_tensor(index)])
        return accuracy(run.logits(self.recognizer, enhanced), run.labels("emotion")[index])

    def measure(self, net: nn.Module) -> dict[str, float]:
        leaks = protection(self.run, net, "clips")
        return leaks | {"val_accuracy": self.accuracy(net, "val").value}

    def report(self, net: nn.Module) -> dict:
        return {"test": {"acc": self.accuracy(net, "test").to_dict()}}


@dataclasses.dataclass(frozen=True)
class Task:
    """A row of Table 4: which parts are there. Everything else follows from the switches.

    Attributes:
        number: 1 to 6; 0 is the full method.
        transform: T & IT: enhancers on both bands; else one on frames.
        controller: IBC: enhancers against the frozen identity controller; else trained together
            with F_u.
        compensator: FC: F_fc after the enhancers.
        compensation_controller: FCC: F_fc against the frozen C_fc; else F_fc learns by mean squared
            error to return its input.
    """

    number: int
    transform: bool
    controller: bool
    compensator: bool
    compensation_controller: bool

    @property
    def title(self) -> str:
        return f"Task {self.number}" if self.number else "Full method"

    @property
    def enhancer(self) -> str:
        """The stage that trains the enhancers."""
        if self.controller:
            return "privacy" if self.transform else "privacy/frames"
        return "joint/bands" if self.transform else "joint/frames"

    @property
    def source(self) -> str:
        """The protector of these enhancers alone: what F_fc is trained on."""
        return {
            "privacy": "enhanced",
            "privacy/frames": "task3",
            "joint/bands": "task6",
            "joint/frames": "task2_g",
        }[self.enhancer]

    @property
    def compensation(self) -> str:
        """The stage that trains F_fc; "" without one."""
        if not self.compensator:
            return ""
        variant = self.source + ("" if self.compensation_controller else "-mse")
        return "compensation" if variant == "enhanced" else f"compensation/{variant}"

    @property
    def protector(self) -> str:
        """The protector whose clips this task is measured on; Task 5 and the full method are in the
        tables already.
        """
        if not self.compensator:
            return self.source
        return f"task{self.number}" if self.number else "ppfer"

    @property
    def description(self) -> str:
        """What ran, in one line."""
        where = "U-Nets on both bands" if self.transform else "one U-Net on frames"
        how = "against the identity controller" if self.controller else "jointly with F_u"
        fc = {
            (False, False): "no F_fc",
            (True, True): "F_fc under C_fc",
            (True, False): "F_fc by MSE to its input",
        }
        return f"{where} {how}; {fc[self.compensator, self.compensation_controller]}"

    def build(self, run: Run) -> Callable[[Tensor], Tensor]:
        """Clips → clips."""
        enhancer = run.get(self.enhancer)
        return (
            protect.PPFER(enhancer, run.get(self.compensation)) if self.compensation else enhancer
        )


TASKS = (
    Task(1, transform=False, controller=True, compensator=True, compensation_controller=True),
    Task(2, transform=False, controller=False, compensator=True, compensation_controller=True),
    Task(3, transform=False, controller=True, compensator=False, compensation_controller=False),
    Task(4, transform=True, controller=True, compensator=True, compensation_controller=False),
    Task(5, transform=True, controller=True, compensator=False, compensation_controller=False),
    Task(6, transform=True, controller=False, compensator=False, compensation_controller=False),
)
FULL = Task(0, transform=True, controller=True, compensator=True, compensation_controller=True)
BEFORE_TASK_2 = dataclasses.replace(
    TASKS[1], compensator=False, compensation_controller=False
)  # its G, not a row of the table


def _protector(task: Task) -> Protector:
    before = " before compensation" if task is BEFORE_TASK_2 else ""
    return Protector(
        task.protector,
        task.title + before,
        task.build,
        task.description,
        needs=tuple(filter(None, (task.enhancer, task.compensation))),
        notebook="10",
        compensates=task.source if task.compensator else "",
    )


LONG = {"enhanced_long": "Task 5, run long", "ppfer_long": "Full method, run long"}
# Task 5 is G, a row of every run
PROTECTORS = tuple(_protector(t) for t in (*TASKS, BEFORE_TASK_2) if t.protector != "enhanced")


def table4(run: Run, tasks: Sequence[Task] = (*TASKS, FULL)) -> list[dict]:
    """Table 4: PLR and ACC of every task, both protocols; makes what is missing.

    Where the config asks for all approaches, Task 5 and the full method come once more with
    Algorithm 1 run long (see `ppfer.study.protectors.long_schedule`).
    """
    again = LONG if all_asked(run) else {}
    prepare(run, [*(task.protector for task in tasks), *again], ("recognizer", "attack"))
    rows = [
        table_row(run, task.protector) | {"approach": task.title, "what_ran": task.description}
        for task in tasks
    ]
    return rows + [table_row(run, name) | {"approach": title} for name, title in again.items()]
