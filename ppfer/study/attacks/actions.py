"""What of the expression is kept, beyond six names: the facial actions a network can still read.

The twin knows its 52 actions exactly. An R3D is trained on a protector's clips to say how strong
each is in every quarter of a clip; R² on the test clips is the share of an action's variance that
it tells. Stages: motions, actions.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ppfer import twin
from ppfer.method.networks import Objective, OnProtected, new_recognizer
from ppfer.run.stage import Stage, stage
from ppfer.study.attacks import with_body
from ppfer.study.protectors.swap import twin_clips
from ppfer.twin.head import load_head

QUARTERS = 4  # parts of a clip
VARIED = 30  # actions that the mean is taken over: the most varied


@stage("motions", needs=("clips",), notebook="11", alone=True, version=2)
class Motions(Stage):
    """The true facial actions of every clip, (N, QUARTERS, 52) float32; for the twin alone."""

    def make(self, folder: Path) -> dict:
        specs, times = twin_clips(self.run)
        with ThreadPoolExecutor() as pool:
            moved = pool.map(lambda spec: twin.motion(spec).actions[times], specs)
            parts = [np.array_split(actions, QUARTERS) for actions in moved]
        means = np.array([[part.mean(0) for part in clip] for clip in parts], np.float32)
        np.save(folder / "actions.npy", means)
        return {"clips": len(means)}

    def load(self, folder: Path) -> np.ndarray:
        return np.load(folder / "actions.npy")


@stage(
    "actions/{protector}",
    needs=("motions", "recognizer/{protector}"),
    settings=("nets.recognizer",),
    notebook="11",
)
class Actions(OnProtected):
    """F_u as trained on a protector's clips, with the facial actions for outputs, trained on.

    Clips are not mirrored: left and right are actions of their own.
    """

    per_frame = False
    best = (("val_loss", min),)

    def wanted(self) -> tuple[np.ndarray, np.ndarray]:
        """Standardised actions (N, QUARTERS·52), and the spread of each on the training part."""
        true = self.run.get("motions").reshape(len(self.run.table), -1)
        train = true[self.run.parts["train"]]
        spread = train.std(0)
        scale = np.where(spread > 1e-3, spread, np.inf)  # what never moves is not asked for
        return ((true - train.mean(0)) / scale).astype(np.float32), spread

    def net(self) -> nn.Module:
        return new_recognizer(self.config, self.run.get("motions")[0].size)

    def start(self) -> nn.Module:
        return with_body(self.net(), self.run.get(f"recognizer/{self.protector}"))

    def objective(self, net: nn.Module) -> nn.Module:
        return Objective(net, F.mse_loss)  # of standardised actions (B, QUARTERS·52)

    def batches(self) -> Callable:
        return self.draw(self.store, self.wanted()[0], augment=False)

    def measure(self, net: nn.Module) -> dict[str, float]:
        predicted = self.run.logits(net, self.store, "val").numpy()
        wanted = self.wanted()[0][self.run.parts["val"]]
        return {"val_loss": float(((predicted - wanted) ** 2).mean())}

    def report(self, net: nn.Module) -> dict:
        wanted, spread = self.wanted()
        predicted = self.run.logits(net, self.store, "test").numpy()
        shape = (len(predicted), QUARTERS, -1)
        true = wanted[self.run.parts["test"]].reshape(shape)
        each = r_squared(predicted.reshape(shape), true)
        most = np.argsort(-spread.reshape(QUARTERS, -1).mean(0), kind="stable")[:VARIED]
        names = list(load_head(torch.device("cpu")).action)
        named = {names[i]: round(float(each[i]), 4) for i in most}
        return {"test": {"actions_r2": float(each[most].mean()), "each": named}}


def r_squared(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """1 − squared error / variance of each action, (actions,), of (n, QUARTERS, actions): 1 is
    perfect, 0 what the mean would do, below 0 worse than it.
    """
    off = ((predicted - true) ** 2).sum((0, 1))
    around = ((true - true.mean((0, 1))) ** 2).sum((0, 1))
    return 1 - off / np.maximum(around, 1e-9)
