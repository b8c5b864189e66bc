"""Protecting clips with PPFER and by re-enactment: ``python tests/bench/bench_protect.py
[cpu|cuda]``.

Ours is `ppfer.protect.protect_all` with a protector as stage "protected" runs it, on a GPU PPFER
also compiled; the peer runs the same networks on the same uint8 clips in eager float32 with the
default memory layout and PyTorch's own layers. PPFER with frames of 112², the twin's networks on a
GPU and the demo's on a CPU; re-enactment with frames of 256² and the shipped weights. Both sides of
re-enactment draw alike.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable

import common
import torch

from ppfer import nets, protect
from ppfer.base.device import device_name
from ppfer.config import Config, load_config
from ppfer.method.networks import new_compensator, new_enhancer
from ppfer.run import fast
from ppfer.study.protectors import regressor
from ppfer.study.protectors.reenactment import SIDE, Reenactment

SIZE = 112


def rate(make: Callable[[], object], frames: int, device: torch.device, repeats: int) -> float:
    """Frames per second, the best of `repeats` after a first one."""
    best = float("inf")
    for _ in range(repeats + 1):
        began = time.perf_counter()
        make()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return frames / best


@torch.inference_mode()
def run(device: torch.device) -> list[dict]:
    """A row per peer, on a GPU also for compiled networks."""
    gpu = device.type == "cuda"
    config = load_config("twin" if gpu else "demo")
    config = dataclasses.replace(config, size=SIZE)
    if not gpu:
        config = dataclasses.replace(config, nets=dataclasses.replace(config.nets, patch=7))
    clips = noise(64 if gpu else 4, SIZE, device)
    frames = clips.shape[0] * clips.shape[1]

    def build() -> protect.PPFER:
        return nets.freeze(protect.PPFER(new_enhancer(config), new_compensator(config)).to(device))

    batch, plain = 32 if gpu else 4, build()

    def peer() -> torch.Tensor:
        parts = clips.split(batch)
        return torch.cat([(plain(part.float() / 255) * 255).round().byte() for part in parts])

    def ours(compile: bool) -> Callable[[], object]:
        made = fast.deployed(fast.prepare(build(), device), batch, compile=compile)
        how = {"device": device, "batch": batch, "name": "PPFER"}
        return lambda: list(protect.protect_all(made, clips, **how))

    name, repeats, bases, rows = device_name(device), 5 if gpu else 3, {}, []
    for peer_name, tf32 in common.peers(device).items():
        with common.plain(tf32):
            bases[peer_name] = rate(peer, frames, device, repeats)
    for compile in (False, True) if gpu else (False,):
        mine = rate(ours(compile), frames, device, repeats)
        more = {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)} if gpu else {}
        what = f"protect {SIZE}²{', compiled' if compile else ''}"
        for peer_name, base in bases.items():
            how = (f"eager {peer_name}", "frames/s", name)
            rows.append(common.row(what, mine, base, *how, **more))
    rows += reenacted(config, device, repeats)
    common.keep(rows, "protect")
    return rows


def reenacted(config: Config, device: torch.device, repeats: int) -> list[dict]:
    """A row per peer of re-enactment, in batches of 256 frames on a GPU."""
    gpu = device.type == "cuda"
    clips, batch = noise(64 if gpu else 2, SIDE, device), 16 if gpu else 2
    frames, rows = clips.shape[0] * clips.shape[1], []

    def made_by(protector: Reenactment, precision: str) -> Callable[[], object]:
        how = {"device": device, "batch": batch, "name": "re-enactment", "precision": precision}
        return lambda: list(protect.protect_all(protector, clips, **how))

    def read_by(prepare: bool) -> Reenactment:
        net = nets.freeze(regressor.shipped(regressor.Regressor(), config).to(device))
        net = fast.prepare(net, device) if prepare else net
        return Reenactment(net, offset=config.reenactment_offset)

    mine = rate(made_by(read_by(True), "auto"), frames, device, repeats)
    for peer, tf32 in common.peers(device).items():
        with common.plain(tf32):
            other = rate(made_by(read_by(False), "fp32"), frames, device, repeats)
        what = (f"re-enactment {SIDE}²", mine, other, f"eager {peer}")
        rows.append(common.row(*what, "frames/s", device_name(device)))
    return rows


def noise(count: int, side: int, device: torch.device) -> torch.Tensor:
    """Clips (count, 16, 3, side, side) uint8 of random pixels, the same every time."""
    random = torch.Generator().manual_seed(0)
    shape = (count, 16, 3, side, side)
    return torch.randint(0, 255, shape, dtype=torch.uint8, generator=random).to(device)


if __name__ == "__main__":
    run(common.pick_device(sys.argv))
