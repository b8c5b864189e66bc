"""A run small enough for tests: 36 coloured clips, networks of a few channels, two or three steps a stage."""

import pytest
import torch

from ppfer import tables
from ppfer.config import load_config
from ppfer.run import Run, Stage

torch.set_num_threads(1)  # tensors this small only wait for each other's threads, all the more on a busy machine

FEW = {f"{stage}.{key}": value for key, value in {"steps": 3, "batch": 4, "evals": 1, "warmup": 1}.items()
       for stage in ("identity", "pretrain", "privacy", "expression", "compensation", "recognition", "adaptation", "attack", "recovery",
                     "contrast", "tradeoff", "joint")}  # fmt: skip


def coloured_clips(actors: int = 3, per_emotion: int = 2, frames: int = 4, size: int = 16):
    """(N, T, 3, S, S) uint8 and their table: an actor is a colour, an expression the height of a moving bar."""
    import pandas as pd

    emotions = ("angry", "disgust", "fear", "happy", "neutral", "sad")
    g = torch.Generator().manual_seed(0)
    pixels, rows = [], []
    for actor in range(actors):
        for e, emotion in enumerate(emotions):
            for take in range(per_emotion):
                clip = torch.full((frames, 3, size, size), 0.3) + 0.1 * torch.rand((frames, 3, size, size), generator=g)
                clip[:, actor % 3] += 0.3
                for t in range(frames):
                    clip[t, :, 2 * e : 2 * e + 3, (2 * t + take) % size] = 1
                pixels.append(clip.clamp(0, 1).mul(255).byte())
                rows.append({"clip": f"{1001 + actor}_{emotion}_{take}", "path": "", "actor": str(1001 + actor), "emotion": emotion,
                             "sentence": str(take), "level": "XX", "sex": ("male", "female")[actor % 2], "age": str(25 + 20 * actor), "race": ""})
    return torch.stack(pixels), pd.DataFrame(rows)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The main pipeline on coloured clips: every stage up to "attack/ppfer" is made."""
    from ppfer.store import ClipStore

    class Coloured(Run):
        """A run whose two data sets are coloured clips; no other run is touched."""

        def describe(self, name: str) -> Stage:
            if name in ("clips", "wild"):
                return Stage(name, "00_data.ipynb", (), {}, lambda run, folder: {}, lambda run, folder: ClipStore.in_memory(*coloured_clips()))
            return super().describe(name)

    changes = {"size": 16, "frames": 4, "nets.patch": 4, "val": 0.25, **FEW}
    run = Coloured(load_config("smoke", changes), tmp_path_factory.mktemp("runs"), device="cpu")
    for name in tables.PIPELINE:
        run.make(name)
    return run
