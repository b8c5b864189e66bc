"""A stage that trains a network, written once."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ppfer import nets
from ppfer.base.files import digest
from ppfer.base.weights import Source, load_weights
from ppfer.config import Train, pick
from ppfer.run import fast
from ppfer.run.batches import Batches
from ppfer.run.loop import fit
from ppfer.run.stage import Stage


class Training(Stage):
    """Seed, loop, checkpoints and loading of a stage that trains; stages differ in what follows."""

    trains = ""  # the config's field with the training settings; "": the stage's kind
    per_frame = True  # whether a batch holds single frames (else whole clips)
    draws_as = ""  # what seeds the stage where several must see the same batches; "": its name
    # pairs (metric, min or max) of `measure`, in order, by which weights are kept; (): the last
    best: tuple[tuple[str, Callable], ...] = ()

    @property
    def train(self) -> Train:
        """The training settings."""
        return getattr(self.config, self.trains or self.kind)

    def settings(self) -> dict:
        field = self.trains or self.kind
        return super().settings() | pick(self.config, field, "precision", "seed")

    @property
    def seed(self) -> int:
        """One per stage: adding a stage does not change another's random numbers."""
        name = self.draws_as or self.name
        return int(digest({"seed": self.config.seed, "stage": name}), 16) % 2**31

    net: Callable[[], nn.Module]  # the network whose weights are kept, untrained
    objective: Callable[[nn.Module], nn.Module]  # ``forward(*batch) -> loss`` around the network
    batches: Callable[[], Callable[[int], tuple]]  # step → batch
    measure: Callable[[nn.Module], dict[str, float]] | None = None  # validation metrics

    def start(self) -> nn.Module:
        """The network training starts from."""
        return self.net()

    def rule(self) -> Callable[[dict], list[float]] | None:
        """Metrics → numbers compared in order, lower is better; None keeps the last weights."""
        if not self.best:
            return None
        return lambda m: [-m[key] if better is max else m[key] for key, better in self.best]

    def report(self, net: nn.Module) -> dict:
        """What the summary says besides how training went, e.g. ``{"test": ...}``."""
        return {}

    def draw(
        self,
        store: str,
        labels: np.ndarray,
        *,
        index: np.ndarray | None = None,
        augment: bool = True,
    ) -> Batches:
        """Batches of a store's training clips under this stage's settings and seed."""
        return Batches(
            self.run.tensor(store),
            self.run.parts["train"] if index is None else index,
            labels,
            batch=self.train.batch,
            seed=self.seed,
            device=self.run.device,
            per_frame=self.per_frame,
            augment=augment and self.train.augment,
            colour=self.train.colour,
        )

    def make(self, folder: Path) -> dict:
        torch.manual_seed(self.seed)
        net = trainable(self.start(), self.run.device)
        objective = self.objective(net).to(self.run.device)
        summary = fit(
            objective,
            net,
            self.batches(),
            self.train,
            folder,
            name=self.name,
            evaluate=functools.partial(self.measure, net) if self.measure else None,
            score=None if self.train.select == "last" else self.rule(),
            precision=self.config.precision,
            compile=self.config.compile,
        )
        return summary | self.report(net)

    def load(self, folder: Path) -> nn.Module:
        """The best weights, frozen, on the run's device."""
        return self.loaded(folder / "weights.safetensors")

    def loaded(self, source: Source) -> nn.Module:
        """The network with these weights, frozen, on the run's device."""
        net = load_weights(self.net(), source)
        return fast.prepare(nets.freeze(net.to(self.run.device)), self.run.device)

    def lighter(self) -> str:
        return f"--set {self.trains or self.kind}.batch={self.train.batch // 2}"


def trainable(net: nn.Module, device: torch.device) -> nn.Module:
    """The network on the device, in training mode, all parameters learning."""
    return net.to(device).train().requires_grad_(True)
