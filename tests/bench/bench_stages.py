"""Each training stage against a plain loop of the kind papers publish: ``python
tests/bench/bench_stages.py [cpu|cuda [STAGE …]]``.

Both train the same objective on the same clips at the twin's size (the demo's on a CPU). Ours is
`ppfer.run.loop.fit` as the stages call it, timed between two lines of its own log, so that data
path, augmentation and logging are in and compilation is not; on a GPU once as profile twin runs
it and once with ``compile=true``, which pays in longer stages. The peer is eager float32 with
PyTorch's own layers, a DataLoader over samples and plain AdamW; on a GPU once strictly and once
with convolutions in TF32. A row also says how much memory each took at most, which share of the
device's bf16 matrix rate (measured here) ours reached, and which share of a step the transform
takes. On a GPU stage "latent" is one training step of the latent compensator at its real size,
U-ViT-H/2 with random weights, where diffusers is installed."""

from __future__ import annotations

import functools
import gc
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import common
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ppfer import nets, uvit
from ppfer.base.device import autocast, device_name
from ppfer.config import Train, load_config
from ppfer.method.compensation import CompensationObjective
from ppfer.method.networks import band_split
from ppfer.run import fast, loop
from ppfer.run.batches import Batches
from ppfer.run.training import Training
from ppfer.study import cost

CLIPS = 256
TURNS = 5  # on a CPU, which others use too: medians of so many, the two sides in turn
SAME = ("recognizer/ppfer", "attack/ppfer")  # the same networks as recognizer/none and expression
BANDS = ("identity", "pretrain", "privacy")  # whose steps split frames


class Clips(Dataset):
    """What a published loop reads: one sample at a time, flipped at random."""

    def __init__(self, clips: np.ndarray, labels: np.ndarray, frames: bool):
        self.clips, self.labels, self.frames = clips, labels, frames

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        clip = torch.from_numpy(self.clips[i % len(self.clips)])
        pixels = (clip[np.random.randint(len(clip))] if self.frames else clip).float() / 255
        flipped = pixels.flip(-1) if np.random.rand() < 0.5 else pixels
        return flipped, int(self.labels[i % len(self.clips)])


def peer_rate(objective: nn.Module, data: Clips, batch: int, device: torch.device, steps: int):
    """Samples per second of the plain loop."""
    objective.to(device).train()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-4)
    gpu = device.type == "cuda"
    batches = iter(DataLoader(data, batch, num_workers=8 if gpu else 0, pin_memory=gpu))
    for step in range(steps + 3):
        if step == 3:
            wait(device)
            began = time.perf_counter()
        pixels, labels = (x.to(device, non_blocking=True) for x in next(batches))
        optimizer.zero_grad()
        objective(pixels, labels).backward()
        optimizer.step()
    wait(device)
    return steps * batch / (time.perf_counter() - began)


def our_rate(
    objective: nn.Module,
    batches: Batches,
    setting: Train,
    device: torch.device,
    steps: int,
    compiled: bool,
    folder: str,
) -> float:
    """Samples per second of `fit`, from its log between the middle and the end; `folder` is where
    all processes of a launch write.
    """
    net = next(p for p in objective.children() if any(q.requires_grad for q in p.parameters()))
    setting = Train(steps, setting.batch, 1e-4)
    how = {"name": "bench", "compile": compiled}
    loop.fit(objective.to(device), net, batches, setting, Path(folder), **how)
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    first, last = rows[len(rows) // 2], rows[-1]
    return (last["step"] - first["step"]) * setting.batch / (last["seconds"] - first["seconds"])


class Recover(nn.Module):
    """The recovery attack on unprotected frames: the cost is the same."""

    def __init__(self, objective: nn.Module):
        super().__init__()
        self.objective, self.captures = objective, True

    def forward(self, frames: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.objective(frames, frames)


def new_objective(stage: Training) -> nn.Module:
    """A stage's objective with random weights, which takes (pixels, labels)."""
    objective = stage.objective(cost.network(stage))
    return Recover(objective) if stage.kind == "recovery" else objective


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


def bands_seconds(name: str, bands: nn.Module, pixels: torch.Tensor, device: torch.device) -> float:
    """Seconds of a step that the transform takes; the identity stage splits half of its batch.

    On a GPU the kernels alone are timed, as a CUDA graph: the steps that split frames are graphs
    too.
    """
    pixels, times, many = pixels[len(pixels) // 2 :] if name == "identity" else pixels, [], 20

    def splits() -> None:
        for _ in range(many):
            bands.split(pixels)

    splits()
    if device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            splits()
    for _ in range(10):
        wait(device)
        began = time.perf_counter()
        graph.replay() if device.type == "cuda" else splits()
        wait(device)
        times.append((time.perf_counter() - began) / many)
    return statistics.median(times)


def take_peak() -> float:
    """GiB of GPU memory at most since the last call, which leaves nothing of it behind; 0 without a
    GPU.
    """
    if not torch.cuda.is_available():
        return 0.0
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 2)


def run(device: torch.device, only: list[str]) -> None:
    """Rows for every stage, or for those named; samples are frames, or clips for F_u."""
    gpu = device.type == "cuda"
    config = load_config("twin" if gpu else "demo")
    rng = np.random.default_rng(0)
    shape = (CLIPS, config.frames, 3, config.size, config.size)
    clips = rng.integers(0, 255, shape, dtype=np.uint8)
    on_device, labels = torch.from_numpy(clips).to(device), rng.integers(0, 6, CLIPS)
    bands, ceiling = band_split(config).to(device), matrix_rate(device)
    unmade = cost.Unmade(config)
    chosen = [n for n in cost.PRICED if n in only or not only and n not in SAME]
    for name in chosen:
        stage = unmade.stage(name)
        setting, frames = stage.train, stage.per_frame
        build = functools.partial(new_objective, stage)
        how = {"batch": setting.batch, "seed": 0, "device": device, "per_frame": frames}
        batches = Batches(on_device, np.arange(CLIPS), labels, **how)
        operations = cost.count(stage)[0] / setting.batch
        steps = 24  # enough that a line of the log covers several
        if gpu:
            steps = min(setting.steps, 300 if frames else 120)
        take_peak()
        theirs, own, memory = defaultdict(list), defaultdict(list), {}
        for _ in range(1 if gpu else TURNS):
            for peer, tf32 in common.peers(device).items():
                with common.plain(tf32):  # more steps than the loader's workers hold ready
                    many = (40 if frames else 10) if gpu else 12
                    data = Clips(clips, labels, frames)
                    rate = peer_rate(build(), data, setting.batch, device, many)
                theirs[peer].append(rate)
            memory["theirs"] = take_peak()
            for compiled in (False, True) if gpu else (False,):
                with tempfile.TemporaryDirectory() as folder:
                    rate = our_rate(build(), batches, setting, device, steps, compiled, folder)
                own[compiled].append(rate)
                memory[compiled] = take_peak()
        rates, rows = {peer: statistics.median(some) for peer, some in theirs.items()}, []
        for compiled, some in own.items():
            ours = statistics.median(some)
            more = {"share_of_matrix_rate": round(operations * ours / ceiling, 3)}
            if gpu:
                more["peak_gib"] = [memory[compiled], memory["theirs"]]
            if name in BANDS:
                took = bands_seconds(name, bands, batches(0)[0], device)
                more["bands_share"] = round(took * ours / setting.batch, 4)
            what = f"{name}, batch {setting.batch}{', compiled' if compiled else ''}"
            how = (f"{'frames' if frames else 'clips'}/s", device_name(device))
            for peer, rate in rates.items():
                named = f"eager {peer} DataLoader loop"
                rows.append(common.row(what, ours, rate, named, *how, **more))
            common.keep(rows, "stages")
    if gpu and importlib.util.find_spec("diffusers") and (not only or "latent" in only):
        common.keep([latent_row(device)], "stages")


def latent_row(device: torch.device) -> dict:
    """U-ViT-H/2 between Stable Diffusion's autoencoder and C_fc: a training step on 32 frames of
    256², blocks recomputed.
    """
    count = 32
    with device:
        half = uvit.uvit_h2(None, img_size=32, checkpoint=True)
        net = uvit.LatentCompensator(half, cost.new_autoencoder())
        controller = nets.Classifier("resnet50", 6, input_size=256)
        objective = fast.prepare(CompensationObjective(net, controller).train(), device)
        pixels, labels = torch.rand(count, 3, 256, 256), torch.zeros(count, dtype=torch.long)
    learning = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-5, fused=True)

    def rate(some: int, precision: str) -> float:
        for step in range(5):
            if step == 2:
                wait(device)
                began = time.perf_counter()
            with autocast(device, precision):
                loss = objective(pixels[:some], labels[:some])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        wait(device)
        return 3 * some / (time.perf_counter() - began)

    take_peak()
    ours, memory = rate(count, "auto"), take_peak()
    peer, their_memory = rate(count // 4, "fp32"), take_peak()  # 32 frames in float32 do not fit
    what = f"compensation by U-ViT-H/2 and the autoencoder, 256², batch {count}"
    how = (f"fp32, batch {count // 4}", "frames/s", device_name(device))
    return common.row(what, ours, peer, *how, peak_gib=[memory, their_memory])


if __name__ == "__main__":
    run(common.pick_device(sys.argv), sys.argv[2:])
