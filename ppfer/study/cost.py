"""What a profile's stages cost before anyone starts them: operations counted without computing, on
shapes alone.

A stage's own network and objective run forward and backward on PyTorch's fake tensors, which have
shapes and no values. Counted are the operations of a step (matrix products and convolutions), and
the bytes of weights, gradients, AdamW's moments and of the activations that the backward pass
keeps. Seconds scale with operations from a run that was measured (`figures/twin/manifest.json`).
"""

import dataclasses
import json
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ppfer import method, uvit
from ppfer.base.errors import PpferError
from ppfer.config import REPO, Config, load_config
from ppfer.measure import markdown
from ppfer.method.networks import band_split
from ppfer.run.run import Run
from ppfer.run.training import Training
from ppfer.study.attacks.recovery import RecoveryAttack

MEASURED = REPO / "figures" / "twin" / "manifest.json"
PRICED = (
    *("identity", "pretrain", "privacy", "expression", "compensation"),
    *("recognizer/none", "recognizer/ppfer", "attack/ppfer", "recovery/ppfer"),
)
# timed by another stage of U-Nets: its own time is mostly validation
LIKE = {"privacy": "pretrain", "recovery/ppfer": "pretrain"}
PARTS = 8  # samples the count is made on; a step's numbers are scaled to its batch
CLASSES = {"actor": 91, "emotion": 6}


class Unmade(Run):
    """A run of which nothing is made: the result of a stage is its network with random weights."""

    def __init__(self, config: Config):
        weights = ("classifier_weights", "recognizer_weights", "compensator_weights")
        random = dataclasses.replace(config.nets, **dict.fromkeys(weights, ""))
        stages = (*method.STAGES, RecoveryAttack)
        config = dataclasses.replace(config, nets=random)
        super().__init__(config, device="cpu", stages=stages, protectors=method.PROTECTORS)

    def get(self, name: str) -> nn.Module:
        return network(self.stage(name))

    def classes(self, column: str) -> list[str]:
        return [""] * CLASSES[column]


def network(stage: Training) -> nn.Module:
    """A stage's network, random; the latent compensator with a random autoencoder."""
    config = stage.config
    if stage.kind != "compensation" or config.nets.compensator != "latent":
        return stage.net()
    half = uvit.uvit_h2(None, img_size=config.size // 8, checkpoint=True)
    return uvit.LatentCompensator(half, new_autoencoder())


def new_autoencoder() -> nn.Module:
    """Stable Diffusion's autoencoder, random; a `PpferError` when diffusers is not installed."""
    return uvit.autoencoder_class()(
        latent_channels=4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


def count(stage: Training, bytes_per_value: int = 4) -> tuple[float, float, int]:
    """Of a stage of an `Unmade` run: floating-point operations of one training step; bytes of
    weights, gradients, moments and kept activations (`bytes_per_value` of these: 2 under bf16
    autocast); parameters that learn.
    """
    config, batch = stage.config, stage.train.batch
    some = min(batch, PARTS)
    frame = (3, config.size, config.size)
    shape = (some, *frame) if stage.per_frame else (some, config.frames, *frame)
    bands, pixels = band_split(config), torch.zeros(shape)
    bands.merge(*bands.split(pixels), like=shape)  # its matrices are made before tensors turn fake
    sizes: dict[int, int] = {}
    keep: list[Tensor] = []  # alive until the end, so that no two tensors share an id

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in weights and tensor.is_floating_point():
            sizes[storage] = max(sizes.get(storage, 0), tensor.numel() * bytes_per_value)
            keep.append(tensor)
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True):
        objective = stage.objective(network(stage)).train()
        weights = {p.untyped_storage()._cdata for p in objective.parameters()}
        pixels, labels = torch.zeros(shape), torch.zeros(some, dtype=torch.long)
        # the recovery attack compares frames with frames
        target = pixels if isinstance(stage, RecoveryAttack) else labels
        kept = torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)
        with FlopCounterMode(display=False) as counter, kept:
            objective(pixels, target).backward()
    learn = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    every = sum(p.numel() for p in objective.parameters())
    memory = 4 * every + 12 * learn + sum(sizes.values()) * batch / some
    return counter.get_total_flops() * batch / some, memory, learn


@lru_cache
def measured_rate(name: str) -> float:
    """Operations per second that a stage reached in the measured run, validation included."""
    run = json.loads(MEASURED.read_text("utf-8"))[name]
    stage = Unmade(load_config("twin")).stage(name)
    return count(stage)[0] * run["steps"] / run["training_seconds"]


def estimate(config: Config) -> list[dict]:
    """A row per stage: parameters, operations and memory of a step, minutes as measured."""
    rows, width, run = [], 4 if config.precision == "fp32" else 2, Unmade(config)
    for name in PRICED:
        stage = run.stage(name)
        rows.append({"stage": name, "steps": stage.train.steps, "batch": stage.train.batch})
        try:
            operations, memory, learn = count(stage, width)
        except PpferError as error:
            rows[-1]["note"] = str(error)
            continue
        seconds = operations * stage.train.steps / measured_rate(LIKE.get(name, name))
        rows[-1] |= {
            "parameters, M": round(learn / 1e6, 1),
            "TFLOP per step": round(operations / 1e12, 2),
            "memory, GiB": round(memory / 2**30, 1),
            "minutes": round(seconds / 60, 1),
        }
    return rows


def report(config: Config) -> str:
    """The estimate as a Markdown table with what it rests on."""
    rows = estimate(config)
    hours = sum(row.get("minutes", 0) for row in rows) / 60
    device = next(iter(json.loads(MEASURED.read_text("utf-8")).values()))["device"]
    return (
        f"Profile {config.profile}, frames of {config.size}², clips of {config.frames} frames\n\n"
        f"{markdown(rows)}\n"
        f"Minutes are scaled by operations from profile twin as measured on: {device}, often of "
        f"two or three trainings at once; alone they are fewer. Sum {hours:.1f} h; decoding and "
        "rows without minutes are not counted.\n"
        "Memory is an estimate for one step on one process, without the clips (uint8) and cuDNN's "
        "workspace."
    )
