"""Each training stage against a plain loop of the kind papers publish: ``python tests/bench/bench_stages.py [cpu|cuda]``.

Both train the same objective on the same clips at the twin's size (the demo's on a CPU). Ours is `ppfer.train.fit` as the stages call
it, compiled on a GPU, timed between two lines of its own log, so that data path, augmentation and logging are in and
compilation is not. The peer is eager float32 with a DataLoader over samples and plain AdamW. A row also says how much memory each
took at most and which share of the device's bf16 matrix rate (measured here) ours reached.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ppfer import cost, stages, train
from ppfer.config import Train, load_config
from ppfer.run import device_name

CLIPS, ACTORS = 256, 91


class Clips(Dataset):
    """What a published loop reads: one sample at a time, flipped at random."""

    def __init__(self, clips: np.ndarray, labels: np.ndarray, frames: bool):
        self.clips, self.labels, self.frames = clips, labels, frames

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        clip = torch.from_numpy(self.clips[i % len(self.clips)])
        pixels = (clip[np.random.randint(len(clip))] if self.frames else clip).float() / 255
        return (pixels.flip(-1) if np.random.rand() < 0.5 else pixels), int(self.labels[i % len(self.clips)])


def peer_rate(objective: torch.nn.Module, data: Clips, batch: int, device: torch.device, steps: int) -> float:
    """Samples per second of the plain loop."""
    objective.to(device).train()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-4)
    batches = iter(DataLoader(data, batch, num_workers=8 if device.type == "cuda" else 0, pin_memory=device.type == "cuda"))
    for step in range(steps + 2):
        if step == 2:
            wait(device)
            began = time.perf_counter()
        pixels, labels = (x.to(device, non_blocking=True) for x in next(batches))
        optimizer.zero_grad()
        objective(pixels, labels).backward()
        optimizer.step()
    wait(device)
    return steps * batch / (time.perf_counter() - began)


def our_rate(objective: torch.nn.Module, batches: train.Batches, setting: Train, device: torch.device, steps: int) -> float:
    """Samples per second of `fit`, from its log between the middle and the end."""
    net = next(p for p in objective.children() if any(q.requires_grad for q in p.parameters()))
    setting = Train(steps, setting.batch, 1e-4)
    with tempfile.TemporaryDirectory() as folder:
        train.fit(objective.to(device), net, batches, setting, Path(folder), name="bench", compile=device.type == "cuda")
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    first, last = rows[len(rows) // 2], rows[-1]
    return (last["step"] - first["step"]) * setting.batch / (last["seconds"] - first["seconds"])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device) -> float:
    """Floating-point operations per second of a large bf16 (CPU: float32) matrix product."""
    n, kind = (8192, torch.bfloat16) if device.type == "cuda" else (2048, torch.float32)
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
    for repeat in range(12):
        if repeat == 2:
            wait(device)
            began = time.perf_counter()
        a @ b
    wait(device)
    return 10 * 2 * n**3 / (time.perf_counter() - began)


def run(device: torch.device) -> list[dict]:
    """Rows for every stage; samples are frames, or clips for F_u."""
    config = load_config("twin" if device.type == "cuda" else "demo")
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 255, (CLIPS, config.frames, 3, config.size, config.size), dtype=np.uint8)
    on_device, labels = torch.from_numpy(clips).to(device), rng.integers(0, 6, CLIPS)
    peak, rows, gpu = matrix_rate(device), [], device.type == "cuda"
    for name, (build, setting, frames) in cost.objectives(config, ACTORS).items():
        if name in ("expression", "recognizer/ppfer", "attack/ppfer"):  # the same networks as identity and recognizer/none
            continue
        batches = train.Batches(on_device, np.arange(CLIPS), labels, batch=setting.batch, seed=0, device=device, frames=frames)
        operations = cost.count(build, stages.band_split(config), setting.batch, cost.sample(config, frames))[0]
        memory = []
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        ours = our_rate(build(), batches, setting, device, 120 if gpu else 8)
        if gpu:
            memory.append(torch.cuda.max_memory_allocated() / 2**30)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        peer = peer_rate(build(), Clips(clips, labels, frames), setting.batch, device, 10 if gpu else 4)
        if gpu:
            memory.append(torch.cuda.max_memory_allocated() / 2**30)
            torch.cuda.empty_cache()
        share = operations / setting.batch * ours / peak
        rows.append(common.row(f"{name}, batch {setting.batch}", ours, peer, "eager fp32 DataLoader loop", f"{'frames' if frames else 'clips'}/s",
                               device_name(device), share_of_matrix_rate=round(share, 3), **({"peak_gib": [round(m, 2) for m in memory]} if gpu else {})))
        common.keep(rows, "stages")
    return rows


if __name__ == "__main__":
    run(common.pick_device(sys.argv))
