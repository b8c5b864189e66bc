"""Does the expression survive? F_u, the recognizer of expressions in clips (paper §4.2)."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ppfer.method.networks import (
    OnProtected,
    classification,
    expression_measures,
    new_recognizer,
    with_weights,
)
from ppfer.run.stage import stage


@stage(
    "recognizer/{protector}", settings=("nets.recognizer", "nets.recognizer_weights"), notebook="06"
)
class Recognizer(OnProtected):
    """F_u on a protector's clips: from scratch (or Kinetics) on the originals, from those weights
    on everything else.
    """

    best = (("val_accuracy", max), ("val_loss", min))
    per_frame = False

    @property
    def trains(self) -> str:
        return "recognition" if self.protector == "none" else "adaptation"

    def needs(self) -> tuple[str, ...]:
        before = () if self.protector == "none" else ("recognizer/none",)
        return ("split", self.store, *before)

    def net(self, weights: str = "") -> nn.Module:
        return new_recognizer(self.config, len(self.run.classes("emotion")), weights)

    def start(self) -> nn.Module:
        if self.protector == "none":
            return self.net(self.config.nets.recognizer_weights)
        return with_weights(self.net(), self.run.get("recognizer/none"))

    def objective(self, net: nn.Module) -> nn.Module:
        return classification(net, self.train.label_smoothing)

    def batches(self) -> Callable:
        return self.draw(self.store, self.run.labels("emotion"))

    def measure(self, net: nn.Module) -> dict[str, float]:
        emotions = self.run.labels("emotion")[self.run.parts["val"]]
        return expression_measures(self.run.logits(net, self.store, "val"), emotions)
