"""Attackers who start afresh: the validator from scratch, one of another family, and a network of
whole clips.

With the validator retrained from its own weights (`ppfer.method.identity.Attack`) they are the
suite every row of Table 1 runs through, `ppfer.study.tables.suite`.
"""

from torch import nn

from ppfer import nets
from ppfer.method.networks import CLASSIFIER, RECOGNIZER, Naming, OnProtected
from ppfer.run.stage import stage


class Afresh(OnProtected, Naming):
    """A network over identities, trained on a protector's clips from new weights."""

    trains = "attack"
    best = (("val_all_frames", max),)


@stage("attack_scratch/{protector}", settings=CLASSIFIER, notebook="08")
class FromScratch(Afresh):
    """The validator's network."""


@stage("attack_other/{protector}", notebook="08")
class OfAnotherFamily(Afresh):
    """A ConvNeXt of timm's: no relative of what protectors train against."""

    def net(self, weights: str = "") -> nn.Module:  # which are of the other family
        side = max(32, self.config.size)  # it is halved five times
        return nets.Classifier("convnext_atto", len(self.run.classes("actor")), side)


@stage("attack_clips/{protector}", settings=RECOGNIZER, notebook="08")
class OnClips(Afresh):
    """An R3D over identities, which also sees how people move."""

    trains, sees_clips = "attack_clips", True
    best = (("val_clip", max),)
