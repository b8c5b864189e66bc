"""The ablation of the paper's Table 4: six tasks, each a row of switches, all through the same
stages.

A task's clips come from an enhancer (stage privacy or joint, on bands or on frames) and perhaps a
compensator (stage compensation, with or without its controller). Stage: joint/<bands|frames>,
enhancers and F_u trained as a whole.
"""

import dataclasses
from collections.abc import Sequence

from torch import nn

from ppfer import protect
from ppfer.method.networks import classification
from ppfer.method.privacy import SHARES
from ppfer.run.run import Run
from ppfer.run.stage import Protector, stage
from ppfer.study.attacks.recovery import recovery_cells
from ppfer.study.protectors import BesideRecognizer
from ppfer.study.tables import all_asked, prepare, table_row


@stage(
    "joint/{where}",
    needs=("pretrain", "identity", "recognizer/none"),
    settings=("bands", "adaptation.label_smoothing"),
    notebook="10",
)
class Joint(BesideRecognizer):
    """Enhancers and F_u learn to read clips together, without a controller (paper §4.6, tasks 2
    and 6); F_u's own accuracy is in the summary.
    """

    def objective(self, net: nn.Module) -> nn.Module:
        both = nn.Sequential(net, self.learning_recognizer())
        objective = classification(both, self.config.adaptation.label_smoothing)
        objective.captures = False  # a CUDA graph would hold all of its memory beside the clips
        return objective

    def report(self, net: nn.Module) -> dict:
        return {"test": {"acc": self.read(net, "test").to_dict()}}


ENHANCERS = {  # T & IT, IBC: the stage that trains enhancers, and the protector of these alone
    (True, True): ("privacy", "enhanced"),
    (True, False): ("joint/bands", "task6"),
    (False, True): ("privacy/frames", "task3"),
    (False, False): ("joint/frames", "task2_g"),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A row of Table 4: which parts are there. Everything else follows from the switches."""

    number: int  # 1 to 6; 0 is the full method
    transform: bool  # T & IT: enhancers on both bands; else one on frames
    controller: bool  # IBC: against the frozen identity controller; else trained together with F_u
    compensator: bool  # FC: F_fc after the enhancers
    # FCC: F_fc against the frozen C_fc; else it learns by squared error to return its input
    compensation_controller: bool

    @property
    def title(self) -> str:
        return f"Task {self.number}" if self.number else "Full method"

    @property
    def enhancer(self) -> str:
        """The stage that trains the enhancers."""
        return ENHANCERS[self.transform, self.controller][0]

    @property
    def source(self) -> str:
        """The protector of these enhancers alone: what F_fc is trained on."""
        return ENHANCERS[self.transform, self.controller][1]

    @property
    def compensation(self) -> str:
        """The stage that trains F_fc; "" without one."""
        if not self.compensator:
            return ""
        variant = self.source + ("" if self.compensation_controller else "-mse")
        return "compensation" if variant == "enhanced" else f"compensation/{variant}"

    @property
    def protector(self) -> str:
        """The protector whose clips this task is measured on."""
        if not self.compensator:
            return self.source
        return f"task{self.number}" if self.number else "ppfer"

    @property
    def description(self) -> str:
        """What ran, in one line."""
        where = "U-Nets on both bands" if self.transform else "one U-Net on frames"
        how = "against the identity controller" if self.controller else "jointly with F_u"
        fc = "F_fc under C_fc" if self.compensation_controller else "F_fc by MSE to its input"
        return f"{where} {how}; {fc if self.compensator else 'no F_fc'}"

    def build(self, run: Run) -> protect.Apply:
        """Clips → clips."""
        made = [run.get(name) for name in (self.enhancer, self.compensation) if name]
        return protect.PPFER(*made) if self.compensation else made[0]


TASKS = (
    Task(1, transform=False, controller=True, compensator=True, compensation_controller=True),
    Task(2, transform=False, controller=False, compensator=True, compensation_controller=True),
    Task(3, transform=False, controller=True, compensator=False, compensation_controller=False),
    Task(4, transform=True, controller=True, compensator=True, compensation_controller=False),
    Task(5, transform=True, controller=True, compensator=False, compensation_controller=False),
    Task(6, transform=True, controller=False, compensator=False, compensation_controller=False),
)
FULL = Task(0, transform=True, controller=True, compensator=True, compensation_controller=True)
LONG = {"enhanced_long": "Task 5, run long", "ppfer_long": "Full method, run long"}

# Task 5 is G, a row of every run; of Task 2 F_fc needs what comes before it, no row of the table
OWN = {task.title: task for task in TASKS if task.protector != "enhanced"}
OWN["Task 2 before compensation"] = dataclasses.replace(TASKS[1], compensator=False)
PROTECTORS = tuple(
    Protector(
        task.protector,
        title,
        task.build,
        task.description,
        needs=tuple(filter(None, (task.enhancer, task.compensation))),
        notebook="10",
        compensates=task.source if task.compensator else "",
    )
    for title, task in OWN.items()
)


def table4(run: Run, tasks: Sequence[Task] = (*TASKS, FULL)) -> list[dict]:
    """Table 4: PLR and ACC of every task, both protocols; makes what is missing.

    Where the config asks for all approaches, Task 5 and the full method come once more with
    Algorithm 1 run long.
    """
    again = LONG if all_asked(run) else {}
    prepare(run, [*(task.protector for task in tasks), *again], ("recognizer", "attack"))
    about = {t.protector: {"approach": t.title, "what_ran": t.description} for t in tasks}
    about |= {name: {"approach": title} for name, title in again.items()}
    return [table_row(run, name) | said for name, said in about.items()]


ENHANCER, COMPENSATOR = "privacy/long", "compensation/enhanced_long"
# the curve: Algorithm 1 stopped at the least change, trained ever longer, and in full
CURVE = ("enhanced", *(f"enhanced_long_{part}" for part in SHARES), "enhanced_long")


def _said(run: Run, stage: str = ENHANCER) -> str:
    train = run.stage(stage).train
    return f"Algorithm 1 for {train.steps} steps at lr {train.lr:g}, {train.select} weights"


def _enhanced(title: str, part: str = "") -> Protector:
    stage = ENHANCER + part
    return Protector(
        f"enhanced_long{part}",
        title,
        lambda run: run.get(stage),
        lambda run: _said(run, stage) + "; no F_fc",
        needs=(stage,),
        notebook="10",
    )


LONG_RUN = (
    *(_enhanced(f"PPFER (G), 1/{part} of the long run", f"_{part}") for part in SHARES),
    _enhanced("PPFER run long, without compensation (G)"),
    Protector(
        "ppfer_long",
        "PPFER run long (C)",
        lambda run: protect.PPFER(run.get(ENHANCER), run.get(COMPENSATOR)),
        lambda run: _said(run) + "; F_fc under C_fc",
        needs=(ENHANCER, COMPENSATOR),
        notebook="10",
        compensates="enhanced_long",
    ),
)


def schedule_table(run: Run) -> list[dict]:
    """How long Algorithm 1 runs against what is left of identity, expression and picture: one row
    a point of `CURVE`, both protocols, and what a recovery U-Net brings back.
    """
    prepare(run, CURVE, ("recognizer", "attack", "recovery"))
    rows = []
    for name in CURVE:
        cells = table_row(run, name)
        steps = run.summary(run.protector(name).needs[0])["best_step"]
        row = {"approach": cells.pop("approach"), "steps": steps}
        del cells["what_ran"]
        back = {f"recovery_{key}": cell for key, cell in recovery_cells(run, name).items()}
        rows.append(row | cells | back)
    return rows
