"""Ways of protecting a video that the method is compared with, one file each."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ppfer.measure import Rate, accuracy
from ppfer.method import networks
from ppfer.run.training import Training, trainable


class BesideRecognizer(Training):
    """Enhancers trained together with F_u, on whole clips."""

    per_frame = False
    where: str  # what the enhancers work on, "bands" or "frames"

    def net(self) -> nn.Module:
        return networks.new_enhancer(self.config, self.where)

    def start(self) -> nn.Module:
        self.run.room.put_aside()  # whole clips through several networks take much memory
        return networks.start_enhancer(self.run, self.where)

    def learning_recognizer(self) -> nn.Module:
        """F_u, which learns on from what it learned of originals; then it is `recognizer`."""
        fresh = networks.new_recognizer(self.config, len(self.run.classes("emotion")))
        trained = networks.with_weights(fresh, self.run.get("recognizer/none"))
        self.recognizer = trainable(trained, self.run.device)
        return self.recognizer

    def batches(self) -> Callable:
        return self.draw("clips", self.run.labels("emotion"))

    def shown(self, net: nn.Module, part: str) -> Tensor:
        """A part's clips as the enhancers make them by now."""
        clips = self.run.tensor("clips")[torch.as_tensor(self.run.parts[part])]
        return networks.protected_by(self.run, net, clips)

    def read(self, net: nn.Module, part: str) -> Rate:
        """How many of those F_u reads by now."""
        truth = self.run.labels("emotion")[self.run.parts[part]]
        return accuracy(self.run.logits(self.recognizer, self.shown(net, part)), truth)

    def measure(self, net: nn.Module) -> dict[str, float]:
        leaks = networks.protection(self.run, net, "clips")
        return leaks | {"val_accuracy": self.read(net, "val").value}
