"""Gaussian blur (paper §4.3), its strength read off a curve: Gaussian Blur 1 meets PPFER's
leakage, 2 its accuracy.
"""

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer.base.errors import PpferError
from ppfer.base.files import write_json
from ppfer.config import Train
from ppfer.measure import accuracy
from ppfer.method.networks import Naming, protected_by, with_weights
from ppfer.run.run import Run
from ppfer.run.stage import Protector, Stage, stage


@functools.lru_cache(maxsize=256)
def blur_matrix(n: int, sigma: float) -> Tensor:
    """Gaussian blur along an axis of length n, reflected at its ends, is a matrix: (n, n) float32,
    rows summing to 1.

    The kernel has 2⌈3σ⌉+1 taps. Cached and shared: clone it before changing it.

    Raises:
        PpferError: if the kernel reaches beyond the reflection, that is for σ > (n − 1) / 3.
    """
    radius = math.ceil(3 * sigma)
    if not 0 < sigma or radius >= n:
        raise PpferError(
            f"a blur of σ = {sigma:g} does not fit {n} pixels; σ must lie in (0, {(n - 1) // 3}]"
        )
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    basis = torch.eye(n, dtype=torch.float64)[:, None]
    basis = F.pad(basis, (radius, radius), mode="reflect")  # (n, 1, n + 2·radius)
    # row j is the blurred j-th basis vector
    columns = F.conv1d(basis, (kernel / kernel.sum()).view(1, 1, -1))  # (n, 1, n)
    return columns[:, 0].T.float().contiguous()


class GaussianBlur(nn.Module):
    """Frames or clips (..., H, W) blurred with one σ in pixels (paper §4.3): X → B_h X B_wᵀ.

    Equal to torchvision's ``gaussian_blur`` with kernel 2⌈3σ⌉+1, at a fraction of its cost for wide
    kernels.
    """

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = sigma

    def forward(self, pixels: Tensor) -> Tensor:
        """Same shape, in [0, 1]."""
        rows, columns = (blur_matrix(n, self.sigma).to(pixels.device) for n in pixels.shape[-2:])
        with torch.autocast(pixels.device.type, enabled=False):
            return (rows @ pixels @ columns.T).clamp(0, 1)


@dataclasses.dataclass(frozen=True)
class Match:
    """The strength that comes closest to a target, and the curve it was read off."""

    at: float  # the strength, where `value` was measured, and not quite the `target`
    value: float
    target: float
    tried: list[tuple[float, float]]  # (strength, value): even steps, then those between two

    @property
    def reached(self) -> bool:
        """Whether some strength gives as much as the target, and some as little."""
        values = [value for _, value in self.tried]
        return min(values) <= self.target <= max(values)

    def __str__(self) -> str:
        at, value, wanted = self.at, 100 * self.value, 100 * self.target
        if self.reached:
            return f"σ = {at:.2f} px gave {value:.1f} % on validation, for {wanted:.1f} %"
        strengths, values = zip(*self.tried, strict=True)
        return (
            f"{wanted:.1f} % is out of reach: σ from {min(strengths):.2f} to "
            f"{max(strengths):.2f} px gave {100 * min(values):.1f} % to {100 * max(values):.1f} % "
            f"on validation; σ = {at:.2f} px came closest, {value:.1f} %"
        )


def match(
    measure: Callable[[float], float],
    target: float,
    low: float,
    high: float,
    *,
    grid: int = 12,
    steps: int = 3,
    tolerance: float = 0.0,
) -> Match:
    """The strongest blur whose measure still comes to the target.

    What a network makes of blurred clips need not fall everywhere, so that halving the whole range
    could end on a branch that rises. The curve is measured in even steps of the strength's
    logarithm; the last two neighbours between which it falls past the target enclose it, and only
    what lies between them is halved. Where it never falls past the target, the closest of all is
    taken, the weaker one of equals.

    Strengths lie from `low`, which is positive, to `high`: of `grid` even steps, then at most
    `steps` halvings between two of them, or until a value is as close as `tolerance`.
    """
    even = [low * (high / low) ** (i / (grid - 1)) for i in range(grid)]
    curve = [(strength, measure(strength)) for strength in even]
    tried, near = list(curve), list(curve)
    falls = [
        (before, after)
        for before, after in itertools.pairwise(curve)
        if before[1] >= target >= after[1] and before[1] > after[1]
    ]
    for (low, _), (high, _) in falls[-1:]:
        near = list(falls[-1])
        while len(tried) < grid + steps:
            if min(abs(value - target) for _, value in near) <= tolerance:
                break
            middle = math.sqrt(low * high)
            tried.append((middle, measure(middle)))
            near.append(tried[-1])
            low, high = (middle, high) if tried[-1][1] > target else (low, middle)
    at, value = min(near, key=lambda pair: (abs(pair[1] - target), pair[0]))
    return Match(at, value, target, tried)


def sigma_range(size: int) -> tuple[float, float]:
    """From nearly no blur to the widest kernel that fits frames of this size, in pixels."""
    return 0.25, (size - 1) // 3


@stage("blurred", needs=("split", "recognizer/none"), notebook="08", version=2)
class Blurred(Naming):
    """F_u adapted to blur of every strength, so that the search for an accuracy need not train a
    network per σ.

    Every clip of a batch has its own σ. With one σ a batch, batch normalization would see a single
    strength while it trains and all of them together when it is asked, and read a sharp clip worse
    than a blurred one.
    """

    trains, label, sees_clips = "adaptation", "emotion", True
    measure = None  # it only steers the search

    @property
    def train(self) -> Train:
        full = self.config.adaptation
        return dataclasses.replace(full, steps=-(-full.steps // 2))

    def start(self) -> nn.Module:
        return with_weights(self.net(), self.run.get("recognizer/none"))

    def batches(self) -> Callable:
        clips_of = super().batches()
        low, high = sigma_range(self.config.size)

        def blurred(step: int) -> tuple[Tensor, Tensor]:
            clips, labels = clips_of(step)  # (B, T, 3, H, W)
            g = torch.Generator().manual_seed(self.seed + step)
            draws = torch.rand(len(clips), generator=g)
            sigmas = [round(low * (high / low) ** draw, 1) for draw in draws.tolist()]
            pairs = zip(sigmas, clips, strict=True)
            return torch.stack([GaussianBlur(sigma)(clip) for sigma, clip in pairs]), labels

        return blurred


@stage("blur/{target}", settings=("size",), notebook="08", version=2)
class Blur(Stage):
    """σ on the validation part: "plr" meets PPFER's leakage (Gaussian Blur 1), "acc" its accuracy
    (Gaussian Blur 2).

    Leakage is the frozen V_pl's over all frames, finer than one frame a clip. Accuracy is the
    paper's, of an F_u that was trained on such clips: PPFER's own for the target, and for blur the
    one network of stage "blurred".
    """

    def __init__(self, run: Run, value: str = ""):
        super().__init__(run, value)
        if self.target not in ("plr", "acc"):
            raise PpferError(f"blur is matched on plr or acc, not on '{self.target}'")

    def needs(self) -> tuple[str, ...]:
        judges = ("identity",) if self.target == "plr" else ("blurred", "recognizer/ppfer")
        return ("split", "protected/ppfer", *judges)

    def make(self, folder: Path) -> dict:
        run, index = self.run, self.run.parts["val"]
        originals, ppfer = run.tensor("clips")[index], run.tensor("protected/ppfer")[index]
        column, own, judge = "actor", "identity", "identity"
        if self.target == "acc":
            column, own, judge = "emotion", "recognizer/ppfer", "blurred"
        truth = run.labels(column)[index]

        def at(sigma: float) -> float:
            blurred = protected_by(run, GaussianBlur(sigma), originals, batch=32)
            return accuracy(run.logits(judge, blurred), truth).value

        goal, ends = accuracy(run.logits(own, ppfer), truth).value, sigma_range(self.config.size)
        found = match(at, goal, *ends, tolerance=0.25 / len(index))
        write_json(folder / "match.json", dataclasses.asdict(found))
        return {"sigma": found.at, "said": str(found)}

    def load(self, folder: Path) -> Match:
        return Match(**json.loads((folder / "match.json").read_text("utf-8")))


def matched(number: int, target: str) -> Protector:
    """The blur whose strength meets PPFER's "plr" or "acc"."""
    found, how = f"blur/{target}", "kernel 2⌈3σ⌉+1, reflect padding; matched to PPFER's"
    return Protector(
        f"blur{number}",
        f"Gaussian blur {number}",
        lambda run: GaussianBlur(run.get(found).at),
        lambda run: f"{how} {target.upper()}: {run.get(found)}",
        needs=(found,),
    )


PROTECTORS = (matched(1, "plr"), matched(2, "acc"))
