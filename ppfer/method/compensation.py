"""Can the expression be brought back? C_fc, its controller, and Algorithm 2 (paper §3.4)."""

from collections.abc import Callable

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import nets, protect
from ppfer.base.errors import PpferError
from ppfer.method import networks
from ppfer.run.stage import stage
from ppfer.run.training import Training


def wild_labels(emotions: list[str], classes: list[str]) -> np.ndarray:
    """Labels of wild clips in the order of `classes`; −1 (masked) for other emotions.

    Raises:
        PpferError: if a class has no wild clip to learn from.
    """
    labels = np.array([classes.index(e) if e in classes else -1 for e in emotions])
    if absent := [c for i, c in enumerate(classes) if not (labels == i).any()]:
        raise PpferError(
            f"no in-the-wild clip shows {', '.join(absent)}: the expression controller cannot "
            "learn it; pass another wild set"
        )
    return labels


@stage("expression", needs=("clips", "wild"), settings=networks.CLASSIFIER, notebook="05")
class Expression(networks.Naming):
    """C_fc: a ResNet over expressions, one random frame per in-the-wild clip, Surprise masked
    (paper §4.2).
    """

    label = "emotion"
    best = (("val_loss", min),)

    def labels(self) -> np.ndarray:
        """(N,) of the wild clips, −1 where masked."""
        emotions = list(self.run.get("wild").table.emotion)
        return wild_labels(emotions, self.run.classes("emotion"))

    def part(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of the training and of the held-out clips; an eighth is held out."""
        usable = np.flatnonzero(self.labels() >= 0)
        order = np.random.default_rng(self.seed).permutation(usable)
        count = len(order) // 8
        return order[count:], order[:count]

    def batches(self) -> Callable:
        return self.draw("wild", self.labels(), index=self.part()[0])

    def measure(self, net: nn.Module) -> dict[str, float]:
        validation = self.part()[1]
        logits = self.run.logits(net, "wild", validation)
        return networks.expression_measures(logits, self.labels()[validation])

    def report(self, net: nn.Module) -> dict:
        masked = int((self.labels() < 0).sum())
        return {"clips": len(self.labels()) - masked, "masked": masked}


class CompensationObjective(nn.Module):
    """Algorithm 2, lines 4–9: F_fc minimises the frozen C_fc's cross-entropy; without C_fc (Task
    4), MSE to its input G.

    `fidelity` weighs an L1 term between C and G (0 is the paper's loss): a compensator that sees
    C_fc alone repaints the frame until little is left in it for anybody but C_fc.
    """

    def __init__(self, compensator: nn.Module, controller: nn.Module | None, fidelity: float = 0.0):
        super().__init__()
        self.compensator, self.fidelity = compensator, fidelity
        self.controller = nets.freeze(controller) if controller is not None else None

    def forward(self, frames: Tensor, emotions: Tensor) -> Tensor:
        """Frames of G (B, 3, H, W), expression labels (B,) → scalar."""
        compensated = self.compensator(frames)
        if self.controller is None:
            return F.mse_loss(compensated, frames)
        loss = F.cross_entropy(self.controller(compensated), emotions)
        if self.fidelity:
            loss = loss + self.fidelity * F.l1_loss(compensated, frames)
        return loss


@stage("compensation/{variant}", settings=("fidelity", "nets", "privacy_slack"), notebook="05")
class Compensation(Training):
    """Algorithm 2: the compensator on G under the frozen expression controller.

    "compensation/<protector>" takes that protector's clips for G, "compensation/<protector>-mse"
    leaves the controller out (ablation).
    """

    variant = "enhanced"

    def origin(self) -> str:
        return self.notebook if self.variant == "enhanced" else "10"

    @property
    def source(self) -> str:
        """The store of G."""
        return "protected/" + self.variant.partition("-")[0]

    @property
    def controlled(self) -> bool:
        """Whether C_fc is there."""
        return not self.variant.endswith("-mse")

    def needs(self) -> tuple[str, ...]:
        return ("identity", *(("expression",) if self.controlled else ()), self.source)

    def net(self) -> nn.Module:
        return networks.new_compensator(self.config)

    def controller(self) -> nn.Module | None:
        """C_fc, or None."""
        return self.run.get("expression") if self.controlled else None

    def objective(self, net: nn.Module) -> nn.Module:
        return CompensationObjective(net, self.controller(), self.config.fidelity)

    def batches(self) -> Callable:
        return self.draw(self.source, self.run.labels("emotion"))

    def measure(self, net: nn.Module) -> dict[str, float]:
        run, controller = self.run, self.controller()
        leaks = networks.protection(run, lambda clips: protect.per_frame(net, clips), self.source)
        if controller is None:
            return leaks
        judge = nn.Sequential(net, controller)
        logits = run.logits(judge, self.source, "val", per_frame=True, batch=16)
        return leaks | networks.expression_measures(logits, run.labels("emotion")[run.parts["val"]])

    def rule(self) -> Callable[[dict], list[float]]:
        return networks.privacy_rule(self.run, "val_loss" if self.controlled else "val_l1")
