"""The paper's baselines as protectors (§4.3): Gaussian blur, the trade-off framework, optical flow; Table 1 is a loop over them.

The blur itself is in `ppfer.protect`, image swapping in `ppfer.swap`. Stages: blurred (F_u on blur of every strength),
blur/plr and blur/acc (σ by bisection), contrast (f_B of the trade-off framework) and tradeoff (its minimax).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import (
    evaluate,
    nets,
    protect,
    swap,  # noqa: F401  (registers image swapping)
)
from ppfer.config import Config, PpferError
from ppfer.protect import GaussianBlur
from ppfer.run import Run, Stage, define, settings, write_json
from ppfer.stages import (
    ClassificationObjective,
    batches_of,
    fit_stage,
    load_net,
    new_classifier,
    new_recognizer,
    protected_check,
    stage_seed,
    start_enhancer,
    trainable,
)
from ppfer.tables import Protector, prepare, protector_named, register, table_row
from ppfer.train import augment

NOTEBOOK = "08_baselines.ipynb"

# --------------------------------------------------------------------------------------------------------------------
# Gaussian blur
# --------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Bisection:
    """What a bisection found.

    Attributes:
        at: the strength whose value came closest to the target. value: that value. target: what was asked for.
        tried: every (strength, value), in order; the first two are the ends of the range.
        reached: whether the ends' values enclose the target.
    """

    at: float
    value: float
    target: float
    tried: list[tuple[float, float]]
    reached: bool

    def __str__(self) -> str:
        if self.reached:
            return f"σ = {self.at:.2f} px gave {100 * self.value:.1f} % on validation, for {100 * self.target:.1f} %"
        (low, high), values = (self.tried[0][0], self.tried[1][0]), [100 * value for _, value in self.tried]
        return (f"the target of {100 * self.target:.1f} % is out of reach: σ from {low:.2f} to {high:.2f} px gave {min(values):.1f} % to "
                f"{max(values):.1f} % on validation; σ = {self.at:.2f} px came closest, {100 * self.value:.1f} %")


def bisect(measure: Callable[[float], float], target: float, low: float, high: float, *, steps: int = 10, tolerance: float = 0.0) -> Bisection:
    """Find the strength at which a falling measure meets a target, halving the range's logarithm.

    Where the two ends do not enclose the target, the range is searched in even steps of its logarithm instead.

    Args:
        measure: strength → value, roughly falling.
        target: the value wanted.
        low, high: positive ends of the range.
        steps: at most this many measurements between the ends.
        tolerance: a value this close to the target is good enough.

    Returns:
        The strength whose value came closest, the weaker one of equals.
    """
    tried = [(low, measure(low)), (high, measure(high))]
    reached = tried[1][1] <= target <= tried[0][1]
    if not reached:
        tried += [(s, measure(s)) for s in (low * (high / low) ** (i / (steps + 1)) for i in range(1, steps + 1))]
    while reached and len(tried) < steps + 2 and min(abs(value - target) for _, value in tried) > tolerance:
        middle = math.sqrt(low * high)
        tried.append((middle, measure(middle)))
        low, high = (middle, high) if tried[-1][1] > target else (low, middle)
    at, value = min(tried, key=lambda pair: (abs(pair[1] - target), pair[0]))
    return Bisection(at, value, target, tried, reached)


def sigma_range(size: int) -> tuple[float, float]:
    """From nearly no blur to the widest kernel that fits frames of this size, in pixels."""
    return 0.25, (size - 1) // 3


class BlurredObjective(nn.Module):
    """Cross-entropy of F_u on clips blurred with another σ at every step: one network for all strengths."""

    def __init__(self, net: nn.Module, sigmas: tuple[float, float], seed: int, label_smoothing: float):
        super().__init__()
        self.objective, self.sigmas, self.seed = ClassificationObjective(net, label_smoothing), sigmas, seed
        self.register_buffer("step", torch.zeros((), dtype=torch.long))  # kept in the checkpoint, so that a resumed run goes on

    def forward(self, clips: Tensor, labels: Tensor) -> Tensor:
        """Clips (B, T, 3, H, W), labels (B,) → scalar."""
        low, high = self.sigmas
        draw = torch.rand((), generator=torch.Generator().manual_seed(self.seed + int(self.step))).item()
        self.step += 1
        return self.objective(GaussianBlur(round(low * (high / low) ** draw, 1))(clips), labels)


@define
def blurred(config: Config) -> Stage:
    """F_u adapted to blur of every strength, so that the bisection for accuracy need not train a network per σ."""
    train = dataclasses.replace(config.adaptation, steps=-(-config.adaptation.steps // 2))  # it only steers the search

    def make(run: Run, folder: Path) -> dict:
        seed, emotions = stage_seed(run, "blurred"), run.labels("emotion")
        net = new_recognizer(config, len(run.classes("emotion")))
        net.load_state_dict(run.get("recognizer/none").state_dict())
        trainable(net, run)
        batches = batches_of(run, "clips", run.parts["train"], emotions, train, seed, frames=False)
        objective = BlurredObjective(net, sigma_range(config.size), seed, train.label_smoothing)
        return fit_stage(run, folder, "blurred", objective, net, batches, train)

    def load(run: Run, folder: Path) -> nn.Module:
        return load_net(new_recognizer(config, len(run.classes("emotion")), pretrained=False), folder, run)

    return Stage("blurred", NOTEBOOK, ("split", "recognizer/none"), settings(config, "adaptation", "precision", "seed"), make, load)


@define
def blur(config: Config, target: str) -> Stage:
    """σ on the validation part: "plr" meets PPFER's leakage (Gaussian Blur 1), "acc" its accuracy (Gaussian Blur 2).

    Leakage is the frozen V_pl's over all frames, finer than one frame a clip. Accuracy is the paper's, of an F_u that was
    trained on such clips: PPFER's own for the target, and for blur the one network of stage "blurred".
    """
    if target not in ("plr", "acc"):
        raise PpferError(f"blur is matched on plr or acc, not on '{target}'")

    def make(run: Run, folder: Path) -> dict:
        index, options = run.parts["val"], {"device": run.device, "precision": config.precision}
        held, everything = run.tensor("clips")[torch.as_tensor(index)], np.arange(len(index))

        def measure(pixels: Tensor, net: nn.Module) -> float:
            if target == "plr":
                logits = evaluate.frame_logits(net, pixels, everything, **options)
                return evaluate.leakage(logits, run.labels("actor")[index])["all_frames"].value
            logits = evaluate.clip_logits(net, pixels, everything, **options)
            return evaluate.rate(logits.argmax(-1).numpy() == run.labels("emotion")[index]).value

        own, net = ("identity", "identity") if target == "plr" else ("recognizer/ppfer", "blurred")
        net, goal = run.get(net), measure(run.tensor("protected/ppfer")[torch.as_tensor(index)], run.get(own))

        def at(sigma: float) -> float:
            made = protect.protect_all(GaussianBlur(sigma), held, device=run.device, batch=32, name="Gaussian blur")
            return measure(torch.cat(list(made)), net)

        found = bisect(at, goal, *sigma_range(config.size), tolerance=0.25 / len(index))
        write_json(folder / "bisection.json", dataclasses.asdict(found))
        return {"sigma": found.at, "said": str(found)}

    def load(run: Run, folder: Path) -> Bisection:
        return Bisection(**json.loads((folder / "bisection.json").read_text()))

    inputs = ("identity",) if target == "plr" else ("blurred", "recognizer/ppfer")
    return Stage(f"blur/{target}", NOTEBOOK, ("split", "protected/ppfer", *inputs), {"size": config.size}, make, load)


# --------------------------------------------------------------------------------------------------------------------
# The trade-off framework: SPAct
# --------------------------------------------------------------------------------------------------------------------


def nt_xent(a: Tensor, b: Tensor, temperature: float = 0.1) -> Tensor:
    """Normalised temperature-scaled cross-entropy (Chen et al. 2020) of N pairs of views: a scalar in (0, ∞), small when pairs agree.

    Args:
        a, b: (N, D), row i of both from the same clip; normalised here. N must be at least 2.
    """
    if len(a) < 2:
        raise PpferError("NT-Xent compares pairs with each other; the batch must hold at least two clips")
    z = F.normalize(torch.cat([a, b]).float(), dim=-1)  # (2N, D)
    similarity = (z @ z.T / temperature).masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), float("-inf"))
    return F.cross_entropy(similarity, torch.arange(len(z), device=z.device).roll(len(a)))


def two_views(clips: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two different random frames of each clip, each flipped, brightened and shifted on its own.

    Args:
        clips: (B, T, 3, H, W) in [0, 1], T ≥ 2.

    Returns:
        two (B, 3, H, W) in [0, 1].
    """
    count, length = clips.shape[:2]
    first = torch.randint(length, (count,), generator=generator)
    second = (first + torch.randint(1, length, (count,), generator=generator)) % length
    views = []
    for pick in (first, second):
        flip, tint = torch.rand(count, generator=generator) < 0.5, (0.8 + 0.4 * torch.rand(count, 1, generator=generator)).expand(-1, 3)
        shift = torch.randint(0, 1 + clips.shape[-1] // 8, (2,), generator=generator).tolist()
        frames = clips[torch.arange(count, device=clips.device), pick.to(clips.device)]  # (B, 3, H, W)
        views.append(augment(frames, flip.to(clips.device), tint.to(clips.device), shift))
    return views[0], views[1]


def new_budget(config: Config) -> nn.Module:
    """f_B: the identity controller's ResNet with an MLP head (features, features, 128) instead of classes."""
    net = new_classifier(config, 128)
    width = net.net.num_features
    net.net.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, 128))
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


@define
def contrast(config: Config) -> Stage:
    """f_B trained on original clips, before the minimax."""

    def make(run: Run, folder: Path) -> dict:
        seed = stage_seed(run, "contrast")
        net = trainable(new_budget(config), run)
        batches = batches_of(run, "clips", run.parts["train"], run.labels("actor"), config.contrast, seed, frames=False)
        return fit_stage(run, folder, "contrast", ContrastObjective(net, seed), net, batches, config.contrast)

    def load(run: Run, folder: Path) -> nn.Module:
        return load_net(new_budget(config), folder, run)

    needs = settings(config, "contrast", "precision", "seed") | {"net": [config.nets.classifier, config.nets.classifier_weights]}
    return Stage("contrast", NOTEBOOK, ("split",), needs, make, load)


class TradeoffObjective(nn.Module):
    """SPAct's minimax, its two kinds of step on successive batches (Dave et al., CVPR 2022, §3).

    Even steps train f_A alone: CE(f_T(f_A(x)), y) − weight · NTXent(f_B(f_A(v₁)), f_B(f_A(v₂))).
    Odd steps train f_T and f_B on what f_A makes: CE(f_T(f_A(x)), y) + NTXent(f_B(f_A(v₁)), f_B(f_A(v₂))), f_A fixed.
    Networks that a step does not train are in eval mode, without gradients; AdamW skips parameters without one.
    """

    alternates = True  # see `train.fit`

    def __init__(self, anonymizer: nn.Module, recognizer: nn.Module, budget: nn.Module, seed: int, *, weight: float = 1.0,
                 label_smoothing: float = 0.0):
        super().__init__()
        self.anonymizer, self.recognizer, self.budget = anonymizer, recognizer, budget
        self.seed, self.weight, self.label_smoothing = seed, weight, label_smoothing
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, clips: Tensor, labels: Tensor) -> Tensor:
        """Clips (B, T, 3, H, W), expression labels (B,) → scalar."""
        step = int(self.step)
        self.step += 1
        anonymizing = step % 2 == 0
        for net, trains in ((self.anonymizer, anonymizing), (self.recognizer, not anonymizing), (self.budget, not anonymizing)):
            net.train(trains).requires_grad_(trains)
        views = torch.cat(two_views(clips, torch.Generator().manual_seed(self.seed + step)))
        utility = F.cross_entropy(self.recognizer(self.anonymizer(clips)), labels, label_smoothing=self.label_smoothing)
        privacy = nt_xent(*self.budget(self.anonymizer(views)).chunk(2))
        return utility - self.weight * privacy if anonymizing else utility + privacy


@define
def tradeoff(config: Config) -> Stage:
    """The trade-off framework in full: U-Net f_A, R3D f_T and self-supervised f_B, all initialised first, then the minimax.

    f_A starts from the L1-pre-trained U-Net, f_T from F_u on originals, f_B from stage "contrast". Only f_A is kept: everyone
    else in the tables is measured with fresh networks. The last step is used, since a minimax has no best one.
    """
    train = config.tradeoff

    def make(run: Run, folder: Path) -> dict:
        seed, parts, emotions = stage_seed(run, "tradeoff"), run.parts, run.labels("emotion")
        run.put_aside()  # whole clips through a U-Net and an R3D network: the hungriest of all stages
        anonymizer = start_enhancer(run, "frames")
        recognizer, budget = new_recognizer(config, len(run.classes("emotion"))), new_budget(config)
        recognizer.load_state_dict(run.get("recognizer/none").state_dict())
        budget.load_state_dict(run.get("contrast").state_dict())
        objective = TradeoffObjective(anonymizer, trainable(recognizer, run), trainable(budget, run), seed,
                                      weight=config.tradeoff_weight, label_smoothing=config.recognition.label_smoothing)
        held = run.tensor("clips")[torch.as_tensor(parts["val"])]
        leaks = protected_check(run, anonymizer, run.get("identity"), run.tensor("clips"))

        def measure() -> dict[str, float]:
            made = protect.protect_all(anonymizer, held, device=run.device, batch=16, name="trade-off framework", precision=config.precision)
            logits = evaluate.clip_logits(recognizer, torch.cat(list(made)), np.arange(len(held)), device=run.device, precision=config.precision)
            return leaks() | {"val_accuracy": evaluate.rate(logits.argmax(-1).numpy() == emotions[parts["val"]]).value}

        batches = batches_of(run, "clips", parts["train"], emotions, train, seed, frames=False)
        return fit_stage(run, folder, "tradeoff", objective, anonymizer, batches, train, evaluate=measure)

    def load(run: Run, folder: Path) -> nn.Module:
        return load_net(protect.FrameEnhancer(nets.UNet(width=config.nets.unet_width)), folder, run)

    needs = settings(config, "tradeoff", "tradeoff_weight", "precision", "seed") | {"smoothing": config.recognition.label_smoothing}
    return Stage("tradeoff", NOTEBOOK, ("pretrain", "identity", "recognizer/none", "contrast"), needs, make, load)


# --------------------------------------------------------------------------------------------------------------------
# Optical flow
# --------------------------------------------------------------------------------------------------------------------

RAFT_SIDE = 128  # RAFT correlates at an eighth of the size, four levels deep; smaller frames are enlarged for it


def classical_flow(clip: Tensor) -> Tensor:
    """Dense inverse search (Kroeger et al. 2016) through OpenCV.

    Args:
        clip: (T, 3, H, W) in [0, 1].

    Returns:
        (T − 1, 2, H, W), pixels moved to the right and down.
    """
    import cv2

    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = (clip.mul(255).round().byte().cpu().permute(0, 2, 3, 1).numpy() @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
    flows = [estimator.calc(a, b, None) for a, b in itertools.pairwise(grey)]  # (H, W, 2) each
    return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).to(clip.device)


def raft(weights: str) -> nn.Module:
    """torchvision's RAFT (large) with its published weights, frozen.

    Args:
        weights: "DEFAULT" lets torchvision fetch them; else the path of its raft_large file.

    Raises:
        PpferError: saying what to fetch, when they cannot be had.
    """
    from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

    net = raft_large(weights=None)
    published = Raft_Large_Weights.DEFAULT
    if weights != "DEFAULT":
        return nets.freeze(nets.load_weights(net, weights))
    try:
        state = published.get_state_dict(progress=False, check_hash=True)
    except Exception as error:
        raise PpferError(f"RAFT's weights could not be downloaded ({error}); fetch {published.url} and pass its path: flow_weights=PATH") from error
    return nets.freeze(nets.load_weights(net, state))


def raft_flow(net: nn.Module, clip: Tensor) -> Tensor:
    """RAFT's last estimate; arguments and result as `classical_flow`."""
    size = clip.shape[-2:]
    side = [max(RAFT_SIDE, 8 * math.ceil(n / 8)) for n in size]
    frames = F.interpolate(clip, side, mode="bilinear", align_corners=False) * 2 - 1  # RAFT takes [−1, 1]
    flow = F.interpolate(net(frames[:-1], frames[1:])[-1], size, mode="bilinear", align_corners=False)
    return flow * flow.new_tensor([size[1] / side[1], size[0] / side[0]]).view(2, 1, 1)


class OpticalFlow(nn.Module):
    """Clips turned into pictures of their motion on the usual colour wheel: hue is direction, saturation is speed.

    T frames have T − 1 flows; the last is shown twice. Speed is relative to the fastest pixel of the clip.

    Args:
        estimate: clip (T, 3, H, W) → flow (T − 1, 2, H, W).
        workers: clips at once; for an estimate that computes on the CPU and does not hold Python's lock.
    """

    def __init__(self, estimate: Callable[[Tensor], Tensor], workers: int = 1):
        super().__init__()
        self.estimate, self.workers = estimate, workers

    def forward(self, clips: Tensor) -> Tensor:
        """(B, T, 3, H, W) → the same shape in [0, 1]."""
        from torchvision.utils import flow_to_image

        if clips.shape[1] < 2:
            raise PpferError("optical flow needs clips of at least two frames")
        if self.workers == 1:  # a network stays in this thread, where inference mode holds
            flows = [self.estimate(clip) for clip in clips]
        else:
            with ThreadPoolExecutor(self.workers) as pool:
                flows = list(pool.map(self.estimate, clips))
        wheels = [flow_to_image(flow) for flow in flows]  # uint8 (T − 1, 3, H, W), scaled within each clip
        return torch.stack([torch.cat([w, w[-1:]]) for w in wheels]).float() / 255


def build_flow(run: Run) -> nn.Module:
    """RAFT where the config names its weights, else the classical method."""
    if not run.config.flow_weights:
        import cv2

        cv2.setNumThreads(1)  # whole clips are spread over threads; OpenCV's own would get in their way
        return OpticalFlow(classical_flow, workers=os.cpu_count() or 1)
    net = raft(run.config.flow_weights).to(run.device)
    return OpticalFlow(lambda clip: raft_flow(net, clip))


def flow_missing(run: Run) -> str:
    """What optical flow cannot do without."""
    if run.config.flow_weights:
        return ""
    try:
        import cv2  # noqa: F401
    except ImportError:
        return "optical flow needs OpenCV; install the extra: pip install 'ppfer[flow]', or give flow_weights=PATH for RAFT"
    return ""


@define
def flow_estimator(config: Config) -> Stage:
    """Which optical flow runs: nothing is made, but the clips' key depends on it."""
    return Stage("flow_estimator", NOTEBOOK, (), settings(config, "flow_weights"), lambda run, folder: {}, lambda run, folder: None)


# --------------------------------------------------------------------------------------------------------------------
# Registration and Table 1
# --------------------------------------------------------------------------------------------------------------------

for number, target in ((1, "plr"), (2, "acc")):
    register(Protector(f"blur{number}", f"Gaussian blur {number}", (f"blur/{target}",),
                       lambda run, target=target: GaussianBlur(run.get(f"blur/{target}").at),
                       lambda run, target=target: f"kernel 2⌈3σ⌉+1, reflect padding; matched to PPFER's {target.upper()}: {run.get(f'blur/{target}')}",
                       NOTEBOOK))
register(Protector("tradeoff", "Trade-off framework", ("tradeoff",), lambda run: run.get("tradeoff"),
                   "SPAct: U-Net f_A, R3D f_T, ResNet f_B with NT-Xent, minimax", NOTEBOOK))
register(Protector("flow", "Optical flow", ("flow_estimator",), build_flow,
                   lambda run: ("RAFT (large), torchvision's weights" if run.config.flow_weights else "dense inverse search (OpenCV)")
                   + " instead of VideoFlow, colour wheel", NOTEBOOK, missing=flow_missing))

TABLE1 = ("none", "blur1", "blur2", "tradeoff", "flow", "swap", "ppfer")


def table1(run: Run, names: tuple[str, ...] = TABLE1, *, retrained: bool = True) -> list[dict]:
    """Table 1: PLR and ACC of every approach, both protocols or only the frozen one; makes what is missing.

    An approach that cannot run here keeps its row, without numbers, saying what to install.

    Raises:
        PpferError: naming a protector that breaks the protocol, before anything is measured.
    """
    ready = prepare(run, names, ("recognizer", "attack") if retrained else ())
    return [table_row(run, name, retrained=retrained) if name in ready else left_out(run, name) for name in names]


def left_out(run: Run, name: str) -> dict:
    """The row of an approach that cannot run here."""
    protector = protector_named(name)
    return {"approach": protector.title, "what_ran": f"left out: {protector.missing(run)}"}
