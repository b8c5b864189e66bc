"""The trade-off framework, SPAct (Dave et al., CVPR 2022): U-Net f_A, R3D f_T and self-supervised
f_B in a minimax.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer.base.errors import PpferError
from ppfer.config import Config
from ppfer.method.networks import CLASSIFIER, new_classifier, with_weights
from ppfer.run.batches import augment
from ppfer.run.stage import Protector, stage
from ppfer.run.training import Training, trainable
from ppfer.study.protectors import BesideRecognizer


def nt_xent(a: Tensor, b: Tensor, temperature: float = 0.1) -> Tensor:
    """Normalised temperature-scaled cross-entropy (Chen et al. 2020) of N pairs of views: a scalar
    in (0, ∞), small when pairs agree. Rows i of a and b (N, D), N ≥ 2, are from the same clip, and
    are normalised here.
    """
    if len(a) < 2:
        raise PpferError(
            "NT-Xent compares pairs with each other; the batch must hold at least two clips"
        )
    z = F.normalize(torch.cat([a, b]).float(), dim=-1)  # (2N, D)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    similarity = (z @ z.T / temperature).masked_fill(itself, float("-inf"))
    return F.cross_entropy(similarity, torch.arange(len(z), device=z.device).roll(len(a)))


def two_views(clips: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two different random frames (B, 3, H, W) of each clip (B, T, 3, H, W) in [0, 1], T ≥ 2, each
    flipped, brightened and shifted on its own.
    """
    (count, length), device = clips.shape[:2], clips.device
    first = torch.randint(length, (count,), generator=generator)
    second = (first + torch.randint(1, length, (count,), generator=generator)) % length
    views = []
    for pick in (first, second):
        flip = torch.rand(count, generator=generator) < 0.5
        tint = (0.8 + 0.4 * torch.rand(count, 1, generator=generator)).expand(-1, 3)
        shift = torch.randint(0, 1 + clips.shape[-1] // 8, (2,), generator=generator).tolist()
        frames = clips[torch.arange(count, device=device), pick.to(device)]
        views.append(augment(frames, flip.to(device), tint.to(device), shift))
    return views[0], views[1]


def new_budget(config: Config, weights: str = "") -> nn.Module:
    """f_B: the identity controller's ResNet with an MLP head (features, features, 128)."""
    net = new_classifier(config, 128, weights)
    width = net.net.num_features
    net.net.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(True), nn.Linear(width, 128))
    return net


class ContrastObjective(nn.Module):
    """NT-Xent of f_B on two views of each clip: how f_B is initialised."""

    def __init__(self, budget: nn.Module, seed: int):
        super().__init__()
        self.budget, self.seed = budget, seed
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, clips: Tensor, labels: Tensor) -> Tensor:
        """Clips (B, T, 3, H, W) → scalar; labels unused: the privacy branch is self-supervised."""
        first, second = two_views(clips, torch.Generator().manual_seed(self.seed + int(self.step)))
        self.step += 1
        return nt_xent(*self.budget(torch.cat([first, second])).chunk(2))


@stage("contrast", needs=("split",), settings=CLASSIFIER, notebook="08")
class Contrast(Training):
    """f_B trained on original clips, before the minimax."""

    per_frame = False

    def net(self) -> nn.Module:
        return new_budget(self.config)

    def start(self) -> nn.Module:
        return new_budget(self.config, self.config.nets.classifier_weights)

    def objective(self, net: nn.Module) -> nn.Module:
        return ContrastObjective(net, self.seed)

    def batches(self) -> Callable:
        return self.draw("clips", self.run.labels("actor"))


class TradeoffObjective(nn.Module):
    """SPAct's minimax, its two kinds of step on successive batches (Dave et al., CVPR 2022, §3).

    Even steps train f_A alone: CE(f_T(f_A(x)), y) − weight · NTXent(f_B(f_A(v₁)), f_B(f_A(v₂))).
    Odd steps train f_T and f_B on what f_A makes: CE(f_T(f_A(x)), y) + NTXent(f_B(f_A(v₁)),
    f_B(f_A(v₂))), f_A fixed. Networks that a step does not train are in eval mode, without
    gradients; AdamW skips parameters without one.
    """

    alternates = True  # see `train.fit`

    def __init__(
        self,
        anonymizer: nn.Module,
        recognizer: nn.Module,
        budget: nn.Module,
        seed: int,
        *,
        weight: float = 1.0,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        self.anonymizer, self.recognizer, self.budget = anonymizer, recognizer, budget
        self.seed, self.weight, self.label_smoothing = seed, weight, label_smoothing
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, clips: Tensor, labels: Tensor) -> Tensor:
        """Clips (B, T, 3, H, W), expression labels (B,) → scalar."""
        step = int(self.step)
        self.step += 1
        anonymizing = step % 2 == 0
        self.anonymizer.train(anonymizing).requires_grad_(anonymizing)
        for net in (self.recognizer, self.budget):
            net.train(not anonymizing).requires_grad_(not anonymizing)
        views = torch.cat(two_views(clips, torch.Generator().manual_seed(self.seed + step)))
        utility = F.cross_entropy(
            self.recognizer(self.anonymizer(clips)), labels, label_smoothing=self.label_smoothing
        )
        privacy = nt_xent(*self.budget(self.anonymizer(views)).chunk(2))
        return utility - self.weight * privacy if anonymizing else utility + privacy


@stage(
    "tradeoff",
    needs=("pretrain", "identity", "recognizer/none", "contrast"),
    settings=("tradeoff_weight", "recognition.label_smoothing"),
    notebook="08",
)
class Tradeoff(BesideRecognizer):
    """The trade-off framework in full: f_A, f_T and f_B, all initialised first, then the minimax.

    f_A starts from the L1-pre-trained U-Net, f_T from F_u on originals, f_B from stage "contrast".
    Only f_A is kept: everyone else in the tables is measured with fresh networks. The last step is
    used, since a minimax has no best one.
    """

    where = "frames"

    def objective(self, net: nn.Module) -> nn.Module:
        run, config = self.run, self.config
        recognizer = self.learning_recognizer()
        budget = with_weights(new_budget(config), run.get("contrast"))
        return TradeoffObjective(
            net,
            recognizer,
            trainable(budget, run.device),
            self.seed,
            weight=config.tradeoff_weight,
            label_smoothing=config.recognition.label_smoothing,
        )


PROTECTOR = Protector(
    "tradeoff",
    "Trade-off framework",
    lambda run: run.get("tradeoff"),
    "SPAct: U-Net f_A, R3D f_T, ResNet f_B with NT-Xent, minimax",
    needs=("tradeoff",),
)
