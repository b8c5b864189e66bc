"""Probes: how much of a label can be read from one band? A small classifier sees one view of the clips and nothing else.

A view is a cut (which axes, how deep) and a side of it. Both sides are pictures of full size, as
``BandSplit(form="image")`` makes them: every probe has the same network, the same number of pictures and the same budget,
and only the content differs. Nothing is lost by that: full-size detail and detail sub-bands are linear maps of each other.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from ppfer import evaluate, nets
from ppfer.config import Config, PpferError
from ppfer.evaluate import Rate
from ppfer.run import Run, Stage, define, settings
from ppfer.stages import ClassificationObjective, batches_of, lambda_module, load_net, stage_seed, trainable
from ppfer.train import augment, fit
from ppfer.wavelets import analysis_matrix, row_slices, synthesis_matrix

BANDS, LABELS = ("frame", "low", "high"), ("actor", "emotion")


@dataclass(frozen=True)
class View:
    """What a probe sees and what it is asked.

    Attributes:
        axes: which axes are cut, "hw", "t" or "thw", as in `ppfer.wavelets.BandSplit`.
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

    @property
    def over_time(self) -> bool:
        """Whether a picture of the view depends on the whole clip."""
        return "t" in self.axes and self.band != "frame"

    def pictures(self, clips: Tensor, times: Tensor, wavelet: str = "haar", mode: str = "symmetric") -> Tensor:
        """The view's pictures at chosen times, without computing the others.

        With P = S[:, :m] A[:m] per axis, the part of a signal that its approximation keeps, low = P X Pᵀ and high = X − low.

        Args:
            clips: (B, T, 3, H, W) in [0, 1].
            times: (B, K) int64 frame numbers.
            wavelet, mode: as in `ppfer.wavelets.BandSplit`.

        Returns:
            (B, K, 3, H, W): frames; low in [0, 1], a little beyond for smooth wavelets; high as 0.5 + high / 2.
        """
        frames = clips[torch.arange(len(clips), device=clips.device)[:, None], times]  # (B, K, 3, H, W)
        if self.band == "frame":
            return frames
        low, device = frames, clips.device
        if "t" in self.axes:
            weights = _keeps(clips.shape[1], wavelet, self.level, mode).to(device)[times]  # (B, K, T)
            low = torch.bmm(weights, clips.flatten(2)).view_as(frames)
        if "hw" in self.axes:
            rows, columns = (_keeps(n, wavelet, self.level, mode).to(device) for n in clips.shape[-2:])
            low = rows @ low @ columns.T
        return low if self.band == "low" else 0.5 + (frames - low) / 2


@lru_cache(maxsize=32)
def _keeps(n: int, wavelet: str, level: int, mode: str) -> Tensor:
    """P (n, n) float32: what the approximation keeps of a signal of length n."""
    rows = row_slices(n, wavelet, level, mode)[0]
    return (synthesis_matrix(n, wavelet, level, mode)[:, rows] @ analysis_matrix(n, wavelet, level, mode)[rows]).float()


@define
def probe(config: Config, name: str) -> Stage:
    """A classifier of actors or expressions from single pictures of one view (see `View.named` for `name`).

    Probes of one label start from the same weights and see the same clips in the same order. There is no selection
    among checkpoints: the weights after the last step are measured once, on the test part. Actors are learnt quickly and
    get a third of ``config.probe.steps``.
    """
    view, bands = View.named(name, config.bands.level), config.bands
    train = replace(config.probe, steps=-(-config.probe.steps // 3)) if view.label == "actor" else config.probe

    def network(run: Run) -> nn.Module:
        return nets.Classifier("resnet_small", len(run.classes(view.label)), input_size=config.size)

    def make(run: Run, folder: Path) -> dict:
        seed = stage_seed(run, f"probe/{view.label}")
        net = trainable(network(run), run)
        clips = batches_of(run, "clips", run.parts["train"], run.labels(view.label), replace(train, augment=False), seed,
                           frames=not view.over_time)

        def batches(step: int) -> tuple[Tensor, Tensor]:
            pixels, truth = clips(step)
            pixels = pixels if view.over_time else pixels[:, None]  # (B, T or 1, 3, H, W)
            g = torch.Generator().manual_seed(seed + step)
            times, flip = torch.randint(pixels.shape[1], (len(pixels), 1), generator=g), torch.rand(len(pixels), generator=g) < 0.5
            shift = torch.randint(0, 1 + config.size // 8, (2,), generator=g).tolist()
            seen = view.pictures(pixels, times.to(run.device), bands.wavelet, bands.mode)[:, 0]  # (B, 3, H, W)
            if train.augment:  # of the view: shifting the frames would move them against the cut's grid
                seen = augment(seen, flip.to(run.device), torch.ones(len(seen), 3, device=run.device), shift)
            return seen, truth

        objective = ClassificationObjective(net, train.label_smoothing).to(run.device)
        summary = fit(objective, net, batches, train, folder, name=f"probe/{name}", precision=config.precision)
        return summary | {"test": {k: v.to_dict() for k, v in measure(run, net).items()}, "classes": len(run.classes(view.label))}

    def measure(run: Run, net: nn.Module) -> dict[str, Rate]:
        every = max(1, config.frames // 4)  # four pictures of each test clip
        at = torch.arange(every // 2, config.frames, every, device=run.device)

        def logits_of(clips: Tensor) -> Tensor:
            seen = view.pictures(clips, at.expand(len(clips), -1), bands.wavelet, bands.mode)  # (b, 4, 3, H, W)
            return net(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])

        index = run.parts["test"]
        net.eval()
        logits = evaluate.clip_logits(lambda_module(logits_of), run.tensor("clips"), index, device=run.device, precision=config.precision)
        return evaluate.leakage(logits, run.labels(view.label)[index], seed=config.seed)

    def load(run: Run, folder: Path) -> nn.Module:
        return load_net(network(run), folder, run)

    needs = settings(config, "probe", "precision", "seed")
    if view.band != "frame":
        needs |= {"wavelet": bands.wavelet, "mode": bands.mode, "level": view.level}
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
