"""Attacks from within: the attacker who has read this repository.

Networks that learn from protected pixels are weak where few numbers pass. Whoever knows how clips
were protected reads those numbers back: here with the public regressor, off the protected clip, or
off what a recovery U-Net makes of it where the clip shows no face. Then seconds of training name
people from them: discriminant analysis, a linear layer and a small network on statistics of the
clip, and a convolution over its frames; of symbols, one who counts them (naive Bayes on each
person's histogram) is strongest. He may ask all of them together, and hold several clips of a
person: he adds up log-probabilities. And he may be as patient as he likes. Stages: numbers, within.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ppfer import twin
from ppfer.base.weights import save_tensors
from ppfer.measure import HELD, Worst, accuracy, as_rate, pooled
from ppfer.run.run import Run
from ppfer.run.stage import Stage, stage
from ppfer.study.attacks.recovery import undo
from ppfer.study.protectors.names import protected_symbols, statistics
from ppfer.study.protectors.swap import twin_clips
from ppfer.study.tables import worst

BATCH, RATE, DECAY, SMOOTHING = 512, 1e-3, 0.02, 0.05
LOOKS = 10  # at the validation part while he trains; the best weights count
SHRINKAGES = (0.03, 0.1, 0.3, 0.6, 0.9)  # of a covariance that few clips show, towards a sphere
PRIORS = (0.03, 0.1, 0.3, 1.0, 3.0)  # clips of each symbol that a person is taken to have shown
FACELESS = (  # read off what a recovery net makes of them
    *("live", "ppfer", "enhanced", "ppfer_long", "flow"),
    *("deface_blur", "deface_mosaic", "deface_solid"),
)
MOTION = ("donor",)  # show the true motion: what a reader without an error would read


# --- attackers --------------------------------------------------------------------


def of_statistics(numbers: int, classes: int) -> nn.Module:
    """A small network on `statistics`: (N, K) → logits."""
    layers = []
    for size in (numbers, 512):
        layers += [nn.Linear(size, 512), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Linear(512, classes))


class OfSequence(nn.Module):
    """A convolution over frames: numbers (N, T, K) → logits."""

    def __init__(self, numbers: int, classes: int):
        super().__init__()
        layers = []
        for size in (numbers, 256):
            layers += [nn.Conv1d(size, 256, 3, padding=1), nn.ReLU(), nn.Dropout(0.2)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(512, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, classes)
        )

    def forward(self, numbers: Tensor) -> Tensor:
        found = self.features(numbers.mT)  # (N, width, T)
        return self.head(torch.cat([found.mean(2), found.amax(2)], 1))


SOLVED = "discriminant analysis"  # of statistics; it is not trained
TOGETHER = "all of them together"  # what all attackers say of a clip, added up
ATTACKERS: dict[str, tuple[Callable, Callable]] = {  # what it is given, what learns from it
    "linear": (statistics, nn.Linear),
    "network of statistics": (statistics, of_statistics),
    "convolution over frames": (lambda numbers: numbers, OfSequence),
}


def learned(
    make: Callable[[int, int], nn.Module],
    given: Tensor,
    labels: Tensor,
    parts: dict[str, Tensor],
    steps: int,
    seed: int,
) -> Tensor:
    """Train an attacker; log-probabilities (n, classes) of the test part at its best look.

    Args:
        make: numbers and classes → the network.
        given: (N, …, K) of all clips.
        labels: (N,) of all clips; those of the test part are not looked at.
        parts: "train", "val" and "test" → rows.
        steps: to train.
        seed: of weights and batches.
    """
    train, val, test = (parts[key] for key in ("train", "val", "test"))
    known = given[train].flatten(0, -2)
    scaled = (given - known.mean(0)) / (known.std(0) + 1e-4)
    with torch.random.fork_rng(devices=[given.device] if given.is_cuda else []):
        torch.manual_seed(seed)
        net = make(given.shape[-1], int(labels.max()) + 1).to(given.device)
        how = {"weight_decay": DECAY, "fused": given.is_cuda}  # one kernel a step
        optimizer = torch.optim.AdamW(net.parameters(), RATE, **how)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        best, found, size = -1.0, None, min(BATCH, max(8, len(train) // 4))
        for step in range(steps):
            rows = train[torch.randint(len(train), (size,), device=given.device)]
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(net(scaled[rows]), labels[rows], label_smoothing=SMOOTHING)
            loss.backward()
            optimizer.step()
            schedule.step()
            # the look that names most of the validation part counts
            if (step + 1) % max(1, steps // LOOKS) == 0:
                net.eval()
                with torch.no_grad():
                    right = (net(scaled[val]).argmax(1) == labels[val]).float().mean().item()
                    if right > best:
                        best, found = right, net(scaled[test]).log_softmax(1)
                net.train()
    return found


def right(said: Tensor, labels: Tensor) -> int:
    """How many answers (n, classes) are those of labels (n,)."""
    return int((said.argmax(1) == labels).sum())


def discriminated(given: Tensor, labels: Tensor, parts: dict[str, Tensor]) -> Tensor:
    """Linear discriminant analysis (Fisher 1936), in closed form; log-probabilities (n, classes) of
    the test part. Where a person's clips are few it is stronger than networks.

    Args:
        given: (N, K) of all clips.
        labels: (N,) of all clips.
        parts: as for `learned`; the shrinkage is the best of `SHRINKAGES` on the validation part,
            from which he then learns, too.
    """
    x, own = given.double(), F.one_hot(labels.long()).double()  # (N, K), (N, classes)

    def answers(shrinkage: float, known: Tensor, rows: Tensor) -> Tensor:
        scaled = (x - x[known].mean(0)) / (x[known].std(0) + 1e-3)
        means = own[known].T @ scaled[known] / own[known].sum(0).clamp(min=1)[:, None]
        apart = scaled[known] - own[known] @ means
        spread = apart.T @ apart / len(known)
        sphere = spread.trace() / len(spread) * torch.eye(len(spread)).to(spread)
        weights = torch.linalg.solve(spread.lerp(sphere, shrinkage), means.T)  # (K, classes)
        logits = scaled[rows] @ weights - (means.T * weights).sum(0) / 2
        return logits.log_softmax(1).float()

    train, val, test = (parts[key] for key in ("train", "val", "test"))
    best = max(SHRINKAGES, key=lambda s: right(answers(s, train, val), labels[val]))
    return answers(best, torch.cat([train, val]), test)


def counted(symbols: Tensor, labels: Tensor, parts: dict[str, Tensor], count: int) -> Tensor:
    """Naive Bayes on each person's histogram of symbols; log-probabilities (n, classes) of the test
    part.

    Args:
        symbols: (N,) of all clips, each one of `count`.
        labels: (N,) of all clips.
        parts: as for `learned`; the prior is the best of `PRIORS` on the validation part.
        count: of symbols.
    """
    classes = int(labels.max()) + 1
    seen = torch.zeros(classes, count, device=symbols.device)
    ones = torch.ones(len(parts["train"]), device=symbols.device)
    seen.index_put_((labels[parts["train"]], symbols[parts["train"]]), ones, accumulate=True)
    common = (seen.sum(0) + 1) / (seen.sum() + count)  # how often anybody shows a symbol

    def given(prior: float, rows: Tensor) -> Tensor:
        own = seen + prior * count * common
        return (own / own.sum(1, keepdim=True)).log()[:, symbols[rows]].T

    best = max(PRIORS, key=lambda p: right(given(p, parts["val"]), labels[parts["val"]]))
    return given(best, parts["test"]).log_softmax(1)


# --- stages -------------------------------------------------------------------------


@stage("numbers/{protector}", needs=("regressor", "protected/{protector}"), notebook="11")
class Numbers(Stage):
    """What the public regressor reads off a protector's clips, (N, T, 55)."""

    def needs(self) -> tuple[str, ...]:
        if self.protector in MOTION:
            return ("clips",)
        undone = (f"recovery/{self.protector}",) if self.protector in FACELESS else ()
        return (*super().needs(), *undone)

    def make(self, folder: Path) -> dict:
        if self.protector in MOTION:  # as it was before anything was drawn
            by, (specs, times) = "nobody: the true motion", twin_clips(self.run)
            moves = map(twin.motion, specs)
            parts = [np.concatenate([m.actions[times], m.pose[times][:, :3]], 1) for m in moves]
            numbers = torch.from_numpy(np.stack(parts)).half()
        else:
            recovers = self.protector in FACELESS
            by = "the regressor" + ", of what a recovery net made" * recovers
            numbers = self.read(self.run.get(f"recovery/{self.protector}") if recovers else None)
        save_tensors({"numbers": numbers}, folder / "numbers.safetensors")
        return {"clips": len(numbers), "read by": by}

    def read(self, recovery: nn.Module | None) -> Tensor:
        """What the regressor says of the clips, or of what a recovery net makes of them."""
        run, regressor, read = self.run, self.run.get("regressor"), []
        for part in run.tensor(f"protected/{self.protector}").split(64):
            part = undo(recovery, part, run.device) if recovery else part
            with torch.inference_mode():
                numbers = regressor(part.to(run.device).flatten(0, 1).float() / 255)
            read.append(numbers.unflatten(0, part.shape[:2]).half().cpu())
        return torch.cat(read)

    def load(self, folder: Path) -> Tensor:
        """(N, T, 55) on the run's device."""
        found = load_file(folder / "numbers.safetensors", device=str(self.run.device))
        return found["numbers"].float()


@stage(
    "within/{protector}",
    needs=("split", "numbers/{protector}"),
    settings=("within", "seed"),
    notebook="11",
    version=3,
)
class Within(Stage):
    """Every attack from within on a protector's test clips; and what is read of expressions."""

    def make(self, folder: Path) -> dict:
        run, rows, test = self.run, [], self.run.parts["test"]
        numbers = run.get(f"numbers/{self.protector}")
        parts = {k: torch.as_tensor(v).to(numbers.device) for k, v in run.parts.items()}
        columns = ("actor", "emotion")
        actors, emotions = (torch.as_tensor(run.labels(c)).to(numbers.device) for c in columns)
        truth = run.labels("actor")[test]

        def asked(attack: str, steps: int, log_probabilities: Tensor) -> None:
            for clips in HELD:
                named = pooled(log_probabilities.cpu(), truth, clips)
                rows.append({"attack": attack, "steps": steps, "clips": clips, **named.to_dict()})

        # what is solved: discriminant analysis, and one who counts symbols, where there are any;
        # those show what is drawn without an error
        solved = {SOLVED: discriminated(statistics(numbers), actors, parts)}
        shown = protected_symbols(run, self.protector)
        if shown is not None:
            symbols, count = shown
            solved["symbols counted"] = counted(symbols.to(actors.device), actors, parts, count)
        for attack, said in solved.items():
            asked(attack, 0, said)

        # networks for every budget, and all of them together
        for steps in (self.config.within // 10, self.config.within):
            trained = {
                attack: learned(make, see(numbers), actors, parts, steps, self.config.seed)
                for attack, (see, make) in ATTACKERS.items()
            }
            trained[TOGETHER] = sum((*solved.values(), *trained.values()))
            for attack, said in trained.items():
                asked(attack, steps, said)

        # what is left to be read of the expression
        said = learned(OfSequence, numbers, emotions, parts, self.config.within, 0)
        right = accuracy(said, run.labels("emotion")[test])
        return {"test": rows, "expression": right.to_dict()}

    def load(self, folder: Path) -> list[dict]:
        """Rows "attack", "steps", "clips", "k", "n"."""
        return self.run.summary(self.name)["test"]


def by_clips(rows: Sequence[Mapping]) -> dict[str, Worst]:
    """The worst attack, a column for each number of clips that an attacker holds."""
    held = {clips: worst(r for r in rows if r["clips"] == clips) for clips in HELD}
    return {"1 clip" if c == 1 else f"{c} clips": cell for c, cell in held.items() if cell}


def pooled_row(run: Run, name: str) -> dict:
    """The most that attackers from within name of a protector's test clips, a column for each
    number of clips that they hold; and the expression that is read from the same numbers.
    """
    read = as_rate(run.summary(f"within/{name}")["expression"])
    named = by_clips(run.get(f"within/{name}"))
    return {"approach": run.protector(name).title, **named, "expression read from numbers": read}
