"""Algorithm 2 with re-enactment for a teacher: does a U-ViT that repaints G near the original scene
earn a row?

    python tests/bench/composed.py [--profile twin] [--runs DIR] --out DIR

It makes what it needs of a run, the U-ViT on G stopped early and on G of the long run, and writes
``composed.json`` with how it was made. Numbers and the answer are in figures/dials.md.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import common
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import nets, protect
from ppfer.base.files import write_json
from ppfer.config import Train, load_config
from ppfer.measure import write_table
from ppfer.method.compensation import Compensation
from ppfer.run.names import RUNS
from ppfer.run.run import Run
from ppfer.run.stage import Protector, stage
from ppfer.study import tables
from ppfer.study.catalogue import PROTECTORS, STAGES

TEACHER = "protected/reenactment"
WEIGHT = 10.0  # of L1 to the teacher's frame beside C_fc's cross-entropy
LONGER = 5  # times Algorithm 2's steps
CELLS = ("plr", "plr_retrained", "acc", "acc_retrained", "plr_worst")


class TaughtObjective(nn.Module):
    """Algorithm 2's cross-entropy under the frozen C_fc, and L1 to the teacher's frame."""

    captures = True

    def __init__(self, net: nn.Module, controller: nn.Module):
        super().__init__()
        self.net, self.controller = net, nets.freeze(controller)

    def forward(self, frames: Tensor, emotions: Tensor, wanted: Tensor) -> Tensor:
        """Frames of G (B, 3, H, W), labels (B,), the teacher's frames → scalar."""
        made = self.net(frames)
        return F.cross_entropy(self.controller(made), emotions) + WEIGHT * F.l1_loss(made, wanted)


@stage("taught/{variant}", settings=("fidelity", "nets", "privacy_slack"), notebook="11")
class Taught(Compensation):
    """The compensator on G, taught by re-enactment; the last weights."""

    trains = "compensation"

    @property
    def train(self) -> Train:
        train = super().train
        return dataclasses.replace(train, steps=LONGER * train.steps, evals=2, select="last")

    def origin(self) -> str:
        return self.notebook

    def needs(self) -> tuple[str, ...]:
        return (*super().needs(), TEACHER)

    def objective(self, net: nn.Module) -> nn.Module:
        return TaughtObjective(net, self.controller())

    def batches(self) -> Callable[[int], tuple]:
        # two streams with one seed draw the same clips, frames and shifts
        labels = self.run.labels("emotion")
        given, wanted = (self.draw(store, labels) for store in (self.source, TEACHER))
        return lambda step: (*given(step), wanted(step)[0])


def taught(source: str, enhancer: str, title: str, what_ran: str) -> Protector:
    """The row of the U-ViT on a protector's clips."""
    made = f"taught/{source}"
    how = {"needs": (enhancer, made), "notebook": "11", "compensates": source}

    def build(run: Run) -> nn.Module:
        return protect.PPFER(run.get(enhancer), run.get(made))

    return Protector(f"taught_{source}", title, build, what_ran, **how)


G = "G repainted as re-enactment", "U-ViT on G under C_fc, L1 to the re-enacted frames"
G_LONG = "G run long, repainted as re-enactment", "the same on G of the long run"
ROWS = (taught("enhanced", "privacy", *G), taught("enhanced_long", "privacy/long", *G_LONG))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="twin")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    stages, protectors = (*STAGES, Taught), (*PROTECTORS, *ROWS)
    run = Run(load_config(args.profile), args.runs, stages=stages, protectors=protectors)
    found = []
    for protector in ROWS:
        common.complete(run, f"recognizer/{protector.name}")
        tables.prepare(run, (protector.name,), ("recognizer", "attack"))
        row = tables.whole_row(run, protector.name, more=False)
        found.append({key: row[key] for key in ("approach", "what_ran", *CELLS)})
    args.out.mkdir(parents=True, exist_ok=True)
    write_table(found, args.out, "composed")
    made = common.publish.made_in(run.dir)
    wanted = {name: how for name, how in made.items() if "taught" in name}
    write_json(args.out / "composed_manifest.json", wanted)


if __name__ == "__main__":
    main()
