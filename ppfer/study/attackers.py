"""Attackers who start afresh: the validator from scratch, and a network of whole clips.

With the validator retrained from its own weights (`ppfer.method.identity.Attack`) they are the
suite every row of Table 1 runs through, `ppfer.study.tables.SUITE`.
"""

from __future__ import annotations

from torch import nn

from ppfer.method.identity import Attack
from ppfer.method.parts import new_recognizer
from ppfer.stage import stage


@stage(
    "attack_scratch/{protector}",
    needs=("split", "protected/{protector}"),
    settings=("nets.classifier", "nets.classifier_weights"),
    notebook="08",
    study=True,
)
class FromScratch(Attack):
    """The validator's network, trained on a protector's clips from new weights."""

    trains = "attack"

    def start(self) -> nn.Module:
        return self.net(self.config.nets.classifier_weights)


@stage(
    "attack_clips/{protector}",
    needs=("split", "protected/{protector}"),
    settings=("nets.recognizer", "nets.recognizer_weights"),
    notebook="08",
    study=True,
)
class OnClips(Attack):
    """An R3D over identities, which also sees how people move."""

    frames = False
    best = (("val_clip", max),)

    def net(self, weights: str = "") -> nn.Module:
        return new_recognizer(self.config, len(self.run.classes("actor")), weights)

    def start(self) -> nn.Module:
        return self.net(self.config.nets.recognizer_weights)
