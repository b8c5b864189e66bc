"""Probes: how much of a label can be read from one band? A small classifier sees one view of the clips and nothing else.

A view is a cut (which axes, how deep) and a side of it. Both sides are pictures of full size (``form="image"``), so that
every probe has the same network, the same number of pictures and the same budget, and only the content differs. Nothing
is lost by that: a full-size detail picture and its detail sub-bands are linear maps of each other.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ppfer import evaluate, nets
from ppfer.config import Config, PpferError
from ppfer.evaluate import Rate
from ppfer.run import Run, Stage, define, settings
from ppfer.stages import ClassificationObjective, batches_of, lambda_module, load_net, stage_seed, trainable
from ppfer.train import augment, fit
from ppfer.wavelets import BandSplit

BANDS, LABELS = ("frame", "low", "high"), ("actor", "emotion")


@dataclass(frozen=True)
class View:
    """What a probe sees and what it is asked.

    Attributes:
        axes: "hw", "t" or "thw", as `BandSplit`.
        level: how often the cut is repeated; low keeps what survives all of them.
        band: "frame" (no cut), "low" or "high".
        label: "actor" or "emotion".
    """

    axes: str
    level: int
    band: str
    label: str

    @staticmethod
    def named(name: str, level: int = 1) -> View:
        """Read ``<axes>[<level>]-<band>-<label>``, e.g. "hw-low-actor" or, cut four times in time, "t4-high-emotion".

        Args:
            name: as above.
            level: the level of a name without one.

        Raises:
            PpferError: for any other name.
        """
        match = re.fullmatch(rf"(hw|t|thw)([1-9]?)-({'|'.join(BANDS)})-({'|'.join(LABELS)})", name)
        if not match:
            raise PpferError(f"unknown probe '{name}'; a name is <hw|t|thw>[level]-<frame|low|high>-<actor|emotion>, e.g. hw-low-actor")
        return View(match[1], int(match[2] or level), match[3], match[4])

    def of(self, pixels: Tensor, wavelet: str = "haar", mode: str = "symmetric") -> Tensor:
        """The view of frames (N, 3, H, W) or clips (B, T, 3, H, W) in [0, 1]: same shape and range, zero detail is 0.5.

        Raises:
            ValueError: if time is cut and frames are given.
        """
        if self.band == "frame":
            return pixels
        low, high = BandSplit(wavelet, self.level, mode, form="image", axes=self.axes).split(pixels)
        return (low if self.band == "low" else high).view_as(pixels)


@define
def probe(config: Config, name: str) -> Stage:
    """A classifier of actors or expressions from single pictures of one view (see `View.named` for `name`).

    Probes of one label start from the same weights and see the same clips in the same order. There is no selection
    among checkpoints: the weights after the last step are kept, and measured once, on the test part.
    """
    view = View.named(name, config.bands.level)
    clips_needed = view.band != "frame" and "t" in view.axes

    def pictures(pixels: Tensor) -> Tensor:
        return view.of(pixels, config.bands.wavelet, config.bands.mode)

    def network(run: Run) -> nn.Module:
        return nets.Classifier("resnet_small", len(run.classes(view.label)), input_size=config.size)

    def make(run: Run, folder: Path) -> dict:
        seed, labels = stage_seed(run, f"probe/{view.label}"), run.labels(view.label)
        net = trainable(network(run), run)
        draw = batches_of(run, "clips", run.parts["train"], labels, config.probe, seed, frames=not clips_needed)
        draw.augment = False  # after the view: a shift or a flip of the frames would move the cut's grid

        def batches(step: int) -> tuple[Tensor, Tensor]:
            pixels, truth = draw(step)
            g = torch.Generator().manual_seed(seed + step)
            flip, shift = torch.rand(len(pixels), generator=g) < 0.5, torch.randint(0, 1 + config.size // 8, (2,), generator=g)
            seen = pictures(pixels)
            if clips_needed:  # one random picture of each clip: (B, T, 3, H, W) → (B, 3, H, W)
                seen = seen[torch.arange(len(seen)), torch.randint(seen.shape[1], (len(seen),), generator=g)]
            if config.probe.augment:
                seen = augment(seen, flip.to(seen.device), torch.ones(len(seen), device=seen.device), shift.tolist())
            return seen, truth

        objective = ClassificationObjective(net, config.probe.label_smoothing).to(run.device)
        summary = fit(objective, net, batches, config.probe, folder, name=f"probe/{name}", precision=config.precision)
        return summary | {"test": {k: v.to_dict() for k, v in measure(run, net).items()}, "classes": len(run.classes(view.label))}

    def measure(run: Run, net: nn.Module) -> dict[str, Rate]:
        every = max(1, config.frames // 4)  # four pictures of each test clip are enough

        def logits_of(clips: Tensor) -> Tensor:
            seen = pictures(clips)[:, every // 2 :: every]  # (b, 4, 3, H, W)
            return net(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])

        index = run.parts["test"]
        net.eval()
        logits = evaluate.clip_logits(lambda_module(logits_of), run.tensor("clips"), index, device=run.device, precision=config.precision)
        return evaluate.leakage(logits, run.labels(view.label)[index], seed=config.seed)

    def load(run: Run, folder: Path) -> nn.Module:
        return load_net(network(run), folder, run)

    needs = settings(config, "probe", "precision", "seed")
    if view.band != "frame":
        needs |= {"wavelet": config.bands.wavelet, "mode": config.bands.mode, "level": view.level}
    return Stage(f"probe/{name}", "02_bands.ipynb", ("clips", "split"), needs, make, load)


def result(run: Run, name: str, measure: str = "random_frame") -> Rate:
    """Test accuracy of a finished probe.

    Args:
        run: where it was made.
        name: "probe/hw-low-actor", say.
        measure: "random_frame" (one random picture per test clip), "all_frames" or "clip" (mean log-probability).
    """
    return Rate(**run.summary(name)["test"][measure])


def difference(a: Rate, b: Rate) -> tuple[float, float, float]:
    """a − b with its 95 % interval (Newcombe 1998, method 10: two Wilson intervals combined).

    It treats the two as independent. Measured on the same clips they usually agree, which makes it too wide, not too narrow.
    """
    (low_a, high_a), (low_b, high_b), d = a.interval, b.interval, a.value - b.value
    return (d, d - math.hypot(a.value - low_a, high_b - b.value), d + math.hypot(high_a - a.value, b.value - low_b))


def compare(a: Rate, b: Rate, names: tuple[str, str]) -> str:
    """What the numbers allow to be said about a and b, in a sentence."""
    d, low, high = difference(a, b)
    by = f"{100 * abs(d):.1f} points (95 % interval of the difference {100 * low:+.1f} to {100 * high:+.1f})"
    if low <= 0 <= high:
        return f"{names[0]} and {names[1]} cannot be told apart: they differ by {by}"
    first, second = names if d > 0 else names[::-1]
    return f"{first} is ahead of {second} by {by}"


def explained(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Per pixel, how much of the variance lies between the groups of a label: the correlation ratio η², without training.

    Args:
        pixels: (N, 3, H, W) of one view.
        labels: (N,) int64.

    Returns:
        between (H, W) and total (H, W) variance, colours summed; η² = between / total. Groups drawn at random give about
        (groups − 1) / (N − 1).
    """
    x = pixels.double().flatten(1)
    x = x - x.mean(0)
    counts = torch.bincount(labels).double()
    sums = torch.zeros(len(counts), x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, labels, x)
    means = sums / counts.clamp(min=1)[:, None]
    between, total = (counts[:, None] * means**2).sum(0) / len(x), (x**2).mean(0)
    return between.view(pixels.shape[1:]).sum(0), total.view(pixels.shape[1:]).sum(0)
