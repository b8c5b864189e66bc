"""The stages of the method: small functions that wire config, data, networks and the loop together.

Order: clips, wild, split → identity → pretrain → privacy (Algorithm 1) → protected/enhanced (G) → expression →
compensation (Algorithm 2) → protected/ppfer (C) → recognizer/<protector> (F_u) and attack/<protector> (V_pl retrained).
Each function decorated with `define` describes one stage; `ppfer.run.Run` decides whether to make or load it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ppfer import evaluate, nets, protect
from ppfer.config import Config, PpferError, Train, digest, to_dict
from ppfer.run import Run, Stage, data_path, define, is_main, settings, write_json
from ppfer.train import Batches, Progress, fit
from ppfer.wavelets import BandSplit

# --------------------------------------------------------------------------------------------------------------------
# Data
# --------------------------------------------------------------------------------------------------------------------


def _store_stage(config: Config, name: str, source: str, fields: tuple[str, ...]) -> Stage:
    """A ClipStore decoded from a folder, or rendered by the twin's generator when ``config.generate``."""
    from ppfer.store import ClipStore

    wild = name == "wild"

    def make(run: Run, folder: Path) -> dict:
        if config.generate:
            return {"generated": True}
        index = chosen_clips(config, wild=wild)
        progress = Progress(f"{name}: decoding", len(index.table))
        store = ClipStore.build(index, folder / "store", frames=config.frames, size=config.size, progress=progress.update)
        return {"clips": len(store), "rejected": len(index.rejected), "index": index.summary(), "sha256": store.hash}

    def load(run: Run, folder: Path) -> object:
        if config.generate:
            from ppfer import twin

            pixels, table = twin.generate_arrays(actors=config.actors, size=config.size, frames=config.frames, seed=0,
                                                 wild=config.wild_clips if wild else 0, device=run.device)
            return ClipStore.in_memory(pixels, table)
        return ClipStore.open(folder / "store")

    described = settings(config, "size", "frames", "generate", *fields)
    if not config.generate:
        described["files"] = chosen_clips(config, wild=wild).fingerprint()
    return Stage(name, "00_data.ipynb", (), described, make, load)


def chosen_clips(config: Config, *, wild: bool = False):
    """The index of the clips a config asks for: its data folder, cut down to ``actors``, ``clips_per_actor``, ``wild_clips``.

    Raises:
        PpferError: if there is nothing usable at the path.
    """
    from ppfer import data

    index = data.index(data_path(config.wild if wild else config.data))
    table = index.table
    if wild:
        if config.wild_clips:
            table = _evenly(table, "emotion", config.wild_clips)
    else:
        if config.actors:
            table = table[table.actor.isin(sorted(table.actor.unique())[: config.actors])]
        if config.clips_per_actor:
            parts = [_evenly(group, "emotion", config.clips_per_actor) for _, group in table.groupby("actor")]
            table = table.loc[sorted(i for part in parts for i in part.index)]
    return dataclasses.replace(index, table=table.reset_index(drop=True))


def _evenly(table, column: str, count: int):
    """The first `count` rows, taking the groups of `column` in turn."""
    turn = table.groupby(column).cumcount()
    return table.loc[sorted(table.assign(_turn=turn).sort_values(["_turn", column], kind="stable").index[:count])]


@define
def clips(config: Config) -> Stage:
    """V: the original clips, decoded once."""
    return _store_stage(config, "clips", config.data, ("actors", "clips_per_actor"))


@define
def wild(config: Config) -> Stage:
    """In-the-wild clips for the expression controller (the paper's 3,600 DFEW clips)."""
    return _store_stage(config, "wild", config.wild, ("wild_clips",))


@define
def split(config: Config) -> Stage:
    """Train, validation and test parts: closed set, all actors on both sides (paper §4.1)."""
    from ppfer import data

    def make(run: Run, folder: Path) -> dict:
        parts = data.split(run.table, test=config.test, val=config.val, seed=config.seed, by=config.split_by or None)
        names = run.table.clip.to_numpy()
        write_json(folder / "split.json", {part: names[rows].tolist() for part, rows in parts.items()})
        return {part: len(rows) for part, rows in parts.items()} | {"sha256": digest(json.loads((folder / "split.json").read_text()))}

    def load(run: Run, folder: Path) -> dict[str, np.ndarray]:
        row = {name: i for i, name in enumerate(run.table.clip)}
        names = json.loads((folder / "split.json").read_text())
        return {part: np.array([row[n] for n in members], dtype=np.int64) for part, members in names.items()}

    return Stage("split", "00_data.ipynb", ("clips",), settings(config, "test", "val", "split_by", "seed"), make, load)


# --------------------------------------------------------------------------------------------------------------------
# Shared pieces
# --------------------------------------------------------------------------------------------------------------------


def band_split(config: Config) -> BandSplit:
    """The transform of a config."""
    return BandSplit(**to_dict(config.bands))


def whole_clips(config: Config) -> bool:
    """Whether the transform needs clips (time axis) rather than single frames."""
    return "t" in config.bands.axes


def new_classifier(config: Config, classes: int) -> nn.Module:
    """A ResNet over `classes`, from scratch or from the weights the config names."""
    return nets.Classifier(config.nets.classifier, classes, input_size=config.size, weights=config.nets.classifier_weights)


def new_recognizer(config: Config, classes: int) -> nn.Module:
    """An R3D network over `classes`, from scratch or from the weights the config names."""
    return nets.Recognizer(config.nets.recognizer, classes, weights=config.nets.recognizer_weights)


def new_enhancer(config: Config) -> protect.PrivacyEnhancer:
    """Two U-Nets behind the transform, random weights."""
    width = config.nets.unet_width
    return protect.PrivacyEnhancer(band_split(config), nets.UNet(width=width), nets.UNet(width=width))


def new_compensator(config: Config) -> nn.Module:
    """F_fc as the config names it; starts as (nearly) the identity."""
    from ppfer import uvit

    return uvit.build_compensator(config.nets, config.size)


def _load(net: nn.Module, folder: Path, run: Run) -> nn.Module:
    """The best weights of a stage, frozen, on the run's device."""
    nets.load_weights(net, folder / "weights.safetensors")
    return nets.freeze(net.to(run.device))


def _start(net: nn.Module, run: Run) -> nn.Module:
    """A trainable copy on the run's device."""
    return net.to(run.device).train().requires_grad_(True)


def _seed(run: Run, name: str) -> int:
    """One seed per stage, from the run's seed: adding a stage does not change another's random numbers."""
    seed = int(digest({"seed": run.config.seed, "stage": name}), 16) % 2**31
    torch.manual_seed(seed)
    return seed


def _fit(run: Run, folder: Path, name: str, objective: nn.Module, net: nn.Module, batches: Batches, train: Train, **keywords) -> dict:
    return fit(objective.to(run.device), net, batches, train, folder, name=name, precision=run.config.precision,
               compile=run.config.compile, **keywords)


def _batches(run: Run, name: str, index: np.ndarray, labels, train: Train, seed: int, *, frames: bool = True) -> Batches:
    return Batches(run.tensor(name), index, labels, batch=train.batch, seed=seed, device=run.device, frames=frames, augment=train.augment)


def leak(run: Run, validator: nn.Module, pixels: Tensor, index: np.ndarray) -> dict[str, evaluate.Rate]:
    """`evaluate.leakage` of the chosen clips of a (N, T, 3, H, W) uint8 tensor."""
    logits = evaluate.frame_logits(validator, pixels, index, device=run.device, precision=run.config.precision)
    return evaluate.leakage(logits, run.labels("actor")[index], seed=run.config.seed)


# --------------------------------------------------------------------------------------------------------------------
# Identity controller: C_hpr = C_lpr = V_pl
# --------------------------------------------------------------------------------------------------------------------


class IdentityObjective(nn.Module):
    """Cross-entropy over identities on frames and bands mixed within every batch.

    A network trained on frames alone is weak on detail bands, and one fed frames and bands in turn is broken by
    BatchNorm; so half of each batch are frames, a quarter low bands, a quarter details, all at frame size.
    """

    def __init__(self, net: nn.Module, bands: BandSplit):
        super().__init__()
        self.net, self.bands = net, bands

    def forward(self, pixels: Tensor, actors: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) or (B, T, 3, H, W), labels (B,) → scalar."""
        views, labels = mixed_views(self.bands, pixels, actors)
        return F.cross_entropy(self.net(views), labels)


def mixed_views(bands: BandSplit, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Half frames, a quarter low bands, a quarter details, resized to frame size: (n, 3, H, W) and (n,) labels."""
    size, half, quarter = pixels.shape[-2:], len(pixels) // 2, len(pixels) // 4
    low, high = bands.split(pixels[half:])
    parts = [(pixels[:half].flatten(0, -4), labels[:half])]
    for band, y, offset in ((low, labels[half:], 0), (high, labels[half:], 1)):
        y = y.repeat_interleave(len(band) // len(y))
        step = max(1, len(band) // max(1, quarter))
        band, y = band[offset % step :: step], y[offset % step :: step]
        parts.append((F.interpolate(band, size, mode="bilinear", align_corners=False), y))
    return torch.cat([p for p, _ in parts]), torch.cat([y for _, y in parts])


@define
def identity(config: Config) -> Stage:
    """A ResNet over identities, trained on the training clips (paper §4.2)."""

    def make(run: Run, folder: Path) -> dict:
        seed, actors, pixels = _seed(run, "identity"), run.labels("actor"), run.tensor("clips")
        net = _start(new_classifier(config, len(run.classes("actor"))), run)
        bands, parts = band_split(config).to(run.device), run.parts

        def measure() -> dict[str, float]:
            return {"val_" + k: v.value for k, v in leak(run, net, pixels, parts["val"]).items()}

        batches = _batches(run, "clips", parts["train"], actors, config.identity, seed, frames=not whole_clips(config))
        summary = _fit(run, folder, "identity", IdentityObjective(net, bands), net, batches, config.identity, evaluate=measure,
                       score=lambda m: [-m["val_all_frames"]])
        return summary | {"test": {k: v.to_dict() for k, v in leak(run, net, pixels, parts["test"]).items()}}

    def load(run: Run, folder: Path) -> nn.Module:
        return _load(new_classifier(config, len(run.classes("actor"))), folder, run)

    needs = settings(config, "identity", "nets", "bands", "precision", "seed")
    needs["nets"] = {k: needs["nets"][k] for k in ("classifier", "classifier_weights")}
    return Stage("identity", "03_identity.ipynb", ("clips", "split"), needs, make, load)


# --------------------------------------------------------------------------------------------------------------------
# Privacy enhancers
# --------------------------------------------------------------------------------------------------------------------


class ReconstructionObjective(nn.Module):
    """L1 between a U-Net's output and its input, over both bands: F_hpr and F_lpr start identical (paper §3.2)."""

    def __init__(self, net: nn.Module, bands: BandSplit):
        super().__init__()
        self.net, self.bands = net, bands

    def forward(self, pixels: Tensor, actors: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) or (B, T, 3, H, W) → scalar; labels unused."""
        low, high = self.bands.split(pixels)
        both = torch.cat([low, high]) if low.shape[1:] == high.shape[1:] else None
        if both is not None:
            return F.l1_loss(self.net(both), both)
        return F.l1_loss(self.net(low), low) + F.l1_loss(self.net(high), high)


@define
def pretrain(config: Config) -> Stage:
    """The U-Net that both enhancers start from, trained to reproduce its input."""

    def make(run: Run, folder: Path) -> dict:
        seed, parts = _seed(run, "pretrain"), run.parts
        net = _start(nets.UNet(width=config.nets.unet_width), run)
        objective = ReconstructionObjective(net, band_split(config).to(run.device))
        held = run.tensor("clips")[torch.as_tensor(parts["val"][:64])][:, ::4].to(run.device).float() / 255
        held = held if whole_clips(config) else held.flatten(0, 1)

        @torch.inference_mode()
        def measure() -> dict[str, float]:
            return {"val_l1": float(objective(held, None))}

        batches = _batches(run, "clips", parts["train"], run.labels("actor"), config.pretrain, seed, frames=not whole_clips(config))
        return _fit(run, folder, "pretrain", objective, net, batches, config.pretrain, evaluate=measure, score=lambda m: [m["val_l1"]])

    def load(run: Run, folder: Path) -> nn.Module:
        return _load(nets.UNet(width=config.nets.unet_width), folder, run)

    needs = settings(config, "pretrain", "bands", "precision", "seed") | {"unet_width": config.nets.unet_width}
    return Stage("pretrain", "04_privacy.ipynb", ("clips", "split"), needs, make, load)


def privacy_loss(logits: Tensor, labels: Tensor, preset: str) -> Tensor:
    """What an enhancer minimises through the frozen controller.

    Args:
        logits: (n, K). labels: (n,).
        preset: ``paper``: −CE (Algorithm 1 line 10), unbounded; ``clamped``: −min(CE, ln K) per sample, which stops at
            chance; ``uniform``: cross-entropy to the uniform distribution.
    """
    if preset == "paper":
        return -F.cross_entropy(logits, labels)
    if preset == "clamped":
        return -F.cross_entropy(logits, labels, reduction="none").clamp(max=math.log(logits.shape[-1])).mean()
    if preset == "uniform":
        return -logits.log_softmax(-1).mean()
    raise PpferError(f"unknown privacy loss '{preset}'; known: paper, clamped, uniform")


class PrivacyObjective(nn.Module):
    """Algorithm 1, lines 4–10: maximise the frozen controller's cross-entropy on each enhanced band."""

    def __init__(self, enhancer: protect.PrivacyEnhancer, controller: nn.Module, preset: str, reconstruction: float):
        super().__init__()
        self.enhancer, self.controller = enhancer, nets.freeze(controller)
        self.preset, self.reconstruction = preset, reconstruction

    def forward(self, pixels: Tensor, actors: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) or (B, T, 3, H, W), labels (B,) → scalar."""
        bands = self.enhancer.bands.split(pixels)
        loss = 0.0
        for band, net in zip(bands, (self.enhancer.low, self.enhancer.high), strict=True):
            enhanced = net(band)
            labels = actors.repeat_interleave(len(band) // len(actors))
            loss = loss + privacy_loss(self.controller(enhanced), labels, self.preset)
            if self.reconstruction:
                loss = loss + self.reconstruction * F.l1_loss(enhanced, band)
        return loss


def private_first(chance: float, slack: float, then: str) -> Callable[[dict], list[float]]:
    """The selection rule: val PLR within `slack` of chance first, then the least of metric `then` (REFERENCE: fixed rule).

    Returns a score for `fit`: ``[excess leakage, metric]``, compared in order, lower is better.
    """
    return lambda m: [round(max(0.0, m["val_plr"] - chance - slack), 6), m[then]]


def _protected_check(run: Run, protector: Callable[[Tensor], Tensor], validator: nn.Module, source: Tensor) -> Callable[[], dict]:
    """Validation measures of a protector under training: PLR of the frozen validator and L1 to its input."""
    index = run.parts["val"]
    held = source[torch.as_tensor(index)]
    held = held if whole_clips(run.config) else held[:, :: max(1, held.shape[1] // 4)]
    actors = run.labels("actor")[index]

    def measure() -> dict[str, float]:
        out = torch.cat(list(protect.protect_all(protector, held, device=run.device, batch=32, name="protector")))
        logits = evaluate.frame_logits(validator, out, np.arange(len(out)), device=run.device, precision=run.config.precision)
        distance = (out.float() - held.to(out.device).float()).abs().mean() / 255
        return {"val_plr": evaluate.leakage(logits, actors)["all_frames"].value, "val_l1": float(distance)}

    return measure


@define
def privacy(config: Config) -> Stage:
    """Algorithm 1: both enhancers against the frozen identity controller."""

    def make(run: Run, folder: Path) -> dict:
        seed, controller, start = _seed(run, "privacy"), run.get("identity"), run.get("pretrain").state_dict()
        enhancer = new_enhancer(config)
        for net in (enhancer.low, enhancer.high):
            net.load_state_dict(start)
        _start(enhancer, run)
        objective = PrivacyObjective(enhancer, controller, config.privacy_loss, config.reconstruction)
        batches = _batches(run, "clips", run.parts["train"], run.labels("actor"), config.privacy, seed, frames=not whole_clips(config))
        rule = private_first(1 / len(run.classes("actor")), config.privacy_slack, "val_l1")
        return _fit(run, folder, "privacy", objective, enhancer, batches, config.privacy, score=rule,
                    evaluate=_protected_check(run, enhancer, controller, run.tensor("clips")))

    def load(run: Run, folder: Path) -> nn.Module:
        return _load(new_enhancer(config), folder, run)

    needs = settings(config, "privacy", "privacy_loss", "privacy_slack", "reconstruction", "precision", "seed")
    return Stage("privacy", "04_privacy.ipynb", ("identity", "pretrain"), needs, make, load)


# --------------------------------------------------------------------------------------------------------------------
# Feature compensation
# --------------------------------------------------------------------------------------------------------------------


class ClassificationObjective(nn.Module):
    """Cross-entropy of a network on its input: C_fc, F_u, and attackers."""

    def __init__(self, net: nn.Module, label_smoothing: float = 0.0):
        super().__init__()
        self.net, self.label_smoothing = net, label_smoothing

    def forward(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Frames or clips as the network takes them, labels (B,) → scalar."""
        return F.cross_entropy(self.net(pixels), labels, label_smoothing=self.label_smoothing)


def wild_labels(emotions: list[str], classes: list[str]) -> np.ndarray:
    """Labels of wild clips in the order of `classes`; −1 (masked) for emotions the data set at hand does not have.

    Raises:
        PpferError: if a class has no wild clip to learn from.
    """
    labels = np.array([classes.index(e) if e in classes else -1 for e in emotions])
    absent = [c for i, c in enumerate(classes) if not (labels == i).any()]
    if absent:
        raise PpferError(f"no in-the-wild clip shows {', '.join(absent)}: the expression controller cannot learn it; pass another wild set")
    return labels


@define
def expression(config: Config) -> Stage:
    """C_fc: a ResNet over expressions, one random frame per in-the-wild clip, Surprise masked (paper §4.2)."""

    def make(run: Run, folder: Path) -> dict:
        seed, store = _seed(run, "expression"), run.get("wild")
        labels = wild_labels(list(store.table.emotion), run.classes("emotion"))
        usable = np.flatnonzero(labels >= 0)
        order = np.random.default_rng(seed).permutation(usable)
        held, train = order[: len(order) // 8], order[len(order) // 8 :]
        net = _start(new_classifier(config, len(run.classes("emotion"))), run)

        def measure() -> dict[str, float]:
            logits = evaluate.frame_logits(net, run.tensor("wild"), held, device=run.device, precision=config.precision)
            hits = logits.argmax(-1) == torch.as_tensor(labels[held])[:, None]
            return {"val_accuracy": float(hits.float().mean()),
                    "val_loss": float(F.cross_entropy(logits.flatten(0, 1), torch.as_tensor(labels[held]).repeat_interleave(logits.shape[1])))}

        batches = _batches(run, "wild", train, labels, config.expression, seed)
        summary = _fit(run, folder, "expression", ClassificationObjective(net, config.expression.label_smoothing), net, batches,
                       config.expression, evaluate=measure, score=lambda m: [m["val_loss"]])
        return summary | {"clips": len(usable), "masked": int((labels < 0).sum())}

    def load(run: Run, folder: Path) -> nn.Module:
        return _load(new_classifier(config, len(run.classes("emotion"))), folder, run)

    needs = settings(config, "expression", "nets", "precision", "seed")
    needs["nets"] = {k: needs["nets"][k] for k in ("classifier", "classifier_weights")}
    return Stage("expression", "05_compensation.ipynb", ("clips", "wild"), needs, make, load)


class CompensationObjective(nn.Module):
    """Algorithm 2, lines 4–9: F_fc minimises the frozen C_fc's cross-entropy; without C_fc (Task 4), MSE to its input G."""

    def __init__(self, compensator: nn.Module, controller: nn.Module | None):
        super().__init__()
        self.compensator = compensator
        self.controller = nets.freeze(controller) if controller is not None else None

    def forward(self, frames: Tensor, emotions: Tensor) -> Tensor:
        """Frames of G (B, 3, H, W), expression labels (B,) → scalar."""
        compensated = self.compensator(frames)
        if self.controller is None:
            return F.mse_loss(compensated, frames)
        return F.cross_entropy(self.controller(compensated), emotions)


@define
def compensation(config: Config) -> Stage:
    """Algorithm 2: the compensator on G under the frozen expression controller."""

    def make(run: Run, folder: Path) -> dict:
        seed, validator, controller = _seed(run, "compensation"), run.get("identity"), run.get("expression")
        net, parts = _start(new_compensator(config), run), run.parts
        source, emotions = run.tensor("protected/enhanced"), run.labels("emotion")
        truth = torch.as_tensor(emotions[parts["val"]])
        leaks = _protected_check(run, lambda x: protect.per_frame(net, x), validator, source)

        def measure() -> dict[str, float]:
            logits = evaluate.frame_logits(lambda_module(lambda x: controller(net(x))), source, parts["val"], device=run.device,
                                           precision=config.precision, batch=16)
            loss = F.cross_entropy(logits.flatten(0, 1), truth.repeat_interleave(logits.shape[1]))
            accuracy = (logits.argmax(-1) == truth[:, None]).float().mean()
            return leaks() | {"val_loss": float(loss), "val_accuracy": float(accuracy)}

        batches = _batches(run, "protected/enhanced", parts["train"], emotions, config.compensation, seed)
        rule = private_first(1 / len(run.classes("actor")), config.privacy_slack, "val_loss")
        return _fit(run, folder, "compensation", CompensationObjective(net, controller), net, batches, config.compensation,
                    evaluate=measure, score=rule)

    def load(run: Run, folder: Path) -> nn.Module:
        return _load(new_compensator(config), folder, run)

    needs = settings(config, "compensation", "nets", "privacy_slack", "precision", "seed")
    return Stage("compensation", "05_compensation.ipynb", ("identity", "expression", "protected/enhanced"), needs, make, load)


def lambda_module(function: Callable[[Tensor], Tensor]) -> nn.Module:
    """A plain function where a module is expected (no weights, `eval` does nothing)."""
    module = nn.Module()
    module.forward = function
    return module


# --------------------------------------------------------------------------------------------------------------------
# Protectors, and what is trained on the clips they make
# --------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Protector:
    """A row of the tables.

    Attributes:
        name: key, also the folder name.
        title: as printed.
        needs: stages it stands on.
        build: ``build(run) -> clips → clips``.
        what_ran: one line for the table: what exactly this is.
        notebook: where its inputs are made.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    build: Callable[[Run], Callable[[Tensor], Tensor]]
    what_ran: str
    notebook: str = "05_compensation.ipynb"


PROTECTORS: dict[str, Protector] = {}


def register(protector: Protector) -> Protector:
    """Add a protector to every table."""
    PROTECTORS[protector.name] = protector
    return protector


register(Protector("none", "No privacy preservation", ("clips",), lambda run: protect.no_privacy, "the original clips"))
register(Protector("enhanced", "PPFER without compensation (G)", ("privacy",), lambda run: run.get("privacy"),
                   "Algorithm 1: one U-Net per band", "04_privacy.ipynb"))
register(Protector("ppfer", "PPFER (C)", ("privacy", "compensation"),
                   lambda run: protect.PPFER(run.get("privacy"), run.get("compensation")), "Algorithms 1 and 2: two U-Nets and a U-ViT"))


def protector_named(name: str) -> Protector:
    """The registered protector, or a sentence."""
    if name not in PROTECTORS:
        raise PpferError(f"unknown protector '{name}'; known: {', '.join(PROTECTORS)}")
    return PROTECTORS[name]


@define
def protected(config: Config, name: str) -> Stage:
    """All clips through a protector, as a ClipStore ("none" is the original store itself)."""
    from ppfer.store import ClipStore

    protector = protector_named(name)

    def stream(run: Run):
        progress = Progress(f"protected/{name}", len(run.table))
        return protect.protect_all(protector.build(run), run.tensor("clips"), device=run.device, batch=16, name=name,
                                   on_batch=progress.update)

    def make(run: Run, folder: Path) -> dict:
        if name == "none" or not config.keep_protected:
            return {"what_ran": protector.what_ran}
        source = run.get("clips")
        if is_main():
            ClipStore.from_array(folder / "store", stream(run), source.table, source={"protector": name, "clips": source.hash})
        return {"what_ran": protector.what_ran}

    def load(run: Run, folder: Path) -> object:
        if name == "none":
            return run.get("clips")
        if not config.keep_protected:
            return ClipStore.in_memory(torch.cat(list(stream(run))), run.table)
        return ClipStore.open(folder / "store")

    return Stage(f"protected/{name}", protector.notebook, ("clips", *protector.needs), settings(config, "keep_protected"), make, load)


@define
def recognizer(config: Config, name: str) -> Stage:
    """F_u on a protector's clips: from scratch (or Kinetics) on the originals, from those weights on everything else."""
    train = config.recognition if name == "none" else config.adaptation

    def make(run: Run, folder: Path) -> dict:
        seed, emotions, parts = _seed(run, f"recognizer/{name}"), run.labels("emotion"), run.parts
        net = new_recognizer(config, len(run.classes("emotion")))
        if name != "none":
            net.load_state_dict(run.get("recognizer/none").state_dict())
        _start(net, run)
        pixels = run.tensor(f"protected/{name}")

        def measure() -> dict[str, float]:
            logits = evaluate.clip_logits(net, pixels, parts["val"], device=run.device, precision=config.precision)
            truth = torch.as_tensor(emotions[parts["val"]])
            return {"val_accuracy": float((logits.argmax(-1) == truth).float().mean()), "val_loss": float(F.cross_entropy(logits, truth))}

        batches = _batches(run, f"protected/{name}", parts["train"], emotions, train, seed, frames=False)
        return _fit(run, folder, f"recognizer/{name}", ClassificationObjective(net, train.label_smoothing), net, batches, train,
                    evaluate=measure, score=lambda m: [-m["val_accuracy"], m["val_loss"]])

    def load(run: Run, folder: Path) -> nn.Module:
        return _load(new_recognizer(config, len(run.classes("emotion"))), folder, run)

    needs = settings(config, "precision", "seed") | {"train": to_dict(train), "net": config.nets.recognizer, "weights": config.nets.recognizer_weights}
    inputs = ("split", f"protected/{name}") + (() if name == "none" else ("recognizer/none",))
    return Stage(f"recognizer/{name}", "06_recognition.ipynb", inputs, needs, make, load)


@define
def attack(config: Config, name: str) -> Stage:
    """V_pl retrained on a protector's training clips: what an attacker with the protector in hand can still read."""

    def make(run: Run, folder: Path) -> dict:
        seed, actors, parts = _seed(run, f"attack/{name}"), run.labels("actor"), run.parts
        net = new_classifier(config, len(run.classes("actor")))
        net.load_state_dict(run.get("identity").state_dict())
        _start(net, run)
        pixels = run.tensor(f"protected/{name}")

        def measure() -> dict[str, float]:
            return {"val_" + k: v.value for k, v in leak(run, net, pixels, parts["val"]).items()}

        batches = _batches(run, f"protected/{name}", parts["train"], actors, config.attack, seed)
        return _fit(run, folder, f"attack/{name}", ClassificationObjective(net), net, batches, config.attack, evaluate=measure,
                    score=lambda m: [-m["val_all_frames"]])

    def load(run: Run, folder: Path) -> nn.Module:
        return _load(new_classifier(config, len(run.classes("actor"))), folder, run)

    return Stage(f"attack/{name}", "07_leakage.ipynb", ("split", "identity", f"protected/{name}"),
                 settings(config, "attack", "precision", "seed"), make, load)


# --------------------------------------------------------------------------------------------------------------------
# Measures of a protector
# --------------------------------------------------------------------------------------------------------------------


def measure_leakage(run: Run, name: str, *, retrained: bool = False, part: str = "test") -> dict[str, evaluate.Rate]:
    """PLR of a protector's clips under the frozen validator, or under the one retrained on its training clips."""
    validator = run.get(f"attack/{name}" if retrained else "identity")
    pixels, index, train = run.tensor(f"protected/{name}"), run.parts[part], run.parts["train"]
    logits = evaluate.frame_logits(validator, pixels, index, device=run.device, precision=run.config.precision)
    actors = run.labels("actor")
    rates = evaluate.leakage(logits, actors[index], seed=run.config.seed)
    seen = evaluate.frame_logits(validator, pixels, train, device=run.device, precision=run.config.precision)
    return rates | {"remapped": evaluate.remapped_leakage(seen, actors[train], logits, actors[index])}


def measure_accuracy(run: Run, name: str, *, retrained: bool = True, part: str = "test") -> dict[str, evaluate.Rate]:
    """Recall per expression and "average" on a protector's clips; F_u trained on them, or (frozen) on the originals."""
    net = run.get(f"recognizer/{name}" if retrained else "recognizer/none")
    index = run.parts[part]
    logits = evaluate.clip_logits(net, run.tensor(f"protected/{name}"), index, device=run.device, precision=run.config.precision)
    return evaluate.per_class(logits, run.labels("emotion")[index], run.classes("emotion"))


def table_row(run: Run, name: str) -> dict:
    """One row of Table 1: both protocols of both measures."""
    protector = protector_named(name)
    frozen, retrained = measure_leakage(run, name), measure_leakage(run, name, retrained=True)
    return {"approach": protector.title, "what_ran": protector.what_ran, "plr": frozen["random_frame"],
            "plr_retrained": retrained["random_frame"], "acc": measure_accuracy(run, name)["average"],
            "acc_frozen": measure_accuracy(run, name, retrained=False)["average"]}
