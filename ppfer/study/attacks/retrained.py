"""Attackers who start afresh: the validator from scratch, one of another family, and a network of
whole clips.

With the validator retrained from its own weights (`ppfer.method.identity.Attack`) they are the
suite every row of Table 1 runs through, `ppfer.study.tables.suite`.
"""

from __future__ import annotations

from torch import nn

from ppfer import nets
from ppfer.method.identity import Attack
from ppfer.method.networks import new_recognizer
from ppfer.run.stage import stage


@stage(
    "attack_scratch/{protector}",
    needs=("split", "protected/{protector}"),
    settings=("nets.classifier", "nets.classifier_weights"),
    notebook="08",
)
class FromScratch(Attack):
    """The validator's network, trained on a protector's clips from new weights."""

    trains = "attack"

    def start(self) -> nn.Module:
        return self.net(self.config.nets.classifier_weights)


@stage("attack_other/{protector}", needs=("split", "protected/{protector}"), notebook="08")
class OfAnotherFamily(Attack):
    """A ConvNeXt of timm's from new weights: no relative of what protectors train against."""

    trains = "attack"

    def net(self, weights: str = "") -> nn.Module:
        side = max(32, self.config.size)  # it is halved five times
        return nets.Classifier("convnext_atto", len(self.run.classes("actor")), side, weights)

    def start(self) -> nn.Module:
        return self.net()


@stage(
    "attack_clips/{protector}",
    needs=("split", "protected/{protector}"),
    settings=("nets.recognizer", "nets.recognizer_weights"),
    notebook="08",
)
class OnClips(Attack):
    """An R3D over identities, which also sees how people move."""

    per_frame = False
    best = (("val_clip", max),)

    def net(self, weights: str = "") -> nn.Module:
        return new_recognizer(self.config, len(self.run.classes("actor")), weights)

    def start(self) -> nn.Module:
        return self.net(self.config.nets.recognizer_weights)
