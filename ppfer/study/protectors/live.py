"""Live controllers: Algorithm 1 against adversaries that keep learning, on what moves in a clip.

The paper's controllers are frozen, so a U-Net learns to fool one network, and another that is
trained on the result reads it all. Here a ResNet of frames and an R3D of clips go on learning whose
clips these are while the enhancers change them; cross-entropy to the uniform distribution is
bounded, and a live F_u keeps the expression. What the enhancers are given is each frame's
deviation from its clip's mean over time: the paper calls identity what persists (§3.1), and this
takes it at its word. The pictures are for recognizers; a person sees nothing in them. It stops who
trains networks step by step; a linear layer on thumbnails, solved, names nearly everybody.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import protect
from ppfer.measure import accuracy
from ppfer.method.networks import new_classifier, new_recognizer, with_weights
from ppfer.method.privacy import privacy_loss
from ppfer.run.stage import Protector, stage
from ppfer.run.training import trainable
from ppfer.study.protectors import BesideRecognizer

UPDATES = 2  # of the adversaries for each of the enhancers


def motion_only(clips: Tensor) -> Tensor:
    """Clips (B, T, 3, H, W) less their mean over time, halved around grey, in [0, 1]."""
    return 0.5 + (clips - clips.mean(1, keepdim=True)) / 2


class LiveEnhancer(nn.Module):
    """The two U-Nets behind the transform, on `motion_only` clips."""

    def __init__(self, enhancer: protect.PrivacyEnhancer):
        super().__init__()
        self.enhancer = enhancer

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (B, T, 3, H, W) in [0, 1] to the same shape in [0, 1]."""
        return self.enhancer(motion_only(clips))


class LiveObjective(nn.Module):
    """A minimax of three players, its two kinds of step on successive batches.

    `UPDATES` steps of three train the adversaries, and F_u with them, on 8-bit clips as they would
    be given away: CE(frame) + CE(clip) over identities + CE(F_u). The third trains the enhancers
    and F_u: CE(F_u) + weight · (CE to uniform of both adversaries). The adversary of frames sees
    every second one.
    """

    alternates = True  # see `train.fit`

    def __init__(
        self,
        enhancer: nn.Module,
        recognizer: nn.Module,
        of_frames: nn.Module,
        of_clips: nn.Module,
        *,
        weight: float,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        self.enhancer, self.recognizer = enhancer, recognizer
        self.of_frames, self.of_clips = of_frames, of_clips
        self.weight, self.label_smoothing = weight, label_smoothing
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, clips: Tensor, actors: Tensor, emotions: Tensor) -> Tensor:
        """Clips (B, T, 3, H, W) in [0, 1], labels (B,) of both kinds → scalar."""
        enhancing = int(self.step) % (UPDATES + 1) == UPDATES
        self.step += 1
        self.enhancer.train(enhancing).requires_grad_(enhancing)
        for adversary in (self.of_frames, self.of_clips):
            adversary.requires_grad_(not enhancing)
        with torch.set_grad_enabled(enhancing):
            shown = self.enhancer(clips)
        if not enhancing:
            shown = shown.mul(255).round().div(255)
        frames = shown[:, int(self.step) % 2 :: 2]  # (B, T/2, 3, H, W)
        answers = self.of_frames(frames.flatten(0, 1)), self.of_clips(shown)
        utility = F.cross_entropy(
            self.recognizer(shown), emotions, label_smoothing=self.label_smoothing
        )
        if enhancing:
            return utility + self.weight * sum(privacy_loss(s, actors, "uniform") for s in answers)
        names = actors.repeat_interleave(frames.shape[1])
        return utility + F.cross_entropy(answers[0], names) + F.cross_entropy(answers[1], actors)


@stage(
    "live",
    needs=("pretrain", "identity", "recognizer/none"),
    settings=("bands", "live_weight", "recognition.label_smoothing"),
    notebook="11",
)
class Live(BesideRecognizer):
    """Algorithm 1 with live controllers; of all players the enhancers alone are kept, after the
    last step: a minimax has no best one.
    """

    where = "bands"

    def net(self) -> nn.Module:
        return LiveEnhancer(super().net())

    def start(self) -> nn.Module:
        return LiveEnhancer(super().start())

    def objective(self, net: nn.Module) -> nn.Module:
        run, config, people = self.run, self.config, len(self.run.classes("actor"))
        recognizer = self.learning_recognizer()
        of_frames = with_weights(new_classifier(config, people), run.get("identity"))
        of_clips = new_recognizer(config, people, config.nets.recognizer_weights)
        self.adversaries = [trainable(player, run.device) for player in (of_frames, of_clips)]
        return LiveObjective(
            net,
            recognizer,
            *self.adversaries,
            weight=config.live_weight,
            label_smoothing=config.recognition.label_smoothing,
        )

    def batches(self) -> Callable:
        return self.draw("clips", (self.run.labels("actor"), self.run.labels("emotion")))

    def measure(self, net: nn.Module) -> dict[str, float]:
        """What the players read of the validation clips: expression, and identity twice."""
        run, shown = self.run, self.shown(net, "val")
        emotions, actors = (run.labels(c)[run.parts["val"]] for c in ("emotion", "actor"))
        found = {"val_accuracy": accuracy(run.logits(self.recognizer, shown), emotions).value}
        for key, player in zip(("val_plr", "val_plr_clips"), self.adversaries, strict=True):
            found[key] = accuracy(run.logits(player, shown), actors).value
        return found


PROTECTOR = Protector(
    "live",
    "Live controllers",
    lambda run: run.get("live"),
    lambda run: (
        "U-Nets on what moves, against a ResNet and an R3D that keep learning "
        f"(weight {run.config.live_weight:g})"
    ),
    needs=("live",),
    notebook="11",
)
