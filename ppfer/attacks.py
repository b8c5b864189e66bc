"""What an attacker can still get out of protected clips: the recovery attack of Table 3, and attributes other than identity.

Stages: recovery/<protector> (a U-Net that undoes it) and attribute/<column> (a validator of sex, race or age group).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import baselines, evaluate, nets
from ppfer.config import Config, PpferError
from ppfer.run import Run, Stage, define, settings
from ppfer.stages import ClassificationObjective, batches_of, fit_stage, load_net, new_classifier, stage_seed, trainable
from ppfer.tables import ensure, prepare, protector_named, validator_logits, what_ran

NOTEBOOK = "09_recovery.ipynb"
FRAMES = 4  # frames of each test clip that SSIM, PSNR and PLR are measured on, evenly spaced

# --------------------------------------------------------------------------------------------------------------------
# The recovery attack (paper §4.5)
# --------------------------------------------------------------------------------------------------------------------


class Recovery(nn.Module):
    """The attacker: the paper's full-scale U-Net, which here says what to add to the protected frame.

    Its last layer starts at zero, so the attack starts from handing the protected frame over and can only learn from there. A
    U-Net that must first learn to copy needs many more steps for the same strength, and a weak attack flatters protectors.
    """

    def __init__(self, width: int):
        super().__init__()
        self.net = nets.RecoveryUNet(width=width)
        nn.init.zeros_(self.net.head.weight)
        nn.init.zeros_(self.net.head.bias)

    def forward(self, protected: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] → a guess at the originals, not clamped."""
        return protected + self.net(protected)


class RecoveryObjective(nn.Module):
    """L1 between the U-Net's guess and the original frame (paper §4.5)."""

    captures = True  # see `train.fit`

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, protected: Tensor, original: Tensor) -> Tensor:
        """The same frames (B, 3, H, W), protected and not → scalar."""
        return F.l1_loss(self.net(protected), original)


def quality(recovered: Tensor, original: Tensor) -> dict[str, float]:
    """How close recovered frames are to the originals: "ssim" and "psnr", means over frames.

    SSIM with an 11×11 Gaussian window of σ 1.5, reflected at the borders; PSNR in dB, averaged per frame; data range 1. An exact copy has an
    infinite PSNR, so each frame counts at most 100 dB.

    Args:
        recovered, original: (N, 3, H, W) in [0, 1].
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    ssim = structural_similarity_index_measure(recovered, original, gaussian_kernel=True, sigma=1.5, kernel_size=11, data_range=1.0)
    psnr = peak_signal_noise_ratio(recovered, original, data_range=1.0, dim=(1, 2, 3), reduction="none")
    return {"ssim": float(ssim), "psnr": float(psnr.clamp(max=100).mean())}


def some_frames(clips: Tensor, index: np.ndarray, count: int = FRAMES) -> Tensor:
    """`count` evenly spaced frames of the chosen clips: (n, count, 3, H, W), of the clips' dtype."""
    length = clips.shape[1]
    places = [int(length * (i + 0.5) / min(count, length)) for i in range(min(count, length))]
    return clips[torch.as_tensor(index)][:, places]


@torch.inference_mode()
def undo(net: nn.Module | Callable[[Tensor], Tensor], protected: Tensor, device: torch.device, batch: int = 64) -> Tensor:
    """An attacker's guess at the originals: (n, t, 3, H, W) uint8 → the same, on the CPU."""
    flat = protected.flatten(0, 1)  # (n·t, 3, H, W)
    parts = [net(part.to(device).float() / 255).float().clamp(0, 1).mul(255).round().byte().cpu() for part in flat.split(batch)]
    return torch.cat(parts).view(protected.shape)


def assess(run: Run, recovered: Tensor, index: np.ndarray) -> dict:
    """Quality and leakage of recovered frames (n, t, 3, H, W) uint8 of the chosen clips: the cells of Table 3.

    PLR is the frozen V_pl's, as in the paper: "plr" on one random of the t frames, "plr_all_frames" on all.
    """
    truth = some_frames(run.tensor("clips"), index, recovered.shape[1])
    pairs = list(zip(recovered.split(64), truth.split(64), strict=True))
    scores = [quality(*(x.flatten(0, 1).to(run.device).float() / 255 for x in pair)) for pair in pairs]
    sizes = [len(part) for part, _ in pairs]
    logits = evaluate.frame_logits(run.get("identity"), recovered, np.arange(len(recovered)), device=run.device, precision=run.config.precision)
    rates = evaluate.leakage(logits, run.labels("actor")[index], seed=run.config.seed)
    return {key: float(np.average([s[key] for s in scores], weights=sizes)) for key in ("ssim", "psnr")} | {
        "plr": rates["random_frame"], "plr_all_frames": rates["all_frames"]}


@define
def recovery(config: Config, name: str) -> Stage:
    """The white-box attacker's U-Net for one protector: trained on its clips of the training part beside the originals."""

    def make(run: Run, folder: Path) -> dict:
        seed, parts = stage_seed(run, f"recovery/{name}"), run.parts
        net = trainable(Recovery(config.nets.recovery_width), run)
        pixels = run.tensor(f"protected/{name}")
        ids = np.arange(len(pixels))  # two streams with one seed draw the same clips, frames and shifts
        protected, original = (batches_of(run, store, parts["train"], ids, config.recovery, seed) for store in (f"protected/{name}", "clips"))
        held, wanted = (some_frames(p, parts["val"], 2).to(run.device) for p in (pixels, run.tensor("clips")))

        @torch.inference_mode()
        def measure() -> dict[str, float]:
            made = undo(net, held, run.device)
            return {"val_l1": float((made.float() - wanted.cpu().float()).abs().mean() / 255)}

        summary = fit_stage(run, folder, f"recovery/{name}", RecoveryObjective(net), net, lambda step: (protected(step)[0], original(step)[0]),
                            config.recovery, evaluate=measure, score=lambda m: [m["val_l1"]])
        test = assess(run, undo(net, some_frames(pixels, parts["test"]), run.device), parts["test"])
        return summary | {"test": {k: v.to_dict() if isinstance(v, evaluate.Rate) else v for k, v in test.items()}}

    def load(run: Run, folder: Path) -> nn.Module:
        return load_net(Recovery(config.nets.recovery_width), folder, run)

    needs = settings(config, "recovery", "precision", "seed") | {"width": config.nets.recovery_width}
    return Stage(f"recovery/{name}", NOTEBOOK, ("split", "identity", f"protected/{name}"), needs, make, load)


def mean_image(run: Run) -> Tensor:
    """The mean training frame, (3, H, W) in [0, 1]: what an attacker guesses who never looks at the protected clip."""
    clips, index = run.tensor("clips"), run.parts["train"]
    total = sum(clips[part].float().sum((0, 1)) for part in torch.as_tensor(index).split(64))
    return total.cpu() / (255 * len(index) * clips.shape[1])


def table3(run: Run, names: tuple[str, ...] = baselines.TABLE1) -> list[dict]:
    """Table 3: one recovery U-Net per approach, and two controls; makes what is missing.

    "none" is the control that was never protected; the mean training image is what is known without any clip.
    """
    ready = prepare(run, names, ("recovery",))
    rows = []
    for name in names:
        if name not in ready:
            rows.append(baselines.left_out(run, name))
            continue
        test = run.summary(f"recovery/{name}")["test"]
        cells = {k: evaluate.Rate(**v) if isinstance(v, dict) else v for k, v in test.items()}
        title = protector_named(name).title + (" (control)" if name == "none" else "")
        rows.append({"approach": title, "what_ran": what_ran(run, name), **cells})
    index = run.parts["test"]
    guess = mean_image(run).mul(255).round().byte().expand(len(index), 1, -1, -1, -1).expand(-1, FRAMES, -1, -1, -1)
    return [*rows, {"approach": "Mean training image (control)", "what_ran": "one picture for every frame", **assess(run, guess, index)}]


# --------------------------------------------------------------------------------------------------------------------
# Sex, race, age group: the mechanism of PLR with other labels (paper §3.4)
# --------------------------------------------------------------------------------------------------------------------

ATTRIBUTES = ("sex", "race", "age_group")


def attribute_labels(table, column: str) -> tuple[np.ndarray, list[str]]:
    """Labels of each clip and the classes' names; −1 where the table does not say.

    Args:
        table: of clips (pandas), with columns sex, race, age.
        column: "sex", "race" or "age_group": under 30, 30 to 49, 50 and over.

    Raises:
        PpferError: if fewer than two groups are named.
    """
    if column == "age_group":
        words = ["" if not a else "under 30" if float(a) < 30 else "30 to 49" if float(a) < 50 else "50 and over" for a in table["age"]]
    else:
        words = list(table[column])
    classes = sorted(set(words) - {""})
    if len(classes) < 2:
        raise PpferError(f"the clips' table names {len(classes)} values of {column}; at least two are needed to measure its leakage")
    return np.array([classes.index(w) if w else -1 for w in words]), classes


def attributes_of(run: Run) -> list[str]:
    """The attributes that this data set labels."""
    found = []
    for column in ATTRIBUTES:
        try:
            attribute_labels(run.table, column)
        except PpferError:
            continue
        found.append(column)
    return found


@define
def attribute(config: Config, column: str) -> Stage:
    """A validator of one attribute: V_pl with another head, trained on original training clips."""

    def fresh(run: Run) -> nn.Module:
        return new_classifier(config, len(attribute_labels(run.table, column)[1]))

    def make(run: Run, folder: Path) -> dict:
        seed, labels = stage_seed(run, f"attribute/{column}"), attribute_labels(run.table, column)[0]
        train, held = (run.parts[part][labels[run.parts[part]] >= 0] for part in ("train", "val"))
        net = fresh(run)
        body = {k: v for k, v in run.get("identity").net.state_dict().items() if not k.startswith("fc.")}
        net.net.load_state_dict(net.net.state_dict() | body)
        trainable(net, run)

        def measure() -> dict[str, float]:
            logits = evaluate.frame_logits(net, run.tensor("clips"), held, device=run.device, precision=config.precision)
            return {"val_accuracy": evaluate.leakage(logits, labels[held])["all_frames"].value}

        batches = batches_of(run, "clips", train, labels, config.attack, seed)
        return fit_stage(run, folder, f"attribute/{column}", ClassificationObjective(net), net, batches, config.attack, evaluate=measure,
                         score=lambda m: [-m["val_accuracy"]])

    def load(run: Run, folder: Path) -> nn.Module:
        return load_net(fresh(run), folder, run)

    return Stage(f"attribute/{column}", baselines.NOTEBOOK, ("split", "identity"), settings(config, "attack", "precision", "seed"), make, load)


def attribute_table(run: Run, names: tuple[str, ...] = baselines.TABLE1) -> list[dict]:
    """Leakage of sex, race and age group on one random frame per test clip, frozen and retrained.

    Frozen: the attribute's own validator. Retrained: V_pl retrained on the protector's clips names a distribution over
    actors, and with it over what those actors are; so the second column needs no further training. The last row
    always names the commonest group: what must not be exceeded for nothing to have leaked.
    """
    columns, index, rows = attributes_of(run), run.parts["test"], []
    labels = {c: attribute_labels(run.table, c) for c in columns}
    known = {c: index[labels[c][0][index] >= 0] for c in columns}
    for column in columns:
        ensure(run, f"attribute/{column}")
    ready = prepare(run, names, ("attack",))
    for name in names:
        if name not in ready:
            rows.append(baselines.left_out(run, name))
            continue
        row = {"approach": protector_named(name).title}
        pixels, options = run.tensor(f"protected/{name}"), {"device": run.device, "precision": run.config.precision}
        posterior = validator_logits(run, f"attack/{name}", name, "test").softmax(-1)  # (n, T, actors)
        for column in columns:
            truth, classes = labels[column]
            logits = evaluate.frame_logits(run.get(f"attribute/{column}"), pixels, known[column], **options)
            row[column] = evaluate.leakage(logits, truth[known[column]], seed=run.config.seed)["random_frame"]
            grouped = (posterior[np.isin(index, known[column])] @ actor_groups(run, truth, len(classes))).log()
            row[f"{column}_retrained"] = evaluate.leakage(grouped, truth[known[column]], seed=run.config.seed)["random_frame"]
        rows.append(row)
    commonest = {"approach": "Always the commonest group (control)"}
    for column in columns:
        truth = labels[column][0]
        train = truth[run.parts["train"]]
        best = np.bincount(train[train >= 0]).argmax()
        commonest |= {column: evaluate.rate(truth[known[column]] == best), f"{column}_retrained": evaluate.rate(truth[known[column]] == best)}
    return [*rows, commonest]


def actor_groups(run: Run, labels: np.ndarray, groups: int) -> Tensor:
    """Which group each actor belongs to: (actors, groups) float, one-hot; an actor without a label has a row of zeros."""
    table = torch.zeros(len(run.classes("actor")), groups)
    rows = labels >= 0
    table[torch.as_tensor(run.labels("actor")[rows]), torch.as_tensor(labels[rows])] = 1
    return table


