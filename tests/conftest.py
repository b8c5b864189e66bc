"""A run small enough for tests: 36 coloured clips, small networks, three steps a stage."""

from __future__ import annotations

import os

import pandas as pd
import pytest
import torch
from torch import nn

from ppfer.config import load_config
from ppfer.data.store import ClipStore
from ppfer.data.words import EMOTIONS
from ppfer.method import PIPELINE
from ppfer.run.run import Run
from ppfer.run.stage import Stage, stage
from ppfer.study import catalogue

pytest_plugins = ("counting", "in_two")

os.environ["PPFER_KEY"] = ""  # no file at home, the same random choices anywhere
# tensors this small only wait for each other's threads, all the more on a busy machine
torch.set_num_threads(1)

TRAINED = (
    "identity pretrain privacy expression compensation recognition adaptation attack recovery "
    "contrast tradeoff joint"
).split()
FEW = {"steps": 3, "batch": 4, "evals": 1, "warmup": 1}
SMALL = {"size": 16, "frames": 4, "nets.patch": 4, "val": 0.25} | {
    f"{name}.{key}": value for name in TRAINED for key, value in FEW.items()
}


def coloured_clips(
    actors: int = 3, per_emotion: int = 2, frames: int = 4, size: int = 16
) -> tuple[torch.Tensor, pd.DataFrame]:
    """(N, T, 3, S, S) uint8 and their table: an actor is a colour, an expression the height of a
    moving bar.
    """
    g = torch.Generator().manual_seed(0)
    pixels, rows = [], []
    for actor in range(actors):
        for e, emotion in enumerate(EMOTIONS):
            for take in range(per_emotion):
                clip = 0.3 + 0.1 * torch.rand((frames, 3, size, size), generator=g)
                clip[:, actor % 3] += 0.3
                for t in range(frames):
                    clip[t, :, 2 * e : 2 * e + 3, (2 * t + take) % size] = 1
                pixels.append(clip.clamp(0, 1).mul(255).byte())
                said = {"path": "", "sentence": str(take), "level": "XX", "emotion": emotion}
                person = {"sex": ("male", "female")[actor % 2], "age": str(25 + 20 * actor)}
                name = {"clip": f"{1001 + actor}_{emotion}_{take}", "actor": str(1001 + actor)}
                rows.append(name | said | person | {"race": ""})
    return torch.stack(pixels), pd.DataFrame(rows)


def pictures(*shape: int) -> torch.Tensor:
    """Noise in [0, 1], the same each time."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def small_classifier(classes: int = 3) -> nn.Sequential:
    """Frames (N, 3, H, W) to logits (N, classes), the same weights each time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    """A network's weights as they are now."""
    return {k: v.clone() for k, v in module.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Coloured(Stage):
    """Takes the place of a data stage: nothing is decoded or rendered."""

    def make(self, folder) -> dict:
        return {}

    def load(self, folder) -> ClipStore:
        return ClipStore.in_memory(*coloured_clips())


@stage("clips", notebook="00")
class ColouredClips(Coloured):
    """The originals."""


@stage("wild", notebook="00")
class ColouredWild(Coloured):
    """The in-the-wild clips."""


def coloured_run(config, runs_dir, device: str = "cpu") -> Run:
    """A run on coloured clips that can make everything there is; later classes of a kind win."""
    stages = (*catalogue.STAGES, ColouredClips, ColouredWild)
    return Run(config, runs_dir, device, stages=stages, protectors=catalogue.PROTECTORS)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Run:
    """The main pipeline on coloured clips: every stage up to "attack/ppfer" is made."""
    run = coloured_run(load_config("smoke", SMALL), tmp_path_factory.mktemp("runs"))
    for name in PIPELINE:
        run.make(name)
    return run
