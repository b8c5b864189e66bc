"""One training loop for every stage: deterministic, resumable at any step, one code path for 1..n processes.

An *objective* is a module whose ``forward(*batch)`` returns the scalar loss; its trainable parameters are those with
``requires_grad``. Batches are a function of the step alone, so a run resumed at step k sees what an uninterrupted one saw.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ppfer import nets
from ppfer.config import PpferError, Train

CHECKPOINT_SECONDS = 30.0  # how much work a killed process may lose; Ctrl-C loses none


class Progress:
    """Progress a person can follow: a plain line every few seconds.

    Lines go to the file named by ``PPFER_PROGRESS`` if set (`ppfer run` relays it to the terminal while papermill holds the
    kernel's output), else to stdout outside a notebook, else to one line that is redrawn in the notebook.
    """

    def __init__(self, label: str, total: int, every: float = 5.0):
        self.label, self.total, self.every = label, total, every
        self.start = self.shown = time.monotonic()
        self.file = os.environ.get("PPFER_PROGRESS")
        self.handle = None

    def update(self, done: int, note: str = "") -> None:
        """Report that `done` of the total is finished; prints at most every few seconds."""
        now = time.monotonic()
        if done < self.total and now - self.shown < self.every:
            return
        self.shown = now
        elapsed = now - self.start
        left = f", {elapsed / done * (self.total - done):.0f} s left" if 0 < done < self.total else ""
        self._say(f"{self.label} {done}/{self.total} {note} {elapsed:.0f} s{left}")

    def _say(self, line: str) -> None:
        if self.file:
            with open(self.file, "a") as stream:
                stream.write(line + "\n")
        elif "ipykernel" in sys.modules:
            from IPython.display import display

            if self.handle is None:
                self.handle = display({"text/plain": line}, raw=True, display_id=True)
            else:
                self.handle.update({"text/plain": line}, raw=True)
        elif int(os.environ.get("RANK", "0")) == 0:
            print(line, flush=True)


class Batches:
    """Shuffled batches of frames or clips, a pure function of (seed, step).

    Args:
        clips: (N, T, 3, H, W) uint8 on any device.
        index: which of the N to draw from; every epoch visits each once, in a fresh order.
        labels: (N,) or a tuple of such arrays, aligned with `clips`.
        batch: clips per step over all processes.
        frames: True gives one random frame of each clip, (B, 3, H, W); False gives clips, (B, T, 3, H, W).
        augment: one random shift per batch, horizontal flip and brightness per sample.
        colour: each sample's channels are scaled by factors in [1 − colour, 1 + colour]; only with `augment`.

    Calling it with a step returns ``(pixels float in [0, 1], labels…)`` on `device`.
    """

    def __init__(self, clips: Tensor, index: np.ndarray, labels: np.ndarray | tuple[np.ndarray, ...], *, batch: int,
                 seed: int, device: torch.device, frames: bool = True, augment: bool = True, colour: float = 0.0):
        if len(index) == 0:
            raise PpferError("there are no clips to train on: the training part of the split is empty")
        self.clips, self.index, self.batch, self.seed = clips, torch.as_tensor(index), batch, seed
        labels = labels if isinstance(labels, tuple) else (labels,)
        self.labels = [torch.as_tensor(np.asarray(y)).to(device) for y in labels]
        self.device, self.frames, self.augment, self.colour = device, frames, augment, colour
        self._epoch, self._order = -1, self.index
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))

    def _clip_ids(self, step: int) -> Tensor:
        """The `batch` clips of this step: consecutive places in an endless row of shuffled epochs."""
        places = torch.arange(step * self.batch, (step + 1) * self.batch)
        out = torch.empty(self.batch, dtype=torch.long)
        for epoch in range(int(places[0]) // len(self.index), int(places[-1]) // len(self.index) + 1):
            if epoch != self._epoch:
                self._order = self.index[torch.randperm(len(self.index), generator=_generator(self.seed, -1 - epoch))]
                self._epoch = epoch
            here = places // len(self.index) == epoch
            out[here] = self._order[places[here] % len(self.index)]
        return out

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        g = _generator(self.seed, step)
        ids = self._clip_ids(step)
        pick = torch.randint(self.clips.shape[1], (self.batch,), generator=g)
        flip, gain = torch.rand(self.batch, generator=g) < 0.5, 0.8 + 0.4 * torch.rand(self.batch, generator=g)
        tint = gain[:, None] * (1 + self.colour * (2 * torch.rand(self.batch, 3, generator=g) - 1))
        shift = torch.randint(0, 1 + self.clips.shape[-1] // 8, (2,), generator=g).tolist()
        mine = slice(self.rank * self.batch // self.world, (self.rank + 1) * self.batch // self.world)
        there, here = self.clips.device, self.device
        ids, pick, flip, tint = (x[mine] for x in (ids, pick, flip, tint))
        where = send(ids, there)
        pixels = (self.clips[where, send(pick, there)] if self.frames else self.clips[where]).to(here, non_blocking=True)
        if self.augment:  # moved while a pixel is a byte
            pixels = move(pixels, send(flip, here), shift)
        pixels = pixels.float().div_(255)
        if self.augment and self.frames:
            pixels = tinted(pixels, send(tint, here))
        return (pixels, *(y[where.to(here)] for y in self.labels))


def send(small: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor to a device without waiting for what the device has still to do: from pageable memory a copy would."""
    return small.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else small.to(device)


def _generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + step * 7_919 + 12_345) % 2**63)


def augment(pixels: Tensor, flip: Tensor, tint: Tensor, shift: list[int]) -> Tensor:
    """Flip samples, scale their colours, and move the whole batch by up to 1/16 of its width.

    Args:
        pixels: (B, ..., 3, H, W) in [0, 1].
        flip: (B,) bool. tint: (B, 3) factors. shift: two integers in [0, H/8]; H/16 is no shift.
    """
    return tinted(move(pixels, flip, shift), tint)


def move(pixels: Tensor, flip: Tensor, shift: list[int]) -> Tensor:
    """The geometry of `augment`, on pixels of any type: what leaves the picture is lost, the border is repeated."""
    pixels = torch.where(flip.view(-1, *(1,) * (pixels.dim() - 1)), pixels.flip(-1), pixels)
    for dim, by in zip((-2, -1), shift, strict=True):
        size, pad = pixels.shape[dim], pixels.shape[-1] // 16
        if by := min(by, 2 * pad) - pad:
            here = (torch.arange(size, device=pixels.device) + by).clamp_(0, size - 1)
            pixels = pixels.index_select(dim, here)
    return pixels


def tinted(pixels: Tensor, tint: Tensor) -> Tensor:
    """The colours of `augment`: (B, ..., 3, H, W) times (B, 3), kept in [0, 1]."""
    return (pixels * tint.view(len(pixels), *(1,) * (pixels.dim() - 4), 3, 1, 1)).clamp_(0, 1)


def learning_rate(step: int, config: Train) -> float:
    """Linear warm-up to ``config.lr``, then a cosine to 1 % of it at the last step."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast where `precision` asks for it ("auto": on CUDA only)."""
    on = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=on)


def channels_last(module: nn.Module) -> nn.Module:
    """Store convolution weights channels-last (2-D and 3-D), which is what fast kernels want.

    Kernels of one pixel too, though they lie in memory that way already: with the strides of their gradients, or several processes
    copy those one by one.
    """
    for p in module.parameters():
        if p.dim() in (4, 5):
            layout = torch.channels_last if p.dim() == 4 else torch.channels_last_3d
            p.data = torch.empty_like(p.data, memory_format=layout).copy_(p.data)
    return module


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turn Ctrl-C (and SIGTERM) into an event, so that a step is never left half done; a second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Captured:
    """A training step as a CUDA graph: after a few calls its kernels are recorded, then replayed without Python in between.

    The results are those of the step itself; a step of many small kernels takes two thirds of the time.

    Args:
        step: batch → loss, of tensors that keep their shapes; it must not look at a value (no ``.item()``).
    """

    WARM = 3

    def __init__(self, step: Callable[..., Tensor]):
        self.step, self.calls, self.graph = step, 0, None

    def __call__(self, *batch: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= self.WARM:  # on another stream, as PyTorch asks of steps before a capture
            here, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(here)
            with torch.cuda.stream(side):
                loss = self.step(*batch)
            here.wait_stream(side)
            return loss
        if self.graph is None:
            self.batch, self.graph = [x.clone() for x in batch], torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.loss = self.step(*self.batch)
        for mine, given in zip(self.batch, batch, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return self.loss


def fit(objective: nn.Module, net: nn.Module, batches: Callable[[int], tuple], config: Train, out: Path, *, name: str,
        evaluate: Callable[[], dict[str, float]] | None = None, score: Callable[[dict], list[float]] | None = None,
        precision: str = "auto", compile: bool = False) -> dict:
    """Train `net` through `objective`; leave the best and the last weights in `out` and the best in `net`.

    Args:
        objective: ``forward(*batch) -> loss``; contains `net`. Frozen parts must be `nets.freeze`-d. One that trains other
            networks at other steps has a true attribute ``alternates``; one whose step may be a CUDA graph, ``captures``.
        compile: fuse the step's kernels with `torch.compile` on a GPU: up to a minute's wait, so that it pays in stages of
            several minutes.
        net: what is saved: ``weights.safetensors`` (best by `score`) and ``last.safetensors``.
        batches: step → batch; see `Batches`.
        out: stage folder; ``metrics.jsonl`` and ``checkpoint.pt`` live here. A checkpoint found there is resumed.
        evaluate: returns validation metrics; called ``config.evals`` times with the network in eval mode.
        score: metrics → list of numbers, compared in order, lower is better. Default: the last evaluation wins.

    Returns:
        ``{"steps", "seconds", "best_step", "best": metrics, "loss"}``.

    Raises:
        PpferError: when the loss stops being finite. KeyboardInterrupt passes through after a checkpoint is written.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    out.mkdir(parents=True, exist_ok=True)
    device = next(net.parameters()).device
    alternates = getattr(objective, "alternates", False)
    unused = DistributedDataParallelKwargs(find_unused_parameters=alternates)
    accelerator = Accelerator(cpu=device.type == "cpu", kwargs_handlers=[unused])
    channels_last(objective)
    trained = [p for p in objective.parameters() if p.requires_grad]
    compiled = compile and device.type == "cuda" and not alternates
    captured = device.type == "cuda" and accelerator.num_processes == 1 and getattr(objective, "captures", False)
    rate = torch.tensor(config.lr, device=device) if captured else config.lr  # a graph reads it from memory
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=config.weight_decay, fused=device.type == "cuda", capturable=captured)
    wrapped = torch.compile(objective) if compiled else objective
    wrapped, optimizer = accelerator.prepare(wrapped, optimizer)

    checkpoint, log = out / "checkpoint.pt", out / "metrics.jsonl"
    running, since = torch.zeros((), device=device), 0  # summed loss since the last log line
    state = {"step": 0, "seconds": 0.0, "best_step": 0, "best": {}, "best_score": None, "loss": float("nan")}
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        objective.load_state_dict(saved["objective"])
        for theirs, own in zip(saved["optimizer"]["param_groups"], optimizer.param_groups, strict=True):
            theirs.update({key: own[key] for key in ("lr", "fused", "capturable")})  # they belong to the device, and that may be another now
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
        rows = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= state["step"]] if log.exists() else []
        log.write_text("".join(line + "\n" for line in rows))
        running, since = saved["running"], saved["since"]
    else:
        log.write_text("")

    def step_on(*batch: Tensor) -> Tensor:
        with autocast(device, precision):
            loss = wrapped(*batch)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    take = Captured(step_on) if captured else step_on

    def save() -> None:
        if accelerator.is_main_process:
            blob = {"objective": objective.state_dict(), "optimizer": optimizer.state_dict(), "state": state,
                    "running": running, "since": since}
            torch.save(blob, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)

    every = max(1, math.ceil(config.steps / max(1, config.evals)))
    log_every = max(1, config.steps // 40)
    progress = Progress(name, config.steps)
    began = saved_at = time.monotonic()
    base = state["seconds"]
    objective.train()
    with interruptible() as stop:
        while state["step"] < config.steps:
            step = state["step"]
            for group in optimizer.param_groups:
                if captured:
                    group["lr"].fill_(learning_rate(step, config))
                else:
                    group["lr"] = learning_rate(step, config)
            batch = batches(step)
            running, since = running + take(*batch).float(), since + 1
            done = step + 1
            row = {}
            if done % log_every == 0 or done == config.steps:
                state["loss"], running, since = float(running / since), torch.zeros_like(running), 0
                if not math.isfinite(state["loss"]):
                    checkpoint.unlink(missing_ok=True)
                    raise PpferError(f"{name}: the loss is {state['loss']} at step {done}; lower the learning rate ({config.lr})")
                row = {"step": done, "loss": state["loss"], "lr": learning_rate(step, config)}
            if evaluate is not None and (done % every == 0 or done == config.steps):
                objective.eval()
                metrics = evaluate()
                objective.train()
                value = score(metrics) if score else [-done]
                if state["best_score"] is None or value < state["best_score"]:
                    state.update(best_score=[float(v) for v in value], best=metrics, best_step=done)
                    if accelerator.is_main_process:
                        nets.save_weights(net, out / "weights.safetensors")
                row = {"step": done, "loss": state["loss"], **metrics}
            state["step"], state["seconds"] = done, base + time.monotonic() - began
            if row and accelerator.is_main_process:
                with log.open("a") as stream:
                    stream.write(json.dumps({**row, "seconds": round(state["seconds"], 2)}) + "\n")
            if stop.is_set() or time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                save()
                saved_at = time.monotonic()
            if stop.is_set():
                raise KeyboardInterrupt(f"{name} stopped at step {done}; the same command goes on from there")
            progress.update(done, f"loss {state['loss']:.3f}" if math.isfinite(state["loss"]) else "")
    if accelerator.is_main_process:
        nets.save_weights(net, out / "last.safetensors")
        if evaluate is None:
            nets.save_weights(net, out / "weights.safetensors")
            state["best_step"] = state["step"]
    accelerator.wait_for_everyone()
    nets.load_weights(net, out / "weights.safetensors")
    checkpoint.unlink(missing_ok=True)
    objective.eval()
    return {"steps": state["step"], "seconds": round(state["seconds"], 2), "best_step": state["best_step"],
            "best": state["best"], "loss": state["loss"]}
