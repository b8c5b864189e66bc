"""One training loop for every stage: deterministic, resumable at any step, one code path for 1..n
processes.

An *objective* is a module whose ``forward(*batch)`` returns the scalar loss; its trainable
parameters are those with ``requires_grad``. Batches are a function of the step alone, so a run
resumed at step k sees what an uninterrupted one saw.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from ppfer.base.device import autocast
from ppfer.base.errors import PpferError, out_of_memory
from ppfer.base.files import atomic
from ppfer.base.processes import interruptible, is_main
from ppfer.base.progress import Progress, say
from ppfer.base.weights import load_weights, save_weights, total
from ppfer.config import Train
from ppfer.run import fast

CHECKPOINT_SECONDS = 30.0  # how much work a killed process may lose; Ctrl-C loses none


def learning_rate(step: int, config: Train) -> float:
    """Linear warm-up to ``config.lr``, then a cosine to 1 % of it at the last step."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class Loop:
    """What moves while a stage trains: network, optimizer and counters, one step at a time."""

    def __init__(
        self, objective: nn.Module, config: Train, out: Path, precision: str, compile: bool
    ):
        self.objective, self.config, self.precision = objective, config, precision
        self.device = next(objective.parameters()).device
        alternates = getattr(objective, "alternates", False)
        unused = DistributedDataParallelKwargs(find_unused_parameters=alternates)
        # everything is on the run's device already, which need not be the first GPU
        self.accelerator = Accelerator(
            cpu=self.device.type == "cpu", device_placement=False, kwargs_handlers=[unused]
        )
        cuda, one_kernel = self.device.type == "cuda", self.device.type in ("cuda", "cpu")
        alone = self.accelerator.num_processes == 1
        self.captured = cuda and alone and getattr(objective, "captures", False)
        fast.prepare(objective, self.device)

        trained = [p for p in objective.parameters() if p.requires_grad]
        # a CUDA graph reads the learning rate from memory
        lr = torch.tensor(config.lr, device=self.device) if self.captured else config.lr
        optimizer = torch.optim.AdamW(
            trained,
            lr=lr,
            weight_decay=config.weight_decay,
            fused=one_kernel,
            capturable=self.captured,
        )
        wrapped = torch.compile(objective) if compile and cuda and not alternates else objective
        self.wrapped, self.optimizer = self.accelerator.prepare(wrapped, optimizer)

        self.checkpoint, self.log = out / "checkpoint.pt", out / "metrics.jsonl"
        # loss summed since the last line of the log, and over how many steps
        self.running, self.since = torch.zeros((), device=self.device), 0
        self.state = {"step": 0, "seconds": 0.0, "loss": float("nan")}
        self.state |= {"best_step": 0, "best": {}, "best_score": None}

    def update(self, *batch: Tensor) -> Tensor:
        """One optimizer step; returns the loss, detached."""
        with autocast(self.device, self.precision):
            loss = self.wrapped(*batch)
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def step(self, take: Callable[..., Tensor], batch: tuple[Tensor, ...]) -> None:
        """Take one step, an `update`, at the schedule's learning rate and count it."""
        rate = learning_rate(self.state["step"], self.config)
        for group in self.optimizer.param_groups:
            if self.captured:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self.running, self.since = self.running + take(*batch).float(), self.since + 1

    def mean_loss(self) -> float:
        """The mean loss since it was last asked for."""
        loss = float(self.running / self.since)
        self.running, self.since = torch.zeros_like(self.running), 0
        return loss

    def write(self, row: dict) -> None:
        """Append a line to the log."""
        if is_main():
            row = row | {"seconds": round(self.state["seconds"], 2)}
            with self.log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")

    def save(self) -> None:
        """Write the checkpoint."""
        if is_main():
            blob = {name: getattr(self, name) for name in ("state", "running", "since")}
            blob |= {n: getattr(self, n).state_dict() for n in ("objective", "optimizer")}
            try:
                with atomic(self.checkpoint) as partial:
                    torch.save(blob, partial)
            except RuntimeError as error:  # torch's word for a disk that takes no more
                raise PpferError(f"{self.checkpoint} could not be written: {error}") from error

    def resume(self) -> None:
        """Go on from the checkpoint if there is one; forget what the log says of later steps."""
        if not (saved := self._read_checkpoint()):
            self.log.write_text("", "utf-8")
            return
        self.objective.load_state_dict(saved["objective"])
        groups = zip(saved["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True)
        for theirs, own in groups:  # these belong to the device, which may be another now
            theirs.update({key: own[key] for key in ("lr", "fused", "capturable")})
        self.optimizer.load_state_dict(saved["optimizer"])
        self.state, self.running, self.since = saved["state"], saved["running"], saved["since"]
        kept = []
        for line in self.log.read_text("utf-8").splitlines() if self.log.exists() else []:
            with contextlib.suppress(ValueError):  # written by half
                kept += [line + "\n"] * (json.loads(line)["step"] <= self.state["step"])
        self.log.write_text("".join(kept), "utf-8")

    def _read_checkpoint(self) -> dict | None:
        """The checkpoint; None where there is none, or it is damaged: then training begins anew."""
        if not self.checkpoint.exists():
            return None
        try:
            return torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except Exception as error:  # whatever a damaged file makes of torch.load
            if out_of_memory(error):
                raise
            say(f"{self.checkpoint} is damaged; its stage begins again")
            return None


def fit(
    objective: nn.Module,
    net: nn.Module,
    batches: Callable[[int], tuple],
    config: Train,
    out: Path,
    *,
    name: str,
    evaluate: Callable[[], dict[str, float]] | None = None,
    score: Callable[[dict], list[float]] | None = None,
    precision: str = "auto",
    compile: bool = False,
) -> dict:
    """Train `net` through `objective`; leave the best and the last weights in `out`, as
    ``weights.safetensors`` and ``last.safetensors``, and the best in `net`.

    Args:
        objective: ``forward(*batch) -> loss``; contains `net`. Frozen parts must be
            `nets.freeze`-d. One that trains other networks at other steps has a true attribute
            ``alternates``; one whose step may be a CUDA graph, ``captures``.
        batches: step → batch; see `Batches`.
        out: stage folder; ``metrics.jsonl`` and ``checkpoint.pt`` live here. A checkpoint found
            there is resumed.
        evaluate: returns validation metrics; called ``config.evals`` times with the network in eval
            mode.
        score: metrics → numbers, compared in order, lower is better. Default: the last look wins.
        compile: fuse the step's kernels with `torch.compile` on a GPU: up to a minute's wait, so
            that it pays in stages of several minutes.

    Returns:
        ``{"steps", "seconds", "best_step", "best": metrics, "loss"}``.

    Raises:
        PpferError: when the loss stops being finite. KeyboardInterrupt passes through after a
            checkpoint is written.
    """
    out.mkdir(parents=True, exist_ok=True)
    loop = Loop(objective, config, out, precision, compile)
    # the loop does not keep it: what recorded steps hold of a GPU is free when they are done
    take = fast.Captured(loop.update) if loop.captured else loop.update
    loop.resume()
    state, steps = loop.state, config.steps
    look_every = max(1, math.ceil(steps / max(1, config.evals)))
    log_every = max(1, steps // 40)
    progress = Progress(name, steps, "steps", done=state["step"])
    began = saved_at = time.monotonic()
    before, first = state["seconds"], state["step"]
    start = total(net)
    objective.train()
    with interruptible() as stop:
        while state["step"] < steps:
            loop.step(take, batches(state["step"]))
            done, row = state["step"] + 1, {}

            # the mean loss, now and then: looking at it waits for the device
            if done % log_every == 0 or done == steps:
                state["loss"] = loop.mean_loss()
                if not math.isfinite(state["loss"]):
                    loop.checkpoint.unlink(missing_ok=True)
                    raise PpferError(
                        f"{name}: the loss is {state['loss']} at step {done}; "
                        f"lower the learning rate ({config.lr})"
                    )
                row = {"step": done, "loss": state["loss"], "lr": learning_rate(done - 1, config)}

            # a look at the validation part; the best weights so far are kept
            if evaluate is not None and (done % look_every == 0 or done == steps):
                objective.eval()
                metrics = evaluate()
                objective.train()
                value = score(metrics) if score else [-done]
                if state["best_score"] is None or value < state["best_score"]:
                    value = [float(v) for v in value]
                    state.update(best_score=value, best=metrics, best_step=done)
                    if is_main():
                        save_weights(net, out / "weights.safetensors")
                row = {"step": done, "loss": state["loss"], **metrics}

            # the step is finished only now: a checkpoint never holds half of one
            state.update(step=done, seconds=before + time.monotonic() - began)
            if row:
                loop.write(row)
            if stop.is_set() or time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                loop.save()
                saved_at = time.monotonic()
            if stop.is_set():
                raise KeyboardInterrupt(f"{name} stopped at step {done}; the same command goes on")
            note = f"loss {state['loss']:.3f}" if math.isfinite(state["loss"]) else ""
            progress.update(done, note)
    # where the loss is 0 from the start there is nothing to learn
    if first < steps and state["loss"] and total(net) == start:
        raise PpferError(f"{name}: no weight moved in {steps - first} steps; nothing was trained")
    if is_main():
        save_weights(net, out / "last.safetensors")
        if evaluate is None:
            save_weights(net, out / "weights.safetensors")
            state["best_step"] = state["step"]
    loop.accelerator.wait_for_everyone()
    load_weights(net, out / "weights.safetensors")
    loop.checkpoint.unlink(missing_ok=True)
    objective.eval()
    summary = {"steps": state["step"], "seconds": round(state["seconds"], 2)}
    return summary | {key: state[key] for key in ("best_step", "best", "loss")}
