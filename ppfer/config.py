"""Configuration: frozen dataclasses, one per concern, and the named profiles built from them.

An unknown key, profile or value type is an error (`PpferError`), never a silent default.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad")  # CREMA-D's six, the classes of F_u and C_fc


class PpferError(Exception):
    """An error whose message is a sentence for the user: what is wrong, with which file, what to do."""


@dataclass(frozen=True)
class Bands:
    """Arguments of `ppfer.wavelets.BandSplit`."""

    wavelet: str = "haar"
    level: int = 1
    mode: str = "symmetric"
    form: str = "subband"  # subband (half-size coefficients, as the paper's code) | image (band-limited pictures)
    axes: str = "hw"  # hw | t | thw


@dataclass(frozen=True)
class Nets:
    """Which networks stand behind each role, and optional weights to start from (paths)."""

    classifier: str = "resnet_small"  # identity controller, leakage validator, expression controller
    recognizer: str = "r3d_small"
    unet_width: int = 12  # 64 in the paper
    recovery_width: int = 16
    compensator: str = "pixel"  # pixel (C) | latent (A, needs H/2 and the Stable-Diffusion autoencoder)
    patch: int = 8
    dim: int = 128
    depth: int = 4
    heads: int = 4
    classifier_weights: str = ""  # "" from scratch | "DEFAULT" ImageNet through torchvision | a path
    recognizer_weights: str = ""  # "" from scratch | "DEFAULT" Kinetics-400 through torchvision | a path
    compensator_weights: str = ""  # "" from scratch | path to the official imagenet256_uvit_huge.pth
    autoencoder: str = ""  # path to the Stable-Diffusion autoencoder, for compensator = latent


@dataclass(frozen=True)
class Train:
    """One training stage. `steps` are optimizer steps; `lr` peaks after `warmup` steps and falls on a cosine."""

    steps: int
    batch: int
    lr: float
    weight_decay: float = 0.05
    warmup: int = 10
    evals: int = 4  # evaluations on the validation part, evenly spread, the last one after the last step
    label_smoothing: float = 0.0
    augment: bool = True  # random shift and horizontal flip; brightness for frames
    colour: float = 0.0  # random colour cast of frames, as a share of each channel


@dataclass(frozen=True)
class Config:
    """Everything a run depends on. Build it with `load_config`."""

    profile: str
    data: str = "data/twin"  # a CREMA-D tree, a DFEW tree or a folder with metadata.csv
    wild: str = "data/twin/wild"  # in-the-wild clips for the expression controller, DFEW layout or metadata.csv
    actors: int = 0  # 0: all; else the first n actors (smoke)
    clips_per_actor: int = 0  # 0: all; else this many, evenly over expressions (smoke)
    wild_clips: int = 0  # 0: all
    keep_faults: bool = False  # keep the four clips CREMA-D is known to have got wrong (the paper's 7,442 count them)
    generate: bool = False  # True: the twin is rendered straight into the store instead of decoded from `data`
    size: int = 64  # pixels, square
    frames: int = 8
    seed: int = 0
    test: float = 0.3
    val: float = 0.1
    split_by: str = "auto"  # "" closed set | a column whose values are held out, e.g. "sentence" | "auto": see stages.split
    bands: Bands = field(default_factory=Bands)
    nets: Nets = field(default_factory=Nets)
    identity: Train = Train(150, 128, 3e-3)
    pretrain: Train = Train(100, 32, 1e-3, weight_decay=0.0, evals=2)
    privacy: Train = Train(50, 32, 1e-4, weight_decay=0.0, evals=16)  # private within some 20 steps: look often
    expression: Train = Train(400, 128, 3e-3, label_smoothing=0.1, colour=0.4)
    compensation: Train = Train(350, 32, 5e-4, weight_decay=0.0)
    recognition: Train = Train(700, 32, 2e-3, label_smoothing=0.1)
    adaptation: Train = Train(300, 32, 1e-3, label_smoothing=0.1)  # F_u on protected clips, from the NPP weights
    attack: Train = Train(100, 128, 2e-3, evals=2)  # V_pl retrained on protected clips
    recovery: Train = Train(120, 16, 1e-3, weight_decay=0.0)
    probe: Train = Train(240, 64, 3e-3)  # a classifier of one band (notebook 02); a third of the steps when asked for the actor
    contrast: Train = Train(150, 64, 1e-3)  # f_B of the trade-off framework, before its minimax
    tradeoff: Train = Train(100, 8, 5e-4, weight_decay=0.0, evals=2)  # its minimax: f_A on even steps, f_T and f_B on odd
    joint: Train = Train(40, 8, 5e-4, weight_decay=0.0, evals=2)  # ablation tasks 2 and 6: enhancers and F_u as a whole
    tradeoff_weight: float = 1.0  # of the NT-Xent term that f_A maximises
    flow_weights: str = ""  # "" classical flow (OpenCV) | "DEFAULT" RAFT through torchvision | path to its raft_large file
    privacy_loss: str = "paper"  # paper (−CE) | clamped (−min(CE, ln K)) | uniform (CE to the uniform distribution)
    privacy_slack: float = 0.01  # an epoch counts as private when val PLR ≤ 1/K + slack
    reconstruction: float = 0.0  # weight of an L1 term beside the privacy loss
    fidelity: float = 0.0  # weight of an L1 term between C and G beside the compensator's loss
    precision: str = "auto"  # auto (bf16 on CUDA, fp32 elsewhere) | fp32 | bf16
    compile: bool = False
    keep_protected: bool = True  # protected clips are kept on disk; False: made again in memory when needed


# A compensator trained for a minute under C_fc alone repaints frames faster than it learns to help: it is held near G.
_DEMO = Config(profile="demo", fidelity=2.0)

PROFILES: dict[str, Config] = {
    "demo": _DEMO,
    "smoke": dataclasses.replace(
        _DEMO,
        profile="smoke",
        actors=3,
        clips_per_actor=24,
        wild_clips=42,
        size=32,
        frames=4,
        nets=Nets(unet_width=4, recovery_width=4, dim=32, depth=2, heads=2),
        identity=Train(24, 24, 3e-3, evals=2, warmup=2),
        pretrain=Train(8, 8, 1e-3, weight_decay=0.0, evals=1, warmup=1),
        privacy=Train(8, 8, 5e-4, weight_decay=0.0, evals=2, warmup=1),
        expression=Train(12, 24, 3e-3, evals=1, warmup=2),
        compensation=Train(6, 8, 5e-4, weight_decay=0.0, evals=1, warmup=1),
        recognition=Train(12, 8, 2e-3, label_smoothing=0.1, evals=1, warmup=2),
        adaptation=Train(6, 8, 1e-3, label_smoothing=0.1, evals=1, warmup=1),
        attack=Train(12, 24, 2e-3, evals=1, warmup=2),
        recovery=Train(6, 8, 1e-3, weight_decay=0.0, evals=1, warmup=1),
        probe=Train(6, 12, 3e-3, warmup=1),
        contrast=Train(4, 8, 1e-3, evals=1, warmup=1),
        tradeoff=Train(4, 4, 5e-4, weight_decay=0.0, evals=1, warmup=1),
        joint=Train(3, 4, 5e-4, weight_decay=0.0, evals=1, warmup=1),
    ),
    "twin": dataclasses.replace(
        _DEMO,
        profile="twin",
        fidelity=0.0,
        actors=91,
        wild_clips=3600,
        generate=True,
        size=112,
        frames=16,
        nets=Nets(
            classifier="resnet50", recognizer="r3d_18", unet_width=64, recovery_width=64, patch=7, dim=512, depth=12, heads=8
        ),
        identity=Train(800, 256, 1e-3),
        pretrain=Train(300, 64, 1e-3, weight_decay=0.0, evals=2),
        privacy=Train(60, 64, 5e-5, weight_decay=0.0, evals=15),  # private within some 20 steps: look often, step lightly
        privacy_slack=0.005,
        expression=Train(600, 256, 1e-3, label_smoothing=0.1, colour=0.4),
        compensation=Train(240, 128, 2e-4, weight_decay=0.0, evals=6),
        recognition=Train(700, 64, 1e-3, label_smoothing=0.1),
        adaptation=Train(250, 64, 1e-3, label_smoothing=0.1),
        attack=Train(300, 256, 1e-3, evals=2),
        recovery=Train(300, 64, 1e-3, weight_decay=0.0, evals=2),
        probe=Train(600, 128, 3e-3),
        contrast=Train(150, 128, 1e-3),
        tradeoff=Train(200, 32, 1e-4, weight_decay=0.0, evals=2),
        joint=Train(80, 32, 1e-4, weight_decay=0.0, evals=2),
        keep_protected=False,
    ),
    "paper": dataclasses.replace(
        _DEMO,
        profile="paper",
        data="data/crema-d",
        wild="data/dfew",
        keep_faults=True,
        fidelity=0.0,
        wild_clips=3600,
        size=224,
        frames=16,
        nets=Nets(
            classifier="resnet50", recognizer="r3d_18", unet_width=64, recovery_width=64,
            compensator="latent", patch=2, dim=1152, depth=28, heads=16,
            classifier_weights="DEFAULT", recognizer_weights="DEFAULT",
            compensator_weights="data/weights/imagenet256_uvit_huge.pth", autoencoder="data/weights/sd-vae",
        ),
        identity=Train(8000, 128, 1e-4),
        pretrain=Train(20000, 32, 1e-5, weight_decay=0.0),
        privacy=Train(10000, 16, 1e-4, weight_decay=0.0, evals=30),
        expression=Train(8000, 128, 1e-4),
        compensation=Train(10000, 32, 1e-4, weight_decay=0.0, evals=30),
        recognition=Train(10000, 16, 1e-4, evals=30),
        adaptation=Train(10000, 16, 1e-4, evals=30),
        attack=Train(8000, 128, 1e-4),
        recovery=Train(10000, 16, 1e-4, weight_decay=0.0),
        probe=Train(2000, 128, 3e-3),
        contrast=Train(8000, 64, 1e-4),
        tradeoff=Train(20000, 8, 1e-4, weight_decay=0.0),
        joint=Train(10000, 8, 1e-4, weight_decay=0.0),
        compile=True,
    ),
}


def load_config(profile: str = "demo", overrides: dict[str, object] | None = None) -> Config:
    """A profile's config with dotted overrides applied.

    Args:
        profile: a key of `PROFILES`.
        overrides: dotted names to values, e.g. ``{"seed": 1, "privacy.steps": 50, "bands.wavelet": "db4"}``. Values
            may be strings (from a command line); they are read as the type of the field they replace.

    Raises:
        PpferError: for an unknown profile or key, or a value that is not of the field's type.
    """
    if profile not in PROFILES:
        raise PpferError(f"unknown profile '{profile}'; known: {', '.join(PROFILES)}")
    config = PROFILES[profile]
    for key, value in (overrides or {}).items():
        config = _override(config, key.split("."), value, key)
    return config


def _override(node: object, parts: list[str], value: object, key: str) -> typing.Any:
    names = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
    if parts[0] not in names:
        raise PpferError(f"unknown parameter '{key}'" + (f"; known here: {', '.join(names)}" if names else ""))
    old = getattr(node, parts[0])
    if len(parts) > 1:
        new = _override(old, parts[1:], value, key)
    elif dataclasses.is_dataclass(old):
        raise PpferError(f"parameter '{key}' is a group; set one of its fields, e.g. {key}.{dataclasses.fields(old)[0].name}")
    else:
        new = _coerce(old, value, key)
    return dataclasses.replace(node, **{parts[0]: new})


def _coerce(old: object, value: object, key: str) -> object:
    kind = type(old)
    if isinstance(value, str) and kind is bool:
        value = {"true": True, "false": False, "1": True, "0": False}.get(value.lower(), value)
    elif isinstance(value, str) and kind in (int, float):
        try:
            value = kind(float(value)) if kind is float or float(value) == int(float(value)) else value
        except ValueError:
            pass
    elif kind is float and type(value) is int:
        value = float(value)
    elif kind is str and isinstance(value, Path):
        value = str(value)
    if type(value) is not kind:
        raise PpferError(f"parameter '{key}' takes {kind.__name__}, got {value!r}")
    return value


def to_dict(config: object) -> dict:
    """A dataclass as plain JSON types."""
    return dataclasses.asdict(config)


def digest(value: object) -> str:
    """A short sha256 of any JSON-able value, the same on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
