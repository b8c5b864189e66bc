"""What a profile's stages cost before anyone starts them: operations counted without computing, on shapes alone.

A stage's objective is run forward and backward on PyTorch's fake tensors, which have shapes and no values. Counted are the
operations of a step (matrix products and convolutions), and the bytes of weights, gradients, AdamW's moments and of the activations
that the backward pass keeps. Seconds scale with operations from a run that was measured (`figures/twin/manifest.json`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ppfer import attacks, nets, stages, uvit
from ppfer.config import REPO, Config, PpferError, Train, load_config
from ppfer.protect import PrivacyEnhancer
from ppfer.wavelets import BandSplit

MEASURED = REPO / "figures" / "twin" / "manifest.json"
LIKE = {"privacy": "pretrain", "recovery/ppfer": "pretrain"}  # timed by another stage of U-Nets: its own time is mostly validation
PARTS = 8  # samples the count is made on; a step's numbers are scaled to its batch


class Recover(attacks.RecoveryObjective):
    """The recovery attack on unprotected frames: the cost is the same."""

    def forward(self, frames: Tensor, labels: Tensor) -> Tensor:
        """Frames (B, 3, H, W), labels unused → scalar."""
        return super().forward(frames, frames)


def objectives(config: Config, actors: int = 91, classes: int = 6) -> dict[str, tuple[Callable[[], nn.Module], Train, bool]]:
    """Stage → (function that builds its objective with random weights, its settings, whether it sees single frames)."""
    plain = dataclasses.replace(config.nets, classifier_weights="", recognizer_weights="", compensator_weights="")
    config = dataclasses.replace(config, nets=plain)
    bands, single = stages.band_split(config), not stages.whole_clips(config)

    def unet() -> nn.Module:
        return nets.UNet(width=config.nets.unet_width)

    def compensator() -> nn.Module:
        if config.nets.compensator != "latent":
            return stages.new_compensator(config)
        return uvit.LatentCompensator(uvit.uvit_h2(None, img_size=config.size // 8, checkpoint=True), new_autoencoder())

    def named(count: int) -> nn.Module:
        return stages.new_classifier(config, count)

    return {
        "identity": (lambda: stages.IdentityObjective(named(actors), bands), config.identity, single),
        "pretrain": (lambda: stages.ReconstructionObjective(unet(), bands), config.pretrain, single),
        "privacy": (lambda: stages.PrivacyObjective(PrivacyEnhancer(bands, unet(), unet()), named(actors), "paper", 0.0), config.privacy, single),
        "expression": (lambda: stages.ClassificationObjective(named(classes)), config.expression, True),
        "compensation": (lambda: stages.CompensationObjective(compensator(), named(classes)), config.compensation, True),
        "recognizer/none": (lambda: stages.ClassificationObjective(stages.new_recognizer(config, classes)), config.recognition, False),
        "recognizer/ppfer": (lambda: stages.ClassificationObjective(stages.new_recognizer(config, classes)), config.adaptation, False),
        "attack/ppfer": (lambda: stages.ClassificationObjective(named(actors)), config.attack, True),
        "recovery/ppfer": (lambda: Recover(attacks.Recovery(config.nets.recovery_width)), config.recovery, True),
    }


def new_autoencoder() -> nn.Module:
    """Stable Diffusion's autoencoder with random weights, for its cost alone.

    Raises:
        PpferError: when diffusers is not installed.
    """
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise PpferError("the latent compensator's cost needs diffusers; run: pip install 'ppfer[latent]'") from error
    return AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
                         down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)


def count(build: Callable[[], nn.Module], bands: BandSplit, batch: int, shape: tuple[int, ...], bytes_per_value: int = 4) -> tuple[float, float, int]:
    """Operations and bytes of one training step.

    Args:
        build: makes the objective, see `objectives`.
        bands: its transform, whose matrices are made before tensors turn fake.
        batch: samples of a step.
        shape: of one sample, (3, H, W) or (T, 3, H, W).
        bytes_per_value: of an activation: 2 under bf16 autocast.

    Returns:
        floating-point operations; bytes of weights, gradients, moments and kept activations; parameters that learn.
    """
    some = min(batch, PARTS)
    bands.merge(*bands.split(torch.zeros(some, *shape)), like=(some, *shape))
    held: dict[int, int] = {}
    keep: list[Tensor] = []  # alive until the end, so that no two tensors share an id

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in weights and tensor.is_floating_point():
            held[storage] = max(held.get(storage, 0), tensor.numel() * bytes_per_value)
            keep.append(tensor)
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        objective = build().train()
        weights = {p.untyped_storage()._cdata for p in objective.parameters()}
        pixels, labels = torch.zeros(some, *shape), torch.zeros(some, dtype=torch.long)
        with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            objective(pixels, labels).backward()
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    every = sum(p.numel() for p in objective.parameters())
    return counter.get_total_flops() * batch / some, 4 * every + 12 * trained + sum(held.values()) * batch / some, trained


def sample(config: Config, frames: bool) -> tuple[int, ...]:
    """Shape of one sample of a batch: a frame or a clip."""
    return (3, config.size, config.size) if frames else (config.frames, 3, config.size, config.size)


@lru_cache
def measured_rate(name: str) -> float:
    """Operations per second that a stage of profile twin reached in the measured run, validation included."""
    twin, run = load_config("twin"), json.loads(MEASURED.read_text())[name]
    build, train, frames = objectives(twin)[name]
    return count(build, stages.band_split(twin), train.batch, sample(twin, frames))[0] * run["steps"] / run["training_seconds"]


def estimate(config: Config) -> list[dict]:
    """A row per stage: parameters that learn, operations and memory of a step, and minutes on the GPU that was measured."""
    rows, width = [], 4 if config.precision == "fp32" else 2
    for name, (build, train, frames) in objectives(config).items():
        row = {"stage": name, "steps": train.steps, "batch": train.batch}
        try:
            operations, memory, learn = count(build, stages.band_split(config), train.batch, sample(config, frames), width)
        except PpferError as error:
            rows.append(row | {"note": str(error)})
            continue
        minutes = operations * train.steps / measured_rate(LIKE.get(name, name)) / 60
        rows.append(row | {"parameters, M": round(learn / 1e6, 1), "TFLOP per step": round(operations / 1e12, 2),
                           "memory, GiB": round(memory / 2**30, 1), "minutes": round(minutes, 1)})
    return rows


def report(config: Config) -> str:
    """The estimate as a Markdown table with what it rests on."""
    from ppfer import evaluate

    rows = estimate(config)
    total = sum(row.get("minutes", 0) for row in rows)
    device = next(iter(json.loads(MEASURED.read_text()).values()))["device"]
    return (f"Profile {config.profile}, frames of {config.size}², clips of {config.frames} frames\n\n" + evaluate.markdown(rows)
            + f"\nMinutes are scaled by operations from profile twin as measured on: {device}; sum {total / 60:.1f} h; decoding and rows without minutes are not counted."
            "\nMemory is an estimate for one step on one process, without the clips (uint8) and cuDNN's workspace.")
