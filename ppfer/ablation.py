"""The ablation of the paper's Table 4: six tasks, each a row of switches, all through the same stages.

A task's clips come from an enhancer (stage privacy or joint, on bands or on frames) and perhaps a compensator (stage
compensation, with or without its controller). Stage: joint/<bands|frames>, enhancers and F_u trained as a whole.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import attacks, baselines, evaluate, paper, protect
from ppfer.config import Config
from ppfer.run import Run, Stage, define, is_main, settings
from ppfer.stages import (
    batches_of,
    fit_stage,
    load_net,
    new_enhancer,
    new_recognizer,
    protected_check,
    stage_seed,
    start_enhancer,
    trainable,
)
from ppfer.tables import Protector, leakage_table, prepare, register, table_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTEBOOK = "10_ablation.ipynb"


class JointObjective(nn.Module):
    """Cross-entropy of F_u on what the enhancers make of clips; both learn (paper §4.6, tasks 2 and 6)."""

    def __init__(self, enhancer: nn.Module, recognizer: nn.Module, label_smoothing: float):
        super().__init__()
        self.enhancer, self.recognizer, self.label_smoothing = enhancer, recognizer, label_smoothing

    def forward(self, clips: Tensor, labels: Tensor) -> Tensor:
        """Clips (B, T, 3, H, W), expression labels (B,) → scalar."""
        return F.cross_entropy(self.recognizer(self.enhancer(clips)), labels, label_smoothing=self.label_smoothing)


@define
def joint(config: Config, where: str) -> Stage:
    """Enhancers on bands or frames trained together with F_u, no controller; F_u's own accuracy is in the summary."""

    def make(run: Run, folder: Path) -> dict:
        seed, parts, emotions = stage_seed(run, f"joint/{where}"), run.parts, run.labels("emotion")
        run.put_aside()  # whole clips through U-Nets and an R3D network take much memory
        enhancer, recognizer = start_enhancer(run, where), new_recognizer(config, len(run.classes("emotion")))
        recognizer.load_state_dict(run.get("recognizer/none").state_dict())
        objective = JointObjective(enhancer, trainable(recognizer, run), config.adaptation.label_smoothing)
        leaks = protected_check(run, enhancer, run.get("identity"), run.tensor("clips"))

        def accuracy(part: str) -> evaluate.Rate:
            held = run.tensor("clips")[torch.as_tensor(parts[part])]
            made = torch.cat(list(protect.protect_all(enhancer, held, device=run.device, batch=16, name=f"joint/{where}", precision=config.precision)))
            logits = evaluate.clip_logits(recognizer, made, np.arange(len(made)), device=run.device, precision=config.precision)
            return evaluate.rate(logits.argmax(-1).numpy() == emotions[parts[part]])

        batches = batches_of(run, "clips", parts["train"], emotions, config.joint, seed, frames=False)
        summary = fit_stage(run, folder, f"joint/{where}", objective, enhancer, batches, config.joint,
                            evaluate=lambda: leaks() | {"val_accuracy": accuracy("val").value})
        return summary | {"test": {"acc": accuracy("test").to_dict()}}

    def load(run: Run, folder: Path) -> nn.Module:
        return load_net(new_enhancer(config, where), folder, run)

    needs = settings(config, "joint", "bands", "precision", "seed") | {"smoothing": config.adaptation.label_smoothing}
    return Stage(f"joint/{where}", NOTEBOOK, ("pretrain", "identity", "recognizer/none"), needs, make, load)


@dataclasses.dataclass(frozen=True)
class Task:
    """A row of Table 4: which parts are there. Everything else follows from the switches.

    Attributes:
        number: 1 to 6; 0 is the full method.
        transform: T & IT: enhancers on both bands; else one on frames.
        controller: IBC: enhancers against the frozen identity controller; else trained together with F_u.
        compensator: FC: F_fc after the enhancers.
        compensation_controller: FCC: F_fc against the frozen C_fc; else F_fc learns by mean squared error to return its input.
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
        return {"privacy": "enhanced", "privacy/frames": "task3", "joint/bands": "task6", "joint/frames": "task2_g"}[self.enhancer]

    @property
    def compensation(self) -> str:
        """The stage that trains F_fc; "" without one."""
        if not self.compensator:
            return ""
        variant = self.source + ("" if self.compensation_controller else "-mse")
        return "compensation" if variant == "enhanced" else f"compensation/{variant}"

    @property
    def protector(self) -> str:
        """The protector whose clips this task is measured on; Task 5 and the full method are in the tables already."""
        if not self.compensator:
            return self.source
        return f"task{self.number}" if self.number else "ppfer"

    @property
    def description(self) -> str:
        """What ran, in one line."""
        where = "U-Nets on both bands" if self.transform else "one U-Net on frames"
        how = "against the identity controller" if self.controller else "jointly with F_u"
        fc = {(False, False): "no F_fc", (True, True): "F_fc under C_fc", (True, False): "F_fc by MSE to its input"}
        return f"{where} {how}; {fc[self.compensator, self.compensation_controller]}"

    def build(self, run: Run) -> Callable[[Tensor], Tensor]:
        """Clips → clips."""
        enhancer = run.get(self.enhancer)
        return protect.PPFER(enhancer, run.get(self.compensation)) if self.compensation else enhancer


TASKS = (
    Task(1, transform=False, controller=True, compensator=True, compensation_controller=True),
    Task(2, transform=False, controller=False, compensator=True, compensation_controller=True),
    Task(3, transform=False, controller=True, compensator=False, compensation_controller=False),
    Task(4, transform=True, controller=True, compensator=True, compensation_controller=False),
    Task(5, transform=True, controller=True, compensator=False, compensation_controller=False),
    Task(6, transform=True, controller=False, compensator=False, compensation_controller=False),
)
FULL = Task(0, transform=True, controller=True, compensator=True, compensation_controller=True)
BEFORE_TASK_2 = dataclasses.replace(TASKS[1], compensator=False, compensation_controller=False)  # its G, not a row of the table

for task in (*TASKS, BEFORE_TASK_2):
    if task.protector != "enhanced":
        title = task.title + (" before compensation" if task is BEFORE_TASK_2 else "")
        register(Protector(task.protector, title, tuple(filter(None, (task.enhancer, task.compensation))), task.build, task.description, NOTEBOOK,
                           source=task.source if task.compensator else ""))


def table4(run: Run, tasks: tuple[Task, ...] = (*TASKS, FULL)) -> list[dict]:
    """Table 4: PLR and ACC of every task, both protocols; makes what is missing."""
    prepare(run, [task.protector for task in tasks], ("recognizer", "attack"))
    return [table_row(run, task.protector) | {"approach": task.title, "what_ran": task.description} for task in tasks]


def compare(run: Run) -> None:
    """Tables 1, 3 and 4, the stronger questions and the page of discrepancies, without notebooks (after `tables.run_all`)."""
    folder = run.dir / "tables"
    names = tuple(prepare(run, baselines.TABLE1, ()))
    made = {"table1": lambda: baselines.table1(run), "table1_attackers": lambda: leakage_table(run, names),
            "table1_attributes": lambda: attacks.attribute_table(run, names) if attacks.attributes_of(run) else [],
            "table3": lambda: attacks.table3(run), "table4": lambda: table4(run)}
    for name, make in made.items():
        rows = make()
        if is_main() and rows:
            evaluate.write_table(rows, folder, name)
    if is_main():
        paper.figure1(json.loads((folder / "table1.json").read_text())).savefig(folder / "figure1.svg")
        (folder / "discrepancies.md").write_text(paper.discrepancies(folder))


def diagram(tasks: tuple[Task, ...]) -> Figure:
    """What is connected to what, drawn from the switches (paper Figures 3 and 4), one panel per task.

    Light boxes learn, dark boxes are frozen, dashed lines carry the loss back; boxes under one bar learn together.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch

    rows = -(-len(tasks) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(10, 1.75 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set(xlim=(-0.6, 6.6), ylim=(-1.6, 1.6))
        axis.axis("off")

    def box(axis, x: float, y: float, text: str, *, frozen: bool = False, plain: bool = False) -> tuple[float, float]:
        face = "none" if plain else "0.35" if frozen else "0.9"
        axis.add_patch(FancyBboxPatch((x - 0.42, y - 0.17), 0.84, 0.34, boxstyle="round,pad=0.03", facecolor=face,
                                      edgecolor="none" if plain else "0.2"))
        axis.text(x, y, text, ha="center", va="center", fontsize=9, color="white" if frozen else "black")
        return x, y

    def join(axis, a: tuple[float, float], b: tuple[float, float], dashed: bool = False) -> None:
        vertical = a[0] == b[0]
        start = (a[0], a[1] + (0.2 if b[1] > a[1] else -0.2)) if vertical else (a[0] + 0.45, a[1])
        end = (b[0], b[1] - (0.2 if b[1] > a[1] else -0.2)) if vertical else (b[0] - 0.45, b[1])
        axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "linestyle": "--" if dashed else "-", "color": "0.2"})

    for axis, task in zip(axes.flat, tasks, strict=False):
        axis.set_title(f"{task.title}: {task.description}", fontsize=8, loc="left")
        source, x = box(axis, 0, 0, "$V$", plain=True), 1.2
        heights = (0.42, -0.42) if task.transform else (0.0,)
        names = ("high", "low") if task.transform else ("",)
        split = box(axis, x, 0, "split", plain=True) if task.transform else source
        x += 1.2 if task.transform else 0
        if task.transform:
            join(axis, source, split)
        enhancers = []
        for y, name in zip(heights, names, strict=True):
            enhancer = box(axis, x, y, {"high": "$F_{hpr}$", "low": "$F_{lpr}$", "": "$F_{pr}$"}[name])
            join(axis, split, enhancer)
            if task.controller:
                at = y + (0.8 if y >= 0 else -0.8)
                controller = box(axis, x, at, {"high": "$C_{hpr}$", "low": "$C_{lpr}$", "": "$C_{pr}$"}[name], frozen=True)
                join(axis, controller, enhancer, dashed=True)
            enhancers.append(enhancer)
        x += 1.2
        last = enhancers[0]
        if task.transform:
            last = box(axis, x, 0, "merge", plain=True)
            for enhancer in enhancers:
                join(axis, enhancer, last)
            x += 1.2
        if task.compensator:
            compensator = box(axis, x, 0, "$F_{fc}$")
            join(axis, last, compensator)
            judge = box(axis, x, 0.85, "$C_{fc}$" if task.compensation_controller else "MSE", frozen=task.compensation_controller,
                        plain=not task.compensation_controller)
            join(axis, judge, compensator, dashed=True)
            last, x = compensator, x + 1.2
        utility = box(axis, x, 0, "$F_u$")
        join(axis, last, utility)
        if not task.controller:
            axis.plot([enhancers[0][0] - 0.4, utility[0] + 0.4], [-1.4, -1.4], color="0.2", linewidth=3)
            axis.text((enhancers[0][0] + utility[0]) / 2, -1.3, "trained as a whole" if not task.compensator else "trained as a whole, without $F_{fc}$",
                      ha="center", va="bottom", fontsize=8)
    return figure
