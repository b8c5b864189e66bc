"""Probes: how much of a label can be read from one band? A small classifier sees one view of the
clips and nothing else.

A view is a cut (which axes, how deep) and a side of it. Both sides are pictures of full size, as
``BandSplit(form="image")`` makes them: every probe has the same network, the same number of
pictures and the same budget, and only the content differs. Nothing is lost by that: full-size
detail and detail sub-bands are linear maps of each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ppfer import measure, nets
from ppfer.base.errors import PpferError
from ppfer.config import Train
from ppfer.measure import Rate
from ppfer.method.networks import classification
from ppfer.run.batches import augment
from ppfer.run.run import Run
from ppfer.run.stage import stage
from ppfer.run.training import Training
from ppfer.wavelets import low_pass

BANDS, LABELS = ("frame", "low", "high"), ("actor", "emotion")


@dataclass(frozen=True)
class View:
    """What a probe sees and what it is asked."""

    axes: str  # which are cut, "hw", "t" or "thw", as in `ppfer.wavelets.BandSplit`
    level: int  # how often the cut is repeated; low keeps what survives all of them
    band: str  # "frame" (no cut), "low" or "high"
    label: str  # "actor" or "emotion"

    @staticmethod
    def named(name: str, level: int = 1) -> View:
        """Read ``<axes>[<level>]-<band>-<label>``, e.g. "hw-low-actor", with the level given, or
        "t4-high-emotion", cut four times in time; a `PpferError` for any other name.
        """
        match = re.fullmatch(rf"(hw|t|thw)([1-9]?)-({'|'.join(BANDS)})-({'|'.join(LABELS)})", name)
        if not match:
            raise PpferError(
                f"unknown probe '{name}'; a name is "
                "<hw|t|thw>[level]-<frame|low|high>-<actor|emotion>, e.g. hw-low-actor"
            )
        return View(match[1], int(match[2] or level), match[3], match[4])

    @property
    def over_time(self) -> bool:
        """Whether a picture of the view depends on the whole clip."""
        return "t" in self.axes and self.band != "frame"

    def pictures(
        self, clips: Tensor, times: Tensor, wavelet: str = "haar", mode: str = "symmetric"
    ) -> Tensor:
        """The view's pictures at chosen times, without computing the others.

        With P = S[:, :m] A[:m] per axis, the part of a signal that its approximation keeps, low = P
        X Pᵀ and high = X − low.

        Args:
            clips: (B, T, 3, H, W) in [0, 1].
            times: (B, K) int64 frame numbers.
            wavelet, mode: as in `ppfer.wavelets.BandSplit`.

        Returns:
            (B, K, 3, H, W): frames; low in [0, 1], a little beyond for smooth wavelets; high as 0.5
            + high / 2.
        """
        each = torch.arange(len(clips), device=clips.device)[:, None]
        frames = clips[each, times]  # (B, K, 3, H, W)
        if self.band == "frame":
            return frames
        low = frames
        if "t" in self.axes:
            weights = _kept(clips.shape[1], clips, wavelet, self.level, mode)[times]  # (B, K, T)
            low = torch.bmm(weights, clips.flatten(2)).view_as(frames)
        if "hw" in self.axes:
            sizes = clips.shape[-2:]
            rows, columns = (_kept(n, clips, wavelet, self.level, mode) for n in sizes)
            low = rows @ low @ columns.T
        return low if self.band == "low" else 0.5 + (frames - low) / 2


def _kept(n: int, like: Tensor, *options: str | int) -> Tensor:
    """`low_pass` in float32 where `like` lies."""
    return low_pass(n, *options).to(like.device, torch.float32)


@stage("probe/{view}", needs=("clips", "split"), notebook="02")
class Probe(Training):
    """A classifier of actors or expressions from single pictures of one view (see `View.named` for
    the name).

    Probes of one label start from the same weights and see the same clips in the same order. There
    is no selection among checkpoints: the weights after the last step are measured once, on the
    test part. Actors are learnt quickly and get a third of ``config.probe.steps``.
    """

    def __init__(self, run: Run, value: str = ""):
        super().__init__(run, value)
        self.sees = View.named(value, self.config.bands.level)
        self.label, self.per_frame = self.sees.label, not self.sees.over_time
        self.draws_as = f"probe/{self.label}"

    @property
    def train(self) -> Train:
        full = self.config.probe
        return replace(full, steps=-(-full.steps // 3)) if self.label == "actor" else full

    def settings(self) -> dict:
        bands, settings = self.config.bands, super().settings()
        if self.sees.band == "frame":
            return settings
        return settings | {"wavelet": bands.wavelet, "mode": bands.mode, "level": self.sees.level}

    def net(self) -> nn.Module:
        classes = len(self.run.classes(self.label))
        return nets.Classifier("resnet_small", classes, input_size=self.config.size)

    def objective(self, net: nn.Module) -> nn.Module:
        return classification(net, self.train.label_smoothing)

    def pictures(self, clips: Tensor, times: Tensor) -> Tensor:
        """`View.pictures` with the run's wavelet."""
        bands = self.config.bands
        return self.sees.pictures(clips, times.to(clips.device), bands.wavelet, bands.mode)

    def batches(self) -> Callable:
        # of the view: shifting the frames would move them against the cut's grid
        clips = self.draw("clips", self.run.labels(self.label), augment=False)

        def batch(step: int) -> tuple[Tensor, Tensor]:
            pixels, truth = clips(step)
            pixels = pixels if self.sees.over_time else pixels[:, None]  # (B, T or 1, 3, H, W)
            g, count = torch.Generator().manual_seed(self.seed + step), len(pixels)
            times = torch.randint(pixels.shape[1], (count, 1), generator=g)
            flip = torch.rand(count, generator=g) < 0.5
            shift = torch.randint(0, 1 + self.config.size // 8, (2,), generator=g).tolist()
            seen = self.pictures(pixels, times)[:, 0]  # (B, 3, H, W)
            if self.train.augment:
                plain = torch.ones(count, 3, device=seen.device)
                seen = augment(seen, flip.to(seen.device), plain, shift)
            return seen, truth

        return batch

    def report(self, net: nn.Module) -> dict:
        every, run = max(1, self.config.frames // 4), self.run  # four pictures of each test clip
        at = torch.arange(every // 2, self.config.frames, every)

        def answers(clips: Tensor) -> Tensor:
            seen = self.pictures(clips, at.expand(len(clips), -1))  # (b, 4, 3, H, W)
            return net(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])

        net.eval()
        truth = run.labels(self.label)[run.parts["test"]]
        logits = run.logits(answers, "clips", "test", per_frame=False)
        found = measure.leakage(logits, truth, seed=self.config.seed)
        classes = len(run.classes(self.label))
        return {"test": {k: v.to_dict() for k, v in found.items()}, "classes": classes}


def result(run: Run, name: str, measure: str = "random_frame") -> Rate:
    """Test accuracy of a finished probe, "probe/hw-low-actor" say, by a measure of
    `ppfer.measure.leakage`.
    """
    return Rate(**run.summary(name)["test"][measure])
