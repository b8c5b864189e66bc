"""Measures: privacy leakage ratio (PLR), expression accuracy (ACC), their intervals, and tables of
them.

Every percentage carries its count: a `Rate` is k of n with a Wilson interval. Nothing here knows
which protector made the clips it measures.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ppfer.base.device import autocast
from ppfer.base.errors import PpferError
from ppfer.base.files import atomic, sweep, write_json

# --- shares with their counts -------------------------------------------------


@dataclass(frozen=True)
class Rate:
    """k of n, with its 95 % Wilson score interval (Wilson 1927)."""

    k: int
    n: int

    @property
    def value(self) -> float:
        """k / n in [0, 1]; NaN when n is 0."""
        return self.k / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the underlying share."""
        if not self.n:
            return (0.0, 1.0)
        z, p, n = 1.959963984540054, self.value, self.n
        centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n**2))
        whole = 1 + z * z / n
        return (max(0.0, (centre - spread) / whole), min(1.0, (centre + spread) / whole))

    @property
    def short(self) -> str:
        """Percentage and count, without the interval."""
        return f"{100 * self.value:.1f} % ({self.k}/{self.n})" if self.n else "no clip (0/0)"

    def __str__(self) -> str:
        if not self.n:
            return self.short
        low, high = self.interval
        return f"{self.short[:-1]}; {100 * low:.1f}–{100 * high:.1f}{self.note})"

    @property
    def note(self) -> str:
        return ""

    to_dict = asdict


@dataclass(frozen=True)
class Worst(Rate):
    """The highest of several attacks' rates, and which attack that was."""

    attack: str = ""

    @property
    def note(self) -> str:
        return f"; {self.attack}"


@dataclass(frozen=True)
class Linked(Rate):
    """Rank-1 matches of people never seen before, and the equal error rate of verification."""

    eer: float = 0.5

    @property
    def note(self) -> str:
        return f"; EER {100 * self.eer:.1f} %"


@dataclass(frozen=True)
class Spread:
    """The same share in several runs: their mean and sample standard deviation, and every count."""

    rates: tuple[Rate, ...]

    @classmethod
    def of(cls, rates: Iterable[Rate]) -> Spread:
        """The rates of several runs; a `PpferError` if they are not of one number of clips, and so
        not of one test set's size. The worst of several attacks may count clips in one run and
        frames in another.
        """
        rates = tuple(rates)
        if len({r.n for r in rates}) != 1 and not all(isinstance(r, Worst) for r in rates):
            counts = ", ".join(str(r.n) for r in rates)
            raise PpferError(f"runs that measured {counts} clips cannot be put side by side")
        return cls(rates)

    def __str__(self) -> str:
        values = [100 * r.value for r in self.rates]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        apart = len({r.n for r in self.rates}) > 1
        counts = ", ".join(f"{r.k}/{r.n}" if apart else f"{r.k}" for r in self.rates)
        counts += "" if apart else f" of {self.rates[0].n}"
        return f"{statistics.mean(values):.1f}{spread} % ({counts})"

    @property
    def short(self) -> str:
        """Mean and deviation, without the counts."""
        return str(self).partition(" (")[0]

    def to_dict(self) -> dict[str, object]:
        counts = [r.n for r in self.rates]
        return {"k": [r.k for r in self.rates], "n": counts[0] if len(set(counts)) == 1 else counts}


def rate(hits: np.ndarray | Tensor) -> Rate:
    """The share of True in a boolean array."""
    hits = np.asarray(hits)
    return Rate(int(hits.sum()), int(hits.size))


HELD = (1, 4, 16)  # clips of a person that an attacker holds


# --- what networks say --------------------------------------------------------


@torch.inference_mode()
def logits(
    net: Callable[[Tensor], Tensor],
    clips: Tensor,
    index: np.ndarray | None = None,
    *,
    per_frame: bool,
    device: torch.device,
    precision: str = "auto",
    batch: int = 64,
) -> Tensor:
    """What a network says of the chosen clips.

    Args:
        net: frames (N, 3, H, W), or clips (B, T, 3, H, W), in [0, 1] → logits (·, classes).
        clips: (N, T, 3, H, W) uint8.
        index: which of the N; None for all.
        per_frame: whether `net` sees single frames (True) or whole clips (False).
        batch: clips at a time.

    Returns:
        float32 on the CPU: (n, T, classes) of a network of frames, (n, classes) of one of clips.
    """
    if isinstance(net, nn.Module):
        net.eval()
    rows = torch.arange(len(clips)) if index is None else torch.as_tensor(index)
    out = []
    for part in rows.split(batch):
        pixels = clips[part].to(device).float() / 255
        with autocast(device, precision):
            answer = net(pixels.flatten(0, 1) if per_frame else pixels)
        answer = answer.float().cpu()  # (b·T, classes) or (b, classes)
        out.append(answer.view(len(part), pixels.shape[1], -1) if per_frame else answer)
    return torch.cat(out)


def hits(logits: Tensor, labels: np.ndarray) -> np.ndarray:
    """Where the likeliest class is the true one: (n, classes) → (n,) bool, or of frames
    (n, T, classes) → (n, T), each under its clip's label (n,).
    """
    named, truth = logits.argmax(-1).cpu().numpy(), np.asarray(labels)
    return named == truth.reshape(len(truth), *[1] * (named.ndim - 1))


def accuracy(logits: Tensor, labels: np.ndarray) -> Rate:
    """The share of `hits`."""
    return rate(hits(logits, labels))


def leakage(logits: Tensor, actors: np.ndarray, *, seed: int = 0) -> dict[str, Rate]:
    """Privacy leakage ratio from a validator's logits, asked for in three ways.

    Args:
        logits: (n, T, actors) of every frame; or (n, actors) of a network that sees whole clips,
            which gives ``clip`` alone.
        actors: (n,) true identities.
        seed: draws the paper's "randomly selected frame" (§4.2).

    Returns:
        ``random_frame`` (the paper's PLR), ``all_frames`` (every frame counts), ``clip`` (mean
        log-probability).
    """
    if logits.ndim == 2:
        return {"clip": accuracy(logits, actors)}
    generator = torch.Generator().manual_seed(seed)
    pick = torch.randint(logits.shape[1], (len(logits),), generator=generator)
    return {
        "random_frame": accuracy(logits[torch.arange(len(logits)), pick], actors),
        "all_frames": accuracy(logits, actors),
        "clip": accuracy(logits.log_softmax(-1).mean(1), actors),
    }


def pooled(log_probabilities: Tensor, labels: np.ndarray, clips: int) -> Rate:
    """How many groups of so many clips of one person are named, when log-probabilities
    (n, classes) are added; labels (n,) say whose they are. A person's clips are dealt to groups in
    an order that one seed draws; what is left over is not asked.
    """
    rng, named = np.random.default_rng(0), []
    for who in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == who))
        for group in own[: len(own) // clips * clips].reshape(-1, clips):
            named.append(int(log_probabilities[group].sum(0).argmax()) == who)
    return rate(np.array(named, bool))


def remapped_leakage(
    fit_logits: Tensor, fit_actors: np.ndarray, logits: Tensor, actors: np.ndarray
) -> Rate:
    """Leakage to an attacker who first learns what each predicted name really stands for.

    A protector that permutes identities scores PLR 0 and is invertible. Here each predicted
    identity is renamed to the actor it most often covers among the `fit` frames, then all frames of
    the test clips are scored.
    """
    seen = np.zeros((logits.shape[-1], logits.shape[-1]), int)
    np.add.at(seen, (fit_logits.argmax(-1).numpy(), np.asarray(fit_actors)[:, None]), 1)
    remap = seen.argmax(1)  # (classes,): predicted name → true actor
    return rate(remap[logits.argmax(-1).numpy()] == np.asarray(actors)[:, None])


def chance(labels: np.ndarray) -> float:
    """What guessing is right about: the share of the commonest class, 1/K or more, of labels (n,)
    from 0 to K − 1.
    """
    return float(np.bincount(labels).max() / len(labels))


def per_class(logits: Tensor, labels: np.ndarray, names: Iterable[str]) -> dict[str, Rate | float]:
    """Recall of each class, ``average`` over all clips (the paper's "Avg" is the overall accuracy,
    WAR), and ``uar``, the mean of the recalls of those classes that there are.
    """
    right, labels = hits(logits, labels), np.asarray(labels)
    recalls = {name: rate(right[labels == i]) for i, name in enumerate(names)}
    shares = [recall.value for recall in recalls.values() if recall.n]
    uar = statistics.mean(shares) if shares else float("nan")
    return recalls | {"average": rate(right), "uar": uar}


def by_group(hits: np.ndarray, groups: Iterable[str]) -> dict[str, Rate]:
    """Split a boolean array by group labels of the same length: group → Rate, in sorted order."""
    groups = np.asarray([str(g) for g in groups])
    return {g: rate(np.asarray(hits)[groups == g]) for g in sorted(set(groups))}


def private_first(chance: float, slack: float, then: str) -> Callable[[dict], list[float]]:
    """The selection rule, a score for `ppfer.run.loop.fit`: val PLR within `slack` of chance first,
    then the least of metric `then`.
    """
    return lambda m: [round(max(0.0, m["val_plr"] - chance - slack), 6), m[then]]


# --- tables -------------------------------------------------------------------


def as_rate(cell: object) -> Rate | Spread | None:
    """A share from a `Rate`, a `Spread` or its ``{"k", "n"}``, perhaps with an ``"attack"`` or an
    ``"eer"``; None for anything else.
    """
    if isinstance(cell, (Rate, Spread)):
        return cell
    if not (isinstance(cell, dict) and set(cell) - {"attack", "eer"} == {"k", "n"}):
        return None
    if isinstance(cell["k"], list):
        n = cell["n"] if isinstance(cell["n"], list) else [cell["n"]] * len(cell["k"])
        return Spread(tuple(map(Rate, cell["k"], n)))
    return (Worst if "attack" in cell else Linked if "eer" in cell else Rate)(**cell)


def cell_text(cell: object) -> str:
    """How a value looks in a printed table: shares as percentages with counts and interval."""
    share = as_rate(cell)
    if share is not None:
        return str(share)
    if isinstance(cell, dict):
        return ", ".join(f"{key} {cell_text(part)}" for key, part in cell.items())
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def markdown(rows: Sequence[dict]) -> str:
    """Rows of dicts as a Markdown table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell_text(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def json_rows(rows: Sequence[dict]) -> list[dict]:
    """Rows as JSON types: `Rate` and `Spread` become ``{"k", "n"}``."""

    def plain(cell: object) -> object:
        return cell.to_dict() if isinstance(cell, (Rate, Spread)) else cell

    return [{key: plain(cell) for key, cell in row.items()} for row in rows]


def write_table(rows: Sequence[dict], folder: Path, name: str) -> list[dict]:
    """Write ``<name>.json`` and ``<name>.md``; returns the rows as written (see `json_rows`)."""
    sweep(folder)
    rows = json_rows(rows)
    write_json(folder / f"{name}.json", rows)
    with atomic(folder / f"{name}.md") as partial:
        partial.write_text(markdown(rows), "utf-8")
    return rows


def difference(a: Rate, b: Rate) -> tuple[float, float, float]:
    """a − b with its 95 % interval (Newcombe 1998, method 10: two Wilson intervals combined).

    It treats the two as independent. Measured on the same clips they usually agree, which makes it
    too wide, not too narrow; there `mcnemar` is the test.
    """
    (low_a, high_a), (low_b, high_b), d = a.interval, b.interval, a.value - b.value
    return (
        d,
        d - math.hypot(a.value - low_a, high_b - b.value),
        d + math.hypot(high_a - a.value, b.value - low_b),
    )


def mcnemar(a: np.ndarray, b: np.ndarray) -> tuple[int, int, float]:
    """Two answers to the same clips: how many only `a` has right, how many only `b`, and how often
    a fair coin would be at least as one-sided about those (McNemar 1947; exact, two-sided).
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n, least = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    return only_a, only_b, min(1.0, 2 * tail)
