"""Protecting clips with PPFER: ``python tests/bench/bench_protect.py [cpu|cuda]``.

Ours is `ppfer.protect.protect_all` with a protector as stage "protected" runs it, on a GPU also
compiled; the peer runs the same networks on the same uint8 clips in eager float32 with the default
memory layout and PyTorch's own layers. Frames of 112², the twin's networks on a GPU, the demo's on
a CPU.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable

import common
import torch

from ppfer import fast, nets, protect
from ppfer.config import load_config
from ppfer.device import device_name
from ppfer.method.parts import new_compensator, new_enhancer

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
    clips = torch.randint(
        0,
        255,
        (64 if gpu else 4, 16, 3, SIZE, SIZE),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    ).to(device)
    frames = clips.shape[0] * clips.shape[1]

    def build() -> protect.PPFER:
        return nets.freeze(protect.PPFER(new_enhancer(config), new_compensator(config)).to(device))

    batch, plain = 32 if gpu else 4, build()

    def peer() -> torch.Tensor:
        return torch.cat(
            [(plain(part.float() / 255) * 255).round().byte() for part in clips.split(batch)]
        )

    def ours(compile: bool) -> Callable[[], object]:
        made = protect.deployed(fast.prepare(build(), device), batch, compile=compile)
        return lambda: list(
            protect.protect_all(made, clips, device=device, batch=batch, name="PPFER")
        )

    name, repeats, bases, rows = device_name(device), 5 if gpu else 3, {}, []
    for peer_name, tf32 in common.peers(device).items():
        with common.plain(tf32):
            bases[peer_name] = rate(peer, frames, device, repeats)
    for compile in (False, True) if gpu else (False,):
        mine = rate(ours(compile), frames, device, repeats)
        more = {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)} if gpu else {}
        rows += [
            common.row(
                f"protect {SIZE}²{', compiled' if compile else ''}",
                mine,
                base,
                f"eager {peer_name}",
                "frames/s",
                name,
                **more,
            )
            for peer_name, base in bases.items()
        ]
    common.keep(rows, "protect")
    return rows


if __name__ == "__main__":
    run(common.pick_device(sys.argv))
