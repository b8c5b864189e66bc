"""Measures: privacy leakage ratio (PLR), expression accuracy (ACC), intervals and tables.

Every percentage carries its count: a `Rate` is k of n with a Wilson interval. Nothing here knows which protector made
the clips it measures.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ppfer.config import PpferError
from ppfer.train import autocast


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
        z, p = 1.959963984540054, self.value
        centre, spread = p + z * z / (2 * self.n), z * math.sqrt(p * (1 - p) / self.n + z * z / (4 * self.n**2))
        return (max(0.0, (centre - spread) / (1 + z * z / self.n)), min(1.0, (centre + spread) / (1 + z * z / self.n)))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({self.k}/{self.n}; {100 * low:.1f}–{100 * high:.1f})"

    def to_dict(self) -> dict[str, int]:
        return {"k": self.k, "n": self.n}


@dataclass(frozen=True)
class Spread:
    """The same share in several runs: mean and sample standard deviation over them, and every count."""

    rates: tuple[Rate, ...]

    @classmethod
    def of(cls, rates: Iterable[Rate]) -> Spread:
        """Gather the rates of several runs.

        Raises:
            PpferError: if they are not of one number of clips, and so not of one test set's size.
        """
        rates = tuple(rates)
        if len({r.n for r in rates}) != 1:
            raise PpferError(f"runs that measured {', '.join(str(r.n) for r in rates)} clips cannot be put side by side")
        return cls(rates)

    def __str__(self) -> str:
        values = [100 * r.value for r in self.rates]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{spread} % ({', '.join(str(r.k) for r in self.rates)} of {self.rates[0].n})"

    def to_dict(self) -> dict[str, object]:
        return {"k": [r.k for r in self.rates], "n": self.rates[0].n}


def over_seeds(tables: list[list[dict]]) -> list[dict]:
    """Rows of the same table from several runs as one: every ``{"k", "n"}`` cell becomes a `Spread`, other cells are left out.

    Raises:
        PpferError: if the tables have different rows.
    """
    names = [[row["approach"] for row in rows] for rows in tables]
    if any(other != names[0] for other in names):
        raise PpferError("tables with different rows cannot be put side by side")
    return [{"approach": same[0]["approach"]} | {key: Spread.of(Rate(**row[key]) for row in same) for key, value in same[0].items() if isinstance(value, dict)}
            for same in zip(*tables, strict=True)]


def rate(hits: np.ndarray | Tensor) -> Rate:
    """The share of True in a boolean array."""
    hits = np.asarray(hits)
    return Rate(int(hits.sum()), int(hits.size))


@torch.inference_mode()
def frame_logits(classifier: nn.Module, clips: Tensor, index: np.ndarray, *, device: torch.device, precision: str = "auto",
                 batch: int = 64) -> Tensor:
    """Logits of every frame of the chosen clips.

    Args:
        classifier: frames (N, 3, H, W) in [0, 1] → (N, classes).
        clips: (N, T, 3, H, W) uint8.
        index: which clips.

    Returns:
        (len(index), T, classes) float32 on the CPU.
    """
    out = []
    classifier.eval()
    for part in torch.as_tensor(index).split(batch):
        pixels = clips[part].to(device).float() / 255
        with autocast(device, precision):
            logits = classifier(pixels.flatten(0, 1))  # (b·T, classes)
        out.append(logits.float().view(len(part), pixels.shape[1], -1).cpu())
    return torch.cat(out)


@torch.inference_mode()
def clip_logits(recognizer: nn.Module, clips: Tensor, index: np.ndarray, *, device: torch.device, precision: str = "auto",
                batch: int = 64) -> Tensor:
    """Logits of a clip network: (len(index), classes) float32 on the CPU; arguments as `frame_logits`."""
    out = []
    recognizer.eval()
    for part in torch.as_tensor(index).split(batch):
        with autocast(device, precision):
            out.append(recognizer(clips[part].to(device).float() / 255).float().cpu())
    return torch.cat(out)


def leakage(logits: Tensor, actors: np.ndarray, *, seed: int = 0) -> dict[str, Rate]:
    """Privacy leakage ratio from a validator's frame logits, by three attackers of growing strength.

    Args:
        logits: (n, T, actors) from `frame_logits`.
        actors: (n,) true identities.
        seed: draws the paper's "randomly selected frame" (§4.2).

    Returns:
        ``random_frame`` (the paper's PLR), ``all_frames`` (every frame counts), ``clip`` (mean log-probability over frames).
    """
    truth = torch.as_tensor(np.asarray(actors))
    named = logits.argmax(-1)  # (n, T)
    pick = torch.randint(logits.shape[1], (len(truth),), generator=torch.Generator().manual_seed(seed))
    return {
        "random_frame": rate(named[torch.arange(len(truth)), pick] == truth),
        "all_frames": rate(named == truth[:, None]),
        "clip": rate(logits.log_softmax(-1).mean(1).argmax(-1) == truth),
    }


def remapped_leakage(fit_logits: Tensor, fit_actors: np.ndarray, logits: Tensor, actors: np.ndarray) -> Rate:
    """Leakage to an attacker who first learns what each predicted name really stands for.

    A protector that permutes identities scores PLR 0 and is invertible. Here each predicted identity is renamed to the
    actor it most often covers among the `fit` frames, then all frames of the test clips are scored.
    """
    classes = logits.shape[-1]
    named, truth = fit_logits.argmax(-1), torch.as_tensor(np.asarray(fit_actors))[:, None].expand(fit_logits.shape[:2])
    table = torch.zeros(classes, classes, dtype=torch.long)
    table.view(-1).index_add_(0, (named * classes + truth).flatten(), torch.ones(truth.numel(), dtype=torch.long))
    remap = table.argmax(1)  # (classes,): predicted name → true actor
    return rate(remap[logits.argmax(-1)] == torch.as_tensor(np.asarray(actors))[:, None])


def per_class(logits: Tensor, labels: np.ndarray, names: Iterable[str]) -> dict[str, Rate]:
    """Recall of each class, and ``average`` over all clips (the paper's "Avg" is the overall accuracy)."""
    hits, labels = logits.argmax(-1).numpy() == np.asarray(labels), np.asarray(labels)
    out = {name: rate(hits[labels == i]) for i, name in enumerate(names)}
    return {**out, "average": rate(hits)}


def by_group(hits: np.ndarray, groups: Iterable[str]) -> dict[str, Rate]:
    """Split a boolean array by a group label of the same length: group → Rate, groups in sorted order."""
    groups = np.asarray([str(g) for g in groups])
    return {g: rate(np.asarray(hits)[groups == g]) for g in sorted(set(groups))}


def cell(value: object) -> str:
    """How a value looks in a printed table."""
    if isinstance(value, dict) and set(value) == {"k", "n"}:
        k, n = value["k"], value["n"]
        return str(Spread(tuple(Rate(one, n) for one in k)) if isinstance(k, list) else Rate(k, n))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def markdown(rows: list[dict]) -> str:
    """Rows of dicts as a Markdown table; ``{"k", "n"}`` cells become percentages with counts and intervals."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def write_table(rows: list[dict], folder: Path, name: str) -> list[dict]:
    """Write ``<name>.json`` and ``<name>.md``; `Rate` and `Spread` values are stored as ``{"k", "n"}``. Returns the plain rows."""
    plain = [{k: v.to_dict() if isinstance(v, (Rate, Spread)) else v for k, v in row.items()} for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(plain, indent=1) + "\n")
    (folder / f"{name}.md").write_text(markdown(plain))
    return plain
