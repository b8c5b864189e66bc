"""Does the expression survive? F_u, the recognizer of expressions in clips (paper §4.2)."""

from torch import nn

from ppfer.method.networks import RECOGNIZER, Naming, OnProtected, with_weights
from ppfer.run.stage import stage


@stage("recognizer/{protector}", settings=RECOGNIZER, notebook="06")
class Recognizer(OnProtected, Naming):
    """F_u on a protector's clips: from scratch (or Kinetics) on the originals, from those weights
    on everything else.
    """

    label, sees_clips = "emotion", True
    best = (("val_accuracy", max), ("val_loss", min))

    @property
    def trains(self) -> str:
        return "recognition" if self.protector == "none" else "adaptation"

    def needs(self) -> tuple[str, ...]:
        before = () if self.protector == "none" else ("recognizer/none",)
        return (*super().needs(), *before)

    def start(self) -> nn.Module:
        if self.protector == "none":
            return super().start()
        return with_weights(self.net(), self.run.get("recognizer/none"))
