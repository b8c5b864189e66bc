"""How unsteady protected clips are: what the eye sees flicker."""

from pathlib import Path

import torch

from ppfer.run.stage import Stage, stage


@stage(
    "steadiness/{protector}", needs=("split", "protected/{protector}"), notebook="08", alone=True
)
class Steadiness(Stage):
    """Mean absolute second difference over time of a protector's test clips, in grey levels of 255.

    The originals' own is what moving faces and the camera's noise give.
    """

    def make(self, folder: Path) -> dict:
        total, count = 0.0, 0
        store = self.run.tensor(f"protected/{self.protector}")
        for rows in torch.as_tensor(self.run.parts["test"]).split(64):
            jumps = store[rows].float().diff(n=2, dim=1).abs()  # (b, T − 2, 3, H, W)
            total, count = total + float(jumps.sum()), count + jumps.numel()
        return {"flicker": total / count if count else 0.0}

    def load(self, folder: Path) -> float:
        return self.run.summary(self.name)["flicker"]
