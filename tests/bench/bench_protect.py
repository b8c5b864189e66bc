"""Protecting clips with PPFER: ``python tests/bench/bench_protect.py [cpu|cuda]``.

Ours is `ppfer.protect.protect_all` with networks as the stages load them; the peer runs the same networks on the same
uint8 clips in eager float32 with the default memory layout. Frames of 112², the twin's networks on a GPU, the demo's on a CPU.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable

import common
import torch

from ppfer import nets, protect, stages, train
from ppfer.config import load_config
from ppfer.run import device_name

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
    """One row, and on a GPU a second one for compiled networks."""
    gpu = device.type == "cuda"
    config = load_config("twin" if gpu else "demo")
    config = dataclasses.replace(config, size=SIZE)
    if not gpu:
        config = dataclasses.replace(config, nets=dataclasses.replace(config.nets, patch=7))
    clips = torch.randint(0, 255, (64 if gpu else 4, 16, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)
    frames = clips.shape[0] * clips.shape[1]

    def build() -> protect.PPFER:
        return nets.freeze(protect.PPFER(stages.new_enhancer(config), stages.new_compensator(config)).to(device))

    def ours(protector: Callable) -> Callable[[], object]:
        return lambda: list(protect.protect_all(protector, clips, device=device, batch=16 if gpu else 4, name="PPFER"))

    plain = build()

    def peer() -> torch.Tensor:
        return torch.cat([(plain(part.float() / 255) * 255).round().byte() for part in clips.split(16 if gpu else 4)])

    name, repeats = device_name(device), 5 if gpu else 3
    base = rate(peer, frames, device, repeats)
    fast = train.channels_last(build()) if gpu else build()
    rows = [common.row(f"protect {SIZE}²", rate(ours(fast), frames, device, repeats), base, "eager fp32", "frames/s", name)]
    if gpu:
        compiled = protect.compiled(train.channels_last(build()), 16)
        rows.append(common.row(f"protect {SIZE}², compiled", rate(ours(compiled), frames, device, repeats), base, "eager fp32", "frames/s", name))
        for row in rows:
            row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    common.keep(rows, "protect")
    return rows


if __name__ == "__main__":
    run(common.pick_device(sys.argv))
